"""``racecar report`` of a training and of a transfer; ``--push`` with a hub that only keeps what it is given."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from racecar.study import Recipe, evaluate, train, transfer

from ..pretrain.conftest import write_images
from .conftest import NET


def test_a_training(trained, command) -> None:
    code, out, err = command("report", "a", "--model", NET, "--results", "results")
    assert code == 0, err
    assert "report: a/report.html" in out
    page = Path("a/report.html").read_text()
    found = evaluate(trained, model=NET)
    low, high = found.interval
    text = Path("results/a.md").read_text()
    for part in (f"**{trained.accuracy:.4f}**", f"{low:.4f} to {high:.4f}", "train 27 / validation 27 (split test)"):
        assert part in text
    for part in ("Training curves", "Regenerated images", "Model card", "racecar-training", "λ = 0.01", "Classes"):
        assert part in page
    assert "Not shown" not in page
    names = {f"a-{n}.png" for n in ("classes", "curves", "regenerated")}
    assert {p.name for p in Path("results").glob("*.png")} == names


def test_what_cannot_be_shown_is_said(trained, command) -> None:
    assert command("report", "a")[0] == 0
    assert "are left out: a was made by small_nets:net" in Path("a/report.html").read_text()
    shutil.rmtree("data")
    assert command("report", "a", "--model", NET)[0] == 0
    assert "are left out: data, which a was trained on, is not there" in Path("a/report.html").read_text()


def test_a_transfer_is_no_study_of_that_name(trained, tmp_path, command) -> None:
    write_images(tmp_path / "other", classes=("x", "y"), count=12, seed=1)
    recipe = Recipe(epochs=2, batch_size=8)
    found = transfer(trained, "other", model=NET, out="t", scratch=True, seeds=2, recipe=recipe)
    code, out, err = command("report", "t", "--model", NET)
    assert code == 0, err
    seen, where = out.splitlines()
    assert seen.startswith("Transfer of a to other: Fine-tuned, the network reaches p_AB = ")
    assert where == "report: t/report.html"
    page = Path("t/report.html").read_text()
    for part in (
        "p<sub>AB</sub> − p<sub>B</sub>",
        f"{found.summary['p_B'].mean:.4f}",
        "From scratch",
        "n = 2",
        "trained plainly",
    ):
        assert part in page
    code, _, err = command("report", "t/pretrained-1", "--model", NET)
    assert code == 0, err
    Path("t/transfer.json").unlink()
    code, _, err = command("report", "t", "--model", NET)
    assert code == 2
    assert "t holds a transfer that is not finished" in err


class Hub:
    """In place of huggingface_hub's."""

    pushed: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, token: str | None) -> None:
        pass

    def create_repo(self, name: str, **options: Any) -> SimpleNamespace:
        return SimpleNamespace(repo_id=name)

    def upload_folder(self, *, repo_id: str, folder_path: Path, **options: Any) -> None:
        self.pushed[repo_id] = {p.name: p.read_bytes() for p in Path(folder_path).iterdir()}


def test_push(trained, command, monkeypatch) -> None:
    hub = pytest.importorskip("racecar.integrations.hub")
    monkeypatch.setattr(hub, "HfApi", Hub)
    code, out, err = command("report", "a", "--model", NET, "--push", "me/birds")
    assert code == 0, err
    assert "pushed: https://huggingface.co/me/birds" in out
    pushed = Hub.pushed["me/birds"]
    assert set(pushed) == {"model.safetensors", "README.md"}
    card = pushed["README.md"].decode()
    for part in (
        "pipeline_tag: image-classification",
        "epochs 4",
        "train 27 / validation 27",
        f"{trained.accuracy:.4f}",
    ):
        assert part in card
    # Of a plain training the card has nothing to say.
    train(NET, "data", out="plain", recipe=Recipe(epochs=1, batch_size=8))
    code, _, err = command("report", "plain", "--model", NET, "--push", "me/plain")
    assert code == 2
    assert "plain was trained plainly" in err
    assert json.loads(Path("plain/model.json").read_text())["racecar"] is None
