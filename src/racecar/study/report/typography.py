"""How names and numbers are set: ``RR^6_AB`` with an exponent and an index, a number with a true minus sign.

Words are read, not marked up by whoever writes them, so that a table, a caption and a verdict need say no more than
``RR^6_AB − Std_AB = -0.01``.
"""

from __future__ import annotations

import functools
import re

from racecar.study.core import methods

_RAISED = str.maketrans("0123456789s", "⁰¹²³⁴⁵⁶⁷⁸⁹ˢ")
# A hyphen before a number: not one within a word (AB-1pct), a range (0-1), a date, an option or a path.
_MINUS = re.compile(
    r"(?<![\w.,)\]}^'\"’−/-])-(?=\.?\d[\d.,]*(?:[eE][-+−]?\d+)?(?!\w))"
    r"|(?:(?<=\d[eE])|(?<=\d\.[eE]))-(?=\d+(?!\w))"
)
# L_6, p_AB, E_t, L_style: what the studies name by a letter and an index.
_INDEX = re.compile(r"(?<![\w^])([LpEI])_(A?B|AA?|\d|t|r|style)(?!\w)")


@functools.cache
def _names(families: tuple[str, ...]) -> re.Pattern[str]:
    """Names of variants and models: the family, then an exponent, ways, a phase; one of exponent and phase at least."""
    family = "|".join(sorted(map(re.escape, families), key=len, reverse=True))
    ways, phase = r"(?:-[a-z]+[\d.]*)*", r"(?:A?B|AA?)\d?(?:-[a-z0-9]+)?"
    return re.compile(
        rf"(?<![\w^])(?P<family>{family})(?:\^(?P<power>\d+s?|…s?)(?P<ways>{ways})(?:_(?P<phase>{phase}))?"
        rf"|_(?P<only>{phase}))(?![\w^])"
    )


def _pattern() -> re.Pattern[str]:
    return _names(tuple(method.family for method in methods.registered()))


def minus(text: str) -> str:
    """A text whose negative numbers have the minus sign −."""
    return _MINUS.sub("−", text)


def plain(text: str) -> str:
    """A text for where there is no markup: exponents as characters, RR⁶_AB, and true minus signs."""

    def set_name(match: re.Match[str]) -> str:
        power = match["power"]
        if power is None or power.startswith("…"):
            return match[0]
        phase = f"_{match['phase']}" if match["phase"] else ""
        return f"{match['family']}{power.translate(_RAISED)}{match['ways']}{phase}"

    return minus(_pattern().sub(set_name, text))


def html(escaped: str) -> str:
    """A text that is escaped already, with exponents and indices as elements and true minus signs."""

    def set_name(match: re.Match[str]) -> str:
        power = f"<sup>{match['power']}</sup>{match['ways']}" if match["power"] else ""
        phase = match["phase"] or match["only"]
        return f"{match['family']}{power}" + (f"<sub>{phase}</sub>" if phase else "")

    return minus(_INDEX.sub(r"\1<sub>\2</sub>", _pattern().sub(set_name, escaped)))
