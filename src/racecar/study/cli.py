"""The ``racecar`` command: runs the command's file in :mod:`.commands`; one clear line for every user error.

The list of commands is in :mod:`racecar_command`, which answers what needs no torch.
"""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import racecar_command


def commands() -> dict[tuple[str, ...], racecar_command.Command]:
    """All commands by their words, with those of studies that were registered since."""
    from racecar.study.studies import registered

    return racecar_command.commands(registered())


def main(arguments: Sequence[str] | None = None, ready: Callable[[], object] = lambda: None) -> int:
    """Run the command line.

    Args:
        arguments: the words after ``racecar``; None: this process's.
        ready: called when the command's modules are imported and its options read.

    Returns:
        The exit code: 0 done, 2 wrong input, 130 interrupted.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    return _guarded(lambda: _answer(argv, ready))


def _answer(argv: Sequence[str], ready: Callable[[], object]) -> int:
    known = commands()
    if (code := racecar_command.answered(argv, known)) is not None:
        return code
    words = racecar_command.named(argv, known)
    assert words is not None  # else it were answered
    return _run(words, known[words], argv[len(words) :], ready)


def _run(
    name: Sequence[str], command: racecar_command.Command, argv: Sequence[str], ready: Callable[[], object]
) -> int:
    module = importlib.import_module(f"racecar.study.commands.{command.module}")
    parser = module.parser(*command.arguments, argv)
    parser.prog = " ".join(("racecar", *name))
    parser.usage = f"{parser.prog} [options]; --help lists them"
    with _suggesting(parser):
        options = parser.parse_args(argv)
    ready()
    code: int = module.run(*command.arguments, parser, options)
    return code


@contextmanager
def _suggesting(parser: Any) -> Iterator[None]:
    """Let a parser's message on an unknown option name the nearest one."""
    plain = parser.error

    def error(message: str, *more: Any) -> None:
        known = [text for action in parser._actions for text in action.option_strings]
        unknown = re.findall(r"--[\w.-]+", message) if message.startswith("unrecognized arguments") else []
        near = [match for word in unknown for match in difflib.get_close_matches(word, known, 1)]
        plain(f"{message}; is {' and '.join(near)} meant?" if near else message, *more)

    parser.error = error
    try:
        yield
    finally:
        del parser.error


def _guarded(run: Callable[[], int]) -> int:
    """Errors of the user's, and what is not installed, as one line."""
    from racecar.errors import RacecarError
    from racecar.study.core.errors import StudyError

    try:
        return run()
    except (StudyError, RacecarError, ValueError, OSError) as error:
        print(f"racecar: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if not (line := racecar_command.remedy_for(error)):
            raise
        print(f"racecar: this needs {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("racecar: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
