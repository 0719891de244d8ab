"""Results files for a repository: tables in Markdown, their names, commands without a machine's folders."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from racecar.study.core.environment import pasted
from racecar.study.report.escaping import markdown_cell


def markdown(header: Sequence[object], rows: Sequence[Sequence[object]]) -> list[str]:
    """The lines of a Markdown table; every cell is shown as it is written.

    Args:
        header: titles of the columns.
        rows: as many cells each.
    """
    body = [[markdown_cell(cell) for cell in row] for row in (header, *rows)]
    lines = [body[0], ["---"] * len(header), *body[1:]]
    return ["| " + " | ".join(line) + " |" for line in lines]


def file_stem(name: str, setting: str) -> str:
    """The name of a study's results file: ``cifar-strong-small`` of "strong recipe, small preset".

    Args:
        name: of the study.
        setting: what it was run as; the paper's recipe goes without saying.
    """
    chosen = {kind: word for word, kind in re.findall(r"(\w+) (recipe|preset)", setting)}
    recipe = "" if chosen.get("recipe", "paper") == "paper" else chosen["recipe"]
    return "-".join(part for part in (name, recipe, chosen.get("preset", "")) if part)


def portable(command: str) -> str:
    """A command without the machine's folders: what follows --data, --out and such options in capitals.

    It can be pasted: a value with spaces keeps its quotes.
    """
    try:
        words = shlex.split(command)
    except ValueError:
        return " ".join(_without_paths(command.split()))
    return pasted(_without_paths(words))


def _without_paths(words: Sequence[str]) -> list[str]:
    shown: list[str] = []
    for word in words:
        option, equals, _ = word.partition("=")
        if shown and shown[-1] in _PATHS and word != "hub":
            shown.append(_PATHS[shown[-1]])
        elif equals and option in _PATHS:
            shown.append(f"{option}={_PATHS[option]}")
        else:
            shown.append(word)
    return shown


_PATHS = {
    "--data": "DATA",
    "--out": "OUT",
    "--nmnist": "FILE",
    "--tuned-on": "TUNED",
    "--config": "FILE",
    "--simulations": "SIMULATIONS",
    "--captures": "CAPTURES",
    "--vgg": "VGG",
    "--pictures": "PICTURES",
    "--judge": "JUDGE",
}
