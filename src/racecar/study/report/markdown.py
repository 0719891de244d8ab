"""Results files for a repository: tables in Markdown, their names, commands without a machine's folders."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from racecar.study.report.page import Verdict


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """A table's lines."""
    lines = [list(header), ["---"] * len(header), *rows]
    return ["| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in line) + " |" for line in lines]


def verdict_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """Verdicts as a Markdown table."""
    header = ["claim of the paper", "where", "verdict", "evidence"]
    return markdown(header, [[v.claim, v.where, v.outcome, v.evidence] for v in verdicts])


def file_stem(name: str, setting: str) -> str:
    """``cifar-strong-small`` of "strong recipe, small preset"; the paper's recipe goes without saying."""
    found = {kind: word for word, kind in re.findall(r"(\w+) (recipe|preset)", setting)}
    recipe = "" if found.get("recipe", "paper") == "paper" else found["recipe"]
    return "-".join(part for part in (name, recipe, found.get("preset", "")) if part)


def portable(command: str) -> str:
    """The command without the machine's folders: what follows --data, --out and such options in capitals."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    shown: list[str] = []
    for word in words:
        option, equals, _ = word.partition("=")
        if shown and shown[-1] in _PATHS and word != "hub":
            shown.append(_PATHS[shown[-1]])
        elif equals and option in _PATHS:
            shown.append(f"{option}={_PATHS[option]}")
        else:
            shown.append(word)
    return " ".join(shown)


_PATHS = {
    "--data": "DATA",
    "--out": "OUT",
    "--nmnist": "FILE",
    "--config": "FILE",
    "--simulations": "SIMULATIONS",
    "--captures": "CAPTURES",
    "--vgg": "VGG",
    "--pictures": "PICTURES",
    "--judge": "JUDGE",
}
