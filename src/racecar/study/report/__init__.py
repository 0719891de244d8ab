"""The report of the study: one self-contained HTML file."""

from racecar.study.report.page import (
    Block,
    Cell,
    Column,
    Command,
    Figure,
    Group,
    KeyValues,
    Outcome,
    Page,
    Section,
    Table,
    Text,
    Verdict,
    Verdicts,
    write,
)

__all__ = [
    "Block",
    "Cell",
    "Column",
    "Command",
    "Figure",
    "Group",
    "KeyValues",
    "Outcome",
    "Page",
    "Section",
    "Table",
    "Text",
    "Verdict",
    "Verdicts",
    "write",
]
