"""Less than twice Std's arithmetic: cheaper reverse passes beyond the library's own, their cost, and what they bring.

    python benchmarks/less.py --data .data --work runs/less --table results/less.md

Layers first (``less_layers``): arithmetic and time of each form. Then the outcomes of the study of coarse and fine
labels against the time of a step. Trained networks are kept in ``--work``: a finished one is never trained again, and
a stopped run goes on; times are measured at every call. ``--only`` stops after a part.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from less_forms import Form, Written, share_of_the_channels
from less_layers import (
    COLUMN_HEADER,
    CONV_HEADER,
    GRAM_HEADER,
    LINEAR_HEADER,
    NETWORK_HEADER,
    agreement,
    column_rows,
    conv_rows,
    gram_rows,
    linear_rows,
    network_rows,
)
from matplotlib.figure import Figure
from timing import Step, flops, keep_freed_memory, turns
from torch import Tensor

import racecar
from racecar import analysis
from racecar.study.classification.balancing import balance
from racecar.study.classification.batches import InMemory, Normalisation
from racecar.study.classification.objective import Objective
from racecar.study.classification.recipe import Recipe
from racecar.study.classification.training import Trainer
from racecar.study.coarse_to_fine.config import TransferConfig
from racecar.study.coarse_to_fine.experiment import load, network
from racecar.study.coarse_to_fine.networks import Classifier, features
from racecar.study.core.accelerator import make_accelerator
from racecar.study.core.environment import environment
from racecar.study.core.files import write_bytes, write_text
from racecar.study.report import inference
from racecar.study.report.figures import png
from racecar.study.report.markdown import markdown, portable
from racecar.study.report.statistics import Summary, summarise

PLAN = """\
Written before any of these networks was trained. Looked at before: what single layers take, and one seed of each way
with 500 images and one epoch, to see that it runs. Half of the channels is not trained on CIFAR, as was seen there:
an input channel whose outputs are not drawn has an estimate of no variance, batch norm in the reverse pass divides by
it, and the λ that holds the ratio is 6e-7. Neither half of the units nor int8 took less than 0.9 on the MLP's layers:
on digits there is no candidate but the exact Gram form, and the library's own ways are compared.

- **Which candidates are trained.** A form whose forward and backward pass on a layer of one of the two networks takes
  less than 0.9 of the exact form's time, in the type that the network is trained in, is trained on that network. Exact
  forms (the Gram form, upsampling and adjoint in one) change no outcome: they are timed alone.
- **Networks.** *Digits*: the study's pair 2a as docs/plan.md has it (mnist-parity, MLP 196-128-64-32, 20 000 images, 15
  epochs, Adam, float32). *CIFAR*: cifar10-halves, the strong net at width 16 in bfloat16 as in its preset, but 3000
  training and 2000 test images and 6 epochs (5000 and 2500 were planned; made fewer for want of time, when none had
  finished). n = 5 seeds each, 0 to 4, never more and no others.
- **λ** by `racecar.balance` on the first 8 batches. Digits: ratio 1 for RR^1, 3 for RR^3, 10 layerwise, as 2a's tuning
  pair chose; CIFAR: 1 for all, untuned. What estimates another penalty without bias has that penalty's λ.
- **Outcomes.** Accuracy of the linear probe on B with all labels (primary) and with 10 labels a class; accuracy on A.
  Differences from exact RR^s, and for ways of RR^1 from RR^1, paired by seed: crossed bootstrap over seeds × test
  images, 95 %.
- **Time.** Of a whole training step over Std's, one thread, processor time (other processes run on this machine), ways
  take turns of 8 steps, best of turns.
- **Verdict.** *On the frontier*: no way that is at least as fast (within 2 %) has a higher mean probe. *Earns an option
  of the library*: on one of the two networks its step takes at most 0.95 of that of every existing way whose probe is
  not behind the exact method's by more than δ, and the interval of its own difference from the exact method lies above
  −δ; δ = 0.01 on digits, 0.02 on CIFAR. An exact form: on one of them its step takes at most 0.95 of the exact
  method's."""

STEPS = 8  # of a turn: a multiple of every k
SEEDS = 5
MARGINS = {"digits": 0.01, "cifar": 0.02}
CONFIGS = {
    "digits": TransferConfig(
        variants=["Std"],
        pair="mnist-parity",
        train_images=20_000,
        a=Recipe(epochs=15, batch_size=128, learning_rate=1e-3, schedule="cosine"),
    ),
    "cifar": TransferConfig(
        variants=["Std"],
        pair="cifar10-halves",
        train_images=3_000,
        test_images=2_000,
        width=16,
        a=Recipe(
            epochs=6,
            batch_size=128,
            optimiser="sgd",
            learning_rate=0.1,
            weight_decay=5e-4,
            schedule="cosine",
            warmup=0.2,
            augmentation="flip-crop",
            precision="bfloat16",
        ),
    ),
}
TITLES = {
    "digits": "Digits: MNIST, even and odd → ten digits, MLP",
    "cifar": "CIFAR-10, first and last five classes → ten classes, seven convolutions",
}


@dataclass(frozen=True)
class Way:
    """A way of training.

    Attributes:
        name: in tables and files.
        options: of :class:`racecar.Racecar`; None: Std, or a form written by hand.
        ratio: of the gradients' norms at the start.
        form: of a penalty by hand.
        share: of the channels in reverse products.
        exact: the way whose λ it has, as its penalty is the same on average; "": its own.
        beside: the exact method that it is compared with.
        candidate: not an option of the library.
    """

    name: str
    options: dict[str, Any] | None = None
    ratio: float = 1.0
    form: Form | None = None
    share: float = 1.0
    exact: str = ""
    beside: str = ""
    candidate: bool = False

    @property
    def plain(self) -> bool:
        """Whether it is Std."""
        return self.options is None and self.form is None


def _existing(depth: int, chain: float, layer: float, start: str) -> list[Way]:
    first, whole = "RR^1", f"RR^{depth}"
    every = {"layers": depth}
    apart = {**every, "layerwise": True}
    return [
        Way("Std"),
        Way(first, {"layers": 1}),
        Way(whole, every, chain),
        Way(f"{first}, every=8", {"layers": 1, "every": 8}, exact=first, beside=first),
        Way(f"{first}, start=first layer", {"layers": 1, "start": start}, beside=first),
        Way(f"{whole}, every=4", {**every, "every": 4}, exact=whole, beside=whole),
        Way(f"{whole}, every=8", {**every, "every": 8}, exact=whole, beside=whole),
        Way(f"{whole}, fraction=0.25", {**every, "fraction": 0.25}, exact=whole, beside=whole),
        Way(f"{whole}, layerwise", apart, layer, beside=whole),
        Way(f"{whole}, layerwise, subset=1", {**apart, "subset": 1}, exact=f"{whole}, layerwise", beside=whole),
    ]


WAYS: dict[str, list[Way]] = {
    "digits": _existing(3, 3.0, 10.0, "body.relu1"),
    "cifar": [
        *_existing(7, 1.0, 1.0, "body.act1"),
        Way("RR^7, half the resolution", form="half", beside="RR^7", candidate=True),
        Way("RR^7, layerwise, grid", form="grid", exact="RR^7, layerwise", beside="RR^7", candidate=True),
        Way("RR^7, layerwise, means", form="pooled", beside="RR^7", candidate=True),
    ],
}


# --- training ---------------------------------------------------------------------------------------------------------


@dataclass
class Pair:
    """The data of one of the networks, and what makes a way of training it.

    Attributes:
        name: digits or cifar.
        config: of the study.
        a, b: the two tasks.
        derived: what is minimised, by way: derived once, and given the weights of each seed.
    """

    name: str
    config: TransferConfig
    derived: dict[str, Objective] = field(init=False, default_factory=dict)
    a: InMemory = field(init=False)
    b: InMemory = field(init=False)

    def load(self, data: str) -> None:
        """Read the images."""
        train, test = load(data, self.config)
        conv = self.config.tasks.network == "conv"
        normalisation = Normalisation.of(train) if conv else Normalisation.unit(train.shape[0])
        self.a, self.b = (
            InMemory(of(train), of(test), normalisation, channels_last=conv)
            for of in (self.config.tasks.task_a, self.config.tasks.task_b)
        )

    @property
    def ways(self) -> dict[str, Way]:
        """By name."""
        return {w.name: w for w in WAYS[self.name]}

    def model(self, seed: int) -> Classifier:
        """With weights of its own."""
        return network(self.config, self.a, seed if self.config.tasks.is_reported else 1000 + seed)

    def objective(self, way: Way, model: Classifier) -> Objective:
        """What is minimised, λ = 1."""
        if way.plain:
            return Objective(model)
        if way.form is not None:
            return Objective(model, Written(model, way.form))  # type: ignore[arg-type]
        x = self.a.some_tests(self.config.a.batch_size)
        given = {"start": self.config.shape.start, "verify": False} | (way.options or {})
        rr = racecar.Racecar(model, x, **given)
        return Objective(model, rr)

    def trainer(self, objective: Objective, seed: int) -> Trainer:
        """By the study's recipe."""
        own = seed if self.config.tasks.is_reported else 1000 + seed
        return Trainer(
            objective, self.config.a, self.a, seed=own, phase="A", accelerator=make_accelerator(), evaluations=1
        )

    def train(self, way: Way, seed: int, weight: float | None = None) -> dict[str, Any]:
        """One network, and what its features are worth.

        Args:
            way: how.
            seed: of weights, order and draws.
            weight: λ; None: balanced.
        """
        with share_of_the_channels(way.share) if way.share < 1 else contextlib.nullcontext():
            if way.name not in self.derived:
                self.derived[way.name] = self.objective(way, self.model(seed))
            objective = self.derived[way.name]
            objective.model.load_state_dict(self.model(seed).state_dict())
            trainer = self.trainer(objective, seed)
            if objective.rr is not None:
                objective.rr.lambdas = torch.full_like(objective.rr.lambdas, weight or 1.0)
                weight = weight or balance(trainer, way.ratio)
            trainer.run()
        measured = self.outcomes(objective.model, seed)
        return {"accuracy": trainer.accuracy(lambda: None)[0], "weight": weight or 0.0} | measured

    @torch.no_grad()
    def outcomes(self, model: Classifier, seed: int) -> dict[str, Tensor]:
        """Which test images the probes get right, as the study has them."""
        found = []
        for images in (self.b.train, self.b.test):
            parts = [
                features(model, self.b.normalisation(p, channels_last=self.b.channels_last), None)[0].float()
                for p in images.pixels.split(1000)
            ]
            found.append(torch.cat(parts))
        (train, test), labels, wanted = found, self.b.train.labels, self.b.test.labels
        classes = len(self.b.classes)
        own = seed if self.config.tasks.is_reported else 1000 + seed
        few = []
        with torch.enable_grad():
            l2 = analysis.choose_l2(train, labels, classes)
            probe = analysis.fit_probe(train, labels, classes, l2=l2).answers(test, wanted)
            for draw in range(5):
                chosen = analysis.few_labels(labels, 10, 1000 * own + draw)
                few.append(analysis.fit_probe(train[chosen], labels[chosen], classes).answers(test, wanted).double())
        return {"probe": probe.float(), "probe10": torch.stack(few).mean(0).float()}

    # --- time ---------------------------------------------------------------------------------------------------------

    def step(self, way: Way, precision: torch.dtype | None) -> Step:
        """A turn of training steps."""
        recipe = self.config.a
        objective = self.objective(way, self.model(0))
        objective.train()
        optimiser = recipe.make_optimiser([objective.model])
        x = self.a.some_tests(recipe.batch_size)
        labels = self.a.test.labels[: len(x)]

        def turn() -> None:
            for i in range(STEPS):
                objective.at(i, i)
                with torch.autocast("cpu", precision, enabled=precision is not None):
                    output, penalty = objective(x)
                    loss = F.cross_entropy(output, labels) + 1e-3 * penalty
                loss.backward()
                optimiser.step()
                optimiser.zero_grad()

        return turn

    def times(self, seconds: float, precision: torch.dtype | None) -> dict[str, float]:
        """A step's over Std's, by way."""
        with contextlib.ExitStack() as stack:
            steps = {}
            for way in WAYS[self.name]:
                if way.share == 1:
                    steps[way.name] = self.step(way, precision)
            best = turns(steps, seconds, time.process_time)
            for way in WAYS[self.name]:  # whose rules are others for all that is derived meanwhile
                if way.share < 1:
                    stack.enter_context(share_of_the_channels(way.share))
                    two = {"Std": steps["Std"], way.name: self.step(way, precision)}
                    again = turns(two, seconds / 6, time.process_time)
                    best[way.name] = again[way.name] * best["Std"] / again["Std"]
        return {name: value / best["Std"] for name, value in best.items()} | {"ms": 1e3 * best["Std"] / STEPS}

    def arithmetic(self) -> dict[str, float]:
        """FLOPs of a step over Std's, the mean of a turn."""
        found = {}
        for way in WAYS[self.name]:
            with share_of_the_channels(way.share) if way.share < 1 else contextlib.nullcontext():
                found[way.name] = float(flops(self.step(way, None)))
        return {name: value / found["Std"] for name, value in found.items()}


def train_all(pair: Pair, work: Path) -> None:
    """What is not trained yet, seed by seed."""
    work.mkdir(parents=True, exist_ok=True)
    for seed in range(SEEDS):
        for way in WAYS[pair.name]:
            path = _path(work, pair.name, way, seed)
            if path.exists():
                continue
            began = time.process_time()
            weight = None
            if way.exact:
                weight = torch.load(_path(work, pair.name, pair.ways[way.exact], seed))["weight"]
            try:
                found = pair.train(way, seed, weight)
            except racecar.NonFiniteError:
                print(f"{path.stem}: has diverged", flush=True)
                found = {}
            torch.save(found, path.with_suffix(".part"))
            path.with_suffix(".part").rename(path)
            if not found:
                continue
            probes = " ".join(f"{float(found[k].mean()):.3f}" for k in ("probe", "probe10"))
            took = time.process_time() - began
            print(f"{path.stem}: A {found['accuracy']:.3f}, probes {probes}, {took:.0f} s", flush=True)


def _path(work: Path, name: str, way: Way, seed: int) -> Path:
    plain = way.name.replace("^", "").replace(", ", "-").replace(" ", "-").replace("=", "")
    return work / f"{name}-{plain}-{seed}.pt"


# --- results ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What a way brings and takes.

    Attributes:
        way: which.
        time: of a step over Std's, in the network's own precision.
        single: the same in float32.
        arithmetic: the same in FLOPs.
        accuracy: on A.
        means: of the probes, over seeds.
        behind: the probes' differences from the exact method.
        n: seeds.
    """

    way: Way
    time: float
    single: float
    arithmetic: float
    accuracy: Summary
    means: dict[str, Summary]
    behind: dict[str, Summary]
    n: int


PROBES = ("probe", "probe10")


def results(
    pair: Pair, work: Path, times: dict[str, float], single: dict[str, float], counts: dict[str, float]
) -> list[Result]:
    """Of every way with trained networks."""
    runs = {
        way.name: {
            s: run
            for s in range(SEEDS)
            if (p := _path(work, pair.name, way, s)).exists() and (run := torch.load(p))  # else it has diverged
        }
        for way in WAYS[pair.name]
    }
    found = []
    for way in WAYS[pair.name]:
        own = runs[way.name]
        means = {k: summarise([float(r[k].mean()) for r in own.values()]) for k in PROBES}
        behind = {}
        other = runs[way.beside] if way.beside else {}
        if both := sorted(own.keys() & other.keys()):
            for k in PROBES:
                pairs = (np.stack([r[s][k].numpy() for s in both]) for r in (own, other))
                behind[k] = inference.crossed_bootstrap(*pairs)
        found.append(
            Result(
                way,
                times[way.name],
                single[way.name],
                counts[way.name],
                summarise([r["accuracy"] for r in own.values()]),
                means,
                behind,
                len(own),
            )
        )
    return found


def verdict(result: Result, others: Sequence[Result], margin: float) -> tuple[str, str]:
    """Whether it is on the frontier, and for a candidate whether it earns an option."""
    if result.n < SEEDS:  # some seeds have diverged
        return "—", "—"
    others = [r for r in others if r.n == SEEDS]
    mean = result.means["probe"].mean
    above = [r.way.name for r in others if r.time <= 1.02 * result.time and r.means["probe"].mean > mean]
    frontier = "no: " + above[0] if above else "yes"
    if not result.way.candidate:
        return frontier, "—"
    good = [r.time for r in others if not r.way.candidate and r.behind and r.behind["probe"].mean > -margin]
    fast = not good or result.time <= 0.95 * min(good)
    sound = bool(result.behind) and result.behind["probe"].low > -margin
    words = "yes" if fast and sound else "no: " + ("not faster" if not fast else "behind")
    return frontier, words


RESULT_HEADER = (
    "way",
    "n",
    "FLOPs / Std",
    "step / Std",
    "step / Std, float32",
    "accuracy on A",
    "probe, all labels",
    "probe, 10 labels a class",
    "all labels: less the exact method's",
    "10 labels: less the exact method's",
    "on the frontier",
    "earns an option",
)


def result_rows(found: Sequence[Result], margin: float) -> list[list[str]]:
    rows = []
    for r in found:
        differences = [
            f"{s.mean:+.4f} [{s.low:+.4f}, {s.high:+.4f}]" if (s := r.behind.get(k)) else "—" for k in PROBES
        ]
        rows.append(
            [
                ("**" + r.way.name + "**") if r.way.candidate else r.way.name,
                str(r.n) if r.n == SEEDS else f"{r.n}, the others have diverged",
                f"{r.arithmetic:.2f}",
                f"{r.time:.2f}",
                f"{r.single:.2f}",
                *(f"{s.mean:.3f} ± {s.sd:.3f}" if s.n else "—" for s in (r.accuracy, *(r.means[k] for k in PROBES))),
                *differences,
                *verdict(r, found, margin),
            ]
        )
    return rows


def figure(panels: dict[str, list[Result]]) -> Figure:
    """Probe accuracy against the time of a step, a panel a network; intervals over seeds."""
    drawn, axes = plt.subplots(1, len(panels), figsize=(7.0 * len(panels), 6.0), squeeze=False, layout="constrained")
    colors = [*plt.colormaps["tab20"].colors]  # type: ignore[attr-defined]
    for axis, (name, found) in zip(axes[0], panels.items(), strict=True):
        for number, r in enumerate(found):
            s = r.means["probe"]
            if r.n < SEEDS:
                continue
            error = [[s.mean - s.low], [s.high - s.mean]]
            look = {"color": colors[number], "fmt": "D" if r.way.candidate else "o", "capsize": 2, "markersize": 7}
            axis.errorbar([r.time], [s.mean], yerr=error, label=r.way.name, **look)
        axis.set_title(f"{TITLES[name]}, n = {SEEDS}", fontsize=9.5)
        axis.set_xlabel("time of a step over Std's")
        axis.set_ylabel("linear probe on B, all labels (mean, 95 % interval over seeds)")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color="#e4e4e4", linewidth=0.5)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, fontsize=8, frameon=False)
    return drawn


# --- the file ---------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with mnist and cifar10 in it")
    parser.add_argument("--work", type=Path, required=True, help="folder of trained networks")
    parser.add_argument("--table", type=Path, default=None, help="Markdown file to write, and a PNG beside it")
    parser.add_argument("--seconds", type=float, default=20.0, help="of measuring steps, per network and precision")
    parser.add_argument("--row-seconds", type=float, default=1.0, help="of measuring a layer")
    parser.add_argument("--networks", nargs="+", choices=list(CONFIGS), default=list(CONFIGS))
    parser.add_argument("--only", choices=["layers", "training", "all"], default="all")
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    pairs = [Pair(name, replace(CONFIGS[name])) for name in options.networks]
    if options.only != "layers":
        for pair in pairs:
            pair.load(options.data)
            train_all(pair, options.work)
    if options.only == "training":
        return
    lines = _layers(options.row_seconds)
    panels: dict[str, list[Result]] = {}
    if options.only == "all":
        for pair in pairs:
            own = pair.config.a.half
            times = pair.times(options.seconds, own)
            single = times if own is None else pair.times(options.seconds, None)
            found = results(pair, options.work, times, single, pair.arithmetic())
            panels[pair.name] = found
            lines += [
                f"## {TITLES[pair.name]}",
                "",
                f"Std's step: {times['ms']:.2f} ms, in float32 {single['ms']:.2f} ms. Candidates in bold.",
                "",
                *markdown(RESULT_HEADER, result_rows(found, MARGINS[pair.name])),
                "",
            ]
            print("\n".join(lines[-3 - len(found) :]), flush=True)
    if options.table is None:
        print("\n".join(lines))
        return
    about = environment()
    head = [
        "# Less than the bound: cheaper reverse passes that were tried",
        "",
        f"`{portable('python benchmarks/less.py ' + shlex.join(_given()))}`",
        "",
        f"{about['processor']}, 1 thread, torch {about['torch']}, Python {about['python']}, revision "
        f"{about['revision']}. Seeds 0 to {SEEDS - 1}. Times are processor time, best of turns within one run. Mean ± "
        "standard deviation over seeds; differences paired by seed with 95 % intervals.",
        "",
        "## Plan",
        "",
        PLAN,
        "",
    ]
    if panels:
        picture = options.table.with_suffix(".png")
        write_bytes(picture, png(figure(panels)))
        head += [f"![Probe accuracy against the time of a step]({picture.name})", ""]
    write_text(options.table, "\n".join([*head, *lines]))


def _given() -> list[str]:
    words = sys.argv[1:]
    for name in ("--table", "--work"):
        if name in words:
            words = words[: words.index(name)] + words[words.index(name) + 2 :]
    return words


def _layers(seconds: float) -> list[str]:
    value, gradient = agreement()
    return [
        "## Layers",
        "",
        "### Gram form",
        "",
        "½‖x − Wᵀy‖² of one linear layer as ½(‖x‖² − 2⟨y, Wx⟩ + yᵀ(WWᵀ)y), U units, I inputs, batch B, Wx found by the "
        "forward pass, whose weight gradient takes the middle term along. The plain form adds 6·B·I·U FLOPs to a step, "
        "the Gram form 4·(U²·I + B·U²). Value and gradient agree in float64 to "
        f"{value:.0e} and {gradient:.0e}. It is of use for a single layer that has few units against its inputs and "
        "the batch, and whose estimate is not mapped to a range: the network's first one, layerwise. In a chain the "
        "estimate itself is needed.",
        "",
        *markdown(GRAM_HEADER, gram_rows(seconds)),
        "",
        "### Linear layers",
        "",
        "The reverse product with its gradients, over the exact one's time. int8: one scale a tensor, gradients of the "
        "exact product.",
        "",
        *markdown(LINEAR_HEADER, linear_rows(seconds)),
        "",
        "fp8: not run, no such hardware; torch takes a scaled product of float8 on this processor, by emulation.",
        "",
        "### Convolutions",
        "",
        "Adjoint, distance and gradients of a convolution of kernel 3: FLOPs / **time** over the exact form's. "
        "*Pooled*: what the convolution gives is pooled by 2 × 2, so that the estimate is upsampled first.",
        "",
        *markdown(CONV_HEADER, conv_rows(seconds)),
        "",
        "### Columns",
        "",
        "A convolution and its weight's gradient, float32. oneDNN's kernels read the image itself and have no columns "
        "that two passes could share. Of columns, those of the regenerated input would be needed beside those of the "
        "input: the reverse pass's weight gradient is of their difference.",
        "",
        *markdown(COLUMN_HEADER, column_rows(seconds)),
        "",
        "### Upsampling and adjoint in one, whole networks",
        "",
        "A training step of RR over all convolutions, float32, channels last, as in [cost.md](cost.md). The library "
        "does it in one; *apart* is the same with that switched off.",
        "",
        *markdown(NETWORK_HEADER, network_rows(4 * seconds)),
        "",
    ]


if __name__ == "__main__":
    main()
