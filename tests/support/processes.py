"""Child processes of a test's script: forked, so that each starts within a second. Nothing may be computed before.

Torch's threads do not survive a fork; a script that uses this imports everything, forks, and computes in the children.
"""

import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any


def fork(do: Callable[[], Any], errors: str = "errors.txt") -> int:
    """Run in a child; gives its process id."""
    sys.stdout.flush()
    if child := os.fork():
        return child
    code = 70
    try:
        with open(errors, "a") as file:
            os.dup2(file.fileno(), 2)
            os.dup2(file.fileno(), 1)
        code = int(do() or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(child: int) -> int:
    """Exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def wait_until(child: int, happened: Callable[[], bool]) -> bool:
    """Until something has happened; False if the child ended before, which ``wait`` may still ask about."""
    while not happened():
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return happened()
        time.sleep(0.001)
    return True


def together(count: int, do: Callable[[int], Any]) -> list[int]:
    """Run ``do(rank)`` in as many processes as would ``torchrun``; exit codes. Their words are in ``rank0.txt``, …"""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def child(rank: int) -> Callable[[], Any]:
        def run() -> Any:
            os.environ.update(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count),
                MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
            )  # fmt: skip
            return do(rank)

        return run

    return [wait(c) for c in [fork(child(rank), f"rank{rank}.txt") for rank in range(count)]]
