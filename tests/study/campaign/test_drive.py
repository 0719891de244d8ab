"""Order, budget, failure, kill and resumption of a campaign, with stand-in commands that say when they ran."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from racecar.study.campaign.drive import Outcome, drive
from racecar.study.campaign.items import Item
from racecar.study.campaign.page import page
from racecar.study.campaign.state import CUT, DONE, FAILED, RUNNING, State
from racecar.study.core.ceilings import Ceilings
from racecar.study.core.errors import StudyError

DEVICE = Ceilings("a card", 2e12, 1e12, 1e9, 1e-6)
QUICK = "import pathlib, sys; p = pathlib.Path(sys.argv[1]); p.write_text(p.name); open(sys.argv[2], 'a').write(p.stem)"
# Keeps a step when it is interrupted, goes on from there, and is done when it is called for the second time.
LONG = """
import pathlib, sys, time
kept = pathlib.Path(sys.argv[2])
if kept.exists():
    pathlib.Path(sys.argv[1]).write_text("whole")
    sys.exit(0)
try:
    pathlib.Path(sys.argv[2] + ".began").touch()
    time.sleep(60)
except KeyboardInterrupt:
    kept.write_text("a step")
    sys.exit(130)
"""


class Campaign:
    """A folder, its items, and a call of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.items = folder, list[Item]()
        (folder / "results").mkdir()
        (folder / "work").mkdir()

    def add(self, name: str, code: str = QUICK, *, seconds: float = 1.0, resumes: bool = False) -> Item:
        table = self.folder / "results" / f"{name}.md"
        more = str(self.folder / (f"{name}.kept" if code == LONG else "order"))
        item = Item(name, f"what {name} is", (("python", "-c", code, str(table), more),), table, seconds, (), resumes)
        self.items.append(item)
        return item

    def call(self, budget: float = 60.0, stop: Callable[[], bool] = lambda: False, least: float = 0.0) -> Outcome:
        estimates = {item.name: item.fixed for item in self.items}
        return drive(self.items, estimates, self.state, self.folder / "results", budget, stop, least)

    @property
    def state(self) -> State:
        return State(self.folder / "work")

    @property
    def order(self) -> str:
        path = self.folder / "order"
        return path.read_text() if path.exists() else ""

    def page(self, left: dict[str, str]) -> str:
        return page(self.items, {item.name: item.fixed for item in self.items}, self.state, DEVICE, left, "full")


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    return Campaign(tmp_path)


def test_in_order_of_value_and_once(campaign: Campaign) -> None:
    for name in "bca":
        campaign.add(name)
    outcome = campaign.call()
    assert (campaign.order, outcome.ran) == ("bca", ["b", "c", "a"])
    assert [r.status for r in campaign.state.records.values()] == [DONE] * 3
    assert campaign.state.records["a"].files == ["a.md"]
    assert campaign.call().ran == []
    assert campaign.order == "bca"


def test_what_does_not_fit_is_left_and_listed(campaign: Campaign) -> None:
    for name, seconds in (("a", 1.0), ("b", 1000.0), ("c", 1.0)):
        campaign.add(name, seconds=seconds)
    outcome = campaign.call(60)
    assert (campaign.order, list(outcome.left)) == ("ac", ["b"])
    text = campaign.page(outcome.left)
    ran, _, waiting = text.partition("## Not run")
    assert "| a | what a is | done |" in ran
    assert "a.md" in ran
    assert "| b | what b is | 17 min | about 17 min, " in waiting
    assert "| b |" not in ran
    assert "| a |" not in waiting
    assert "a card" in ran


def test_the_rest_goes_to_what_can_go_on(campaign: Campaign) -> None:
    """Not to the first that does not fit, which would begin anew, and not before what fits."""
    campaign.add("a", seconds=1000.0)
    campaign.add("b", LONG, seconds=1000.0, resumes=True)
    campaign.add("c")
    outcome = campaign.call(4)
    assert (outcome.ran, list(outcome.left)) == (["c", "b"], ["a"])
    assert campaign.state.records["b"].status == CUT
    assert (campaign.folder / "b.kept").read_text() == "a step"
    assert "goes on next time" in campaign.page(outcome.left)
    spent = campaign.state.records["b"].seconds
    assert campaign.call(30).ran == ["b"]
    record = campaign.state.records["b"]
    assert (record.status, record.files) == (DONE, ["b.md"])
    assert record.seconds > spent > 0.5
    assert campaign.call(4, least=5).ran == []


def test_a_failing_item_is_told_and_the_next_goes_on(campaign: Campaign) -> None:
    campaign.add("a", "import sys; print('why it failed'); sys.exit(3)")
    campaign.add("b", "pass")
    campaign.add("c")
    assert campaign.call().ran == ["a", "b", "c"]
    records = campaign.state.records
    assert [records[n].status for n in "abc"] == [FAILED, FAILED, DONE]
    assert records["a"].error == "it ended with 3: why it failed"
    assert records["b"].error.startswith("it wrote no ")
    assert "failed: it ended with 3: why it failed" in campaign.page({})
    assert campaign.call().ran == ["a", "b"]


def test_an_item_of_several_commands_stops_at_the_first_that_fails(campaign: Campaign) -> None:
    item = campaign.add("a")
    wrong = ("python", "-c", "raise SystemExit(1)")
    campaign.items = [Item("a", "", (wrong, *item.commands), item.table, 1.0)]
    campaign.call()
    assert campaign.order == ""


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a command keeps what its parent ignores")


@pytest.mark.parametrize("ignored", [False, pytest.param(True, id="from the background of a script", marks=LINUX)])
def test_stopped_it_keeps_what_is_there_and_begins_nothing(campaign: Campaign, ignored: bool) -> None:
    campaign.add("a", LONG)
    campaign.add("b")
    began = campaign.folder / "a.kept.began"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    try:
        outcome = campaign.call(stop=began.exists)
    finally:
        signal.signal(signal.SIGINT, before)
    assert outcome.stopped
    assert (campaign.state.records["a"].status, outcome.left) == (CUT, {"b": "stopped before"})
    assert (campaign.folder / "a.kept").exists()


def test_other_commands_are_another_item(campaign: Campaign) -> None:
    campaign.add("a")
    campaign.call()
    campaign.items.clear()
    campaign.add("a", QUICK + "\n")
    assert campaign.call().ran == ["a"]


def test_a_result_that_is_gone_is_made_again(campaign: Campaign) -> None:
    campaign.add("a").table.unlink(missing_ok=True)
    campaign.call()
    (campaign.folder / "results" / "a.md").unlink()
    assert campaign.call().ran == ["a"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a killed campaign's command runs on")
def test_killed_its_command_keeps_its_state_and_the_next_call_goes_on(campaign: Campaign) -> None:
    campaign.add("a", LONG)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\nfrom pathlib import Path\n"
        "from test_drive import Campaign, LONG\n"
        "c = Campaign.__new__(Campaign); c.folder, c.items = Path(sys.argv[2]), []\nc.add('a', LONG); c.call()"
    )
    words = [sys.executable, "-c", script, str(Path(__file__).parent), str(campaign.folder)]
    process = subprocess.Popen(words)
    began, kept = campaign.folder / "a.kept.began", campaign.folder / "a.kept"
    _until(began.exists, process)
    process.kill()
    process.wait()
    record = json.loads((campaign.folder / "work" / "campaign.json").read_text())["items"]["a"]
    assert record["status"] == RUNNING
    assert "killed, goes on next time" in campaign.page({})
    campaign.state.wait_for_orphans()
    assert kept.read_text() == "a step"
    assert campaign.call().ran == ["a"]
    assert campaign.state.records["a"].status == DONE


def _until(happened: Callable[[], bool], process: subprocess.Popen) -> None:
    end = time.monotonic() + 120
    while not happened():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_command_that_does_not_listen_is_ended_after_its_grace(campaign: Campaign, monkeypatch) -> None:
    monkeypatch.setattr("racecar.study.campaign.drive.GRACE", 0.3)
    deaf = "import os, pathlib, signal, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    deaf += "pathlib.Path(sys.argv[2]).write_text(str(os.getpid())); time.sleep(60)"
    campaign.add("a", deaf)
    campaign.call(stop=lambda: campaign.order != "")
    assert campaign.state.records["a"].status == CUT
    with pytest.raises(ProcessLookupError):
        os.kill(int(campaign.order), signal.SIGTERM)


def test_a_damaged_state_is_one_clear_error(campaign: Campaign) -> None:
    (campaign.folder / "work" / "campaign.json").write_text('{"device": {}, "items": {"a": {"colour": 1}}}')
    with pytest.raises(StudyError, match="does not describe a campaign"):
        _ = campaign.state
