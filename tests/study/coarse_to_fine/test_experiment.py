"""The whole study on small made images: every method trains, resumes to the same numbers, and is reported."""

import dataclasses
import functools
import gzip
import json
from pathlib import Path

import pytest
import torch

import racecar
from racecar import analysis
from racecar.study.classification.balancing import balance
from racecar.study.classification.keeping import keep
from racecar.study.classification.recipe import Recipe
from racecar.study.classification.training import Trainer
from racecar.study.cli import main
from racecar.study.coarse_to_fine import experiment, outcomes, tuning
from racecar.study.coarse_to_fine.config import TransferConfig, strength_of
from racecar.study.coarse_to_fine.spec import SPEC
from racecar.study.commands.study import preset
from racecar.study.core.accelerator import make_accelerator, reset_accelerator
from racecar.study.core.callbacks import Callbacks
from racecar.study.core.errors import StudyError
from racecar.study.core.files import read_tensors
from racecar.study.core.folder import Study
from racecar.study.core.growing import remember
from racecar.study.core.schedule import work
from racecar.study.core.variants import Run, Variant
from racecar.study.images.decoded import Images

SHORT = Recipe(epochs=2, batch_size=20, learning_rate=3e-3)
EVERY = ["Std", "StdC", "Early", "LS", "Proj", "Ort", "L2Init", "Pre", "RR1", "RR3", "RR3-layerwise", "Dec1"]
TUNED = {name: Variant(name).method.strengths[2] for name in EVERY if Variant(name).method.strengths}
CONFIG = TransferConfig(
    variants=EVERY, seeds=1, phases=["A-tuned", "B"], tuned=TUNED, pair="mnist-parity", a=SHORT, b=SHORT, evaluations=1
)


@pytest.fixture(autouse=True)
def _fresh_accelerator():
    reset_accelerator()
    yield
    reset_accelerator()


@pytest.fixture(autouse=True)
def _quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer draws and values of l2: what is tested here is not what probes find."""
    monkeypatch.setattr(outcomes, "DRAWS", 2)
    monkeypatch.setattr(analysis, "choose_l2", functools.partial(analysis.choose_l2, grid=(1e-2, 1e-1)))


def digits(count: int = 120, size: int = 14, seed: int = 1) -> Images:
    """Ten patterns with noise: labels can be learnt."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randint(256, (10, 1, size, size), generator=generator)
    labels = torch.arange(count) % 10
    generator.manual_seed(seed)
    noise = torch.randint(-60, 60, (count, 1, size, size), generator=generator)
    pixels = (patterns[labels] + noise).clamp(0, 255).to(torch.uint8)
    return Images(pixels, labels, tuple(map(str, range(10))))


def opened(folder: Path, config: TransferConfig) -> Study:
    study = SPEC.open(folder, config)
    keep(study, digits(), digits(60))
    remember(study, config)
    return study


def metrics(study: Study, key: str) -> dict:
    found = study.metrics(Run.parse(f"{key}/seed-0"))
    assert found is not None
    return found


def test_every_method_is_trained_and_measured(tmp_path) -> None:
    study = opened(tmp_path, CONFIG)
    units: list[int] = []
    assert experiment.run_share(study, CONFIG, CONFIG.runs(), Callbacks(units.append))
    assert sum(units) == sum(experiment.cost(CONFIG, r) for r in CONFIG.runs())
    for run in CONFIG.runs():
        found = metrics(study, run.key.removesuffix("/seed-0"))
        answers = read_tensors(study.path(run) / "answers.safetensors")
        assert found["accuracy"] > 0.15 if run.phase == "B" else found["accuracy"] >= 0.5
        if run.phase == "B":
            assert answers.keys() == {"scratch"}
            continue
        for name in ("probe", "probe1", "probe5", "probe10", "knn", "finetuned", "dead_units"):
            assert 0 <= found[name] <= 1, name
        assert "probe50" not in found  # there are twelve images of a class
        assert answers.keys() == {"probe", "probe10", "finetuned"}
        for name, counts in answers.items():  # what inference resamples is what the number says
            assert float(counts.double().mean()) / outcomes.DRAWS == pytest.approx(found[name], abs=1e-6)
        assert ("lambdas" in found) == bool(run.variant.method.arguments)
    assert [metrics(study, k)["epochs"] for k in ("Std_A", "StdC_A", "Early_A-t3", "Std_B")] == [2, 4, 1, 4]
    shapes = {k: v.shape for k, v in study.weights(Run.parse("Proj_A-t3/seed-0")).items()}
    assert shapes["projector.0.weight"] == (128, 32)


def test_progress_moves_while_layers_are_pretrained_and_while_the_network_is_fine_tuned(tmp_path) -> None:
    config = dataclasses.replace(CONFIG, variants=["Pre"], phases=["A-tuned"])
    study, (run,) = opened(tmp_path, config), config.runs()
    parts = experiment.costs(config, run)
    units: list[int] = []

    def stopped_at(amount: int) -> int:
        units.clear()
        callbacks = Callbacks(units.append, stop=lambda: sum(units) >= amount)
        assert not experiment.run_share(study, config, [run], callbacks)
        return sum(units)

    half = parts.pretraining // 2
    assert half <= stopped_at(half) < parts.pretraining  # nothing of it is kept
    assert work(study, [run], lambda r: sum(parts)) == (sum(parts), 0)
    reached = stopped_at(parts.pretraining + 1)
    assert parts.pretraining < reached < parts.pretraining + parts.training
    assert work(study, [run], lambda r: sum(parts)) == (sum(parts), reached)
    more = stopped_at(parts.training - (reached - parts.pretraining) + experiment.MEASURING + 1)
    assert parts.pretraining + parts.training < reached + more < sum(parts)


def test_the_penalty_pulls_by_the_ratio_that_was_asked_for(tmp_path) -> None:
    study = opened(tmp_path, CONFIG)
    data = experiment.tasks(study, CONFIG, torch.device("cpu"))["A"]
    run = Run(Variant("RR3"), "A-t4", 0)
    model = experiment.network(CONFIG, data, 0)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    objective = experiment.objective_of(CONFIG, run, model, data)
    balance(Trainer(objective, CONFIG.recipe(run), data, seed=0, accelerator=make_accelerator()), strength_of(run))
    ratios = []
    for images, labels, _ in data.batches(20, 0, "none", 0, 1).epoch(0):
        output, penalty = objective(images)
        loss = torch.nn.functional.cross_entropy(output, labels)
        ratios.append(racecar.balance(objective.rr, loss, penalty, smoothing=1.0).ratio)
    assert torch.tensor(ratios).log().mean().exp().item() == pytest.approx(3.0, rel=0.05)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_penalty_that_ends_leaves_the_plain_loss(tmp_path) -> None:
    config = dataclasses.replace(
        CONFIG, variants=["RR1-end"], phases=["A-tuned"], tuned={"RR1-end": 10.0}, a=Recipe(epochs=3, batch_size=20)
    )
    study = opened(tmp_path, config)
    assert experiment.run_share(study, config, config.runs())
    assert [p["penalty"] > 0 for p in metrics(study, "RR1-end_A-t5")["history"]] == [True, True, False]


@pytest.mark.parametrize("name", ["RR1", "Dec1", "Pre"])
def test_stopped_anywhere_it_ends_with_the_same_numbers(tmp_path, name) -> None:
    config = dataclasses.replace(CONFIG, variants=[name], phases=["A-tuned"])
    whole = opened(tmp_path / "whole", config)
    assert experiment.run_share(whole, config, config.runs())
    parts = opened(tmp_path / "parts", config)
    calls = 0
    for limit in (2, 5, 9, 40):
        seen = 0

        def stop() -> bool:
            nonlocal seen
            seen += 1
            return seen > limit  # noqa: B023

        reset_accelerator()
        calls += 1
        if experiment.run_share(parts, config, config.runs(), Callbacks(stop=stop)):
            break
    reset_accelerator()
    assert experiment.run_share(parts, config, config.runs())
    (run,) = config.runs()
    a, b = (
        {k: v for k, v in metrics(s, run.key.removesuffix("/seed-0")).items() if k not in ("seconds", "history")}
        for s in (whole, parts)
    )
    assert a == b
    assert calls > 1
    assert not list(parts.folder.glob("progress-*"))


def test_what_an_older_version_has_measured_is_measured_again_from_the_weights(tmp_path, monkeypatch) -> None:
    config = dataclasses.replace(CONFIG, variants=["Std", "Proj"], phases=["A-tuned"])
    study = opened(tmp_path, config)
    assert experiment.run_share(study, config, config.runs())
    run = Run(Variant("Proj"), "A-t3", 0)
    before = study.metrics(run)
    old = {k: v for k, v in before.items() if not k.startswith("probe")} | {"measured": 1, "probe": 0.0}
    study.conclude(run, old)
    monkeypatch.setattr(experiment, "_train", lambda *arguments: pytest.fail("nothing is to be trained"))
    assert experiment.run_share(study, config, config.runs())
    assert study.metrics(run) == before


def test_pairs_for_tuning_have_images_and_seeds_of_their_own(tmp_path) -> None:
    config = TransferConfig(pair="mnist-halves", train_images=300, test_images=100)
    data = str(mnist(tmp_path / "data"))
    tuned_on = experiment.load(data, config)
    reported = experiment.load(data, dataclasses.replace(config, pair="mnist-parity"))
    rows = [[bytes(p.flatten().tolist()) for p in images.pixels] for images in (*tuned_on, *reported)]
    assert [len(r) for r in rows] == [300, 100, 300, 100]
    assert len(set().union(*rows)) == 800
    assert {experiment.seed_of(c, Run(Variant("Std"), "A", 2)) for c in (config, CONFIG)} == {1002, 2}
    with pytest.raises(StudyError, match="of 1200 it needs 100 for testing and twice --train_images, at most 550"):
        experiment.load(data, dataclasses.replace(config, train_images=600))


def test_a_diverged_fine_tuning_is_noted_and_leaves_no_number(tmp_path) -> None:
    wild = dataclasses.replace(SHORT, optimiser="sgd", learning_rate=1e30)
    config = dataclasses.replace(CONFIG, variants=["Std"], phases=["A-tuned"], b=wild)
    study = opened(tmp_path, config)
    assert experiment.run_share(study, config, config.runs())
    found = metrics(study, "Std_A")
    assert "not finite" in found["finetuning_diverged"]
    assert "finetuned" not in found
    assert "finetuned" not in read_tensors(study.path(Run(Variant("Std"), "A", 0)) / "answers.safetensors")


# --- tuning -----------------------------------------------------------------------------------------------------------


def finished(folder: Path, pair: str, values: dict[str, list[tuple[float, float]]], **more: object) -> Study:
    """A study whose runs were 'trained': accuracy on A and probe by tuning value."""
    config = TransferConfig(variants=list(values), seeds=1, phases=["A"], pair=pair, **more)  # type: ignore[arg-type]
    study = SPEC.open(folder, config)
    remember(study, config)
    for name, found in values.items():
        for phase, (accuracy, probe) in zip(config.phases_of(Variant(name)), found, strict=True):
            study.conclude(Run(Variant(name), phase, 0), {"accuracy": accuracy, "probe": probe, "history": []})
    return study


def test_values_come_from_another_pair(tmp_path) -> None:
    values = {
        "Std": [(0.9, 0.5)],
        "RR1": [(0.9, 0.5), (0.9, 0.6), (0.9, 0.7), (0.8, 0.9), (0.7, 0.9)],
        "RR3": [(0.9, 0.5), (0.9, 0.55), (0.9, 0.6), (0.89, 0.9), (0.7, 0.9)],
        "Ort": [(0.9, 0.8), (0.9, 0.6), (0.9, 0.7), (0.9, 0.6), (0.9, 0.6)],
    }
    finished(tmp_path / "t", "mnist-halves", values)
    config = TransferConfig(variants=["Std", "RR1", "Ort", "RR3"])
    chosen = tuning.chosen(tmp_path / "t", config)
    assert chosen == {"RR1": 1.0, "Ort": 0.001, "RR3": 1.0}
    assert tuning.candidate(tmp_path / "t", dataclasses.replace(config, tuned=chosen)) == "RR1"
    with pytest.raises(StudyError, match="has not finished Dec1_A-t1/seed-0"):
        tuning.chosen(tmp_path / "t", TransferConfig(variants=["Dec1"]))
    with pytest.raises(
        StudyError, match="is a study on mnist-halves: cifar10-animals takes values from cifar10-halves"
    ):
        tuning.chosen(tmp_path / "t", TransferConfig(pair="cifar10-animals"))
    with pytest.raises(StudyError, match="was trained with other recipes, width or images"):
        tuning.chosen(tmp_path / "t", TransferConfig(train_images=100))
    with pytest.raises(StudyError, match="was trained with other recipes, width or images"):
        tuning.chosen(tmp_path / "t", dataclasses.replace(config, a=dataclasses.replace(config.a, batch_size=7)))
    longer = dataclasses.replace(config, a=dataclasses.replace(config.a, epochs=2 * config.a.epochs))
    assert tuning.chosen(tmp_path / "t", longer) == chosen
    assert tuning.epochs(tmp_path / "t") == [config.a.epochs, config.b.epochs]
    with pytest.raises(StudyError, match="is a study on mnist-halves itself"):
        tuning.chosen(tmp_path / "t", TransferConfig(pair="mnist-halves"))


# --- the command ------------------------------------------------------------------------------------------------------


def mnist(folder: Path) -> Path:
    path = folder / "mnist"
    path.mkdir(parents=True)
    for seed, (part, count) in enumerate((("train", 1200), ("t10k", 500))):
        images = digits(count, 28, seed)
        for kind, tensor in (("images-idx3", images.pixels[:, 0]), ("labels-idx1", images.labels.to(torch.uint8))):
            head = bytes((0, 0, 8, tensor.ndim)) + b"".join(n.to_bytes(4, "big") for n in tensor.shape)
            (path / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + tensor.numpy().tobytes(), 1))
    return folder


def test_a_study_takes_its_values_from_another_and_grows_by_the_frontier(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    usual = preset("transfer", "--preset", "full", "--pair", "mnist-halves")
    values = {"Std": [(0.9, 0.5)], "RR1": [(0.9, 0.5), (0.9, 0.6), *[(0.9, 0.1)] * 3]}
    same = {"a": dataclasses.replace(usual.a, epochs=1), "b": usual.b, "train_images": 200}
    finished(tmp_path / "t", "mnist-halves", values, **same)
    short = ["--a.epochs", "1", "--train_images", "200", "--variants", "Std", "RR1", "--seeds", "1"]
    argv = ["study", "transfer", "--preset", "full", "--pair", "mnist-parity", "--workers", "1", *short]
    argv += ["--data", str(mnist(tmp_path / "data")), "--tuned-on", "t", "--out", "s"]
    assert main([*argv, "--phases", "A-tuned"]) == 0
    done = tmp_path / "s" / "runs"
    assert {p.name for p in done.iterdir()} == {"Std_A", "RR1_A-t2"}
    content = json.loads((tmp_path / "s" / "study.json").read_text())
    assert (content["tuned"], content["candidate"]) == ({"RR1": 0.3}, "RR1")
    assert main([*argv, "--phases", "A", "B"]) == 0
    assert {p.name for p in done.iterdir()} == {"Std_A", "Std_B", *(f"RR1_A-t{i}" for i in range(1, 6))}
    assert main(["report", "s"]) == 0
    capsys.readouterr()


def test_the_command_smoke_tests_and_says_so(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    data = mnist(tmp_path / "data")
    argv = ["study", "transfer", "--preset", "quick", "--data", str(data), "--workers", "1"]
    assert main(argv) == 0
    folder = tmp_path / "runs" / "transfer-mnist-parity-quick"
    page = (folder / "report.html").read_text()
    assert "Smoke test: no conclusions." in page
    assert not {"reproduced", "equivalent", "undecided"} & set(page.split())
    assert json.loads((folder / "study.json").read_text())["tuned"] == {"RR1": 3.0, "Dec1": 3.0}
    capsys.readouterr()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ["--preset", "small", "--pair", "cifar100-superclasses"],
            "no small preset of cifar100-superclasses: use --preset full",
        ),
        (["--pair", "mnist"], "no pair 'mnist'"),
        (["--preset", "quick", "--data", "."], "mnist does not exist: --data takes hub, or a folder with mnist in it"),
        (["--preset", "quick", "--variants", "RR9"], "RR9: the network of mnist-parity has 3 layers"),
        (["--preset", "quick", "--tuned-on", "nowhere"], "nowhere"),
        (["--preset", "quick", "--tuned", "{}"], "A-tuned needs the chosen value of RR1: give --tuned-on"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, monkeypatch, capsys, more, said) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["study", "transfer", "--workers", "1", *more]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert len(error.splitlines()) == 1
