"""A small smoke study from end to end: every run, its source, its early state, stops in the middle, collapse."""

from functools import partial

import pytest
import torch

from racecar.study.core.callbacks import Callbacks
from racecar.study.core.errors import StudyError
from racecar.study.core.files import read_tensors
from racecar.study.core.growing import remember
from racecar.study.core.schedule import chains, work
from racecar.study.core.variants import Run, Variant
from racecar.study.smoke import experiment
from racecar.study.smoke.config import SmokeConfig
from racecar.study.smoke.frames import Frames
from racecar.study.smoke.network import AutoEncoder
from racecar.study.smoke.spec import SPEC

CONFIG = SmokeConfig(
    variants=["Std", "RR6", "Dec6"],
    seeds=2,
    phases=["A", "B1", "B2", "AB1", "AB2", "AB1-early", "AB2-leaky"],
    width=4,
    discriminator_width=2,
    steps_a=4,
    steps_b=2,
    batch_size=2,
    learning_rate=1e-3,
    evaluations=2,
)
COST = partial(experiment.cost, CONFIG)


def pictures(channels: int, height: int, width: int) -> Frames:
    found = torch.rand(9, channels, height, width, generator=torch.Generator().manual_seed(channels))
    return Frames(found[:5], found[5:])


def opened(folder, config: SmokeConfig = CONFIG):
    study = SPEC.open(folder, config)
    experiment.keep_data(study, "A", pictures(1, 16, 16))
    experiment.keep_data(study, "B2", pictures(3, 24, 16))
    remember(study, config)
    return study


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    study = opened(tmp_path_factory.mktemp("study") / "s")
    told: list[int] = []
    for share in chains(CONFIG.runs(), COST, 2):
        assert experiment.run_share(study, CONFIG, share, Callbacks(told.append))
    assert sum(told) == work(study, CONFIG.runs(), COST)[0]
    return study


def test_every_run_is_there(finished) -> None:
    assert len(CONFIG.runs()) == 2 * (3 * 5 + 2)
    assert all(finished.finished(r) for r in CONFIG.runs())
    assert work(finished, CONFIG.runs(), COST)[0] == work(finished, CONFIG.runs(), COST)[1]
    assert not list(finished.folder.glob("progress-*"))


def test_metrics_say_what_the_tables_need(finished) -> None:
    phase_one = finished.metrics(Run(Variant("RR6"), "A", 1))
    assert {"error", "correlation", "psnr"} == set(phase_one["regeneration"])
    assert phase_one["l2"] == phase_one["history"][-1]["l2"]
    assert [p["step"] for p in phase_one["history"]] == [2, 4]
    assert (phase_one["train_frames"], phase_one["test_frames"]) == (5, 4)
    transfer = [finished.metrics(Run(Variant("RR6"), p, 0)) for p in ("AB1", "AB2")]
    assert [len(m["reused"]) for m in transfer] == [6, 5]
    assert finished.metrics(Run(Variant("Std"), "B1", 0))["reused"] == []


def test_phase_two_begins_where_phase_one_ended_or_was_early(finished) -> None:
    for phase in ("AB1", "AB1-early", "AB2"):
        run = Run(Variant("Dec6"), phase, 1)
        frames = experiment.kept_data(finished, run.task)
        decoder = experiment.make_training(finished, CONFIG, run, frames).model.decoder.state_dict()
        file = "early.safetensors" if run.way else "model.safetensors"
        source = read_tensors(finished.path(run.source) / file)
        for name in decoder:
            taken = torch.equal(decoder[name], source[name])
            assert taken or (phase == "AB2" and name.startswith("conv6"))
    early, late = (read_tensors(finished.path(run.source) / f) for f in ("early.safetensors", "model.safetensors"))
    assert not torch.equal(early["conv3.weight"], late["conv3.weight"])


def test_seeds_differ_and_variants_share_their_encoders_start(finished) -> None:
    def fresh(name: str, seed: int) -> torch.Tensor:
        run = Run(Variant(name), "AB1", seed)
        frames = experiment.kept_data(finished, "B1")
        return experiment.make_training(finished, CONFIG, run, frames).model.encoder.conv3.weight

    assert torch.equal(fresh("Std", 0), fresh("RR6", 0))
    assert not torch.equal(fresh("Std", 0), fresh("Std", 1))


@pytest.mark.parametrize("at", [1, 3, 5])
def test_a_study_stopped_anywhere_ends_at_the_same_weights(finished, tmp_path, at) -> None:
    study = opened(tmp_path / "s")
    wanted = [r for r in CONFIG.runs() if r.variant.name == "RR6" and r.seed == 0]
    told: list[int] = []
    steps = iter(range(10**6))
    assert not experiment.run_share(study, CONFIG, wanted, Callbacks(told.append, stop=lambda: next(steps) + 1 == at))
    assert sum(told) == work(study, wanted, COST)[1]
    assert experiment.run_share(study, CONFIG, wanted)
    for run in wanted:
        ours, theirs = study.weights(run), finished.weights(run)
        assert all(torch.equal(theirs[n], t) for n, t in ours.items()), run.key


def test_pictures_for_the_figures(finished) -> None:
    reference = experiment.kept_data(finished, "A").test
    for name in ("Std", "RR6", "Dec6"):
        low, output, regenerated = experiment.super_resolved(finished, CONFIG, Run(Variant(name), "A", 0), reference)
        assert (low.shape, output.shape) == ((4, 1, 4, 4), (4, 1, 16, 16))
        assert regenerated.shape == low.shape
        metrics = finished.metrics(Run(Variant(name), "A", 0))
        mse = float((output - reference).square().mean())
        assert mse == pytest.approx(metrics["mse"], rel=1e-3)
        error = float((regenerated - low).square().mean() / low.var())
        assert error == pytest.approx(metrics["regeneration"]["error"], rel=1e-3)
    real = experiment.kept_data(finished, "B2").test
    decoded = experiment.auto_encoded(finished, CONFIG, Run(Variant("Std"), "AB2", 0), real)
    assert float((decoded - real).square().mean()) == pytest.approx(
        finished.metrics(Run(Variant("Std"), "AB2", 0))["mse"], rel=1e-3
    )


def test_a_decoder_that_answers_black_is_a_collapsed_run(tmp_path) -> None:
    config = SmokeConfig(
        variants=["Std"],
        seeds=1,
        phases=["A", "AB1"],
        width=4,
        discriminator_width=2,
        steps_a=1,
        steps_b=2,
        batch_size=2,
    )
    study = opened(tmp_path / "s", config)
    phase_one, transfer = config.runs()
    assert experiment.run_share(study, config, [phase_one])
    weights = study.weights(phase_one)
    reference = experiment.kept_data(study, "B1").test
    assert experiment.alive_at_start(study, config, transfer, reference) > 0
    weights["conv6.bias"] -= 100.0  # below its last ReLU everywhere: no gradient, for ever
    study.finish(phase_one, weights, study.metrics(phase_one))
    assert experiment.alive_at_start(study, config, transfer, reference) == 0
    assert experiment.run_share(study, config, [transfer])
    metrics = study.metrics(transfer)
    assert metrics["collapsed"]
    assert metrics["l2"] == pytest.approx(metrics["constants"]["black"], rel=1e-4)


def test_a_leaky_last_activation_keeps_a_dark_start_alive(tmp_path) -> None:
    reference = torch.rand(4, 1, 16, 16)
    leaky, dead = (AutoEncoder(4, leaky=leaky) for leaky in (True, False))
    for model in (leaky, dead):
        model.decoder.conv6.bias.data -= 100.0
        (model(reference) - reference).square().sum().backward()
    assert dead.decoder.conv6.weight.grad.abs().max() == 0
    assert leaky.decoder.conv6.bias.grad.abs().max() > 0


def test_dead_channels_of_the_output_are_counted(finished) -> None:
    run = Run(Variant("Std"), "AB2", 0)
    real = experiment.kept_data(finished, "B2").test
    output = experiment.auto_encoded(finished, CONFIG, run, real)
    by_hand = sum(bool((output[:, c] <= 0).all()) for c in range(3))
    assert experiment.dead_channels(finished, CONFIG, run, real) == by_hand


def test_a_training_that_diverges_is_a_result(tmp_path) -> None:
    config = SmokeConfig(variants=["Std"], seeds=1, phases=["A", "B1"], width=4, steps_b=3, batch_size=2)
    study = opened(tmp_path / "s", config)
    broken = Frames(torch.full((5, 1, 16, 16), torch.nan), pictures(1, 16, 16).test)
    experiment.keep_data(study, "A", broken)
    run = Run(Variant("Std"), "B1", 0)
    assert experiment.run_share(study, config, [run])
    metrics = study.metrics(run)
    assert "not finite in step 1" in metrics["diverged"]
    assert metrics["collapsed"]
    assert metrics["l2"] == 1e30  # a number that JSON can hold


def test_a_folder_remembers_what_was_asked_and_refuses_another_configuration(finished) -> None:
    again, config = SPEC.reopen(finished.folder)
    assert config == CONFIG
    assert again.folder == finished.folder
    with pytest.raises(StudyError, match="width: 4 there, 8 now"):
        SPEC.open(finished.folder, SmokeConfig(width=8))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"phases": ["A", "AA"]}, "no phase 'AA' in this study"),
        ({"phases": ["A", "AB"]}, "no phase 'AB' in this study"),
        ({"phases": ["A", "AB3"]}, "no phase 'AB3' in this study"),
        ({"phases": ["A", "AB1-probe"]}, "ways are AB1-early, AB1-leaky"),
        ({"phases": ["A", "B1-early"]}, "ways are AB1-early, AB1-leaky"),
        ({"phases": ["A", "A-leaky"]}, "ways are AB1-early, AB1-leaky"),
        ({"phases": ["AB1"]}, "add A to the phases"),
        ({"variants": ["Ort"]}, "no variant Ort in this study"),
        ({"variants": ["RR7"]}, "no variant RR7 in this study"),
        ({"variants": ["RR6-every2"]}, "no variant RR6-every2 in this study"),
        ({"variants": []}, "variants is empty"),
        ({"width": 5}, "width must be even"),
        ({"steps_a": 0}, "steps_a must be at least 1"),
        ({"test_frames": 0}, "test_frames must be at least 1"),
        ({"weight": -1.0}, "weight must not be negative"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"train_share": 1.0}, "train_share must lie between 0 and 1"),
        ({"compute_match": 0.5}, "compute_match must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong, said) -> None:
    with pytest.raises(ValueError, match=said):
        SmokeConfig(**wrong)
