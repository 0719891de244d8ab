"""Cost against benefit of the cheaper ways of racecar training: step time, transfer and regeneration on two studies.

    python benchmarks/variants.py --studies runs/variants-digits runs/variants-cifar --table results/variants.md

The studies are run before, by ``racecar study … --variants Std RR3 RR3-every4 …`` (``make results`` has the commands).
Step times are measured here, on each study's network and batch: variants take turns of 16 steps, so that every=k and
subset=k show their mean; the best turn counts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from timing import DEVICE, Step, keep_freed_memory, turns

from racecar.study.cifar.experiment import Cifar
from racecar.study.classification.experiment import Experiment
from racecar.study.classification.results import ClassificationResults
from racecar.study.core.environment import environment
from racecar.study.core.files import read_json, write_bytes, write_text
from racecar.study.core.folder import Study
from racecar.study.core.growing import reopen
from racecar.study.core.methods.plain import Std
from racecar.study.core.methods.rr import RR
from racecar.study.core.variants import Run
from racecar.study.digits.experiment import Digits
from racecar.study.report.figures import png
from racecar.study.report.markdown import markdown, portable
from racecar.study.report.statistics import Summary, bounds, compact, spread

STEPS = 16  # of a turn: a multiple of every k
AIM = 1.15  # times Std's step
EXPERIMENTS: dict[str, Experiment] = {e.name: e for e in (Digits(), Cifar())}


@dataclass(frozen=True)
class Way:
    """A variant measured: its cost and what it brings.

    Attributes:
        method: of a variant of the study.
        cost: step time over Std's.
        gain: p_AB over Std's, paired by seed.
        behind: p_AB over the exact method's.
    """

    method: RR
    cost: float
    gain: Summary
    behind: Summary

    @property
    def words(self) -> str:
        """The arguments of Racecar."""
        return ", ".join(f"{k}={v}" for k, v in self.method.savings.items()) or "exact"


def steps(experiment: Experiment, results: ClassificationResults, study: Study) -> dict[str, Step]:
    """A turn of every variant's training steps, by name."""
    config = results.config
    task = experiment.kept(study, config)["A"]
    channels, size, _ = task.train.shape
    found = {}
    for variant in results.variants:
        recipe = config.recipe(Run(variant, "A", 0))
        model = experiment.network(config, channels, size, len(task.train.classes), 0)
        model = model.to(DEVICE, memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = torch.rand(recipe.batch_size, channels, size, size, device=DEVICE)
        x = x.to(memory_format=torch.channels_last)
        labels = torch.arange(len(x), device=DEVICE) % len(task.train.classes)
        objective = experiment.objective(config, variant, model, x)
        optimiser = recipe.make_optimiser([model])
        half = recipe.precision == "bfloat16"

        def turn(objective=objective, optimiser=optimiser, x=x, labels=labels, half=half) -> None:
            for i in range(STEPS):
                objective.at(i, i)
                with torch.autocast(DEVICE.type, torch.bfloat16, enabled=half):
                    output, penalty = objective(x)
                    loss = F.cross_entropy(output, labels) + penalty
                loss.backward()
                optimiser.step()
                optimiser.zero_grad()

        found[variant.name] = turn
    return found


def ways(results: ClassificationResults, times: dict[str, float]) -> list[Way]:
    """Racecar's variants, the exact one first."""
    exact = results.headline
    methods = [v.method for v in results.variants if isinstance(v.method, RR)]
    return [
        Way(
            m,
            times[m.name] / times["Std"],
            results.difference(f"{m.label}_AB", "Std_AB"),
            results.difference(f"{m.label}_AB", f"{exact}_AB"),
        )
        for m in sorted(methods, key=lambda m: m.label != exact)
    ]


def table(results: ClassificationResults, found: Sequence[Way], times: dict[str, float]) -> list[str]:
    rows = []
    exact = found[0]
    std = [spread(results.summary(f"Std_{phase}")) for phase in ("A", "AB")]
    error = results.regeneration("Std_A", "error")
    ms = f"{1e3 * times['Std'] / STEPS:.1f}"
    rows.append(["Std", ms, "1.00", *std, "—", "—", "—", compact(fmean(error)) if error else "—"])
    for way in found:
        label = way.method.label
        error = results.regeneration(f"{label}_A", "error")
        inside = exact.gain.low <= way.gain.mean <= exact.gain.high
        rows.append(
            [
                f"{label.partition('-')[0]}, {way.words}",
                f"{1e3 * times[way.method.name] / STEPS:.1f}",
                f"{way.cost:.2f}",
                spread(results.summary(f"{label}_A")),
                spread(results.summary(f"{label}_AB")),
                f"{way.gain.mean:+.4f}, {bounds(way.gain, 4, '+')}",
                "—" if way is exact else f"{way.behind.mean:+.4f}, {bounds(way.behind, 4, '+')}",
                "—" if way is exact else ("yes" if inside else "no"),
                compact(fmean(error)) if error else "—",
            ]
        )
    header = [
        "variant",
        "step, ms",
        "step / Std",
        "p_A",
        "p_AB",
        "p_AB − Std's",
        "p_AB − the exact method's",
        "gain inside the exact method's interval",
        "regeneration error",
    ]
    return markdown(header, rows)


_MARKERS = {"": "o", "every": "s", "fraction": "^", "layerwise": "D", "subset": "v"}


def figure(panels: dict[str, list[Way]]) -> Figure:
    """Gain in transfer against step time, a panel per study; the exact method's interval as a band."""
    drawn, axes = plt.subplots(1, len(panels), figsize=(5.6 * len(panels), 5.4), squeeze=False, layout="constrained")
    words = list(dict.fromkeys(w.words for found in panels.values() for w in found))
    colors = dict(zip(words, [RR.color, *plt.colormaps["tab10"].colors], strict=False))  # type: ignore[attr-defined]
    legend = {}
    for axis, (title, found) in zip(axes[0], panels.items(), strict=True):
        exact = found[0].gain
        axis.axhspan(100 * exact.low, 100 * exact.high, color=RR.color, alpha=0.12, linewidth=0)
        axis.axhline(0, color=Std.color, linewidth=1.5)
        axis.axvline(AIM, color="#999999", linewidth=1, linestyle="--")
        (legend["Std"],) = axis.plot(1, 0, "o", color=Std.color, markersize=9)
        for way in found:
            gain = way.gain
            error = [[100 * (gain.mean - gain.low)], [100 * (gain.high - gain.mean)]]
            marker = "P" if len(way.method.savings) > 1 else _MARKERS[next(iter(way.method.savings), "")]
            look = {"color": colors[way.words], "fmt": marker, "capsize": 2, "linewidth": 1.2, "markersize": 7}
            legend[way.words.replace("=True", "")] = axis.errorbar([way.cost], [100 * gain.mean], yerr=error, **look)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("time of a step over Std's")
        axis.set_ylabel("accuracy after transfer over Std's, percentage points")
        axis.set_xlim(left=0.95)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color="#e4e4e4", linewidth=0.5)
    drawn.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=6, fontsize=9, frameon=False)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--studies", type=Path, nargs="+", required=True, help="folders of racecar study digits or cifar"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of measuring steps, per study")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", type=Path, default=None, help="Markdown file to write, and a PNG beside it")
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    about = environment()
    device = about["processor"] if DEVICE.type == "cpu" else about["accelerator"]
    panels, sections = {}, []
    for folder in options.studies:
        experiment = EXPERIMENTS[read_json(folder / "study.json")["experiment"]]
        study, config = reopen(folder, experiment.name, experiment.config)
        results = ClassificationResults.load(study, experiment, config)
        times = turns(steps(experiment, results, study), options.seconds)
        found = ways(results, times)
        title = f"{experiment.title}, n = {config.seeds}"
        panels[title] = found
        sections += [
            f"## {title}",
            "",
            f"`{portable(results.metadata['command'])}`",
            "",
            *table(results, found, times),
            "",
            f"B from scratch: {spread(results.summary('Std_B'))}. {results.sources} {config.a.epochs} epochs of A, "
            f"{config.ab.epochs} of AB, batches of {config.a.batch_size}.",
            "",
        ]
        print("\n".join(sections[-5:]), flush=True)
    if options.table is None:
        return
    picture = options.table.with_suffix(".png")
    write_bytes(picture, png(figure(panels)))
    given = [a for a in sys.argv[1:] if a != "--table" and not a.endswith(".md")]
    lines = [
        "# Cheaper racecar training: cost against benefit",
        "",
        f"`python benchmarks/variants.py {' '.join(given)}`",
        "",
        f"{device}, {options.threads} thread(s), torch {about['torch']}, Python {about['python']}, revision "
        f"{about['revision']} for the step times; the studies' commands stand below. Mean ± standard deviation over "
        "seeds; differences paired by seed with 95 % intervals. Regeneration error: of the input, over its variance.",
        "",
        f"![Gain in transfer against the time of a step]({picture.name})",
        "",
        f"The band is the exact method's interval, the dashed line {AIM} times Std's step.",
        "",
        *sections,
    ]
    write_text(options.table, "\n".join(lines))


if __name__ == "__main__":
    main()
