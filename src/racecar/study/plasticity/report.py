"""The report of the plasticity study: what differs, curves over the tasks, means with intervals, all five values."""

from __future__ import annotations

from functools import partial

from racecar.study.core.folder import Study
from racecar.study.plasticity import experiment, figures
from racecar.study.plasticity.config import LONGER, PlasticityConfig, strengths
from racecar.study.plasticity.results import DELTA, Chain, PlasticityResults
from racecar.study.plasticity.sequences import KINDS
from racecar.study.report import Block, Cell, Column, Figure, Only, Page, Remarks, Section, Table, Text
from racecar.study.report.models import color_of
from racecar.study.report.statistics import interval, p_shown, spread

_JUDGED = (
    f"Paired by seed; δ = {DELTA:g}. Equivalent: the 90 % interval lies within ±δ; better or worse: the 95 % interval "
    "excludes 0 and p < 0.05. p of all but the primary comparison is adjusted for their number (Holm)."
)
_OTHER = (
    "**Exploratory**: the values are not those that the tuning sequence has chosen. Where they were chosen on this "
    "sequence, every method looks better than it would on another."
)


def page(study: Study, config: PlasticityConfig) -> Page:
    """Build the report from what is finished; missing runs say so."""
    results = PlasticityResults.load(study, config)
    provenance = results.provenance(results.sources, "chains of tasks", results.all_seeds)
    curves = _curves(results)
    first = next((block for block in curves if isinstance(block, Figure)), None)
    return Page(
        f"Plasticity: {config.sequence.replace('-', ' ')}" + ", other values" * results.exploratory,
        f"{_about(config)} {provenance.amount} in {results.metadata['seconds']:.0f} s.",
        [
            Section("Curves", [block for block in curves if block is not first]),
            Section("Means", [_means(results)]),
            *([Section("All values", _frontier(results))] if results.tuned else []),
            Section("Not run", [Remarks(results.unfinished(), "Everything that was asked for has been run.")]),
        ],
        summary_blocks=_summary(results),
        command=provenance.command,
        setting=results.setting,
        provenance=provenance,
        name=f"{experiment.NAME}-{config.sequence}" + "-other-values" * results.exploratory,
        answer=_answer(results),
        figure=first,
        smoke_test=results.is_smoke_test,
    )


def _about(config: PlasticityConfig) -> str:
    return (
        f"{config.tasks} tasks in a row for one network; {KINDS[config.sequence].words}. {config.epochs} epochs of "
        f"{config.train_images} images a task, batches of {config.batch_size}, Adam at {config.learning_rate:g}, its "
        "state carried on."
    )


def _answer(results: PlasticityResults) -> str:
    if results.is_smoke_test:
        return ""
    if not results.config.chosen:
        values = ", ".join(f"{name} {value:g}" for name, value in results.best_values().items())
        return f"A tuning sequence: it chooses values and judges nothing. Chosen: {values or 'not run'}."
    primary = next((c for c in results.comparisons() if c.primary), None)
    if primary is None or primary.difference is None or primary.difference.n < 2:
        return "No answer yet: what the plan compares was not run with two seeds or more."
    d, p = primary.difference, "—" if primary.p is None else p_shown(primary.p)
    return (
        f"{primary.statement} in mean accuracy over all tasks: **{primary.verdict}**, {d.mean:+.3f} "
        f"[{d.low:+.3f}, {d.high:+.3f}], n = {d.n}, p {'' if p.startswith('<') else '= '}{p}."
    )


def _summary(results: PlasticityResults) -> list[Block]:
    config = results.config
    about = Only("results", Text(_about(config)))
    if results.is_smoke_test or not config.chosen:
        return [about]
    note = f"{_OTHER} {_JUDGED}" if results.exploratory else _JUDGED
    rows: list[list[object]] = []
    for c in results.comparisons():
        if c.difference is None:
            rows.append([c.statement, None, None, None, None, None])
            continue
        d = c.difference
        bounds = f"[{d.low:+.3f}, {d.high:+.3f}]" if d.n > 1 else "one run has no CI"
        p = "—" if c.p is None else f"{c.p:.2g}" if c.p >= 1e-4 else "< 1e-4"
        statement = f"{c.statement} (primary)" if c.primary else c.statement
        rows.append([Cell(statement, emphasis=c.primary), d.n, f"{d.mean:+.3f}", bounds, p, c.verdict])
    columns = ["mean accuracy over all tasks", "n", "difference", "95 % CI", "p", "verdict"]
    return [about, Table(columns, rows, "What differs from what.", note), *_missed(results)]


def _missed(results: PlasticityResults) -> list[Block]:
    """What the verdicts cannot say, where the tuning sequence has chosen other values than this one would."""
    given = results.config.chosen
    missed = {name: value for name, value in results.best_values().items() if given.get(name) != value}
    if not missed:
        return []
    words = ", ".join(f"{name} {value:g} (chosen {given[name]:g})" for name, value in missed.items())
    return [
        Text(
            f"**Another value than the chosen one is the best here**: {words}; see all values below. The verdicts are "
            "on the chosen values, so they judge a method together with what the tuning sequence makes of it."
        )
    ]


def _curves(results: PlasticityResults) -> list[Block]:
    shown = [c for c in results.shown if results.of_chain(c)]
    if not shown:
        return [Text("No chain is finished.")]
    if results.config.tasks < 2:
        return [Text("One task has no curve.")]

    def drawn(chains: list[Chain], *names: str) -> list[figures.Curve]:
        return [
            figures.Curve(c.name, c.variant.method, c.first, [results.by_task(c, name) for name in names])
            for c in chains
        ]

    config = results.config
    chance = 1 / (config.classes if config.sequence == "class-sequence" else 10)
    held = [c for c in shown if not c.first]
    main, titles = ("accuracy", "effective_rank"), ["accuracy", "effective rank of the last hidden layer"]
    more, others = ("dead_units", "weight_norm"), ["share of dead units", "norm of the weights"]
    legend = "Means over seeds; bands: 95 % interval of the mean (Student's t)."
    blocks: list[Block] = [
        Figure(
            partial(figures.by_task, drawn(held, *main), titles, chance),
            f"Accuracy and effective rank at the end of every task; dashed: a constant answer. {legend}",
            "Curves of accuracy and of effective rank by task, one per method",
            name="by-task",
        ),
        Figure(
            partial(figures.by_task, drawn(held, *more), others),
            f"Units of the last hidden layer that say the same to every image, and the norm of all weights. {legend}",
            "Curves of dead units and of the weights' norm by task, one per method",
        ),
    ]
    if brief := {c.variant for c in shown if c.first}:
        both = [c for c in shown if c.variant in brief or c.variant.family == "Std"]
        blocks.append(
            Figure(
                partial(figures.by_task, drawn(both, *main), titles, chance),
                f"The penalty held on, and in the first tenth of the tasks alone (dotted). {legend}",
                "Curves of accuracy and of effective rank by task, with the penalty held on and ended early",
            )
        )
    return blocks


def _label(chain: Chain) -> Cell:
    return Cell(chain.name, color=color_of(chain.variant.name))


def _means(results: PlasticityResults) -> Table:
    rows: list[list[object]] = []
    for chain in results.shown:
        if not results.of_chain(chain):
            rows.append([_label(chain), chain.setting, *[None] * 8])
            continue
        whole = results.summary(chain)
        lost = sum(bool(results.metrics[r].get("diverged")) for r in results.of_chain(chain))
        rows.append(
            [
                _label(chain),
                chain.setting or "—",
                Cell(whole.n, detail=f"{lost} diverged" if lost else ""),
                Cell(spread(whole), emphasis=True, bar=whole.mean),
                interval(whole),
                spread(results.summary(chain, "last_fifth")),
                spread(results.late(chain, "cross_entropy"), 2),
                spread(results.late(chain, "effective_rank"), 1),
                spread(results.late(chain, "dead_units"), 2),
                spread(results.late(chain, "weight_norm"), 1),
            ]
        )
    late = "last fifth: "
    columns = [
        *("method", "value", "n", "accuracy, all tasks", "95 % CI", "accuracy, last fifth"),
        *(f"{late}cross entropy", f"{late}effective rank", f"{late}dead units", f"{late}weight norm"),
    ]
    notes = [v.method.note(LONGER) for v in results.variants]
    ratio = "Ratio: of the penalty's gradient to the loss's before the first step (racecar.balance); λ is kept then."
    note = " ".join(dict.fromkeys(n for n in ("Mean ± standard deviation over seeds.", ratio, *notes) if n))
    return Table(columns, rows, "Means over tasks.", note)


def _frontier(results: PlasticityResults) -> list[Block]:
    rows: list[list[object]] = []
    best, given = results.best_values(), results.config.chosen
    for variant in results.tuned:
        values = strengths(variant.method)
        cells: list[object] = [Cell(variant.label, color=color_of(variant.name)), variant.method.unit]
        for value in values:
            of = [c for c in results.chains if (c.variant, c.value, c.first) == (variant, value, False)]
            runs = results.of_chain(of[0]) if of else []
            if not runs:
                cells.append(None)
                continue
            s = results.summary(of[0])
            here, chosen = value == best.get(variant.name), value == given.get(variant.name)
            text = f"{value:g}: {spread(s)}" + "*" * here + " (chosen)" * chosen
            cells.append(Cell(text, detail=f"n = {s.n}", emphasis=here))
        edge = best.get(variant.name) in (values[0], values[-1])
        rows.append([*cells, "yes" if edge else "no"])
    columns: list[str | Column] = [
        *("method", "unit", "first", "second", "third", "fourth", "fifth", "best at the end of the range")
    ]
    note = (
        "Mean accuracy over all tasks ± standard deviation over seeds: "
        f"{min(results.config.seeds, results.config.frontier)}, of chosen values {results.config.seeds}. *: the best."
    )
    return [Table(columns, rows, "Mean accuracy at all five values.", note)]
