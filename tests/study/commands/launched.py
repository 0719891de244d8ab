"""The command in two processes, as a launcher starts them: a script of its own, which forks.

``python launched.py CALLS``: one after another, each a JSON object with the ``words`` of the command and whether it is
``stopped``: the main process gets SIGTERM once its first run is finished. Prints the exit codes of each; what the
processes say of call 0 is in ``0/rank0.txt`` and ``0/rank1.txt``.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import datasets  # noqa: F401
import sympy  # noqa: F401
import torch._dynamo
import torch._export
import torch.fx.experimental.symbolic_shapes
import torch.utils.tensorboard
from processes import together

import racecar.study.commands.study  # noqa: F401
from racecar.study.cli import main
from racecar.study.core.folder import Study


def called(words: list[str], stopped: bool) -> int:
    if stopped:
        finish = Study.finish

        def finish_and_stop(*content: Any) -> None:
            finish(*content)
            Study.finish = finish
            os.kill(os.getpid(), signal.SIGTERM)

        Study.finish = finish_and_stop
    return main(words)


if __name__ == "__main__":
    torch.set_num_threads(1)  # so that there are no threads that would not survive the fork
    codes = []
    for number, call in enumerate(json.loads(sys.argv[1])):
        Path(str(number)).mkdir()
        os.chdir(str(number))
        codes.append(together(2, lambda rank: called(**call)))  # noqa: B023
        os.chdir("..")
    print(json.dumps(codes))
