"""The report of a study: one self-contained HTML file, and the same for a repository in Markdown."""

from racecar.study.report.blocks import (
    Block,
    Cell,
    Column,
    Command,
    Figure,
    Group,
    KeyValues,
    Only,
    Remarks,
    Table,
    Text,
    Verdicts,
)
from racecar.study.report.claims import Outcome, Verdict
from racecar.study.report.page import Page, Provenance, Section, write, write_figures, write_results

__all__ = [
    "Block",
    "Cell",
    "Column",
    "Command",
    "Figure",
    "Group",
    "KeyValues",
    "Only",
    "Outcome",
    "Page",
    "Provenance",
    "Remarks",
    "Section",
    "Table",
    "Text",
    "Verdict",
    "Verdicts",
    "write",
    "write_figures",
    "write_results",
]
