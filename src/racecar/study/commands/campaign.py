"""``racecar campaign``: everything that wants an accelerator, in order of value, within a budget of minutes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser, Namespace

from racecar.study.commands.study import preset
from racecar.study.core.errors import StudyError
from racecar.study.core.files import write_text
from racecar.study.core.processes import Stopper
from racecar.study.core.sole import sole_use
from racecar.study.core.terminal import console

if TYPE_CHECKING:
    from racecar.study.campaign.items import Item
    from racecar.study.campaign.state import State


def parser(argv: Sequence[str]) -> ArgumentParser:
    """The command's options."""
    made = ArgumentParser(description="run what wants an accelerator, the most valuable first, as far as time allows")
    made.add_argument("--minutes", type=float, default=25.0, help="for this call; the same command goes on later")
    made.add_argument("--size", type=Literal["full", "tiny"], default="full", help="tiny: shows on a CPU that all runs")
    made.add_argument("--out", type=str, default="runs/campaign", help="folder of states, logs and studies")
    made.add_argument(
        "--results", type=str, default=None, help="folder of tables and figures (default: results; tiny: inside --out)"
    )
    made.add_argument(
        "--data", type=str, default=".data", help="folder with mnist, cifar10 and so on in parquet (make gpu), or hub"
    )
    made.add_argument("--pictures", type=str, default=None, help="photographs and paintings; without: shapes alone")
    made.add_argument("--only", nargs="+", type=str, default=[], help="these items")
    made.add_argument("--list", action="store_true", help="run nothing, show the list")
    return made


def run(parser: ArgumentParser, options: Namespace) -> int:
    """Run it; the exit code is 0 where all that was begun is done or goes on, 1 where something failed."""
    from racecar.study.campaign.drive import drive
    from racecar.study.campaign.items import Place, make_items
    from racecar.study.campaign.page import page
    from racecar.study.campaign.state import FAILED, State
    from racecar.study.core.ceilings import measured

    if not 0 < options.minutes < 1e5:
        raise StudyError(f"--minutes must be positive, not {options.minutes}")
    if not Path("benchmarks/cost.py").exists():
        raise StudyError("no benchmarks/ here: call it in the folder of a checkout")
    if options.data != "hub" and not Path(options.data).is_dir():
        raise StudyError(f"{options.data} is not a folder: `make gpu` unpacks the data, or give --data hub")
    on = measured()
    card = "-".join(re.findall(r"[a-z0-9]+", on.device.lower()))
    work = Path(options.out) / options.size / card
    results = Path(options.results or ("results" if options.size == "full" else work / "results"))
    items = make_items(options.size, Place(work, results, options.data, options.pictures, card))
    if unknown := [name for name in options.only if name not in {item.name for item in items}]:
        raise StudyError(f"no item {unknown[0]!r}; there are {', '.join(item.name for item in items)}")
    asked = [item for item in items if not options.only or item.name in options.only]

    def estimates() -> dict[str, float]:
        return {item.name: item.seconds(on, preset) for item in items}

    expected = estimates()
    if options.list:
        print(f"{on.device}: {on.words()}")
        _show(items, expected, State(work))
        return 0
    work.mkdir(parents=True, exist_ok=True)
    results.mkdir(parents=True, exist_ok=True)
    with sole_use(work, f"running the campaign in {work}"):
        state = State(work)
        state.wait_for_orphans()
        state.remember(on)
        state.save()
        with Stopper() as stop:
            outcome = drive(asked, expected, state, results, 60 * options.minutes, stop)
        left = {item.name: "not asked for" for item in items if item not in asked} | outcome.left
        expected = estimates()
        write_text(results / "campaign.md", page(items, expected, state, on, left, options.size))
    _show(items, expected, state, left)
    print(f"campaign: {results / 'campaign.md'}")
    if outcome.stopped:
        console.print("racecar: stopped; what is done is kept and the same command goes on from here")
        return 130
    return int(any(state.records[name].status == FAILED for name in outcome.ran))


def _show(
    items: Sequence[Item], estimates: Mapping[str, float], state: State, left: Mapping[str, str] | None = None
) -> None:
    """The list with what became of it, on the terminal."""
    from rich.console import Console
    from rich.table import Table

    from racecar.study.campaign.drive import clock

    table = Table("item", "decides", "left, about", "")
    for item in items:
        record, done = state.of(item), state.done(item)
        said = f"{record.status}, {clock(record.seconds)}" if record is not None else "not run"
        if item.name in (left or {}):
            said += f" ({(left or {})[item.name]})"
        table.add_row(item.name, item.decides, "—" if done else clock(estimates[item.name]), said)
    Console().print(table)
