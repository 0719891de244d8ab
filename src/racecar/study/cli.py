"""The ``racecar`` command: finds the command's file in :mod:`.commands`; one clear line for every user error."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from racecar.study.studies import registered


class _Command(NamedTuple):
    """A module of :mod:`.commands` with ``parser(argv)`` and ``run(parser, options)``, both after ``arguments``."""

    module: str
    summary: str
    arguments: tuple[str, ...] = ()


def commands() -> dict[tuple[str, ...], _Command]:
    """All commands by their words: one per registered study, and those below."""
    of_studies = {("study", name): _Command("study", summary, (name,)) for name, summary in registered().items()}
    return of_studies | {
        ("data", "smoke"): _Command("data", "simulate the smoke of Section 5.3"),
        ("sweep",): _Command("sweep", "a study once per λ, on one or more machines"),
        ("report",): _Command("report", "report.html from the finished runs of studies"),
        ("explain",): _Command("explain", "the palindrome of a model"),
        ("train",): _Command("train", "pretrain a classifier on your own images"),
        ("stylize",): _Command("stylize", "one picture in the style of another (Section 5.4)"),
        ("transfer",): _Command("transfer", "fine-tune or probe a checkpoint on other images"),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 done, 2 wrong input, 130 interrupted)."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    for name, command in commands().items():
        if tuple(argv[: len(name)]) == name:
            return _guarded(lambda: _run(name, command, argv[len(name) :]))  # noqa: B023
    known = "".join(f"\n  racecar {' '.join(name):26} {command.summary}" for name, command in commands().items())
    if argv in (["-h"], ["--help"]):
        print(f"usage:{known}\n\nEvery command has --help.")
        return 0
    print(f"racecar: no command {' '.join(argv) or '(none given)'!r}; there are{known}", file=sys.stderr)
    return 2


def _run(name: Sequence[str], command: _Command, argv: Sequence[str]) -> int:
    module = importlib.import_module(f"racecar.study.commands.{command.module}")
    parser = module.parser(*command.arguments, argv)
    parser.prog = " ".join(("racecar", *name))
    parser.usage = f"{parser.prog} [options]; --help lists them"
    code: int = module.run(*command.arguments, parser, parser.parse_args(argv))
    return code


def _guarded(run: Callable[[], int]) -> int:
    """Errors of the user's as one line."""
    from racecar.errors import RacecarError
    from racecar.study.core.errors import StudyError

    try:
        return run()
    except (StudyError, RacecarError, ValueError, OSError) as error:
        print(f"racecar: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("racecar: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
