"""The experiment's results file, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from racecar.study.core.variants import Variant
from racecar.study.forecasting.results import OUTCOMES, SCRATCH, ForecastingResults
from racecar.study.forecasting.training import Job
from racecar.study.report import inference
from racecar.study.report.markdown import markdown
from racecar.study.report.statistics import bounds, p_shown, spread


def text(results: ForecastingResults, settings: Mapping[str, Any], command: str, picture: str | None) -> str:
    """The whole file.

    Args:
        results: finished networks.
        settings: the content of settings.json.
        command: that made it.
        picture: name of the figure's file, which lies beside it; None: there is none.
    """
    config, here, data = results.config, settings["environment"], settings["simulations"]
    tests = data["count"] - config.simulations_a - config.simulations_b - config.simulations_validation
    revisions = ", ".join(sorted({m["revision"] for m in results.found.values()}))
    seconds = sum(m["seconds"] for m in results.found.values())
    size = data["settings"]["size"]
    smoke_test = config.seeds < 2 or config.steps_a < 100
    lines = [
        "# Forecasting simulated smoke",
        f"`{command}`, of `racecar data smoke --size {size} --count {data['count']} --seed {data['seed']}`",
        *(["**A smoke test: no conclusions.**"] if smoke_test else []),
        f"From the density of two frames that of a later one: {config.lead_a} frames ahead (A, {config.simulations_a} "
        f"simulations to train on), {config.lead_b} ahead (B, {config.simulations_b} others). Tested on {tests} more "
        f"simulations, tuning values chosen on {config.simulations_validation} more: one seed, half the steps, "
        f"the lowest error on B after fine-tuning. Five convolutions of {config.width} channels and a linear one; "
        f"{config.steps_a} steps of {config.batch} pairs on A, {config.steps_b} on B.",
        "Numbers are the RMSE on the test over that of persistence, the forecast that nothing moves "
        f"({results.persistence['A']:.4f} of density on A, {results.persistence['B']:.4f} on B): less is better, 1 is "
        f"no skill. Mean ± standard deviation over seeds, n = {config.seeds}. Intervals are Student's t over seeds, "
        "which draw weights and order: what other simulations would change is not in them. "
        f"{here['processor']}, torch {here['torch']}, Python {here['python']}, revision {revisions}; "
        f"{seconds / 60:.0f} core-minutes of training.",
        "\n".join(markdown(["method", "value", "n", *OUTCOMES.values(), "core-seconds a network"], _rows(results))),
        "Fine-tuned: all weights, on B alone. Body frozen: a new last layer by least squares. From scratch: for as "
        "many steps as fine-tuning takes; longer: for those of A as well. "
        + " ".join(dict.fromkeys(filter(None, (v.method.note(config.compute_match) for v in results.variants)))),
        *([f"![Truth, now, forecasts of B after fine-tuning, mean absolute errors]({picture})"] if picture else []),
        "## Verdicts",
        "\n".join(
            markdown(
                ["claim", "where", "outcome", "evidence"],
                [[v.claim, v.where, v.outcome, v.evidence] for v in results.verdicts()],
            )
        ),
        "Reproduced: the error is lower than that of each method named, every 95 % interval above zero; not "
        f"reproduced: one of the intervals lies below the {config.margin:g} that would matter.",
        *_differences(results),
        "## Tuning values that were tried",
        "\n".join(markdown(["method", "value", "A", "B, fine-tuned", ""], _tried(results))),
        "## Not run, or to be known",
        "\n".join(f"- {line}" for line in _known(results)) or "Nothing.",
    ]
    return "\n\n".join(lines) + "\n"


def _value(results: ForecastingResults, variant: Variant, value: float) -> str:
    if not variant.method.unit:
        return "—"
    weights = [m["weight"] for j, m in results.found.items() if j.variant == variant and not j.tuning and "weight" in m]
    lambdas = f"; λ {sum(weights) / len(weights):.3g}" if weights else ""
    return f"{value:g} ({variant.method.unit}{lambdas})"


def _rows(results: ForecastingResults) -> list[list[object]]:
    rows: list[list[object]] = [["persistence", "—", "—", *["1.000"] * len(OUTCOMES), "—"]]
    for which, label in SCRATCH.items():
        found = results.summary(None, which, "B")
        rows.append([label, "—", found.n, "—", spread(found, 4), "—", _seconds(results, None, which)])
    for variant in results.variants:
        value = results.values[variant.name]
        cells = [results.summary(variant, value, o) for o in OUTCOMES]
        shown = [spread(c, 4) for c in cells]
        used = cells[0].n
        rows.append([variant.label, _value(results, variant, value), used, *shown, _seconds(results, variant, value)])
    return rows


def _seconds(results: ForecastingResults, variant: Variant | None, value: float) -> str:
    jobs = [Job(variant, value, s) for s in range(results.config.seeds)]
    known = [results.found[j]["seconds"] for j in jobs if j in results.found]
    return f"{median(known):.0f}" if known else "—"


def _differences(results: ForecastingResults) -> list[str]:
    blocks = []
    for outcome, title in OUTCOMES.items():
        if not (found := results.comparisons(outcome)):
            continue
        adjusted = iter(inference.holm([c.p for c in found if c.p == c.p]))
        rows = []
        for c in found:
            p = next(adjusted) if c.p == c.p else c.p
            shown = bounds(c.difference, 4, "+").removeprefix("95 % CI ")
            verdict = c.verdict if p < 0.05 or c.verdict == "equivalent" else "undecided"
            rows.append([f"{c.worse} − {c.better}", f"{c.difference.mean:+.4f}", shown, p_shown(p), verdict])
        header = ["difference", "mean", "95 % interval", "p (Holm)", f"{found[0].better} is"]
        blocks += [f"## {title}: how much lower the error of {found[0].better} is", "\n".join(markdown(header, rows))]
    if blocks:
        blocks.append(
            f"{found[0].better if found else 'The candidate'} is the racecar variant that did best in tuning. Pairs "
            f"by seed. Equivalent: the 90 % interval lies within ±{results.config.margin:g}; better or worse: it does "
            "not, the 95 % interval excludes zero, and p, adjusted over the table, is below 0.05."
        )
    return blocks


def _tried(results: ForecastingResults) -> list[list[object]]:
    rows: list[list[object]] = []
    unit_a, unit_b = results.persistence_validation["A"], results.persistence_validation["B"]
    for job, m in results.found.items():
        if job.tuning and job.variant is not None:
            numbers = ["diverged", "diverged"]
            if "AB" in m:
                numbers = [f"{m['A'] / unit_a:.4f}", f"{m['AB'] / unit_b:.4f}"]
            is_chosen = "chosen" if results.values.get(job.variant.name) == job.value else ""
            rows.append([job.variant.label, f"{job.value:g} ({job.variant.method.unit})", *numbers, is_chosen])
    return rows


def _known(results: ForecastingResults) -> list[str]:
    said = [f"Diverged, and left out: {j.name} ({m['diverged']})." for j, m in results.found.items() if "diverged" in m]
    ends = [v.label for v in results.variants if (s := v.method.strengths) and results.values[v.name] in (s[0], s[-1])]
    if ends:
        said.append(f"The chosen value of {', '.join(ends)} is at the end of the range: a farther one may be better.")
    if lost := [n for n in results.config.variants if n not in results.values]:
        said.append(f"No value of {', '.join(lost)} could be trained.")
    return said
