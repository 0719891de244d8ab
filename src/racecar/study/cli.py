"""The ``racecar`` command: finds the command's file in :mod:`.commands`; one clear line for every user error."""

from __future__ import annotations

import difflib
import importlib
import itertools
import platform
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

import racecar
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
        ("campaign",): _Command("campaign", "everything that wants an accelerator, within a budget of minutes"),
        ("report",): _Command("report", "report.html from the finished runs of studies"),
        ("explain",): _Command("explain", "the palindrome of a model"),
        ("train",): _Command("train", "pretrain a classifier on your own images"),
        ("stylize",): _Command("stylize", "one picture in the style of another (Section 5.4)"),
        ("transfer",): _Command("transfer", "fine-tune or probe a checkpoint on other images"),
        ("evaluate",): _Command("evaluate", "how good what was trained is, class by class"),
        ("predict",): _Command("predict", "what a trained classifier takes pictures for, as CSV"),
        ("embed",): _Command("embed", "images as vectors of a trained network"),
        ("regenerate",): _Command("regenerate", "what the reverse pass makes of pictures"),
        ("export",): _Command("export", "what was trained as ONNX, TorchScript, or for timm"),
    }


def main(arguments: Sequence[str] | None = None, ready: Callable[[], object] = lambda: None) -> int:
    """Run the command line.

    Args:
        arguments: the words after ``racecar``; None: this process's.
        ready: called when the command's modules are imported and its options read.

    Returns:
        The exit code: 0 done, 2 wrong input, 130 interrupted.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    for name, command in commands().items():
        if tuple(argv[: len(name)]) == name:
            return _guarded(lambda: _run(name, command, argv[len(name) :], ready))  # noqa: B023
    if argv in (["-h"], ["--help"]):
        print(f"usage:{_listed(())}\n\nEvery command has --help; racecar --version says which version this is.")
        return 0
    if argv == ["--version"]:
        print(f"racecar {racecar.__version__}, torch {torch.__version__}, Python {platform.python_version()}")
        return 0
    print(_no_command(tuple(itertools.takewhile(lambda word: not word.startswith("-"), argv))), file=sys.stderr)
    return 2


def _run(name: Sequence[str], command: _Command, argv: Sequence[str], ready: Callable[[], object]) -> int:
    module = importlib.import_module(f"racecar.study.commands.{command.module}")
    parser = module.parser(*command.arguments, argv)
    parser.prog = " ".join(("racecar", *name))
    parser.usage = f"{parser.prog} [options]; --help lists them"
    with _suggesting(parser):
        options = parser.parse_args(argv)
    ready()
    code: int = module.run(*command.arguments, parser, options)
    return code


def _listed(first: tuple[str, ...]) -> str:
    """The commands that begin with some words, a line each."""
    found = {name: command for name, command in commands().items() if name[: len(first)] == first}
    return "".join(f"\n  racecar {' '.join(name):26} {command.summary}" for name, command in found.items())


def _no_command(words: tuple[str, ...]) -> str:
    """What to say where no command has these words."""
    fault = f"racecar: no command {' '.join(words) or '(none given)'!r}"
    if known := _listed(words):
        return f"{fault}; there are{known}"
    names = [" ".join(name) for name in commands()]
    names += [name.partition(" ")[2] for name in names if " " in name]  # a study without the word
    for count in (2, 1):
        if near := difflib.get_close_matches(" ".join(words[:count]), names, 1):
            meant = next(" ".join(n) for n in commands() if near[0] in (" ".join(n), " ".join(n[1:])))
            return f"{fault}: is `racecar {meant}` meant? `racecar --help` lists all"
    return f"{fault}; there are{_listed(())}"


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
