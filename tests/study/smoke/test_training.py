"""One step of the GAN against the same step by hand; both trainings, stopped anywhere, end at the same weights."""

import functools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from racecar.study.commands.study import preset
from racecar.study.core.callbacks import Callbacks
from racecar.study.core.errors import DivergedError, StudyError
from racecar.study.core.variants import Variant
from racecar.study.smoke.adversarial import SuperResolution
from racecar.study.smoke.autoencoding import AutoEncoding
from racecar.study.smoke.config import SmokeConfig
from racecar.study.smoke.frames import Frames, batch, lowered, raised
from racecar.study.smoke.network import discriminator, generator

CONFIG = SmokeConfig(
    width=4,
    discriminator_width=2,
    steps_a=6,
    steps_b=5,
    batch_size=3,
    learning_rate=1e-3,
    evaluations=2,
    precision="float32",
)


def frames(channels: int = 1) -> Frames:
    pictures = torch.rand(12, channels, 16, 16, generator=torch.Generator().manual_seed(1))
    return Frames(pictures[:8], pictures[8:])


def gan(variant: str = "RR6", config: SmokeConfig = CONFIG, seed: int = 0, **more) -> SuperResolution:
    return SuperResolution(Variant.parse(variant), frames(), config, seed, **more)


def reverse_by_hand(net: nn.Sequential, low: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Table 13 line by line: the output, and Σ ½ ‖L_m − L'_m‖² over the six convolutions' inputs."""
    convolutions = [net.get_submodule(f"conv{i}") for i in range(1, 7)]
    inputs, x = [], low
    for number, conv in enumerate(convolutions, 1):
        inputs.append(x)
        x = F.relu(F.conv2d(x, conv.weight, conv.bias, padding=2))
        if number in (1, 2):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
    estimate, loss = x, 0.0
    for number in range(6, 0, -1):
        conv = convolutions[number - 1]
        estimate = F.relu(F.conv_transpose2d(estimate - conv.bias.view(1, -1, 1, 1), conv.weight, padding=2))
        loss = loss + (inputs[number - 1] - estimate).square().sum() / 2
        if number in (2, 3):
            estimate = F.max_pool2d(estimate, 2)
    return x, loss


@pytest.mark.parametrize("variant", ["Std", "RR6"])
def test_two_steps_equal_the_same_steps_written_by_hand(variant) -> None:
    config = replace(CONFIG, steps_a=2, weight=0.05, adversarial_weight=0.3)
    training = gan(variant, config)
    low_net = config.initialised(generator(4), 0)
    judge = config.initialised(discriminator(2, 16), 20_000)
    first, second = (torch.optim.Adam(m.parameters(), config.learning_rate) for m in (low_net, judge))
    for step in range(2):
        high = batch(frames().train, 3, 0, step)
        low = lowered(high)
        output, penalty = reverse_by_hand(low_net, low)
        bce = F.binary_cross_entropy_with_logits
        real, fake = (judge(torch.cat([x, raised(low)], 1)) for x in (high, output.detach()))
        second.zero_grad()
        (bce(real, torch.ones(3, 1), reduction="sum") + bce(fake, torch.zeros(3, 1), reduction="sum")).backward()
        second.step()
        judged = judge(torch.cat([output, raised(low)], 1))
        loss = F.mse_loss(output, high, reduction="sum") / 2
        loss = loss + 0.3 * bce(judged, torch.ones(3, 1), reduction="sum")
        first.zero_grad()
        (loss + (0.05 * penalty if variant == "RR6" else 0)).backward()
        first.step()
    assert training.run()
    for name, value in low_net.state_dict().items():
        assert torch.allclose(training.generator.state_dict()[name], value, atol=1e-5), name
    trained = dict(training.discriminator.named_parameters())
    for name, value in judge.named_parameters():
        # Batch norm takes a convolution's bias out again: its gradient is rounding noise, which Adam makes a full step.
        if not (name.startswith("conv") and name.endswith("bias")):
            assert torch.allclose(trained[name], value, atol=1e-4), name


def test_the_penalty_changes_the_training() -> None:
    runs = [gan("RR6", replace(CONFIG, weight=w)) for w in (0.0, 0.1)]
    assert all(r.run() for r in runs)
    assert not torch.equal(runs[0].generator.conv3.weight, runs[1].generator.conv3.weight)
    assert runs[0].history[-1]["penalty"] == 0 < runs[1].history[-1]["penalty"]


def make(kind: str):
    if kind == "auto-encoder":
        return AutoEncoding(None, frames(3), CONFIG, 1)
    return gan(kind)


@functools.cache
def undisturbed(kind: str):
    training = make(kind)
    assert training.run()
    return training


@pytest.mark.parametrize("at", [1, 4])
@pytest.mark.parametrize("kind", ["Std", "RR6", "Dec6", "auto-encoder"])
def test_stopped_and_restored_it_ends_where_it_would_have_ended(kind, at) -> None:
    whole = undisturbed(kind)
    states = []
    stopped = make(kind)
    assert not stopped.run(Callbacks(save=states.append, stop=lambda: stopped.step == at))
    again = make(kind)
    again.restore(states[-1])
    assert again.run()
    for a, b in zip(whole.modules, again.modules, strict=True):
        for name, value in a.state_dict().items():
            assert torch.equal(value, b.state_dict()[name]), name
    for mine, theirs in zip(whole.history, again.history, strict=True):
        assert {k: v for k, v in mine.items() if k != "seconds"} == {k: v for k, v in theirs.items() if k != "seconds"}


def test_measured_as_often_as_asked_and_at_the_end() -> None:
    training = gan(config=replace(CONFIG, steps_a=7, evaluations=3))
    training.run()
    assert [p["step"] for p in training.history] == [2, 5, 7]
    few = gan(config=replace(CONFIG, steps_a=2, evaluations=20))
    few.run()
    assert [p["step"] for p in few.history] == [1, 2]


def test_the_early_state_is_the_generator_after_its_share_of_the_steps() -> None:
    kept = []
    training = gan(config=replace(CONFIG, early=0.5), early=lambda w: kept.append({k: v.clone() for k, v in w.items()}))
    training.run(Callbacks(stop=lambda: training.step == 3))
    assert len(kept) == 1
    assert all(torch.equal(v, training.generator.state_dict()[k]) for k, v in kept[0].items())


def test_an_untied_decoder_trains_weights_of_its_own() -> None:
    training = gan("Dec6")
    before = training.mirror.decoder.conv3.weight.clone()
    assert not torch.equal(before, training.generator.conv3.weight)
    training.run()
    assert not torch.equal(before, training.mirror.decoder.conv3.weight)


def test_a_compute_matched_std_trains_longer() -> None:
    assert (gan("StdC", replace(CONFIG, compute_match=1.5)).total, gan("Std").total) == (9, 6)


@pytest.mark.parametrize("name", ["paper", "small"])
def test_compute_match_is_the_ratio_of_the_flops_of_a_step(name) -> None:
    config = replace(preset("smoke", "--preset", name), batch_size=1)
    pictures = torch.rand(1, 1, 16, 16)  # the ratio is that of any size
    work = []
    for variant in ("Std", "RR6"):
        training = SuperResolution(Variant.parse(variant), Frames(pictures, pictures), config, 0)
        with FlopCounterMode(display=False) as counter:
            training.train_step(pictures)
        work.append(counter.get_total_flops())
    assert config.compute_match == pytest.approx(work[1] / work[0], rel=0.02)


def test_a_loss_that_is_not_finite_is_one_clear_error() -> None:
    training = AutoEncoding(None, Frames(torch.full((4, 1, 16, 16), torch.nan), frames().test), CONFIG, 0)
    with pytest.raises(DivergedError, match=r"not finite in step 1 .*lower the learning rate"):
        training.run()


def test_a_state_of_another_training_is_refused() -> None:
    states = []
    first = gan("RR6")
    first.run(Callbacks(save=states.append, stop=lambda: True))
    for other in (make("auto-encoder"), gan("RR6", replace(CONFIG, steps_a=9)), gan("RR6", replace(CONFIG, width=6))):
        with pytest.raises(StudyError, match="does not fit this training"):
            other.restore(states[0])


def test_auto_encoders_of_all_variants_start_with_the_same_encoder() -> None:
    source = generator(4).state_dict()
    scratch, transferred = (AutoEncoding(s, frames(), CONFIG, 5).model for s in (None, source))
    for name, value in scratch.encoder.state_dict().items():
        assert torch.equal(value, transferred.encoder.state_dict()[name])
    assert torch.equal(transferred.decoder.conv3.weight, source["conv3.weight"])
