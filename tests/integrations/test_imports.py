"""The library needs only torch: frameworks come with the file that is for them."""

import subprocess
import sys

import pytest

FRAMEWORKS = {"accelerate", "huggingface_hub", "lightning", "pytorch_lightning", "safetensors", "transformers"}


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("racecar", set()),
        ("racecar.integrations", set()),
        ("racecar.integrations.lightning", set()),
        ("racecar.integrations.hub", {"huggingface_hub", "safetensors"}),
    ],
)
def test_what_an_import_brings(module, allowed) -> None:
    code = f"import {module}, sys; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    imported = set(result.stdout.split())
    assert module in imported
    assert imported & FRAMEWORKS <= allowed
    assert "racecar.study" not in imported
