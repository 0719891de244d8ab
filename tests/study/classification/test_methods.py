"""A method of one's own is one class: trained, transferred, resumed, swept over λ and reported with no other edit."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from racecar.study.classification import report, running
from racecar.study.classification.experiment import ClassificationConfig, Task
from racecar.study.classification.objective import Objective
from racecar.study.classification.recipe import Recipe
from racecar.study.core import methods
from racecar.study.core.accelerator import reset_accelerator
from racecar.study.core.callbacks import Callbacks
from racecar.study.core.folder import Study
from racecar.study.core.growing import remember
from racecar.study.core.schedule import work
from racecar.study.core.variants import Run, Variant
from racecar.study.digits.experiment import Digits
from racecar.study.digits.spec import SPEC
from racecar.study.images.decoded import Images
from racecar.study.report import write_results
from racecar.study.smoke.config import SmokeConfig
from racecar.study.sweep.results import has_weight

RECIPE = Recipe(epochs=2, batch_size=10, learning_rate=0.01)
CONFIG = ClassificationConfig(
    variants=["Std"], seeds=1, phases=["A", "AB"], width=4, weight=0.1, a=RECIPE, aa=RECIPE, ab=RECIPE, b=RECIPE
)


@pytest.fixture(autouse=True)
def _fresh_accelerator():
    reset_accelerator()
    yield
    reset_accelerator()


@pytest.fixture
def towards_start():
    """λ times the squared distance of the weights from where phase I has begun."""

    @methods.register
    class Anchor(methods.Method):
        family, color, has_weight = "Anchor", "#123456", True

        def regulariser(self, model: nn.Module, settings: methods.Settings):
            start = {name: p.detach().clone() for name, p in model.named_parameters()}

            def penalty(model: nn.Module) -> Tensor:
                return settings.weight * sum((p - start[n]).square().sum() for n, p in model.named_parameters())

            return penalty

        def note(self, compute_match: float) -> str:
            return "Anchor: drawn back to where it began."

    yield Anchor
    methods.unregister(Anchor)


def opened(folder, config: ClassificationConfig) -> Study:
    study = SPEC.open(folder, config)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (40, 1, 28, 28), dtype=torch.uint8, generator=generator)
    images = Images(pixels, torch.arange(40) % 10, tuple(map(str, range(10))))
    Digits().keep(study, {"A": Task(images, images), "B": Task(images, images)})
    remember(study, config)
    return study


def test_a_new_method_is_trained_and_reported(towards_start, tmp_path) -> None:
    config = ClassificationConfig(**{**vars(CONFIG), "variants": ["Std", "anchor", "RR3"]})
    Digits().check(config)
    study = opened(tmp_path / "s", config)
    assert running.run_share(study, Digits(), config, config.runs())
    ours, plain = (study.weights(Run(Variant(v), "A", 0)) for v in ("Anchor", "Std"))
    start = Digits().network(config, 1, 28, 10, 0).state_dict()

    def moved(weights: dict[str, Tensor]) -> float:
        return sum(float((w - start[n]).square().sum()) for n, w in weights.items())

    assert 0 < moved(ours) < moved(plain)
    history = study.metrics(Run(Variant("Anchor"), "A", 0))["history"]
    assert 0 < history[-1]["penalty"] < 0.1 * moved(plain)
    assert study.metrics(Run(Variant("Anchor"), "AB", 0))["history"][-1]["penalty"] == 0  # phase II is plain

    _, again = SPEC.reopen(study.folder)
    assert again.variants == ["Std", "Anchor", "RR3"]
    html = report.page(study, Digits(), again).html()
    assert "#123456" in html  # its bars and curves
    assert ">Anchor<sub>A</sub><" in html
    assert "Anchor: drawn back to where it began." in html
    text = write_results(report.page(study, Digits(), again), tmp_path / "out")[0].read_text()
    assert "| Anchor_AB | 1 |" in text
    cost = next(line for line in text.splitlines() if line.startswith("| Anchor |"))
    assert "1.00×" in cost  # FLOPs of a step are Std's


def test_it_goes_on_where_it_was_stopped(towards_start, tmp_path) -> None:
    config = ClassificationConfig(**{**vars(CONFIG), "variants": ["Anchor"]})
    whole, parts = (opened(tmp_path / name, config) for name in ("whole", "parts"))
    assert running.run_share(whole, Digits(), config, config.runs())
    steps = iter(range(10**6))
    assert not running.run_share(parts, Digits(), config, config.runs(), Callbacks(stop=lambda: next(steps) == 4))
    total, done = work(parts, config.runs(), partial(running.cost, config))
    assert 0 < done < total
    assert running.run_share(parts, Digits(), config, config.runs())
    for run in config.runs():
        assert all(torch.equal(parts.weights(run)[n], w) for n, w in whole.weights(run).items())


def test_other_studies_take_it_where_they_can(towards_start) -> None:
    assert has_weight("Anchor")
    with pytest.raises(ValueError, match="no variant Anchor in this study: use Std, StdC, RR1 to RR6, Dec1 to Dec6"):
        SmokeConfig(variants=["Anchor"])


def test_forgotten_it_is_no_variant(tmp_path) -> None:
    with pytest.raises(ValueError, match="no variant 'Anchor': use Ort, Std, "):
        ClassificationConfig(variants=["Anchor"])


def test_an_objective_has_one_penalty() -> None:
    model = Digits().network(CONFIG, 1, 28, 10, 0)
    mirrored = Digits().objective(CONFIG, Variant("RR3"), model, torch.rand(2, 1, 28, 28))
    with pytest.raises(ValueError, match="not both"):
        Objective(model, mirrored.rr, lambda model: torch.zeros(()))
