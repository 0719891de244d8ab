"""A whole study on a small experiment: sources, heads, probes, shares, controls, interruption, divergence."""

import itertools
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import racecar
from racecar.study.classification import running
from racecar.study.classification.experiment import ClassificationConfig, Experiment, Task
from racecar.study.classification.recipe import Recipe
from racecar.study.core.accelerator import make_accelerator, reset_accelerator
from racecar.study.core.callbacks import Callbacks
from racecar.study.core.errors import StudyError
from racecar.study.core.folder import Study
from racecar.study.core.growing import open_study, remember, reopen
from racecar.study.core.schedule import chains, work
from racecar.study.core.variants import Run, Variant
from racecar.study.images.decoded import Images

GENERATOR = torch.Generator().manual_seed(0)


def images(count: int, classes: int) -> Images:
    labels = torch.arange(count) % classes
    pixels = torch.randint(0, 100, (count, 1, 8, 8), dtype=torch.uint8, generator=GENERATOR)
    for i, label in enumerate(labels.tolist()):
        pixels[i, 0, label] += 120  # a bright row
    return Images(pixels, labels, tuple(map(str, range(classes))))


TASKS = {"A": Task(images(60, 4), images(20, 4)), "B": Task(images(60, 6), images(24, 6))}


class Rows(Experiment):
    """Which row is bright: 4 of them in task A, 6 in task B."""

    name, title, head = "rows", "Rows", "fc"

    def load(self, source, config, file):
        return TASKS, {"A": "four rows", "B": "six rows"}

    def depth(self, config):
        return 2

    def network(self, config, channels, size, classes, seed):
        torch.manual_seed(seed)
        return Net(channels, config.width, classes)


class Net(nn.Module):
    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 4, 3, padding=1)
        self.fc = nn.Linear(64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 2)
        return self.fc(self.conv2(x).relu().flatten(1))


RECIPE = Recipe(epochs=2, batch_size=10, learning_rate=0.01)
CONFIG = ClassificationConfig(
    variants=["Std", "StdC", "Ort", "RR2", "RR1", "RR2s", "Dec2"],
    seeds=2,
    phases=["A", "B", "AA", "AB", "AB-probe", "AB-10pct", "B-10pct"],
    width=4,
    weight=1e-3,
    compute_match=2.0,
    a=RECIPE,
    aa=RECIPE,
    ab=RECIPE,
    b=RECIPE,
    few_epochs=3,
    evaluations=2,
)
COST = partial(running.cost, CONFIG)


@pytest.fixture(autouse=True)
def _fresh_accelerator():
    reset_accelerator()
    yield
    reset_accelerator()


def opened(folder: Path, config: ClassificationConfig = CONFIG) -> Study:
    study = open_study(folder, Rows.name, config)
    Rows().keep(study, TASKS)
    return study


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Study:
    reset_accelerator()
    study = opened(tmp_path_factory.mktemp("study") / "s")
    told = []
    for share in chains(CONFIG.runs(), COST, 2):
        assert running.run_share(study, Rows(), CONFIG, share, Callbacks(told.append))
    assert sum(told) == work(study, CONFIG.runs(), COST)[0]
    return study


def test_every_run_is_there_and_nothing_else(finished) -> None:
    assert all(finished.finished(r) for r in CONFIG.runs())
    assert len(CONFIG.runs()) == 2 * (7 * 5 + 2)
    assert work(finished, CONFIG.runs(), COST)[0] == work(finished, CONFIG.runs(), COST)[1]
    assert not list(finished.folder.glob("progress-*"))


@pytest.mark.parametrize("workers", [1, 2, 5, 100])
def test_chains_hold_every_run_once_after_its_source(workers) -> None:
    shares = chains(CONFIG.runs(), COST, workers)
    flat = [r for share in shares for r in share]
    assert sorted(flat) == sorted(CONFIG.runs())
    assert len(shares) <= workers
    for share in shares:
        for run in share:
            assert run.source is None or share.index(run.source) < share.index(run)


def test_phase_two_begins_where_phase_one_ended(finished) -> None:
    for phase in ("AA", "AB"):
        run = Run(Variant("RR2"), phase, 1)
        model, trainer = running.make_trainer(finished, Rows(), CONFIG, run, TASKS[run.task], make_accelerator())
        source = finished.weights(run.source)
        kept = [k for k in source if phase == "AA" or not k.startswith("fc.")]
        for name in kept:
            assert torch.equal(model.state_dict()[name], source[name])
        assert model.fc.out_features == (4 if phase == "AA" else 6)
        assert trainer.objective.rr is None  # phase II is plain


def test_phases_draw_dropout_masks_of_their_own(finished) -> None:
    """A mask that comes again is known to the network, which then answers by mask and not by image."""
    masks = {}
    for phase in ("A", "AA", "AB"):
        run = Run(Variant("Std"), phase, 0)
        _, trainer = running.make_trainer(finished, Rows(), CONFIG, run, TASKS[run.task], make_accelerator())
        drawn = []
        trainer.objective.model.conv1.register_forward_hook(lambda *_: drawn.append(torch.rand(64)))  # noqa: B023
        trainer.run(Callbacks(stop=lambda: True))
        masks[phase] = drawn[0]
    assert not any(torch.equal(masks[a], masks[b]) for a, b in itertools.combinations(masks, 2))


def test_a_probe_trains_the_last_layer_alone(finished) -> None:
    source, probe = (finished.weights(Run(Variant("Std"), p, 0)) for p in ("A", "AB-probe"))
    for name, value in source.items():
        assert name.startswith("fc.") or torch.equal(probe[name], value)
    assert probe["fc.weight"].shape == (6, 64)


def test_few_labels_are_a_share_of_the_images_and_the_same_for_every_variant(finished) -> None:
    for model in ("RR2_AB-10pct", "Std_AB-10pct", "Std_B-10pct"):
        metrics = finished.metrics(Run.parse(f"{model}/seed-0"))
        assert (metrics["train_images"], metrics["epochs"]) == (6, 3)
    drawn = []
    for variant in ("Std", "RR2"):
        run = Run(Variant(variant), "AB-10pct", 0)
        _, trainer = running.make_trainer(finished, Rows(), CONFIG, run, TASKS["B"], make_accelerator())
        drawn.append(trainer.batches.images.pixels)
    assert torch.equal(*drawn)


def test_variants_begin_alike_and_differ_by_their_penalty(finished) -> None:
    begin = [
        running.make_trainer(finished, Rows(), CONFIG, Run(Variant(v), "A", 0), TASKS["A"], make_accelerator())
        for v in ("Std", "RR2", "Ort", "Dec2")
    ]
    for model, _ in begin[1:]:
        for a, b in zip(begin[0][0].state_dict().values(), model.state_dict().values(), strict=True):
            assert torch.equal(a, b)
    decoder = begin[3][1].objective.rr.decoder
    assert not torch.equal(decoder.conv1.weight, begin[3][0].conv1.weight)
    ends = {v: finished.weights(Run(Variant(v), "A", 0))["conv1.weight"] for v in ("Std", "RR2", "RR1", "Ort", "Dec2")}
    for a in ends:
        for b in ends:
            assert torch.equal(ends[a], ends[b]) == (a == b)


def test_shared_statistics_differ_from_separate_ones_in_nothing_but_the_running_ones(finished) -> None:
    separate, shared = (finished.weights(Run(Variant(v), "A", 0)) for v in ("RR2", "RR2s"))
    for name in separate:
        assert torch.allclose(separate[name], shared[name]) == ("running" not in name), name


def test_compute_matched_std_trains_longer_in_phase_one_only(finished) -> None:
    epochs = {p: finished.metrics(Run(Variant("StdC"), p, 0))["epochs"] for p in ("A", "AA", "AB")}
    assert epochs == {"A": 4, "AA": 2, "AB": 2}


def test_regeneration_is_measured_as_defined(finished) -> None:
    run = Run(Variant("RR2"), "A", 0)
    model, _ = running.make_trainer(finished, Rows(), CONFIG, run, TASKS["A"], make_accelerator())
    model.load_state_dict(finished.weights(run))
    x = TASKS["A"].test.pixels.float() / 255
    rr = racecar.Racecar(model, x, input_range="paper")
    model.train()
    original, regenerated = rr.reconstruct(x)["conv1"]
    error = (original - regenerated).square().mean() / x.var()
    correlation = torch.stack(
        [
            torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
            for a, b in zip(original, regenerated, strict=True)
        ]
    ).mean()
    found = finished.metrics(run)["regeneration"]
    assert found["error"] == pytest.approx(error.item(), abs=2e-5)
    assert found["correlation"] == pytest.approx(correlation.item(), abs=2e-5)
    assert finished.metrics(Run(Variant("RR2"), "AB", 0)).get("regeneration") is None


def test_stopped_and_called_again_it_ends_the_same(finished, tmp_path) -> None:
    config = ClassificationConfig(**{**vars(CONFIG), "variants": ["RR2"], "seeds": 1, "phases": ["A", "AB"]})
    study = opened(tmp_path / "s", config)
    calls = 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls % 5 == 0

    rounds = 1
    while not running.run_share(study, Rows(), config, config.runs(), Callbacks(stop=stop)):
        rounds += 1
        total, done = work(study, config.runs(), partial(running.cost, config))
        assert 0 < done < total
    assert rounds > 3
    for run in config.runs():
        for name, value in finished.weights(run).items():
            assert torch.equal(study.weights(run)[name], value), (run.key, name)


def test_a_run_that_diverges_is_a_result(tmp_path) -> None:
    wild = Recipe(epochs=2, batch_size=10, learning_rate=1e30, optimiser="sgd")
    config = ClassificationConfig(variants=["Std", "RR2"], seeds=1, phases=["A"], width=4, weight=1.0, a=wild)
    study = opened(tmp_path / "s", config)
    assert running.run_share(study, Rows(), config, config.runs())
    for run in config.runs():
        metrics = study.metrics(run)
        assert "not finite" in metrics["diverged"]
        assert 0 <= metrics["accuracy"] <= 1


def test_a_folder_remembers_what_was_asked_and_refuses_another_configuration(tmp_path) -> None:
    study = opened(tmp_path / "s")
    remember(study, CONFIG)
    again, config = reopen(study.folder, Rows.name, ClassificationConfig)
    assert config == CONFIG
    assert again.folder == study.folder
    with pytest.raises(StudyError, match=r"width: 4 there, 8 now"):
        open_study(study.folder, Rows.name, ClassificationConfig(**{**vars(CONFIG), "width": 8}))


def test_subsets_are_balanced_and_said_in_words() -> None:
    config = ClassificationConfig(train_images=24, test_images=10_000)
    tasks, words = Rows().subsets(TASKS, {"A": "four rows", "B": "six rows"}, config)
    assert tasks["B"].train.labels.bincount().tolist() == [4] * 6
    assert len(tasks["B"].test) == 24
    assert words["B"] == "six rows; used here: 24 training and 24 test images"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"variants": []}, "variants is empty"),
        ({"variants": ["Best"]}, "no variant 'Best'"),
        ({"phases": ["A", "AB-half"]}, "ways are probe, 1pct, 10pct"),
        ({"weight": math.nan}, "weight must not be negative"),
        ({"train_images": 0}, "train_images must be at least 1"),
        ({"compute_match": 0.5}, "compute_match must be at least 1"),
    ],
)
def test_configurations_that_make_no_sense(change, said) -> None:
    with pytest.raises(ValueError, match=said):
        ClassificationConfig(**change)
