"""A chain of tasks against the same steps written by hand; stopped anywhere, it ends at the same weights."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from racecar.study.core.callbacks import Callbacks
from racecar.study.core.checkpoints import Progress
from racecar.study.core.errors import DivergedError, StudyError
from racecar.study.core.variants import Run, Variant
from racecar.study.images.decoded import Images
from racecar.study.plasticity.config import PlasticityConfig
from racecar.study.plasticity.sequences import KINDS
from racecar.study.plasticity.training import Training

CONFIG = PlasticityConfig(
    phases=["A-3", "A-3first"], tasks=3, train_images=20, test_images=20, batch_size=8, epochs=2, learning_rate=3e-3
)


def images(count: int = 20, channels: int = 1, size: int = 28, classes: int = 10, seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, channels, size, size), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.arange(count) % classes, tuple(map(str, range(classes))))


def training(variant: str, config: PlasticityConfig = CONFIG, way: str = "3", seed: int = 0) -> Training:
    parsed = Variant.parse(variant)
    phase = "A" if variant in ("Std", "StdC", "Reset") else f"A-{way}"
    form = (20, 1, 28, 10) if config.sequence != "class-sequence" else (36, 3, 32, 6)
    train, test = images(*form), images(*form, seed=1)
    return Training(Run(parsed, phase, seed), config, KINDS[config.sequence](train, test, config), torch.device("cpu"))


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
    if variant == "Dec3":
        assert not torch.allclose(net.get_parameter("fc1.weight"), other.get_parameter("fc1.weight"), atol=1e-2)

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


def test_the_control_of_equal_computing_is_plain_training_of_twice_the_epochs() -> None:
    control, longer = trained("StdC"), trained("Std", replace(CONFIG, epochs=2 * CONFIG.epochs))
    assert control.total == 2 * training("Std").total
    assert all(torch.equal(weights(control)[n], w) for n, w in weights(longer).items())


def test_the_penalty_of_the_way_first_acts_in_the_first_tenth_of_the_tasks_alone() -> None:
    config = replace(CONFIG, tasks=11)  # the first tenth: two tasks

    def ended(way: str, stop_after: int) -> dict[str, Tensor]:
        kept: list[Progress] = []
        part = training("RR3", config, way)
        part.run(Callbacks(save=kept.append, stop=lambda: part.step == stop_after))
        louder = kept[-1].tensors | {"lambdas": kept[-1].tensors["lambdas"] * 100}
        rest = training("RR3", config, way)
        rest.restore(Progress(louder, kept[-1].metadata))
        assert rest.run()
        return weights(rest)

    whole = weights(trained("RR3", config, "3first"))
    assert all(torch.equal(whole[n], w) for n, w in ended("3first", 8).items())  # four steps are a task
    assert not all(torch.equal(whole[n], w) for n, w in ended("3first", 7).items())
    held = weights(trained("RR3", config, "3"))
    assert not all(torch.equal(held[n], w) for n, w in ended("3", 40).items())  # before the last task


def at_the_end_of_the_first_task(variant: str, config: PlasticityConfig = CONFIG) -> tuple[Training, Training]:
    """What a task has left, as Std has it, and what the method makes of it; no method here changes a task's steps."""
    parts = [training(v, config) for v in ("Std", variant)]
    for part in parts:
        part.run(Callbacks(stop=lambda part=part: part.step == 4))
    return parts[0], parts[1]


def test_shrink_and_perturb_mixes_the_weights_with_fresh_ones_that_differ_from_task_to_task() -> None:
    std, sp = at_the_end_of_the_first_task("SP")  # its third value is a = 0.2
    fresh = {n: (w - 0.8 * weights(std)[n]) / 0.2 for n, w in weights(sp).items()}
    limit = 1 / 196**0.5  # torch draws the first layer uniformly within ± 1/√fan-in
    assert 0.95 * limit < float(fresh["fc1.weight"].abs().max()) < 1.01 * limit
    assert not torch.allclose(fresh["fc1.weight"], training("Std").model.get_parameter("fc1.weight"), atol=1e-3)
    moments = sp.optimiser.state[sp.model.get_parameter("fc1.weight")]
    assert float(moments["step"]) == 4  # moved, not drawn anew: its moments stay


@pytest.mark.parametrize("sequence", ["random-labels", "class-sequence"])
def test_a_head_drawn_anew_has_no_moments_and_all_else_stays(sequence) -> None:
    config = replace(CONFIG, sequence=sequence, variants=["Std"])
    if sequence == "random-labels":
        std, changed = at_the_end_of_the_first_task("Reset", config)
    else:  # every method begins a task with a new head
        config = replace(config, train_images=12, test_images=12, batch_size=6)
        std = changed = training("Std", config)
        std.run(Callbacks(stop=lambda: std.step == 4))
    head = changed.model.get_parameter("head.weight")
    assert all(float(v.abs().sum()) == 0 for v in changed.optimiser.state[head].values())
    below = next(p for n, p in changed.model.named_parameters() if not n.startswith("head"))
    assert float(changed.optimiser.state[below]["step"]) == 4
    first = training("Std", config).model.get_parameter("head.weight")
    assert not torch.allclose(head, first, atol=1e-3)
    assert float(head.detach().abs().max()) <= 1 / head.shape[1] ** 0.5
    for name, value in weights(std).items():
        assert torch.equal(changed.model.get_parameter(name), value) == (not name.startswith("head") or std is changed)


def test_what_is_measured_after_a_task() -> None:
    config = replace(CONFIG, tasks=1, sequence="permuted-pixels", test_images=30)
    made = trained("Std", config)
    task = made.sequence.task(0, 0)
    net, x = made.model, task.test_inputs
    output, hidden = net(x).detach(), net[:6](x).detach()
    point = made.history[-1]
    assert point["accuracy"] == pytest.approx(float((output.argmax(1) == task.test_labels).double().mean()), rel=1e-5)
    assert point["cross_entropy"] == pytest.approx(float(F.cross_entropy(output, task.test_labels)), rel=1e-4)
    assert point["dead_units"] == pytest.approx(float((hidden.amax(0) == 0).double().mean()), rel=1e-5)
    values = torch.linalg.svdvals((hidden - hidden.mean(0)).double())
    shares = values / values.sum()
    shares = shares[shares > 1e-7]
    assert point["effective_rank"] == pytest.approx(float((-shares * shares.log()).sum().exp()), rel=1e-3)
    norm = torch.cat([p.detach().flatten() for p in net.parameters()]).norm()
    assert point["weight_norm"] == pytest.approx(float(norm), rel=1e-5)


def test_random_labels_are_measured_over_the_last_epoch_while_the_weights_change() -> None:
    config = replace(CONFIG, tasks=1)
    right, loss = 0, 0.0
    made = training("Std", config)
    made.run(Callbacks(stop=lambda: made.step == 2))
    for step in (2, 3):
        x, y = made._batch(step)
        output = made.model(x).detach()
        right += int((output.argmax(1) == y).sum())
        loss += float(F.cross_entropy(output, y)) / 2
        made.run(Callbacks(stop=lambda step=step: made.step == step + 1))
    assert made.history[-1]["accuracy"] == right / 16
    assert made.history[-1]["cross_entropy"] == pytest.approx(loss, rel=1e-4)


def test_weights_that_are_not_finite_end_a_chain_with_what_to_do() -> None:
    made = training("Std", replace(CONFIG, learning_rate=1e30))
    with pytest.raises(DivergedError, match="not finite in step 4: lower the learning rate"):
        made.run()


def test_a_state_of_something_else_is_refused() -> None:
    std, rr = training("Std").state(), training("RR3")
    with pytest.raises(StudyError, match="does not fit this training"):
        rr.restore(std)
    with pytest.raises(StudyError, match="12 steps there, 16 now"):
        training("Std", replace(CONFIG, tasks=4)).restore(std)
