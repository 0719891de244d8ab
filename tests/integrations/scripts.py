"""Scripts one after the other, each as ``python SCRIPT WORDS`` runs it: a script of its own, which forks.

``python scripts.py WORDS -- SCRIPT …`` imports the frameworks once; what each script says is in ``NAME.txt``.
"""

import runpy
import sys
from pathlib import Path
from typing import Any

import lightning  # noqa: F401
import torch
import torch._export
import torch.fx.experimental.symbolic_shapes
from processes import fork, wait
from transformers import TrainingArguments  # noqa: F401

import racecar.integrations.trainer  # noqa: F401


def run(script: Path, words: list[str]) -> Any:
    sys.argv = [str(script), *words]
    sys.path[0] = str(script.parent)
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    torch.set_num_threads(1)  # so that there are no threads that would not survive the fork
    at = sys.argv.index("--")
    words, scripts = sys.argv[1:at], [Path(s) for s in sys.argv[at + 1 :]]
    sys.exit(max(abs(wait(fork(lambda: run(s, words), f"{s.stem}.txt"))) for s in scripts))  # noqa: B023
