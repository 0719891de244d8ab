"""The ``racecar`` command's first seconds, in which torch is imported: Ctrl-C ends them with one line.

It stands beside the package, as importing anything of ``racecar`` imports torch.
"""

from __future__ import annotations

import os
import signal


def main() -> int:
    """Run the command line; returns the exit code."""
    before = signal.signal(signal.SIGINT, _leave)
    from racecar.study.cli import main as run

    return run(ready=lambda: signal.signal(signal.SIGINT, before))


def _leave(number: int, frame: object) -> None:
    """End at once: an exception in the middle of an import may be swallowed, or come with a traceback."""
    os.write(2, b"racecar: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    raise SystemExit(main())
