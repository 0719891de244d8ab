"""The campaign's page: what ran, on which card, for how long, by which command, what it wrote; and what did not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from racecar.study.campaign.drive import clock
from racecar.study.campaign.items import Item
from racecar.study.campaign.state import CUT, DONE, FAILED, RUNNING, State
from racecar.study.core.ceilings import Ceilings
from racecar.study.report.markdown import markdown, portable

WORDS = {DONE: "done", CUT: "cut off, goes on next time", RUNNING: "killed, goes on next time", FAILED: "failed"}


def page(
    items: Sequence[Item],
    estimates: Mapping[str, float],
    state: State,
    on: Ceilings,
    left: Mapping[str, str],
    size: str,
) -> str:
    """Markdown.

    Args:
        items: all of them.
        estimates: of what is left, seconds by name.
        state: what became of them.
        on: the device.
        left: why some were not begun, by name.
        size: ``tiny`` runs measure nothing, and the page says so.
    """
    ran = [(item, record) for item in items if (record := state.of(item)) is not None]
    rows = [
        [
            item.name,
            item.decides,
            WORDS[record.status] + (f": {record.error}" if record.error else ""),
            clock(record.estimate),
            clock(record.seconds),
            ", ".join(record.files) or "—",
            f"torch {record.about.get('torch')}, Python {record.about.get('python')}, {record.about.get('revision')}",
        ]
        for item, record in ran
    ]
    begun = {item.name for item, _ in ran}
    waiting = [
        [item.name, item.decides, clock(estimates[item.name]), left.get(item.name, "not begun")]
        for item in items
        if item.name not in begun
    ]
    return "\n".join(
        [
            "# What wants an accelerator: what was run, and what not",
            "",
            f"`racecar campaign --size {size}`" + (": tiny sizes. It shows that everything runs, and measures nothing."
                                                   if size == "tiny" else ""),
            "",
            f"{on.device}: {on.words()}.",
            "",
            "## Run",
            "",
            *(
                markdown(["item", "decides", "", "estimate", "time", "wrote", "versions and revision"], rows)
                if rows
                else ["Nothing yet."]
            ),
            "",
            *(f"- {item.name}: `{_portable(record.command)}`" for item, record in ran),
            "",
            "## Not run",
            "",
            *(markdown(["item", "decides", "estimate", "why"], waiting) if waiting else ["Nothing is left."]),
            "",
        ]
    )  # fmt: skip


def _portable(commands: str) -> str:
    return " && ".join(portable(command) for command in commands.split(" && "))
