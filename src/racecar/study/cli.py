"""The ``racecar`` command: finds the command's file in :mod:`.commands`; one clear line for every user error."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class _Command(NamedTuple):
    module: str
    parser: str
    run: str
    words: str


COMMANDS = {
    ("study", "mutual-information"): _Command("mutual_information", "parser", "run", "the 12-bit task (Section 4)"),
    ("study", "digits"): _Command("classification", "digits_parser", "run_digits", "MNIST, n-MNIST (Section 5.1)"),
    ("study", "cifar"): _Command("classification", "cifar_parser", "run_cifar", "CIFAR-10, -100 (Section 5.2)"),
    ("study", "smoke"): _Command("smoke", "parser", "run", "simulated and real smoke (Section 5.3)"),
    ("study", "vgg"): _Command("classification", "vgg_parser", "run_vgg", "VGG19, ImageNet (Section 5.4)"),
    ("study", "stylize"): _Command("stylize_study", "parser", "run", "stylization by VGG's features (Section 5.4)"),
    ("data", "smoke"): _Command("data", "parser", "run", "simulate the smoke of Section 5.3"),
    ("sweep",): _Command("sweep", "parser", "run", "a study once per λ, on one or more machines"),
    ("report",): _Command("report", "parser", "run", "report.html from the finished runs of studies"),
    ("explain",): _Command("explain", "parser", "run", "the palindrome of a model"),
    ("train",): _Command("train", "parser", "run", "pretrain a classifier on your own images"),
    ("stylize",): _Command("stylize", "parser", "run", "one picture in the style of another (Section 5.4)"),
    ("transfer",): _Command("transfer", "parser", "run", "fine-tune or probe a checkpoint on other images"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 done, 2 wrong input, 130 interrupted)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    for name, command in COMMANDS.items():
        if tuple(words[: len(name)]) == name:
            rest = words[len(name) :]
            module = importlib.import_module(f"racecar.study.commands.{command.module}")
            parser = _guarded(lambda: getattr(module, command.parser)(rest))  # noqa: B023
            if isinstance(parser, int):
                return parser
            parser.prog = " ".join(("racecar", *name))
            parser.usage = f"{parser.prog} [options]; --help lists them"
            options = parser.parse_args(rest)
            return _guarded(lambda: getattr(module, command.run)(parser, options))  # noqa: B023
    known = "".join(f"\n  racecar {' '.join(name):26} {command.words}" for name, command in COMMANDS.items())
    if words in (["-h"], ["--help"]):
        print(f"usage:{known}\n\nEvery command has --help.")
        return 0
    print(f"racecar: no command {' '.join(words) or '(none given)'!r}; there are{known}", file=sys.stderr)
    return 2


def _guarded(run: Callable[[], Any]) -> Any:
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
