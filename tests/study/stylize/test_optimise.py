"""L_total against a direct evaluation; optimisation that falls, is seeded, stops and goes on to the same picture."""

import itertools
import json
from dataclasses import replace

import pytest
import torch

from racecar.study.core.callbacks import Callbacks
from racecar.study.core.checkpoints import Progress
from racecar.study.core.errors import StudyError
from racecar.study.core.files import read_tensors, write_tensors
from racecar.study.stylize.optimise import Settings, Stylization
from racecar.study.vgg.experiment import IMAGENET
from racecar.study.vgg.network import VGG19, initialise

SETTINGS = Settings(steps=8, style_weight=100.0, history=4)
GENERATOR = torch.Generator().manual_seed(0)
CONTENT = torch.rand(1, 3, 32, 40, generator=GENERATOR)
STYLE = torch.rand(1, 3, 36, 32, generator=GENERATOR)


@pytest.fixture(scope="module")
def network() -> VGG19:
    model = VGG19(4, 4, 1)
    initialise(model, 0)
    return model


def make(network, settings: Settings = SETTINGS) -> Stylization:
    return Stylization(network, CONTENT, STYLE, IMAGENET, settings)


def normalised(picture: torch.Tensor) -> torch.Tensor:
    return (picture - torch.tensor(IMAGENET.mean).view(3, 1, 1)) / torch.tensor(IMAGENET.std).view(3, 1, 1)


@pytest.mark.parametrize("features", ["raw", "unit"])
def test_losses_are_equations_3_and_4_on_the_networks_features(network, features) -> None:
    """Features by slices of the network, sums by einsum, nothing of the module under test."""
    made = make(network, replace(SETTINGS, features=features))
    g = torch.rand(1, 3, 32, 40, generator=torch.Generator().manual_seed(1))
    ends = {"conv1_1": 2, "conv2_1": 7, "conv3_1": 12, "conv4_1": 21, "conv4_2": 23, "conv5_1": 30}
    with torch.no_grad():
        found = {
            name: [network.features[:end](normalised(t)).double()[0].flatten(1) for t in (CONTENT, STYLE, g)]
            for name, end in ends.items()
        }
    if features == "unit":
        found = {n: [t / ((p.abs().mean() + a.abs().mean()) / 2) for t in (p, a, g)] for n, (p, a, g) in found.items()}
    p, _, f = found["conv4_2"]
    content = 0.5 * ((p - f) ** 2).sum()
    style = 0.0
    for name in ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1"):
        _, a, f = found[name]
        of_a = torch.einsum("mf,nf->mn", a, a) / a.shape[1]
        of_g = torch.einsum("mf,nf->mn", f, f) / f.shape[1]
        style += ((of_g - of_a) ** 2).sum() / (4 * len(f) ** 2) / 5
    ours = made.losses(normalised(g))
    assert float(ours[0]) == pytest.approx(float(content), rel=1e-5)
    assert float(ours[1]) == pytest.approx(float(style), rel=1e-5)


def total(made: Stylization) -> float:
    content, style = made.losses(made.pixels.detach())
    return float(made.settings.content_weight * content + made.settings.style_weight * style)


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        replace(SETTINGS, content_weight=0.0),
        replace(SETTINGS, start="noise"),
        replace(SETTINGS, pooling="avg"),
    ],
    ids=["both", "style only", "from noise", "average pooling"],
)
def test_the_loss_falls_at_every_step(network, settings) -> None:
    made = make(network, replace(settings, steps=20))
    assert made.run()
    s = made.settings
    totals = [s.content_weight * h.content + s.style_weight * h.style for h in made.history] + [total(made)]
    assert len(totals) == 21
    assert all(b <= a * (1 + 1e-6) for a, b in itertools.pairwise(totals))
    assert totals[-1] < 0.9 * totals[0]
    assert made.picture.shape == CONTENT.shape
    assert 0 <= float(made.picture.min()) <= float(made.picture.max()) <= 1


def test_the_content_loss_alone_brings_the_content_back_from_noise() -> None:
    settings = Settings(
        steps=150, style_weight=0.0, start="noise", content_layers=("conv1_1", "conv1_2"), style_layers=("conv1_1",)
    )
    wide = VGG19(4, 16, 1)
    initialise(wide, 0)
    made = Stylization(wide, CONTENT, STYLE, IMAGENET, settings)
    assert float((made.picture - CONTENT).abs().mean()) > 0.2
    made.run()
    assert float((made.picture - CONTENT).abs().mean()) < 0.05


def test_noise_is_a_function_of_the_seed(network) -> None:
    pictures = [make(network, replace(SETTINGS, start="noise", seed=s)).pixels.detach() for s in (0, 0, 1)]
    assert torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[0], pictures[2])


def test_it_goes_on_to_the_same_picture_from_any_step(network, tmp_path) -> None:
    whole = make(network)
    assert whole.run()
    for steps in range(1, SETTINGS.steps):
        first, second, count = make(network), make(network), itertools.count(1)
        assert not first.run(Callbacks(stop=lambda: next(count) == steps))  # noqa: B023
        state = first.state()
        write_tensors(tmp_path / "state.safetensors", state.tensors)
        metadata = json.loads(json.dumps(state.metadata))
        second.restore(Progress(read_tensors(tmp_path / "state.safetensors"), metadata))
        assert second.step == steps
        assert second.run()
        assert torch.equal(whole.pixels, second.pixels), steps
        assert whole.history == second.history


def test_where_nothing_is_left_to_do_nothing_is_done(network) -> None:
    made = Stylization(network, CONTENT, CONTENT, IMAGENET, replace(SETTINGS, content_weight=0.0))
    assert made.run(Callbacks(stop=lambda: False))
    torch.testing.assert_close(made.picture, CONTENT)
    again = Stylization(network, CONTENT, CONTENT, IMAGENET, replace(SETTINGS, content_weight=0.0))
    again.restore(made.state())
    assert again.step == SETTINGS.steps


def test_a_foreign_state_is_refused(network) -> None:
    with pytest.raises(StudyError, match="does not fit"):
        make(network).restore(Progress({"pixels": torch.zeros(1, 3, 8, 8)}, {"step": 1, "lbfgs": {}, "history": []}))


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensors, metadata: metadata.update(step=99),
        lambda tensors, metadata: metadata.update(step=-1),
        lambda tensors, metadata: metadata.update(step=None),
        lambda tensors, metadata: metadata["history"].pop(),
        lambda tensors, metadata: metadata.pop("lbfgs"),
        lambda tensors, metadata: tensors.pop("lbfgs.old_dirs.0"),
        lambda tensors, metadata: tensors.pop("pixels"),
    ],
)
def test_a_state_that_lacks_something_is_refused(network, damage) -> None:
    made = make(network)
    made.run(Callbacks(stop=lambda: made.step == 3))
    state = made.state()
    damage(state.tensors, state.metadata)
    with pytest.raises(StudyError, match="does not fit this stylization"):
        make(network).restore(state)


def test_an_overflow_is_an_error(network) -> None:
    with pytest.raises(StudyError, match="not finite at step 1: lower --style-weight"):
        make(network, replace(SETTINGS, style_weight=1e60)).run()


def test_out_of_memory_says_what_to_do(network, monkeypatch) -> None:
    made = make(network)

    def refuse(pixels: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(made, "losses", refuse)
    with pytest.raises(StudyError, match="not enough memory for 40 × 32 pixels: choose a smaller --size"):
        made.run()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"history": 0}, "history must be at least 1"),
        ({"style_weight": -1.0}, "style_weight must not be negative"),
        ({"content_weight": float("nan")}, "content_weight must not be negative"),
        ({"content_weight": 0.0, "style_weight": 0.0}, "nothing to do"),
        ({"style_layers": ()}, "name at least one layer"),
        ({"content_layers": ()}, "name at least one layer"),
    ],
)
def test_settings_that_cannot_be(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**change)
