"""``racecar campaign`` as a user calls it: the list, what was left, and what is wrong in one line."""

from pathlib import Path

import pytest

from racecar.study.campaign import items
from racecar.study.campaign.items import Item, Place
from racecar.study.cli import main
from racecar.study.core import ceilings
from racecar.study.core.ceilings import Ceilings


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch) -> Path:
    """A folder that looks like one, a device that takes no time to measure, and two items of a moment."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "cost.py").touch()
    (tmp_path / ".data").mkdir()
    monkeypatch.setattr(ceilings, "measured", lambda: Ceilings("NVIDIA H200", 8e14, 4e14, 4e12, 5e-6))

    def two(size: str, place: Place) -> list[Item]:
        def item(name: str, code: str, seconds: float) -> Item:
            table = place.table(name)
            return Item(name, "", (("python", "-c", code, str(table)),), table, seconds)

        good = "import sys; open(sys.argv[1], 'w').close()"
        return [item("good", good, 1.0), item("bad", "raise SystemExit('no')", 2.0), item("long", good, 1e4)]

    monkeypatch.setattr(items, "make_items", two)
    return tmp_path


def test_it_runs_writes_its_page_and_says_what_failed(checkout: Path, capsys) -> None:
    assert main(["campaign"]) == 1
    text = (checkout / "results" / "campaign.md").read_text()
    assert "good-nvidia-h200.md" in text
    assert "failed: it ended with 1: no" in text
    assert "| long | " in text.partition("## Not run")[2]
    assert "results/campaign.md" in capsys.readouterr().out
    assert (checkout / "runs" / "campaign" / "full" / "nvidia-h200" / "campaign.json").exists()
    assert main(["campaign", "--only", "good"]) == 0


def test_the_list_runs_nothing(checkout: Path, capsys) -> None:
    assert main(["campaign", "--list"]) == 0
    said = capsys.readouterr().out
    assert "NVIDIA H200" in said
    assert "800 TFLOP/s" in said
    assert "2.8 h" in said
    assert not (checkout / "runs").exists()
    assert not (checkout / "results").exists()


def test_tiny_sizes_do_not_touch_the_results(checkout: Path) -> None:
    main(["campaign", "--size", "tiny"])
    assert not (checkout / "results").exists()
    (page,) = checkout.glob("runs/campaign/tiny/*/results/campaign.md")
    assert "measures nothing" in page.read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--minutes", "0"], "--minutes must be positive"),
        (["--only", "god"], "no item 'god'; there are good, bad, long"),
        (["--data", "nowhere"], "nowhere is not a folder"),
        (["--size", "huge"], "size"),
    ],
)
def test_misuse_is_one_clear_error(words: list[str], said: str, capsys) -> None:
    try:
        code = main(["campaign", *words])
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 2
    assert said in capsys.readouterr().err


def test_outside_a_checkout_it_says_so(checkout: Path, capsys) -> None:
    (checkout / "benchmarks" / "cost.py").unlink()
    assert main(["campaign"]) == 2
    assert "in the folder of a checkout" in capsys.readouterr().err
