"""A chain of tasks against the same steps written by hand; stopped anywhere, it ends at the same weights."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from racecar.study.classification.images import Images
from racecar.study.core.callbacks import Callbacks
from racecar.study.core.checkpoints import Progress
from racecar.study.core.variants import Run, Variant
from racecar.study.plasticity.config import PlasticityConfig
from racecar.study.plasticity.sequences import KINDS
from racecar.study.plasticity.training import Training

CONFIG = PlasticityConfig(
    phases=["A-3", "A-3first"], tasks=3, train_images=20, test_images=20, batch_size=8, epochs=2, learning_rate=3e-3
)


def images(count: int = 20, channels: int = 1, size: int = 28, classes: int = 10) -> Images:
    generator = torch.Generator().manual_seed(channels)
    pixels = torch.randint(256, (count, channels, size, size), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.arange(count) % classes, tuple(map(str, range(classes))))


def training(variant: str, config: PlasticityConfig = CONFIG, way: str = "3", seed: int = 0) -> Training:
    parsed = Variant.parse(variant)
    phase = "A" if variant in ("Std", "Reset") else f"A-{way}"
    kept = images() if config.sequence != "class-sequence" else images(36, 3, 32, 6)
    return Training(Run(parsed, phase, seed), config, KINDS[config.sequence](kept, kept, config), torch.device("cpu"))


def trained(variant: str, config: PlasticityConfig = CONFIG, way: str = "3") -> Training:
    made = training(variant, config, way)
    assert made.run()
    return made


def weights(of: Training) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in of.model.named_parameters()}


def distances(model: nn.Sequential, inputs: Tensor, other: nn.Module) -> list[Tensor]:
    """½ mean (L_m − L'_m)² of the MLP, line by line; backwards with ``other``'s weights."""
    hidden, x = [], inputs
    for i in (1, 2, 3):
        hidden.append(x)
        x = F.relu(F.linear(x, model.get_parameter(f"fc{i}.weight"), model.get_parameter(f"fc{i}.bias")))
    found, estimate = [], x
    for i in (3, 2, 1):
        estimate = (estimate - other.get_parameter(f"fc{i}.bias")) @ other.get_parameter(f"fc{i}.weight")
        estimate = F.relu(estimate) if i > 1 else estimate
        found.insert(0, (hidden[i - 1] - estimate).square().mean() / 2)
    return found


@pytest.mark.parametrize("variant", ["Std", "RR3", "RR1", "Dec3", "L2Init"])
def test_two_tasks_equal_the_same_steps_written_by_hand(variant) -> None:
    config = replace(CONFIG, tasks=2)
    made = training(variant, config)
    start, value = weights(made), config.value(made.which)
    assert made.run()

    by_hand = training(variant, config)  # for its images, order and first weights alone
    net, other = by_hand.model, by_hand.modules[-1]
    adam = torch.optim.Adam([p for m in by_hand.modules for p in m.parameters()], config.learning_rate)
    depth = int(variant[-1]) if variant[-1].isdigit() else 0

    def penalty(x: Tensor) -> Tensor:
        return torch.stack(distances(net, x, other)[:depth]).sum()

    def norm(value: Tensor) -> float:
        own = [p for n, p in net.named_parameters() if not n.startswith("head")]
        return float(torch.cat([g.flatten() for g in torch.autograd.grad(value, own)]).norm())

    weight = 0.0
    if depth:
        first_epoch = [by_hand._batch(step) for step in range(2)]
        loss = sum(norm(F.cross_entropy(net(x), y)) for x, y in first_epoch)
        weight = value * loss / sum(norm(penalty(x)) for x, _ in first_epoch)
        assert made.lambdas == pytest.approx([weight] * depth, rel=1e-4)
    for step in range(2 * 4):
        x, y = by_hand._batch(step)
        loss = F.cross_entropy(net(x), y)
        if depth:
            loss = loss + weight * penalty(x)
        elif variant == "L2Init":
            loss = loss + value * sum((p - start[n]).square().sum() for n, p in net.named_parameters())
        adam.zero_grad()
        loss.backward()
        adam.step()
    for name, parameter in net.named_parameters():
        # Adam divides by small gradients, whose rounding differs: a thirtieth of what one step may change.
        torch.testing.assert_close(made.model.get_parameter(name), parameter, rtol=0, atol=0.03 * 3e-3)
        assert not torch.equal(parameter, start[name])


@pytest.mark.parametrize("variant", ["Std", "Ort", "RR3", "Dec3", "SP", "Reset"])
@pytest.mark.parametrize("stop_after", [3, 4, 9])
def test_stopped_and_continued_it_ends_at_the_same_weights(variant, stop_after) -> None:
    whole = trained(variant, way="3first" if variant == "Dec3" else "3")
    kept: list[Progress] = []
    part = training(variant, way="3first" if variant == "Dec3" else "3")
    assert not part.run(Callbacks(save=kept.append, stop=lambda: part.step == stop_after))
    rest = training(variant, way="3first" if variant == "Dec3" else "3")
    rest.restore(kept[-1])
    assert rest.step == stop_after
    assert rest.run()
    assert rest.history == whole.history
    for name, value in weights(whole).items():
        assert torch.equal(rest.model.get_parameter(name), value), name
