"""The report of a pair: the answer in a sentence, the frontier, tables of outcomes and of comparisons."""

from __future__ import annotations

import math
from functools import partial
from statistics import mean, median

import racecar
from racecar.study.coarse_to_fine import figures
from racecar.study.coarse_to_fine.config import TransferConfig
from racecar.study.coarse_to_fine.experiment import work
from racecar.study.coarse_to_fine.results import NAMES, PRIMARY, Comparison, TransferResults
from racecar.study.core.errors import StudyError
from racecar.study.core.folder import Study
from racecar.study.core.variants import STD, Run, Variant
from racecar.study.report import Block, Column, Figure, Page, Remarks, Section, Table, Text, Verdicts
from racecar.study.report.claims import SMOKE_TEST
from racecar.study.report.inference import holm
from racecar.study.report.results import model_cell
from racecar.study.report.statistics import Summary, p_shown, spread

_NOTE = (
    "Mean ± standard deviation over seeds, which share one set of training images. Probes are linear, on frozen "
    "features in evaluation mode, with l2 chosen on a tenth of the training images; fixed l2: 1e-3, as with few "
    "labels, which are means over five draws. Before pooling: the map as means of 2 × 2 cells. p_AB − p_B: all weights "
    "fine-tuned with a new head, less from scratch for as many epochs as both phases have. Bits on B: H(Y) less the "
    "probe's held-out cross entropy. Effective rank and dead units: of the test images' features. λ: the mean over "
    "seeds that the ratio has led to."
)
_COMPARED = (
    "Differences paired by seed; 95 % intervals of a crossed bootstrap over seeds and test images, of Student's t over "
    "seeds where answers were not kept. Equivalent: the 90 % interval lies within ±{margin:g}; better or worse: p, "
    "adjusted by Holm over this table, is below 0.05."
)


def page(study: Study, config: TransferConfig) -> Page:
    """Build the report from what is finished; missing runs say so."""
    results = TransferResults.load(study, config)
    provenance = results.provenance(results.sources, "networks", results.all_seeds)
    name = f"transfer-{config.pair}" + ("" if "full" in results.setting else f"-{results.setting.split()[-2]}")
    return Page(
        f"Coarse labels first: {config.tasks.title}",
        f"{results.sources} {provenance.amount} trained in {results.metadata['seconds']:.0f} s.",
        [
            Section("Outcomes", _outcomes(results)),
            Section("Comparisons", _comparisons(results)),
            Section("Frontier", _frontier(results)),
            Section("Cost", _cost(study, results)),
            Section("Not run", [Remarks(results.not_run(), "Everything of this configuration was run.")]),
        ],
        summary_blocks=[] if results.is_smoke_test else [Verdicts(results.verdicts())],
        setting=results.setting,
        provenance=provenance,
        name=name,
        answer="" if results.is_smoke_test else answer(results),
        figure=_first(results),
        smoke_test=results.is_smoke_test,
    )


def _first(results: TransferResults) -> Figure | None:
    if not results.judged:
        return None
    return Figure(
        partial(figures.dots, results),
        "Outcomes on B at the chosen tuning values: every seed a dot, means with 95 % intervals over seeds.",
        "dots and intervals by method",
        name="outcomes",
    )


def answer(results: TransferResults) -> str:
    """The pair's answer in a sentence or two."""
    if not results.config.tasks.is_reported:
        return "Tuning values are chosen on this pair: nothing is judged on it."
    candidate, found = results.candidate, results.against_controls
    if candidate is None or found is None:
        return "No answer yet: the candidate or its controls were not run at chosen values with two seeds or more."
    ours = results.summary(results.tuned(candidate), "probe").mean
    plain = f", {STD.label} {results.summary(results.tuned(STD), 'probe').mean:.3f}" if STD in results.judged else ""
    words = "is ahead of every control, the best of them" if found.better else "is not told from the best control"
    if found.difference.high < 0:
        words = "is behind the best control"
    verdict = results.hypothesis.outcome
    asked = f"a gain of {results.config.tasks.least:g} at equal accuracy on A"
    close = {
        "reproduced": f"This is {asked}",
        "not reproduced": f"It is not {asked}",
        "undecided": f"Whether it is {asked} is undecided",
    }
    return (
        f"A linear probe on the features of {candidate.label} reaches {ours:.3f}{plain}; "
        f"{candidate.label} {words}, {found.control} ({found.difference.mean:+.3f} [{found.difference.low:+.3f}, "
        f"{found.difference.high:+.3f}], n = {found.difference.n})."
        + (f" {close[verdict]}." if verdict in close else "")
    )


def _cell(summary: Summary, digits: int = 3) -> str | None:
    return spread(summary, digits) if summary.n else None


def _value(results: TransferResults, variant: Variant) -> str:
    chosen = results.config.tuned.get(variant.name)
    if chosen is None:
        return "—"
    lambdas = [
        float(results.metrics[r]["lambdas"][0]) for r in results.tuned(variant) if results.metrics[r].get("lambdas")
    ]
    end = ", end of range" if results.at_the_end(variant) else ""
    return f"{chosen:g} ({variant.method.unit}{end}" + (f"; λ {mean(lambdas):.3g})" if lambdas else ")")


def _outcomes(results: TransferResults) -> list[Block]:
    shown = [o for o in NAMES if o != "finetuned" and any(results.numbers(results.tuned(v), o) for v in results.judged)]
    records: list[dict[str, object]] = []
    for variant in results.judged:
        runs = results.tuned(variant)
        record: dict[str, object] = {
            "method": model_cell(variant.label),
            "value": _value(results, variant),
            "n": len(runs),
        }
        for outcome in shown:
            digits = 1 if outcome == "effective_rank" else 2 if outcome == "information" else 3
            record[NAMES[outcome]] = _cell(results.summary(runs, outcome), digits)
        gain = results.gain(variant)
        record["p_AB − p_B"] = None if gain is None else _signed(gain)
        records.append(record)
    columns: list[str | Column] = [
        "method",
        "value",
        "n",
        *(NAMES[o] for o in shown),
        Column("p_AB − p_B", numeric=True),
    ]
    methods = dict.fromkeys(v.method.note(results.config.compute_match) for v in results.judged)
    scratch = results.summary([r for r in results.scratch if r in results.metrics], "accuracy")
    note = " ".join([_NOTE, f"From scratch, B reaches {spread(scratch)} (n = {scratch.n}).", *filter(None, methods)])
    blocks: list[Block] = [Table.of(records, columns, "Outcomes at the chosen tuning values", note)]
    if results.judged and any(results.numbers(results.tuned(v), "probe1") for v in results.judged):
        blocks.append(
            Figure(
                partial(figures.few_labels, results),
                "Linear probes by the number of labels, at the chosen values, with 95 % intervals over seeds.",
                "curves of accuracy over labels per class",
                name="few-labels",
            )
        )
    return blocks


def _signed(summary: Summary) -> str:
    return f"{summary.mean:+.4f}" + (f" [{summary.low:+.4f}, {summary.high:+.4f}]" if summary.n > 1 else "")


def _comparisons(results: TransferResults) -> list[Block]:
    if results.is_smoke_test:
        return [Text(SMOKE_TEST)]
    candidate = results.candidate
    blocks: list[Block] = []
    margin = results.config.tasks.margin
    if candidate is not None:
        found = [
            c
            for outcome in (*PRIMARY, "cells", "cells10", "finetuned", "accuracy")
            for other in results.judged
            if other != candidate and (c := results.compare(candidate, other, outcome)) is not None
        ]
        blocks.append(_table(found, f"{candidate.label} less every other method", margin))
    plain = [
        c
        for outcome in PRIMARY
        for variant in results.judged
        if variant != STD and STD in results.judged and (c := results.compare(variant, STD, outcome)) is not None
    ]
    if plain:
        blocks.append(_table(plain, "Every method less Std", margin))
    return blocks or [Text("Nothing to compare: no method was run at a chosen value.")]


def _table(found: list[Comparison], caption: str, margin: float) -> Table:
    valid = [c.p for c in found if not math.isnan(c.p)]
    adjusted = iter(holm(valid))
    rows = []
    for c in found:
        p = math.nan if math.isnan(c.p) else next(adjusted)
        d = c.difference
        rows.append(
            [
                f"{c.better} − {c.worse}",
                NAMES[c.outcome],
                f"{d.mean:+.4f}",
                f"[{d.low:+.4f}, {d.high:+.4f}]" if d.n > 1 else "one run has none",
                d.n,
                p_shown(p),
                c.verdict if c.verdict == "equivalent" or p < 0.05 else "undecided",
            ]
        )
    columns = ["difference", "outcome", "mean", "95 % interval", "n", "p (Holm)", "verdict"]
    return Table(columns, rows, caption, _COMPARED.format(margin=margin))


def _where_chosen(results: TransferResults) -> str:
    here, there = [results.config.a.epochs, results.config.b.epochs], results.metadata.get("tuning_epochs")
    shorter = f" in trainings of {there[0]} and {there[1]} epochs, here {here[0]} and {here[1]}," if there else ""
    return f"Values were chosen on another pair,{shorter if there != here else ''} see docs/plan.md."


def _frontier(results: TransferResults) -> list[Block]:
    rows = []
    for variant in results.ordered:
        for value, accuracy, probe in results.frontier(variant):
            label = f"{value:g} ({variant.method.unit})" if variant.method.strengths else "—"
            chosen = "chosen" if results.config.tuned.get(variant.name) == value else ""
            rows.append([model_cell(variant.label), label, chosen, accuracy.n, spread(accuracy), spread(probe)])
    table = Table(
        ["method", "value", "", "n", "accuracy on A", "probe on B, all labels"],
        rows,
        "All tuning values",
        _where_chosen(results),
    )
    if not rows:
        return [Text("No run of phase I is finished.")]
    drawing = Figure(
        partial(figures.frontier, results),
        "Accuracy on A against the linear probe on B, means over seeds; values of one method are joined, the chosen "
        "one is filled and has 95 % intervals. Values that cost more than "
        f"{figures.REACH:g} of accuracy on A are in the table alone.",
        "a curve for each method",
        name="frontier",
    )
    return [drawing, table]


def _cost(study: Study, results: TransferResults) -> list[Block]:
    runs = {v: tuned[len(tuned) // 2] for v in results.judged if (tuned := results.tuned(v))}
    plain = runs.get(STD)
    if plain is None:
        return [Text("Std was not run: nothing to compare with.")]
    flops: dict[Run, float] = {}
    uncounted = ""
    try:
        flops = work(study, results.config, list(runs.values()))
    except (StudyError, racecar.RacecarError) as error:
        uncounted = f" FLOP not counted: {error}."
    rows = []
    for variant, run in runs.items():
        seconds = median(float(m["seconds"]) for m in map(results.metrics.__getitem__, results.tuned(variant)))
        epochs = [p["seconds"] for r in results.tuned(variant) for p in results.metrics[r]["history"]]
        usual = [p["seconds"] for r in results.tuned(STD) for p in results.metrics[r]["history"]]
        rows.append(
            [
                model_cell(variant.label),
                f"{seconds:.1f}",
                f"{median(epochs):.2f}",
                f"{median(epochs) / median(usual):.2f}" if results.config.seeds > 1 else "—",
                f"{flops[run] / flops[plain]:.2f}" if flops else None,
            ]
        )
    columns = ["method", "seconds a network", "seconds an epoch", "× Std", "FLOP of a step, × Std"]
    note = (
        "Phase I, medians over runs and epochs, pretraining of layers left out. Runs shared the machine with whatever "
        "else ran there, so that seconds say little beyond their order. FLOP: convolutions and matrix products."
    )
    return [Table(columns, rows, "Cost of phase I", note + uncounted)]
