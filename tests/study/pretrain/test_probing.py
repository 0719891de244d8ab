"""``racecar transfer`` measures what frozen features know, beside fine-tuning."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from racecar.analysis import few_labels
from racecar.study.classification.batches import Normalisation
from racecar.study.core.errors import StudyError
from racecar.study.images.decoded import Images
from racecar.study.images.load import train_and_validation
from racecar.study.pretrain import checkpoint
from racecar.study.pretrain.probing import head_inputs, probe

from .conftest import write_images
from .test_commands import TRAIN, TRANSFER


@pytest.fixture
def trained(data, command) -> None:
    assert command(*TRAIN)[0] == 0


def of_command() -> tuple[list[Tensor], list[Tensor]]:
    """Features that enter the last layer, by the layers before it called one by one, and labels."""
    model, about = checkpoint.open_checkpoint(Path("a"), "small_nets:net")
    train, test = train_and_validation("other", size=8, channels=3)
    mean, std = (torch.tensor(about["input"][k]).view(3, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        return [model.eval()[:-1]((i.pixels / 255 - mean) / std) for i in (train, test)], [train.labels, test.labels]


def by_scikit_learn(features: list[Tensor], labels: list[Tensor], drawn: Tensor) -> float:
    x, y = features[0][drawn].double().numpy(), labels[0][drawn].numpy()
    scaler = StandardScaler().fit(x)
    model = LogisticRegression(C=1 / (1e-3 * len(y)), tol=1e-8, max_iter=10_000).fit(scaler.transform(x), y)
    return float(np.mean(model.predict(scaler.transform(features[1].double().numpy())) == labels[1].numpy()))


def test_transfer_prints_the_probe_with_all_labels_and_with_ten(trained, command, tmp_path) -> None:
    write_images(tmp_path / "other", classes=("x", "y"), count=25, size=12, seed=1, apart=7)
    code, out, err = command(*TRANSFER, "--seeds", 2)
    assert code == 0, err
    features, labels = of_command()
    found = json.loads(Path("b/transfer.json").read_text())
    expected = by_scikit_learn(features, labels, torch.arange(50))
    few = [by_scikit_learn(features, labels, few_labels(labels[0], 10, seed)) for seed in range(2)]
    assert few[0] != few[1]  # hard enough for every draw to count
    assert found["accuracy"]["probe"] == [expected, expected]
    assert found["accuracy"]["probe, 10 labels per class"] == few
    assert found["summary"]["probe"]["n"] == 1  # one checkpoint and all labels: one number
    assert found["summary"]["probe, 10 labels per class"]["mean"] == pytest.approx(sum(few) / 2)
    assert f"{expected:.4f}" in out
    assert "the same for every seed" in out
    assert f"{sum(few) / 2:.4f}" in out


def test_probes_are_kept_and_what_is_missing_is_added(trained, command, tmp_path, monkeypatch) -> None:
    write_images(tmp_path / "other", classes=("x", "y"), count=12, seed=1)
    code, out, err = command(*TRANSFER, "--no-probe")
    assert code == 0, err
    assert "probe" not in out
    assert "probe" not in json.loads(Path("b/transfer.json").read_text())["accuracy"]
    assert not list(Path("b").glob("probe*"))
    weights = Path("b/pretrained-0/model.safetensors").stat().st_mtime_ns
    # Without the option the probe is added to what was trained before.
    code, out, err = command(*TRANSFER)
    assert code == 0, err
    assert "probe, 10 labels per class" in out
    assert "all was done before" not in out
    assert Path("b/pretrained-0/model.safetensors").stat().st_mtime_ns == weights
    first = Path("b/probe-0.json").stat().st_mtime_ns
    code, out, err = command(*TRANSFER)
    assert code == 0, err
    assert "all was done before" in out
    assert Path("b/probe-0.json").stat().st_mtime_ns == first
    Path("b/probe-0.json").write_text('{"every": "good"}')
    code, _, err = command(*TRANSFER)
    assert code == 2
    assert "probe-0.json does not describe a linear probe (every, few missing or wrong): delete it" in err


def test_classes_with_fewer_than_ten_labels_are_said(trained, command) -> None:
    code, out, err = command(*TRANSFER, "--data", "data")  # nine of each
    assert code == 0, err
    assert "10 labels per class: left out where a class has fewer" in out
    assert list(json.loads(Path("b/transfer.json").read_text())["accuracy"]) == ["p_AB", "probe"]


def test_a_share_of_labels_is_a_share_for_the_probe_too(trained, command, tmp_path) -> None:
    write_images(tmp_path / "other", classes=("x", "y"), count=25, size=12, seed=1, apart=7)
    code, _, err = command(*TRANSFER, "--labels", 0.12, "--seeds", 2)
    assert code == 0, err
    features, labels = of_command()
    whole, _ = train_and_validation("other", size=8, channels=3)
    shares = [whole.stratified(6, seed)[0].pixels for seed in range(2)]
    drawn = [torch.tensor([int((whole.pixels == p).flatten(1).all(1).nonzero()[0]) for p in s]) for s in shares]
    expected = [by_scikit_learn(features, labels, d) for d in drawn]
    assert expected[0] != expected[1]
    found = json.loads(Path("b/transfer.json").read_text())
    assert found["accuracy"]["probe"] == expected
    assert found["summary"]["probe"]["n"] == 2


# --- what enters the last layer ---------------------------------------------------------------------------------------

IMAGES = Images(
    torch.randint(256, (7, 3, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8),
    torch.arange(7) % 2,
    ("x", "y"),
)
UNIT = Normalisation.unit(3)


def test_maps_and_tokens_are_averaged_and_two_heads_side_by_side() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear, self.drop = nn.Conv2d(3, 2, 1), nn.Linear(3, 2), nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.drop(x)
            return self.conv(x).mean((2, 3)) + self.linear(2 * x.flatten(2).transpose(1, 2)).mean(1)

    found = head_inputs(Two(), ["conv", "linear"], IMAGES, UNIT, 3)
    means = (IMAGES.pixels / 255).mean((2, 3))
    assert found is not None
    torch.testing.assert_close(found, torch.cat([means, 2 * means], dim=1))


def test_features_are_those_of_inference_and_stop_when_asked() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(108, 2)).train()
    once = head_inputs(model, ["3"], IMAGES, UNIT, 4)
    assert once is not None
    assert once.shape == (7, 108)
    assert torch.equal(once, head_inputs(model, ["3"], IMAGES, UNIT, 7))
    assert not model[3]._forward_pre_hooks
    asked = iter([False, True])
    assert head_inputs(model, ["3"], IMAGES, UNIT, 4, lambda: next(asked)) is None


@pytest.mark.parametrize("times", [0, 2])
def test_a_last_layer_that_is_not_called_once_is_refused(times: int) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(108, 2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([self.head(x.flatten(1)) for _ in range(times)] or [x.flatten(1)]).sum(0)

    with pytest.raises(StudyError, match=rf"head of Odd is called {times} times .* --no-probe"):
        head_inputs(Odd(), ["head"], IMAGES, UNIT, 4)


def test_features_without_a_number_are_refused() -> None:
    x = torch.full((4, 2), torch.nan)
    with pytest.raises(StudyError, match=r"8 NaN or infinite .* --no-probe"):
        probe(x, IMAGES.labels[:4], x, IMAGES.labels[:4], 2, 0)
