"""The ``racecar`` command's first seconds: what it answers without torch, and what to install if something is missing.

It stands beside the package, as importing anything of ``racecar`` imports torch. So the lists of commands, of studies
and of extras are here; :mod:`racecar.study.cli` runs the commands.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import NamedTuple


class Study(NamedTuple):
    """A study, before anything of it is imported.

    Attributes:
        summary: for the list of commands.
        module: where its ``SPEC`` is; None: ``racecar.study.NAME.spec``.
    """

    summary: str
    module: str | None = None


class Command(NamedTuple):
    """A module of ``racecar.study.commands`` with ``parser(argv)`` and ``run(parser, options)``.

    Attributes:
        module: its name there.
        summary: for the list of commands.
        arguments: that both functions take first.
        extras: without which it cannot do anything.
    """

    module: str
    summary: str
    arguments: tuple[str, ...] = ()
    extras: tuple[str, ...] = ("study",)


STUDIES = {
    "mutual-information": Study("the 12-bit task (Section 4)"),
    "digits": Study("MNIST, n-MNIST (Section 5.1)"),
    "cifar": Study("CIFAR-10, -100 (Section 5.2)"),
    "smoke": Study("simulated and real smoke (Section 5.3)"),
    "vgg": Study("VGG19, ImageNet (Section 5.4)"),
    "stylize": Study("stylization by VGG's features (Section 5.4)"),
    "transfer": Study("coarse labels, then fine ones (docs/plan.md)", "racecar.study.coarse_to_fine.spec"),
    "plasticity": Study("loss of plasticity over many tasks (not in the paper)"),
}

COMMANDS = {
    ("data", "smoke"): Command("data", "simulate the smoke of Section 5.3", extras=("study", "fluid")),
    ("sweep",): Command("sweep", "a study once per λ, on one or more machines"),
    ("campaign",): Command("campaign", "everything that wants an accelerator, within a budget of minutes"),
    ("report",): Command("report", "report.html from the finished runs of studies"),
    ("explain",): Command("explain", "the palindrome of a model"),
    ("train",): Command("train", "pretrain a classifier on your own images"),
    ("stylize",): Command("stylize", "one picture in the style of another (Section 5.4)"),
    ("transfer",): Command("transfer", "fine-tune or probe a checkpoint on other images"),
    ("evaluate",): Command("evaluate", "how good what was trained is, class by class"),
    ("predict",): Command("predict", "what a trained classifier takes pictures for, as CSV"),
    ("embed",): Command("embed", "images as vectors of a trained network"),
    ("regenerate",): Command("regenerate", "what the reverse pass makes of pictures"),
    ("export",): Command("export", "what was trained as ONNX, TorchScript, or for timm"),
}

# The modules that each extra of pyproject.toml brings.
EXTRAS = {
    "study": (
        *("accelerate", "datasets", "jsonargparse", "matplotlib", "numpy", "PIL", "rich", "safetensors", "scipy"),
        *("tensorboard", "torchmetrics"),
    ),
    "fluid": ("phi",),
    "vision": ("timm", "torchvision"),
    "export": ("onnx", "onnxruntime", "onnxscript"),
    "sweep": ("submitit",),
    "frameworks": (
        *("accelerate", "huggingface_hub", "jinja2", "lightning", "pytorch_lightning", "safetensors"),
        "transformers",
    ),
}


def commands(studies: Mapping[str, str]) -> dict[tuple[str, ...], Command]:
    """All commands by their words: one per study, whose summaries are given, and the others."""
    return {("study", name): Command("study", summary, (name,)) for name, summary in studies.items()} | COMMANDS


def main() -> int:
    """Run the command line; returns the exit code."""
    known = commands({name: study.summary for name, study in STUDIES.items()})
    if (code := answered(sys.argv[1:], known)) is not None:
        return code
    before = signal.signal(signal.SIGINT, _leave)
    from racecar.study.cli import main as run

    return run(ready=lambda: signal.signal(signal.SIGINT, before))


def named(argv: Sequence[str], known: Mapping[tuple[str, ...], Command]) -> tuple[str, ...] | None:
    """The words of the command that a command line begins with."""
    return next((words for words in known if tuple(argv[: len(words)]) == words), None)


def answered(argv: Sequence[str], known: Mapping[tuple[str, ...], Command]) -> int | None:
    """Answer what needs no torch: help, version, no such command, a missing extra.

    Args:
        argv: the words after ``racecar``.
        known: all commands.

    Returns:
        The exit code; None: there is a command to be run.
    """
    if words := named(argv, known):
        lacking = [line for extra in known[words].extras if (line := remedy(*EXTRAS[extra]))]
        if lacking:
            print(f"racecar: `racecar {' '.join(words)}` needs {'; and '.join(lacking)}", file=sys.stderr)
        return 2 if lacking else None
    if argv and argv[-1] in ("-h", "--help") and (found := _listed(argv[:-1], known)):
        print(f"usage:{found}\n\nEvery command has --help; racecar --version says which version this is.")
        return 0
    if list(argv) == ["--version"]:
        print(_version())
        return 0
    print(_no_command(argv, known), file=sys.stderr)
    return 2


def remedy(*modules: str) -> str:
    """Which of these modules are missing and how to install them; empty where none is."""
    missing = [name for name in modules if find_spec(name) is None]
    if not missing:
        return ""
    extras = dict.fromkeys(next(e for e, brought in EXTRAS.items() if name in brought) for name in missing)
    return f'{" and ".join(missing)}: pip install "racecar-training[{",".join(extras)}]"'


def remedy_for(error: ModuleNotFoundError) -> str:
    """How to install what could not be imported; empty where no extra brings it."""
    module = (error.name or "").partition(".")[0]
    return remedy(module) if any(module in brought for brought in EXTRAS.values()) else ""


def _version() -> str:
    """The versions of racecar, torch and Python, as they are installed."""
    from importlib.metadata import version
    from platform import python_version

    return f"racecar {version('racecar-training')}, torch {version('torch')}, Python {python_version()}"


def _listed(first: Sequence[str], known: Mapping[tuple[str, ...], Command]) -> str:
    """The commands that begin with some words, a line each."""
    found = {words: command for words, command in known.items() if words[: len(first)] == tuple(first)}
    return "".join(f"\n  racecar {' '.join(words):26} {command.summary}" for words, command in found.items())


def _no_command(argv: Sequence[str], known: Mapping[tuple[str, ...], Command]) -> str:
    """What to say where no command has these words."""
    import difflib
    import itertools

    words = tuple(itertools.takewhile(lambda word: not word.startswith("-"), argv))
    fault = f"racecar: no command {' '.join(words) or '(none given)'!r}"
    if found := _listed(words, known):
        return f"{fault}; there are{found}"
    names = [" ".join(name) for name in known]
    names += [name.partition(" ")[2] for name in names if " " in name]  # a study without the word
    for count in (2, 1):
        if near := difflib.get_close_matches(" ".join(words[:count]), names, 1):
            meant = next(" ".join(n) for n in known if near[0] in (" ".join(n), " ".join(n[1:])))
            return f"{fault}: is `racecar {meant}` meant? `racecar --help` lists all"
    return f"{fault}; there are{_listed((), known)}"


def _leave(number: int, frame: object) -> None:
    """End at once: an exception in the middle of an import may be swallowed, or come with a traceback."""
    os.write(2, b"racecar: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    raise SystemExit(main())
