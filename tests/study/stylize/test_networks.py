"""Networks by name and path, and whatever is none."""

import json
import sys
import types
from urllib.error import URLError

import pytest
import torch
from torch import nn

from racecar.study.core.errors import StudyError
from racecar.study.core.files import write_tensors
from racecar.study.stylize.networks import open_network
from racecar.study.vgg.experiment import IMAGENET
from racecar.study.vgg.network import VGG19, initialise, to_timm


@pytest.fixture(scope="module")
def small() -> VGG19:
    model = VGG19(5, 4, 1)
    initialise(model, 0)
    return model.eval()


def same(a: nn.Module, b: nn.Module) -> bool:
    x = torch.randn(1, 3, 32, 32)
    return torch.allclose(a.eval()(x), b.eval()(x))


def test_a_file_of_weights_in_torchvisions_or_timms_names(small, tmp_path) -> None:
    write_tensors(tmp_path / "ours.safetensors", small.state_dict())
    write_tensors(tmp_path / "timms.safetensors", to_timm(small.state_dict()))
    for name in ("ours", "timms"):
        found = open_network(str(tmp_path / f"{name}.safetensors"))
        assert same(found.network, small)
        assert found.normalisation == IMAGENET


def test_a_run_of_the_vgg_study(small, tmp_path) -> None:
    folder = tmp_path / "runs" / "RR16_A" / "seed-3"
    write_tensors(folder / "model.safetensors", small.state_dict())
    found = open_network(str(folder))
    assert same(found.network, small)
    assert found.words == "RR16_A/seed-3"


def test_a_checkpoint_of_racecar_train(tmp_path) -> None:
    from racecar.study.cifar.network import strong

    torch.manual_seed(0)
    model = strong(4, 4)
    write_tensors(tmp_path / "model.safetensors", model.state_dict())
    metadata = {
        "model": "racecar.study.cifar.network:strong", "options": {"classes": 4, "width": 4}, "outputs": 4,
        "classes": list("abcd"),
        "input": {"channels": 3, "height": 32, "width": 32, "mean": [0.5] * 3, "std": [0.25] * 3},
    }  # fmt: skip
    (tmp_path / "model.json").write_text(json.dumps(metadata))
    found = open_network(str(tmp_path))
    assert same(found.network, model)
    assert found.normalisation.mean == (0.5, 0.5, 0.5)


@pytest.fixture
def library(monkeypatch, small):
    """A torchvision whose VGG19 is small and whose weights come from this process."""
    asked = {}

    class Weights:
        def get_state_dict(self, **options):
            asked.update(options)
            if asked.get("offline"):
                raise URLError("no network")
            return small.state_dict()

    models = types.ModuleType("torchvision.models")
    models.get_model = lambda name, **options: VGG19(5, 4, 1)
    models.get_model_weights = lambda name: types.SimpleNamespace(DEFAULT=Weights())
    package = types.ModuleType("torchvision")
    package.models = models
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    return asked


def test_torchvisions_weights_are_checked_and_never_unpickled_freely(library, small) -> None:
    found = open_network("torchvision:vgg19")
    assert same(found.network, small)
    assert library["weights_only"] is True
    assert library["check_hash"] is True


def test_without_a_network_connection_it_says_what_to_do(library) -> None:
    library["offline"] = True
    with pytest.raises(StudyError, match=r"torchvision:vgg19 cannot be loaded: .*give a \.safetensors file"):
        open_network("torchvision:vgg19")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nowhere", "is not a network: use torchvision:NAME"),
        (lambda p: p, "is not a network: use torchvision:NAME"),
        (lambda p: (p / "x.pt").write_bytes(b"x") and p / "x.pt", "nothing else is opened"),
        (lambda p: (p / "x.safetensors").write_bytes(b"x") and p / "x.safetensors", "cannot be read"),
        (
            lambda p: write_tensors(p / "y.safetensors", {"a": torch.zeros(1)}) or p / "y.safetensors",
            "not the weights of a VGG19",
        ),
    ],
    ids=["missing", "empty folder", "pickle", "damaged", "another network"],
)
def test_what_is_no_network_is_refused(make, message, tmp_path) -> None:
    with pytest.raises(StudyError, match=message):
        open_network(str(make(tmp_path)))
