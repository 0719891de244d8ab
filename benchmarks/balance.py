"""λ by ``racecar.balance`` beside no λ (Std) and one tuned by hand: transfer accuracy and regeneration on two studies.

    python benchmarks/balance.py --data .data --seeds 5 3 --ratios 0.1 0.9 --table results/balance.md

Everything a run is made of comes from the studies. Finished runs are kept below ``--out``: the same command goes on,
and two processes can share the work by ``--studies``. What is tuned by hand is tuned on seeds and on images (the
training images that are left over) of its own, by transfer accuracy; ratio= is never tuned, it is the same in both
studies.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator

import racecar
from racecar.study.cifar.experiment import Cifar
from racecar.study.classification.experiment import ClassificationConfig, Experiment, Task
from racecar.study.classification.recipe import Recipe
from racecar.study.classification.running import make_trainer, regeneration
from racecar.study.classification.training import Trainer
from racecar.study.commands.study import preset
from racecar.study.core.accelerator import make_accelerator
from racecar.study.core.callbacks import Callbacks
from racecar.study.core.environment import environment
from racecar.study.core.errors import DivergedError
from racecar.study.core.files import read_json, write_text
from racecar.study.core.growing import open_study
from racecar.study.core.variants import Run, Variant
from racecar.study.digits.experiment import Digits
from racecar.study.report.markdown import markdown
from racecar.study.report.statistics import bounds, compact, paired_difference, summarise

VALIDATION = (100, 101, 102)  # the seeds on which λ is tuned by hand
FIRST = 8  # batches whose λ are averaged at the start
OFTEN = 10  # steps between two measurements where the ratio is held
SMOOTHING = 0.9


@dataclass(frozen=True)
class Method:
    """How λ comes about.

    Attributes:
        weight: λ by hand; 0 for Std; what balancing starts from does not matter.
        ratio: of :func:`racecar.balance`; None: not balanced.
        held: balanced in training, too, not only before it.
        layers: every layer on its own.
    """

    weight: float = 0.0
    ratio: float | None = None
    held: bool = False
    layers: bool = False

    @property
    def folder(self) -> str:
        """Of its runs."""
        if self.ratio is None:
            return f"weight-{self.weight:g}"
        return f"ratio-{self.ratio:g}" + "-held" * self.held + "-layers" * self.layers

    @property
    def words(self) -> str:
        """In the table."""
        if not self.weight:
            return "Std"
        if self.ratio is None:
            return f"λ = {self.weight:g}, by hand"
        return f"ratio {self.ratio:g}, " + ("held" if self.held else "once") + ", per layer" * self.layers


@dataclass(frozen=True)
class Case:
    """One study at a small size: an experiment, the variant, its recipes and the λ to try by hand."""

    title: str
    experiment: Experiment
    variant: Variant
    config: ClassificationConfig
    grid: tuple[float, ...]


def recipes(config: ClassificationConfig, **epochs: int) -> dict[str, Recipe]:
    """Those of a preset with other numbers of epochs."""
    return {p: replace(getattr(config, p), epochs=count) for p, count in epochs.items()}


def cases() -> dict[str, Case]:
    common: dict[str, Any] = {"phases": ["A", "AB"], "train_images": 4_000, "test_images": 2_000}
    digits = preset("digits", "--preset", "small")
    cifar = preset("cifar", "--preset", "small", "--recipe", "strong")
    strong = {"width": 16, "architecture": "strong"}
    return {
        "digits": Case(
            "MNIST → MNIST with motion blur, Table 9's network",
            Digits(),
            Variant("RR3"),
            ClassificationConfig(**common, **recipes(digits, a=6, ab=4)),
            (1e-6, 1e-5, 1e-4, 1e-3),
        ),
        "cifar": Case(
            "CIFAR-10 → CIFAR-100, the strong recipe's network at width 16",
            Cifar(),
            Variant("RR7"),
            ClassificationConfig(**common, **strong, **recipes(cifar, a=5, ab=4)),
            (1e-8, 1e-7, 1e-6, 1e-5),
        ),
    }


# --- data -------------------------------------------------------------------------------------------------------------


def load(case: Case, data: str) -> tuple[dict[str, Task], dict[str, Task]]:
    """Both tasks for the runs of the table, and for the seed that λ is tuned on: there, training images left over."""
    tasks, _ = case.experiment.load(data, case.config, None)
    subsets, _ = case.experiment.subsets(tasks, dict.fromkeys(tasks, ""), case.config)
    tuning = {}
    for name, task in tasks.items():
        train, rest = task.train.stratified(case.config.train_images, 0)  # type: ignore[arg-type]
        tuning[name] = Task(train, rest.stratified(case.config.test_images, 0)[0])  # type: ignore[arg-type]
    return subsets, tuning


# --- runs -------------------------------------------------------------------------------------------------------------


def measure(trainer: Trainer, step: int, ratio: float, smoothing: float, layers: bool) -> racecar.Balance:
    """Balance on the batch of a step, aside: running statistics and random numbers stay as they are."""
    rr, recipe = trainer.objective.rr, trainer.recipe
    assert rr is not None
    epoch, first = divmod(step % trainer.total, len(trainer.batches))
    images, labels, _ = next(trainer.batches.epoch(epoch, first))
    buffers = [b.clone() for b in rr.model.buffers()]
    with torch.random.fork_rng(), torch.autocast(images.device.type, trainer.precision):
        output, penalty = rr.distances(images) if layers else rr(images)
        loss = F.cross_entropy(output, labels, label_smoothing=recipe.label_smoothing)
    try:
        return racecar.balance(rr, loss, penalty, ratio=ratio, smoothing=smoothing)
    finally:  # not before: the gradients are taken from the graph as it was
        for buffer, value in zip(rr.model.buffers(), buffers, strict=True):
            buffer.copy_(value)


def pretrain(trainer: Trainer, method: Method) -> dict[str, Any]:
    """Phase I; what is known of λ and the ratio before, in and after it."""
    rr = trainer.objective.rr
    if rr is None:
        trainer.run()
        return {}
    rr.train()
    if method.ratio is not None:
        for i in range(FIRST):  # the geometric mean over the first batches
            measure(trainer, i, method.ratio, i / (i + 1), method.layers)
    found: dict[str, Any] = {"lambdas": rr.lambdas.tolist(), "ratios": [], "failed": 0}

    def after_step(steps: int) -> None:
        if trainer.step % OFTEN and trainer.step < trainer.total:
            return
        held = method.held and method.ratio is not None
        try:
            at_hand = measure(trainer, trainer.step, method.ratio or 1.0, SMOOTHING if held else 1.0, method.layers)
            found["ratios"].append(round(at_hand.ratio, 5))
        except (racecar.ArgumentError, racecar.NonFiniteError):  # λ stay as they are
            found["failed"] += 1

    after_step(0)  # before the first step, too
    trainer.run(Callbacks(after_step))
    return found | {"lambdas_at_the_end": rr.lambdas.tolist()}


def finished(
    case: Case, method: Method, seed: int, tasks: dict[str, Task], accelerator: Accelerator, out: Path
) -> dict[str, Any]:
    """The metrics of phase I with those of the transfer; trained where they are not there yet."""
    variant = case.variant if method.weight else Variant("Std")
    config = ClassificationConfig(**{**vars(case.config), "weight": method.weight})
    study = open_study(out / method.folder, case.experiment.name, config)
    runs = [Run(variant, phase, seed) for phase in ("A", "AB")]
    for run in runs:
        if study.finished(run):
            continue
        model, trainer = make_trainer(study, case.experiment, config, run, tasks[run.task], accelerator)
        metrics: dict[str, Any] = {}
        try:
            metrics |= pretrain(trainer, method) if run.phase == "A" else {}
            trainer.run()  # phase II; phase I is at its end
        except (DivergedError, racecar.NonFiniteError) as error:
            metrics["diverged"] = str(error)
        metrics["accuracy"] = trainer.accuracy()[0]
        if run.phase == "A":
            metrics["regeneration"] = regeneration(case.experiment, config, model, trainer)
        study.finish(run, trainer.weights(), metrics)
        accelerator.free_memory()
        print(f"{case.experiment.name} {method.words}, {run.key}: {metrics['accuracy']:.4f}", flush=True)
    a, ab = (study.metrics(run) or {} for run in runs)
    return a | {"transfer": ab["accuracy"], "diverged": a.get("diverged") or ab.get("diverged")}


# --- tables -----------------------------------------------------------------------------------------------------------


def interval(values: Sequence[float]) -> str:
    """Mean and 95 % interval."""
    found = summarise(values)
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def geometric(values: Sequence[float]) -> float:
    """The mean of the positive ones."""
    return math.exp(fmean(math.log(v) for v in values if v > 0)) if any(v > 0 for v in values) else math.nan


def by_ratio(values: Sequence[float]) -> str:
    """Geometric mean and 95 % interval: errors span orders of magnitude."""
    found = summarise([math.log(max(v, 1e-12)) for v in values])
    mean, low, high = (compact(math.exp(v)) for v in (found.mean, found.low, found.high))
    return f"{mean} [{low}, {high}]"


def spread(values: Sequence[float]) -> str:
    """The range of λ or ratios."""
    if not values:
        return "—"
    low, high = min(values), max(values)
    return f"{low:.2g}" if f"{low:.2g}" == f"{high:.2g}" else f"{low:.2g} – {high:.2g}"


def tuning_rows(methods: Sequence[Method], get: Callable[[Method, int], dict[str, Any]]) -> list[list[str]]:
    """Runs of the validation seeds."""
    rows = []
    for method in methods:
        found = [get(method, seed) for seed in VALIDATION]
        bad = sum(bool(f["diverged"]) for f in found)
        rows.append(
            [
                method.words + f" ({bad} of {len(found)} diverged)" * bool(bad),
                spread([v for f in found for v in f.get("lambdas", [])]),
                spread([f["ratios"][0] for f in found if f.get("ratios")]),
                interval([f["accuracy"] for f in found]),
                interval([f["transfer"] for f in found]),
                by_ratio([f["regeneration"]["error"] for f in found]),
            ]
        )
    return rows


def table(
    case: Case, methods: Sequence[Method], chosen: Method, seeds: int, get: Callable[[Method, int], dict[str, Any]]
) -> list[str]:
    runs = {m: [get(m, seed) for seed in range(seeds)] for m in methods}
    rows = []
    for method, found in runs.items():
        transfers, reference = ([f["transfer"] for f in runs[m]] for m in (method, chosen))
        difference = paired_difference(transfers, reference)
        bad = sum(bool(f["diverged"]) for f in found)
        balanced = bool(method.weight)
        rows.append(
            [
                method.words + f" ({bad} of {seeds} diverged)" * bool(bad),
                spread([v for f in found for v in f.get("lambdas", [])]) if balanced else "0",
                spread([v for f in found for v in f["lambdas_at_the_end"]]) if balanced and not bad else "—",
                spread([geometric(f["ratios"]) for f in found]) if balanced and not bad else "—",
                interval([f["accuracy"] for f in found]),
                interval(transfers),
                "—" if method == chosen else f"{difference.mean:+.3f}, {bounds(difference, 3, '+')}",
                by_ratio([f["regeneration"]["error"] for f in found]),
            ]
        )
    header = [
        "method",
        "λ before training",
        "λ at the end",
        "mean ratio in training",
        "p_A",
        "p_AB",
        "p_AB − by hand",
        "regeneration error",
    ]
    return markdown(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, default=None, help="Markdown file to write")
    parser.add_argument("--data", default="hub", help="a folder with mnist, cifar10 and cifar100, or hub")
    parser.add_argument("--out", type=Path, default=Path("runs/balance"), help="finished runs")
    parser.add_argument("--studies", nargs="+", choices=("digits", "cifar"), default=["digits", "cifar"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[3], help="one number, or one per study")
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--ratios", type=float, nargs="*", default=[0.1, 0.3, 0.9], help="to show, not to choose from")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    about, accelerator = environment(), make_accelerator()
    lines: list[str] = []
    if len(options.seeds) not in (1, len(options.studies)):
        parser.error("--seeds takes one number, or one per study")
    counts = options.seeds * (1 if len(options.seeds) > 1 else len(options.studies))
    for name, seeds in zip(options.studies, counts, strict=True):
        case = cases()[name]
        tasks, tuning = load(case, options.data)

        def get(method: Method, seed: int, name=name, case=case, tasks=tasks, tuning=tuning) -> dict[str, Any]:
            used = tuning if seed in VALIDATION else tasks
            return finished(case, method, seed, used, accelerator, options.out / name)

        by_hand = [Method(weight) for weight in case.grid]
        rows = tuning_rows(by_hand, get)
        chosen = max(by_hand, key=lambda m: fmean(get(m, seed)["transfer"] for seed in VALIDATION))
        ways = [Method(1.0, options.ratio, *way) for way in ((False, False), (True, False), (False, True))]
        second = table(case, [Method(), chosen, *ways], chosen, seeds, get)
        rows += tuning_rows([Method(1.0, ratio) for ratio in options.ratios], get)
        first = markdown(["validation", "λ", "ratio before training", "p_A", "p_AB", "regeneration error"], rows)
        config = case.config
        lines += [
            f"## {case.title}",
            "",
            f"{case.variant.label}, {config.train_images} training and {config.test_images} test images per task, "
            f"{config.a.epochs} epochs of A (batches of {config.a.batch_size}), {config.ab.epochs} of AB, loss summed "
            "over batch and units.",
            "",
            *first,
            "",
            f"Chosen by hand: λ = {chosen.weight:g}. Seeds 0 to {seeds - 1} (n = {seeds}), test images:",
            "",
            *second,
            "",
        ]
    kept = [path for name in options.studies for path in (options.out / name).glob("*/study.json")]
    revisions = ", ".join(sorted({read_json(path)["environment"]["revision"] for path in kept}))
    given = " ".join(a for a in sys.argv[1:] if a != "--table" and not a.endswith(".md"))
    device = about["processor"] if about["accelerator"] == "none" else about["accelerator"]
    head = [
        "# λ by gradient norms",
        "",
        f"`python benchmarks/balance.py {given}`",
        "",
        f"{device}, {options.threads} thread(s), torch {about['torch']}, Python {about['python']}, runs begun at "
        f"revision {revisions}. Means with 95 % intervals (Student's t; differences paired "
        "by seed; regeneration errors by their logarithm: geometric means). p_A and p_AB: accuracy after phase I on "
        "task A and after the plain transfer to task B. Regeneration error: mean squared difference of I and I' over "
        "the variance of I.",
        "",
        f"λ by hand: the one of four, a factor of 10 apart, with the best mean p_AB on {len(VALIDATION)} seeds of "
        "their own and on training images left over. Balanced: "
        f"`racecar.balance(…, ratio={options.ratio:g})`, not tuned; *once*: the geometric mean over the first {FIRST} "
        f"batches, before training; *held*: begun so, then measured every {OFTEN} steps with smoothing "
        f"{SMOOTHING:g}; *per layer*: once, with all layers' terms equally strong. The ratio in training is measured "
        f"every {OFTEN} steps, its geometric mean per run given as the range over runs.",
        "",
    ]
    print("\n".join(head + lines))
    if options.table is not None:
        write_text(options.table, "\n".join(head + lines))


if __name__ == "__main__":
    main()
