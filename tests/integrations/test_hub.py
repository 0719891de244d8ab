"""Saved, pushed and loaded: the same weights, a card that says how they were trained, one error for what is wrong."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import racecar
from racecar.integrations import hub


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(4 * 64, 3),
    )  # fmt: skip


def trained() -> racecar.Racecar:
    """With running statistics that are not those of the beginning."""
    rr = racecar.Racecar(
        net(), torch.rand(4, 1, 8, 8), weight=[0.1, 1e-5], reduction="sum", input_range="paper", start="3"
    )
    rr(torch.rand(4, 1, 8, 8))
    return rr


def card(rr: racecar.Racecar, **more: Any) -> ModelCard:
    return hub.model_card(rr, data="digits of scikit-learn", **more)


def assert_same(left: nn.Module, right: nn.Module) -> None:
    ours, theirs = left.state_dict(), right.state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def test_round_trip_of_plain_weights(tmp_path) -> None:
    rr = trained()
    folder = hub.save(rr, tmp_path / "new" / "folder", card(rr))
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "model.safetensors"]
    assert_same(hub.load(net(), folder), rr.model)
    plain = net()
    plain.load_state_dict(load_file(folder / "model.safetensors"))  # no racecar, no hub
    assert_same(plain, rr.model)


def test_the_card_says_how_it_was_trained(tmp_path, monkeypatch) -> None:
    rr = trained()
    # The torch that ran and for what it was built, which the metadata of PyPI's wheel does not say.
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.14.1+cu130"))
    made = card(rr, recipe="SGD, 100 steps", results={"accuracy": 0.97}, title="Digits", license="mit", tags=["digits"])
    folder = hub.save(rr, tmp_path, made)
    read = ModelCard.load(folder / "README.md")
    how = read.data.to_dict()["racecar"]
    assert how["layers"] == {"0": 0.1, "3": 1e-5}
    assert (how["reduction"], how["input_range"], how["norm_statistics"]) == ("sum", "paper", "separate")
    assert how["start"] == rr.explain().start == "3"
    assert how["versions"]["torch"] == "2.14.1+cu130"
    assert read.data.license == "mit"
    assert read.data.tags == ["racecar-training", "digits"]
    for part in ("# Digits", "digits of scikit-learn", "SGD, 100 steps", "| accuracy | 0.97 |", "`0`: 0.1", "1e-05",
                 "Sequential", str(rr.explain())):  # fmt: skip
        assert part in read.text
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["racecar"]) == how


def test_a_card_without_more_has_no_empty_parts_and_stays_a_table(tmp_path) -> None:
    rr = racecar.Racecar(net(), torch.rand(4, 1, 8, 8), input_range=torch.tanh, decoder=net())
    text = hub.model_card(rr, data="a | b\n\nc").content
    assert "Results" not in text
    assert "| recipe |" not in text
    assert "| data | a \\| b c |" in text
    assert "| range of the regenerated input | tanh |" in text
    assert "untied decoder" in text


def test_the_card_names_every_option_that_is_not_the_default() -> None:
    given = {"every": 4, "fraction": 0.5, "layerwise": True, "subset": 1, "checkpoint": True}
    rr = racecar.Racecar(net(), torch.rand(4, 1, 8, 8), **given)
    made = card(rr)
    how = made.data.to_dict()["racecar"]
    assert {name: how[name] for name in given} == given
    for name, value in given.items():
        assert f"`{name}={value}`" in made.content
    assert "other options" not in card(trained()).content
    assert rr.options.as_dict().keys() - {"layers", "start", "weight", "decoder"} <= how.keys()


HOSTILE = (
    "x`</code><script>alert(1)</script>\n\n---\nlicense: evil\n\n# heading\n|a|b|\n```\n> ``quotation``\n"
    '\n"""\nimport os'
)


def test_names_from_a_model_or_a_data_set_do_nothing_in_a_card(tmp_path) -> None:
    model = nn.Sequential()
    model.add_module(HOSTILE.replace(".", "_"), nn.Linear(3, 4))
    model.add_module("last", nn.Linear(4, 2))
    model.__class__ = type(HOSTILE, (nn.Sequential,), {})
    rr = racecar.Racecar(model, torch.randn(4, 3))
    hub.save(rr, tmp_path, hub.model_card(rr, data=HOSTILE, recipe=HOSTILE, results={HOSTILE: HOSTILE}))
    read = ModelCard.load(tmp_path / "README.md")
    assert read.data.to_dict().keys() == {"library_name", "tags", "racecar"}
    assert list(read.data.to_dict()["racecar"]["layers"]) == list(rr.layers)
    fences = re.findall(r"(?m)^(`{3,})\w*$\n(?s:.*?)^\1$", read.text)
    assert len(fences) == 2
    outside = re.sub(r"(?m)^(`{3,})\w*$\n(?s:.*?)^\1$", "", read.text)
    lines = outside.splitlines()
    assert [line for line in lines if line.startswith("## ")] == ["## How it was trained", "## Results", "## Use"]
    assert len([line for line in lines if line.startswith("# ")]) == 1
    assert not [line for line in lines if line.startswith(("---", ">", "license", "|a|"))]
    for line in lines:  # in code it is shown as it is
        assert "<script>" not in re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", line)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)))


def test_shared_weights(tmp_path) -> None:
    rr = racecar.Racecar(Tied(), torch.rand(2, 3))
    assert_same(hub.load(Tied(), hub.save(rr, tmp_path, card(rr))), rr.model)


def test_saving_again_replaces(tmp_path) -> None:
    for _ in range(2):
        rr = trained()
        hub.save(rr, tmp_path, card(rr))
    assert_same(hub.load(net(), tmp_path), rr.model)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_save_that_fails_leaves_the_old_files(tmp_path, monkeypatch) -> None:
    rr = trained()
    hub.save(rr, tmp_path, card(rr))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ModelCard, "save", full)
    other = trained()
    with pytest.raises(hub.HubError, match=r"No space left on device.*unchanged"):
        hub.save(other, tmp_path, card(other))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


# --- the hub: what crosses the network is replaced --------------------------------------------------------------------


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Repositories as folders, and what was asked of the hub."""
    asked: dict[str, Any] = {"root": tmp_path / "hub"}

    def create_repo(self: Any, repo_id: str, *, private: bool | None, exist_ok: bool) -> Any:
        if "forbidden" in repo_id:
            response = SimpleNamespace(headers={}, request=None, status_code=403)
            raise HfHubHTTPError("403 Forbidden: no write access\nmore lines", response=response)
        assert exist_ok
        asked.update(private=private, token=self.token)
        return SimpleNamespace(repo_id=f"someone/{repo_id}")

    def upload_folder(self: Any, *, repo_id: str, folder_path: Path, allow_patterns: list[str], **more: Any) -> None:
        for name in allow_patterns:
            target = asked["root"] / repo_id / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(folder_path) / name, target)

    def hf_hub_download(repo_id: str, filename: str, *, revision: str | None, token: str | None) -> str:
        asked.update(revision=revision)
        return str(asked["root"] / repo_id / filename)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    return asked


def test_push_and_load(remote) -> None:
    rr = trained()
    name = hub.push(rr, "digits", card(rr), private=True, token="hf_x")
    assert name == "someone/digits"
    assert (remote["private"], remote["token"]) == (True, "hf_x")
    assert_same(hub.load(net(), name, revision="v1"), rr.model)
    assert remote["revision"] == "v1"
    assert "digits of scikit-learn" in (remote["root"] / name / "README.md").read_text()


def test_a_refusal_of_the_hub_is_one_line(remote) -> None:
    rr = trained()
    with pytest.raises(hub.HubError, match="cannot push to 'forbidden': 403 Forbidden") as error:
        hub.push(rr, "forbidden", card(rr))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", ["not a name!", "nobody/nothing", "/no/such/folder"])
def test_what_is_nowhere(source, monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(hub.HubError, match="is no folder here") as error:
        hub.load(net(), source)
    assert source in str(error.value)


# --- bad files and arguments ------------------------------------------------------------------------------------------


def test_weights_of_another_model_change_nothing(tmp_path) -> None:
    rr = trained()
    hub.save(rr, tmp_path, card(rr))
    other = net()
    other[6] = nn.Linear(4 * 64, 5)
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(hub.HubError, match=r"another model.*'6\.weight' has shape \(3, 256\), the model's \(5, 256\)"):
        hub.load(other, tmp_path)
    assert all(torch.equal(before[k], v) for k, v in other.state_dict().items())
    with pytest.raises(hub.HubError, match=r"'0\.weight' is not the model's"):
        hub.load(nn.Linear(2, 2), tmp_path)
    save_file({"weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(hub.HubError, match=r"'bias' is missing"):
        hub.load(nn.Linear(2, 2), tmp_path)


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\x80\x04pickle"])
def test_damaged_files(tmp_path, content) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(hub.HubError, match=r"model\.safetensors is damaged or no safetensors file"):
        hub.load(net(), tmp_path)


def test_truncated_and_missing_files(tmp_path) -> None:
    with pytest.raises(hub.HubError, match="does not exist"):
        hub.load(net(), tmp_path)
    rr = trained()
    file = hub.save(rr, tmp_path, card(rr)) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(hub.HubError, match="is damaged"):
        hub.load(net(), tmp_path)


def test_bad_arguments(tmp_path) -> None:
    rr = trained()
    with pytest.raises(hub.HubError, match=r"a racecar\.Racecar is needed.*not Sequential"):
        hub.model_card(net(), data="x")
    with pytest.raises(hub.HubError, match=r"a racecar\.Racecar is needed.*not Sequential"):
        hub.save(net(), tmp_path, card(rr))
    with pytest.raises(hub.HubError, match="data= must say"):
        hub.model_card(rr, data=" ")
    (tmp_path / "file").write_text("")
    with pytest.raises(hub.HubError, match="cannot write"):
        hub.save(rr, tmp_path / "file", card(rr))
