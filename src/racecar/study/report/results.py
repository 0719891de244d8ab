"""The finished runs of a study, and what every study asks of them: numbers by model and seed, verdicts, records."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from racecar.study.core.folder import Study
from racecar.study.core.methods.rr import RR
from racecar.study.core.variants import Run, Variant
from racecar.study.report import inference
from racecar.study.report.blocks import Block, Cell, Column, Group, Only, Table
from racecar.study.report.claims import Outcome, Verdict, answer
from racecar.study.report.models import color_of
from racecar.study.report.page import Provenance
from racecar.study.report.statistics import (
    Summary,
    bounds,
    clipped,
    interval,
    outcome,
    paired_difference,
    spread,
    summarise,
)

GROUPS = {
    "Common start": ("A-start",),
    "Phase I, task A": ("A",),
    "Phase I ended early, task A": ("A-early",),
    "Phase II, task A again": ("AA",),
    "Phase II, transfer to task B": ("AB",),
    "Transfer with the last layer drawn anew": ("AB-head",),
    "Transfer with the last two layers drawn anew": ("AB-two",),
    "Transfer with all weights shrunk and perturbed": ("AB-shrink",),
    "Transfer from a phase I that ended early": ("AB-early",),
    "Task B from scratch": ("B",),
    "A new last layer on frozen features, task B": ("AB-probe",),
    "Task B with 1 % of its labels": ("AB-1pct", "B-1pct"),
    "Task B with 10 % of its labels": ("AB-10pct", "B-10pct"),
}


ONE_SEED = "one seed alone: a ratio and a verdict need two"


class Config(Protocol):
    """A study's configuration (a frozen dataclass), as far as its results need it."""

    @property
    def variants(self) -> list[str]:
        """Names, see :class:`racecar.study.core.variants.Variant`."""

    @property
    def seeds(self) -> int:
        """How many, counted from 0."""


AnyConfig = TypeVar("AnyConfig", bound=Config)


@dataclass(frozen=True)
class Results(Generic[AnyConfig]):
    """The runs of one study.

    Attributes:
        config: of the study.
        metadata: the content of study.json.
        runs: of the configuration, in its order of phases and variants.
        metrics: per finished run, the content of its run.json.
    """

    median_of: ClassVar[str] = "accuracy"  # the number that decides which run of a model is shown
    source: ClassVar[str] = "Task {}: {}."
    unknown_source: ClassVar[str] = "Origin of the data not recorded."

    config: AnyConfig
    metadata: Mapping[str, Any]
    runs: Sequence[Run]
    metrics: Mapping[Run, Mapping[str, Any]]

    @property
    def variants(self) -> list[Variant]:
        """Variants of the configuration, each once."""
        return list(dict.fromkeys(Variant.parse(v) for v in self.config.variants))

    @property
    def models(self) -> list[str]:
        """Models to show, in the paper's naming."""
        return list(dict.fromkeys(r.model for r in self.runs))

    @property
    def paper_headline(self) -> str:
        """The label of the paper's deepest racecar variant in this study."""
        return "RR^6"

    @property
    def headline(self) -> str:
        """The label of the deepest racecar variant, the exact one; the paper's where the configuration has none."""
        racecars = [v.method for v in self.variants if isinstance(v.method, RR)]
        by_depth = sorted(racecars, key=lambda m: (not m.savings, m.depth, not m.shared))
        return by_depth[-1].label if by_depth else self.paper_headline

    @property
    def decoder(self) -> str:
        """The label of the deepest untied decoder; the one beside :attr:`headline` where there is none."""
        decoders = [v.method for v in self.variants if v.method.untied]
        deepest = max(decoders, key=lambda m: m.depth, default=None)
        return deepest.label if deepest is not None else f"Dec^{self.headline.partition('^')[2]}"

    # --- queries ------------------------------------------------------------------------------------------------------

    def of(self, model: str) -> dict[int, Mapping[str, Any]]:
        """Metrics of a model's finished runs by seed, in order."""
        return {r.seed: m for r, m in sorted(self.metrics.items(), key=lambda item: item[0]) if r.model == model}

    def values(self, model: str, name: str) -> list[float]:
        """One number of every finished run of a model, by seed; ``"regeneration.error"`` for one within another.

        Runs that have no such number are left out.
        """
        numbers = (number_of(metrics, name) for metrics in self.of(model).values())
        return [number for number in numbers if number is not None]

    def paired(self, a: str, b: str, name: str) -> tuple[list[float], list[float]]:
        """One number of two models, over the seeds for which both have it."""
        first, second = ({s: number_of(m, name) for s, m in self.of(model).items()} for model in (a, b))
        pairs = [(x, second.get(seed)) for seed, x in first.items()]
        both = [(x, y) for x, y in pairs if x is not None and y is not None]
        return [x for x, _ in both], [y for _, y in both]

    def median_run(self, model: str) -> Run | None:
        """The finished run of a model with the (lower) median of :attr:`median_of`: one run, and no lucky one."""
        runs = sorted((m[self.median_of], r) for r, m in self.metrics.items() if r.model == model)
        return runs[(len(runs) - 1) // 2][1] if runs else None

    @property
    def diverged(self) -> dict[Run, str]:
        """Messages of the runs that ended early because a loss was no finite number."""
        return {r: str(m["diverged"]) for r, m in sorted(self.metrics.items(), key=lambda i: i[0]) if m.get("diverged")}

    # --- in sentences -------------------------------------------------------------------------------------------------

    @property
    def sources(self) -> str:
        """Where the data comes from, for every table."""
        given = self.metadata.get("sources", {})
        return " ".join(self.source.format(name, text) for name, text in given.items()) or self.unknown_source

    @property
    def setting(self) -> str:
        """What the study was run as, such as "paper recipe, small preset"."""
        return str(self.metadata.get("setting", ""))

    @property
    def all_seeds(self) -> str:
        """How many seeds, in a sentence."""
        return f"n = {self.config.seeds} seeds (0 to {self.config.seeds - 1})."

    def provenance(self, sources: str, made: str, seeds: str) -> Provenance:
        """Where the numbers come from.

        Args:
            sources: the data, in sentences.
            made: what a finished run is, such as "networks".
            seeds: which seeds, in a sentence.
        """
        config: dict[str, Any] = asdict(self.config)  # type: ignore[call-overload]
        return Provenance(self.metadata, config, sources, f"{len(self.metrics)} {made}", seeds)

    def missing(self, *models: str) -> str:
        """What a verdict on these models waits for."""
        absent = [m for m in models if not self.of(m)]
        if absent:
            return f"{' and '.join(absent)} not run"
        seeds = set.intersection(*(set(self.of(m)) for m in models))
        return ONE_SEED if seeds else f"no seed has all of {', '.join(models)}"

    def unfinished(self) -> list[str]:
        """A sentence for every number of finished seeds that is too low, with the models that have so many."""
        wanted = self.config.seeds
        planned = list(dict.fromkeys(r.model for r in self.runs))
        counts = {count: [m for m in planned if len(self.of(m)) == count] for count in range(wanted)}
        return [f"{', '.join(m)}: {count} of {wanted} seeds finished." for count, m in counts.items() if m]

    def verdicts(self) -> list[Verdict]:
        """The paper's claims, then controls that it does not have."""
        return []

    @property
    def is_smoke_test(self) -> bool:
        """Whether nothing may be concluded: the quick preset."""
        return "quick" in self.setting or re.search("--preset[= ]quick", str(self.metadata.get("command"))) is not None

    @property
    def answer(self) -> str:
        """What the study is about and what came of it, in a sentence or two; of a smoke test nothing is said."""
        if self.is_smoke_test:
            return ""
        verdicts = self.verdicts()
        about = [v for v in verdicts if v.claim.startswith(f"{self.headline} outperforms Std after transfer")]
        return answer(next(iter(about or verdicts), None), verdicts)


def number_of(metrics: Mapping[str, Any], name: str) -> float | None:
    """A number of a run by its name, with a dot for one within another; None where the run has none."""
    value: Any = metrics
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return None if value is None else float(value)


def load_metrics(study: Study, runs: Sequence[Run]) -> dict[Run, dict[str, Any]]:
    """The content of run.json of those runs that are finished."""
    contents = {r: study.metrics(r) for r in runs}
    return {r: m for r, m in contents.items() if m is not None}


# --- accuracies beside the paper's ------------------------------------------------------------------------------------

_PAPER = "paper, mean ± sd"
_OF_A_CLAIM: Mapping[inference.Verdict, Outcome] = {
    "better": "reproduced",
    "equivalent": "equivalent",
    "worse": "not reproduced",
    "undecided": "undecided",
}


@dataclass(frozen=True)
class AccuracyResults(Results[AnyConfig]):
    """The runs of a study that is judged by test accuracy.

    Attributes:
        paper: per model, the accuracies of the paper's runs.
        delta: δ, the smallest difference in accuracy that matters; 0: none was declared, so nothing is equivalent.
    """

    digits: ClassVar[int] = 3
    accuracy_columns: ClassVar[Sequence[str]] = ("model", "n", "mean ± sd", "95 % CI", "runs by seed", _PAPER)

    paper: Mapping[str, Sequence[float]]
    delta: float = field(default=0.0, kw_only=True)

    @property
    def groups(self) -> dict[str, list[str]]:
        """Models under the headings of :data:`GROUPS`; headings without models are left out."""
        models = {h: [m for p in phases for m in self.models if m.endswith(f"_{p}")] for h, phases in GROUPS.items()}
        return {heading: named for heading, named in models.items() if named}

    def accuracies(self, model: str) -> list[float]:
        """Test accuracy of a model at the last epoch, by seed."""
        return self.values(model, "accuracy")

    def summary(self, model: str) -> Summary:
        """n, mean, deviation and interval of a model's accuracy."""
        return clipped(summarise(self.accuracies(model)))

    def paper_summary(self, model: str) -> Summary | None:
        """n, mean, deviation and interval of the paper's runs of a model; None where it has none."""
        return clipped(summarise(self.paper[model])) if model in self.paper else None

    def difference(self, a: str, b: str) -> Summary:
        """Accuracy of model ``a`` minus that of ``b``, paired by seed."""
        return clipped(paired_difference(*self.paired(a, b, "accuracy")), -1.0)

    def gap(self, claim: str, where: str, better: str, worse: str, margin: float = 0.0) -> Verdict:
        """What the paired difference of accuracies says of a claim that one model is better than another.

        An undecided one says what would change that: how many seeds of this spread find :attr:`delta`.

        Args:
            claim, where: see :class:`racecar.study.report.claims.Verdict`.
            better, worse: the models.
            margin: of a claim that ``better`` is less than so much behind; it knows no equivalence.
        """
        gain, d = self.difference(better, worse), self.digits
        if gain.n < 2:
            return Verdict(claim, where, "not run", self.missing(better, worse))
        evidence = f"{better} − {worse} = {gain.mean:+.{d}f}, paired by seed, {bounds(gain, d, '+')}, n = {gain.n}"
        theirs = [self.paper_summary(m) for m in (better, worse)]
        if theirs[0] is not None and theirs[1] is not None:
            evidence += f"; the paper has {theirs[0].mean - theirs[1].mean:+.{d}f}"
        if margin:
            evidence += f"; the claim allows −{margin:g}"
        if margin or not self.delta:
            return Verdict(claim, where, outcome(gain, margin), evidence)
        narrow = clipped(inference.crossed_bootstrap(*self.paired(better, worse, "accuracy"), 0.90), -1.0)
        said = inference.judge(gain, narrow, self.delta)
        if said == "equivalent":
            evidence += f"; the 90 % CI lies within ±{self.delta:g}"
        elif said == "undecided":
            seeds = inference.runs_needed(gain.sd, self.delta)
            evidence += f"; with this spread about {seeds} seeds would find a difference of {self.delta:g}"
        return Verdict(claim, where, _OF_A_CLAIM[said], evidence)

    # --- the accuracy table, on the page and in the results file ------------------------------------------------------

    def accuracy_record(self, model: str) -> dict[str, object]:
        """A model's row of the accuracy tables, by their columns; what was not run is left out."""
        runs, ours = self.of(model), self.summary(model)
        record: dict[str, object] = {"model": model_cell(model), _PAPER: spread(self.paper_summary(model), self.digits)}
        if not runs:
            return record
        marks = {seed: "diverged" if m.get("diverged") else "" for seed, m in runs.items()}
        in_a_line = [
            f"{m['accuracy']:.{self.digits}f}" + (f" ({marks[seed]})" if marks[seed] else "")
            for seed, m in runs.items()
        ]
        return record | {
            "n": ours.n,
            "mean ± sd": Cell(spread(ours, self.digits), emphasis=True, bar=ours.mean),
            "95 % CI": interval(ours, self.digits),
            "runs by seed": " ".join(in_a_line),
            **{f"seed {seed}": Cell(m["accuracy"], detail=marks[seed]) for seed, m in runs.items()},
        }

    def accuracy_tables(
        self, caption: str, note: str, more: Mapping[str, Sequence[Mapping[str, object]]] | None = None
    ) -> list[Block]:
        """The accuracy table: on the page a column for every seed, in the results file a cell for all of them.

        On the page the models stand under the headings of :data:`GROUPS`.

        Args:
            caption: of the table.
            note: below it.
            more: records of further rows by their heading.
        """
        more = more or {}
        by_seed = [
            Column("model"),
            Column("mean ± sd", numeric=True),
            Column("95 % CI", numeric=True),
            *(Column(f"seed {s}", numeric=True, digits=self.digits) for s in range(self.config.seeds)),
            Column(_PAPER, numeric=True),
        ]
        records = {model: self.accuracy_record(model) for model in self.models}
        groups = {heading: [records[m] for m in models] for heading, models in self.groups.items()} | dict(more)
        page = [row for heading, rows in groups.items() for row in (Group(heading), *rows)]
        results = [*records.values(), *(row for rows in more.values() for row in rows)]
        return [
            Only("page", Table.of(page, by_seed, caption, note)),
            Only("results", Table.of(results, self.accuracy_columns, caption, note)),
        ]


def model_cell(model: str) -> Cell:
    """A cell of a table with a model's name, marked in its colour."""
    return Cell(model, color=color_of(model))
