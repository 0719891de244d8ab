"""The study's engine against a plain training loop, and against itself when interrupted."""

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import mutual_info_score

import racecar
from racecar.study.core.callbacks import Callbacks
from racecar.study.core.checkpoints import Progress
from racecar.study.core.errors import StudyError
from racecar.study.core.folder import Study
from racecar.study.core.variants import Run, Variant
from racecar.study.mutual_information.config import MutualInformationConfig, Training
from racecar.study.mutual_information.data import labels, patterns, split
from racecar.study.mutual_information.experiment import parts, run_study, work
from racecar.study.mutual_information.network import WIDTHS, initialised, network
from racecar.study.mutual_information.saturation import saturation
from racecar.study.mutual_information.spec import SPEC
from racecar.study.mutual_information.training import Group, snapshot_epochs

TINY = MutualInformationConfig(
    seeds=2,
    snapshots=3,
    variants=["Std", "Ort", "RR1", "RR6"],
    phases=["A", "B", "AA", "AB", "AB-head", "AB-two", "AB-shrink", "A-early", "AB-early"],
    training=Training(epochs=3, epochs_b=4, order="shuffled"),
)
EPOCHS = {"B": 4, "A-early": 1}  # all others have 3; a tenth of 3 is less than one


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "tiny"
    assert run_study(SPEC.open(folder, TINY), TINY)
    return folder


def test_network_of_table_7() -> None:
    assert sum(p.numel() for p in network().parameters()) == 294


@pytest.mark.parametrize("scheme", ["glorot", "truncated", "torch"])
def test_initialisation_is_seeded_and_scaled(scheme) -> None:
    a, b, c = (initialised(scheme, seed).state_dict() for seed in (0, 0, 1))
    assert all(a[k].equal(b[k]) for k in a)
    assert not a["fc1.weight"].equal(c["fc1.weight"])
    many = torch.cat([initialised(scheme, s).fc1.weight.flatten() for s in range(60)])
    deviation = {"glorot": (6 / 22) ** 0.5 / 3**0.5, "truncated": 0.88 / 12**0.5, "torch": (1 / 12) ** 0.5 / 3**0.5}
    assert many.std().item() == pytest.approx(deviation[scheme], rel=0.05)


def plain_loop(run: Run, start: dict, config: MutualInformationConfig) -> dict:
    """One run trained by itself, as anyone would write it."""
    training = config.training
    net = network()
    net.load_state_dict(start)
    depth = run.variant.depth if run.phase in ("A", "A-early") else 0
    weight = [training.weight] * depth + [0.0] * (6 - depth)
    rr = racecar.Racecar(net, torch.zeros(2, 12), layers="all", weight=weight, reduction="sum", input_range="paper")
    adam = torch.optim.Adam(net.parameters(), lr=training.learning_rate)
    y = 1 - labels() if "B" in run.phase else labels()
    for epoch in range(EPOCHS.get(run.phase, 3)):
        generator = torch.Generator().manual_seed(run.seed * 1_000_003 + epoch)
        train = split(config.protocol, run.seed).train
        for batch in train[torch.randperm(len(train), generator=generator)].split(training.batch_size):
            adam.zero_grad()
            output, penalty = rr(patterns()[batch])
            loss = F.cross_entropy(F.softmax(output, 1), y[batch])
            (loss + penalty).backward()
            adam.step()
    return net.state_dict()


def start_of(study: Study, run: Run) -> dict:
    """The weights with which a run begins, as anyone would write it."""
    fresh = initialised("truncated", run.seed + 20_000).state_dict()
    match run.phase:
        case "A" | "B" | "A-early":
            return initialised("truncated", run.seed).state_dict()
        case "AB-early":
            return study.weights(Run(run.variant, "A-early", run.seed))
        case "AB-head":
            anew = ("fc6.weight", "fc6.bias")
        case "AB-two":
            anew = ("fc5.weight", "fc5.bias", "fc6.weight", "fc6.bias")
        case _:
            anew = ()
    source = study.weights(Run(run.variant, "A", run.seed))
    if run.phase == "AB-shrink":
        return {k: (v + fresh[k]) / 2 for k, v in source.items()}
    return {k: fresh[k] if k in anew else v for k, v in source.items()}


@pytest.mark.parametrize(
    "key",
    [
        *("RR6_A/seed-1", "RR1_A/seed-0", "Std_A/seed-0", "Std_B/seed-1", "RR6_AB/seed-0"),
        *("Std_AB-head/seed-0", "RR6_AB-two/seed-1", "Ort_AB-shrink/seed-0", "RR6_A-early/seed-0"),
        *("RR1_AB-early/seed-1",),
    ],
)
def test_runs_end_where_a_plain_loop_ends(finished: Path, key: str) -> None:
    run = Run.parse(key)
    study = SPEC.open(finished, TINY)
    start = start_of(study, run)
    expected = plain_loop(run, start, dataclasses.replace(TINY))
    for name, value in study.weights(run).items():
        # Single precision: the orders of summation differ.
        torch.testing.assert_close(value, expected[name], rtol=0, atol=2e-5)


def test_a_group_of_racecar_runs_alone_ends_where_a_plain_loop_ends(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, variants=["RR1", "RR6"], seeds=1, phases=["A", "AB"])
    study = SPEC.open(tmp_path / "s", config)
    assert run_study(study, config)
    for run in config.runs():
        expected = plain_loop(run, start_of(study, run), config)
        torch.testing.assert_close(study.weights(run), expected, rtol=0, atol=2e-5)


def test_phase_two_starts_from_phase_one_and_is_plain(finished: Path) -> None:
    study = SPEC.open(finished, TINY)
    for variant in ("Std", "Ort", "RR1", "RR6"):
        source, aa, ab = (study.weights(Run(Variant(variant), p, 0)) for p in ("A", "AA", "AB"))
        for later in (aa, ab):
            moved = max(float((later[k] - source[k]).abs().max()) for k in source)
            # Adam moves a weight by about the learning rate per step, never more than a few times that.
            assert 0 < moved < 3 * 21 * TINY.training.learning_rate
        assert not aa["fc6.weight"].equal(ab["fc6.weight"])


def test_orthogonal_runs_differ_from_plain_ones_and_are_more_orthogonal(tmp_path: Path) -> None:
    config = MutualInformationConfig(
        seeds=1,
        snapshots=2,
        variants=["Std", "Ort"],
        phases=["A", "A-early"],
        training=Training(epochs=40, epochs_b=1, ort_weight=1.0, remainder="dropped"),
    )
    study = SPEC.open(tmp_path / "s", config)
    assert run_study(study, config)

    def distance(variant: str, phase: str) -> float:
        weights = study.weights(Run(Variant(variant), phase, 0))
        matrices = [weights[f"fc{m}.weight"] for m in range(1, 7)]
        return float(sum(torch.linalg.matrix_norm(w.T @ w - torch.eye(w.shape[1]), 2) for w in matrices))

    for phase in ("A", "A-early"):
        assert distance("Ort", phase) < distance("Std", phase)


def test_information_of_the_last_snapshot_agrees_with_scikit_learn(finished: Path) -> None:
    study = SPEC.open(finished, TINY)
    run = Run(Variant("RR6"), "A", 1)
    net = network()
    net.load_state_dict(study.weights(run))
    found = study.metrics(run)["history"][-1]["information"]
    value = patterns()
    for layer in range(6):
        value = net[2 * layer + 1](net[2 * layer](value))
        codes = ((value.double() + 1) * 15).floor().clamp(0, 29).long()
        ids = torch.unique(codes, dim=0, return_inverse=True)[1].numpy()
        about_x = mutual_info_score(range(4096), ids) / torch.tensor(2.0).log().item()
        about_y = mutual_info_score(labels().numpy(), ids) / torch.tensor(2.0).log().item()
        assert found[layer] == pytest.approx([about_x, about_y], abs=2e-3)


def test_saturation_of_the_last_snapshot_is_that_of_the_outputs(finished: Path) -> None:
    study = SPEC.open(finished, TINY)
    for key in ("RR6_A/seed-1", "Std_AB/seed-0"):
        weights, outputs = study.weights(Run.parse(key)), patterns().double()
        for m in range(1, 7):
            outputs = torch.tanh(outputs @ weights[f"fc{m}.weight"].double().t() + weights[f"fc{m}.bias"].double())
        last = study.metrics(Run.parse(key))["history"][-1]
        assert last["saturated"] == pytest.approx(float((outputs.abs() > 0.99).double().mean()), abs=2e-3)
        assert last["slope"] == pytest.approx(1 - float(outputs.square().mean()), abs=1e-5)


def test_saturation_in_closed_form() -> None:
    outputs = torch.tensor([[[1.0, -1.0], [0.995, -0.995]], [[0.0, 0.98], [0.5, -1.0]]])
    found = saturation(outputs)
    assert found["saturated"].tolist() == [1.0, 0.25]
    assert found["slope"].tolist() == pytest.approx([(1 - 0.995**2) / 2, (1 + (1 - 0.98**2) + 0.75) / 4], abs=1e-6)


def test_history_holds_every_snapshot(finished: Path) -> None:
    study = SPEC.open(finished, TINY)
    for run in TINY.runs():
        history = study.metrics(run)["history"]
        epochs = EPOCHS.get(run.phase, 3)
        assert [p["epoch"] for p in history] == snapshot_epochs(epochs, TINY.snapshots)
        assert all(len(p["information"]) == len(WIDTHS) - 1 for p in history)
    assert snapshot_epochs(2000, 40)[0] == 0
    assert snapshot_epochs(2000, 40)[-1] == 2000


def test_stopped_and_resumed_ends_with_the_same_weights(tmp_path: Path) -> None:
    config = MutualInformationConfig(
        seeds=1,
        snapshots=3,
        variants=["Ort", "RR6"],
        phases=["A", "AB", "AB-two", "A-early", "AB-early"],
        training=Training(epochs=3, epochs_b=1, remainder="dropped"),  # batches of one size, as each is traced
    )
    reference, study = SPEC.open(tmp_path / "whole", config), SPEC.open(tmp_path / "parts", config)
    assert run_study(reference, config)
    asked = sessions = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked in (2, 6)

    while not run_study(study, config, Callbacks(stop=stop)):
        sessions += 1
        total, done = work(study, config, config.runs())
        assert 0 < done < total
    assert sessions == 2
    for run in config.runs():
        torch.testing.assert_close(study.weights(run), reference.weights(run), rtol=0, atol=0)
        assert study.metrics(run) == reference.metrics(run)
    assert not list((tmp_path / "parts").glob("progress*"))


def state_of_a_group() -> Progress:
    """As a stopped training leaves it."""
    runs = [Run.parse(k) for k in ("RR6_A/seed-0", "Std_A/seed-0")]
    weights = {k: torch.stack([v, v]) for k, v in network().state_dict().items()}
    moments = {f"{kind}/{k}": torch.zeros_like(v) for k, v in weights.items() for kind in ("exp_avg", "exp_avg_sq")}
    point = {"epoch": torch.tensor(0), "accuracy": torch.ones(2), "loss": torch.ones(2)}
    group = Group(runs, 3, weights, moments, 9, 1, [{**point, "information": torch.zeros(2, 6, 2)}])
    return group.progress()


def counted(state: Progress, place: int, value: int) -> None:
    state.tensors["counts"][place] = value


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: counted(s, 0, 4),
        lambda s: counted(s, 0, -1),
        lambda s: counted(s, 1, 0),
        lambda s: counted(s, 3, 2),
        lambda s: s.tensors.pop("counts"),
        lambda s: s.tensors.pop("weights/fc3.bias"),
        lambda s: s.tensors.pop("moments/exp_avg_sq/fc3.bias"),
        lambda s: [s.tensors.pop(k) for k in list(s.tensors) if k.startswith("moments/")],
        lambda s: s.tensors.update({"weights/fc1.weight": torch.zeros(2, 3, 3)}),
        lambda s: s.tensors.pop("history/0/information"),
        lambda s: s.metadata.pop("runs"),
        lambda s: s.metadata.update(runs=["RR6_A/seed-0"]),
        lambda s: s.metadata.update(runs=[None, 3]),
        lambda s: s.metadata.update(runs=7),
    ],
)
def test_a_state_that_lacks_something_is_refused(damage) -> None:
    state = state_of_a_group()
    assert Group.restore(state).progress().metadata == state.metadata
    damage(state)
    with pytest.raises(StudyError, match="does not fit this training"):
        Group.restore(state)


def test_finished_runs_are_not_redone_and_more_seeds_can_follow(finished: Path, tmp_path: Path) -> None:
    training = dataclasses.replace(TINY.training, remainder="dropped")
    config = dataclasses.replace(TINY, variants=["Std"], seeds=1, training=training)
    study = SPEC.open(tmp_path / "s", config)
    assert run_study(study, config)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "s" / "runs").rglob("*.safetensors")}
    trained: list[int] = []
    more = dataclasses.replace(config, seeds=2)
    assert run_study(study, more, Callbacks(trained.append))
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())
    assert sum(trained) == 3 + 1 + 4 + 6 * 3
    assert run_study(study, more, Callbacks(lambda n: pytest.fail("nothing is left to train")))


def test_variants_are_divided_among_processes() -> None:
    for workers in range(1, 7):
        shares = parts(MutualInformationConfig(), workers)
        assert sorted(v for share in shares for v in share) == ["Ort", "RR1", "RR6", "Std"]
        assert len(shares) == min(workers, 4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MutualInformationConfig(seeds=0), "seeds must be at least 1"),
        (lambda: MutualInformationConfig(variants=[]), "variants is empty"),
        (lambda: MutualInformationConfig(variants=["RR7"]), "6 layers"),
        (lambda: MutualInformationConfig(variants=["Foo"]), "no variant 'Foo'"),
        (lambda: MutualInformationConfig(variants=["RR6-every2"]), "RR6-every2 is no variant of this study"),
        (lambda: MutualInformationConfig(snapshots=1), "snapshots"),
        (lambda: MutualInformationConfig(phases=["A", "AB-probe"]), "no phase 'AB-probe' in this study: use A, B, AA"),
        (lambda: MutualInformationConfig(phases=["A", "AB1"]), "no phase 'AB1'"),
        (lambda: MutualInformationConfig(phases=["A", "AB-early"]), "add A-early to the phases"),
        (
            lambda: MutualInformationConfig(phases=["A", "AB-two"], training=Training(optimiser="carried")),
            "carried is for phases .* not for AB-two",
        ),
        (lambda: Training(epochs=0), "epochs must be at least 1"),
        (lambda: Training(learning_rate=0.0), "learning_rate must be positive"),
        (lambda: Training(weight=float("nan")), "weight must not be negative"),
    ],
)
def test_wrong_configurations(make, words) -> None:
    with pytest.raises(ValueError, match=words):
        make()
