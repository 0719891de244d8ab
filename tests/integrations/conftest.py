"""Scripts of the integrations: run with this checkout's racecar, on the CPU, without a network."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]


def start(script: Path, *words: str, folder: Path) -> subprocess.Popen[str]:
    paths = [str(TESTS / "support"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": "",
        "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, str(script), *words],
        cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], *, said: str = "") -> str:
    """Standard output; fails with all that was said."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, output[-2000:] + errors[-3000:] + said
    return output
