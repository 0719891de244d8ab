"""The command in two processes, as a launcher starts them, stopped and started again: a script of its own, which forks.

``python launched.py FILE WORDS``: both get SIGTERM once the file is there; then two go on. Prints their exit codes.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from threading import Thread

import datasets  # noqa: F401
import sympy  # noqa: F401
import torch._dynamo
import torch._export
import torch.fx.experimental.symbolic_shapes
import torch.utils.tensorboard
from processes import together

import racecar.study.commands.study  # noqa: F401
from racecar.study.cli import main


def stopped(file: Path, words: list[str]) -> int:
    def stop() -> None:
        while not file.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=stop, daemon=True).start()
    return main(words)


if __name__ == "__main__":
    torch.set_num_threads(1)  # so that there are no threads that would not survive the fork
    first, *words = sys.argv[1:]
    print(json.dumps([together(2, lambda rank: stopped(Path(first), words)), together(2, lambda rank: main(words))]))
