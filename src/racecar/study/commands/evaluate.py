"""``racecar evaluate``: how good a trained classifier is, as a table, JSON and a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from racecar.study.core.files import write_bytes, write_json
from racecar.study.pretrain.options import add_source, source_of
from racecar.study.use.evaluating import Evaluation, evaluate
from racecar.study.use.options import add_run

_SHOWN = 30  # classes


def parser(argv: Sequence[str]) -> ArgumentParser:
    """The command's options."""
    made = ArgumentParser(allow_abbrev=False, description="measure a trained classifier, in all and class by class")
    add_run(made)
    add_source(made, required=False)
    made.add_argument("--json", type=str, default=None, help="file for all numbers, the confusion matrix among them")
    made.add_argument("--figure", type=str, default=None, help="PNG with the confusion matrix and the calibration")
    return made


def run(parser: ArgumentParser, options: Namespace) -> int:
    """Measure, show, write."""
    found = evaluate(options.run, source_of(options) if options.data else None, model=options.model)
    _show(found)
    if options.json is not None:
        write_json(Path(options.json), found.about())
        print(f"numbers: {options.json}")
    if options.figure is not None:
        from racecar.study.report.figures import png

        write_bytes(Path(options.figure), png(found.figure()))
        print(f"figure: {options.figure}")
    return 0


def _show(found: Evaluation) -> None:
    low, high = found.interval
    table = Table("", "", show_header=False, title=f"{len(found.labels)} images: {escape(found.words)}")
    table.add_row("top-1", f"{found.top(1):.4f}  [{low:.4f}, {high:.4f}]")
    if len(found.classes) > 5:
        table.add_row("top-5", f"{found.top(5):.4f}")
    table.add_row("mean over classes", f"{found.balanced:.4f}")
    table.add_row("cross entropy", f"{found.cross_entropy:.4f}")
    table.add_row("expected calibration error", f"{found.calibration.error:.4f}")
    console = Console()
    console.print(table)
    rows = sorted((c for c in found.per_class if c.images), key=lambda c: c.recall)
    title = "classes, the worst first" + (f" ({_SHOWN} of {len(rows)})" if len(rows) > _SHOWN else "")
    each = Table("class", "images", "right", "right of such answers", "most taken for", title=title)
    for c in rows[:_SHOWN]:
        precision = "none given" if math.isnan(c.precision) else f"{c.precision:.3f}"
        each.add_row(escape(c.name), str(c.images), f"{c.recall:.3f}", precision, escape(c.confused_with or ""))
    console.print(each)
