"""From finished runs to numbers and table rows: what the results of every study share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from racecar.study.core.folder import Study
from racecar.study.core.variants import Run, Variant
from racecar.study.report import Cell, Column, Group, Verdict
from racecar.study.report.claims import GROUPS
from racecar.study.report.statistics import Summary, bounds, interval, outcome, paired_difference, spread, summarise


@dataclass(frozen=True)
class AccuracyResults:
    """Numbers of one study.

    Attributes:
        runs: of the configuration.
        metrics: per finished run, the content of its run.json.
        paper: per model, the accuracies of the paper's runs.
    """

    digits: ClassVar[int] = 3

    runs: Sequence[Run]
    metrics: Mapping[Run, Mapping[str, Any]]
    paper: Mapping[str, Sequence[float]]

    @property
    def models(self) -> list[str]:
        """Models of the configuration in the paper's naming, in its order of variants and phases."""
        return list(dict.fromkeys(r.model for r in self.runs))

    @property
    def groups(self) -> dict[str, list[str]]:
        """Models by heading, headings without models left out."""
        found = {h: [m for p in phases for m in self.models if m.endswith(f"_{p}")] for h, phases in GROUPS.items()}
        return {heading: models for heading, models in found.items() if models}

    def of(self, model: str) -> dict[int, Mapping[str, Any]]:
        """Metrics of a model's finished runs by seed, in order."""
        return {r.seed: m for r, m in sorted(self.metrics.items(), key=lambda item: item[0]) if r.model == model}

    def accuracies(self, model: str) -> list[float]:
        """Test accuracy at the last epoch, by seed."""
        return [float(m["accuracy"]) for m in self.of(model).values()]

    def summary(self, model: str) -> Summary:
        """n, mean, deviation and interval of a model's accuracy."""
        return summarise(self.accuracies(model))

    def paper_summary(self, model: str) -> Summary | None:
        """The same of the paper's runs."""
        return summarise(self.paper[model]) if model in self.paper else None

    def difference(self, a: str, b: str) -> Summary:
        """Paired by seed: accuracy of ``a`` minus that of ``b``."""
        ours, other = self.of(a), self.of(b)
        seeds = sorted(ours.keys() & other.keys())
        return paired_difference([ours[s]["accuracy"] for s in seeds], [other[s]["accuracy"] for s in seeds])

    def gap(self, claim: str, where: str, better: str, worse: str) -> Verdict:
        """What the paired difference says of a claim that one model is better than another."""
        found, d = self.difference(better, worse), self.digits
        if found.n == 0:
            return Verdict(claim, where, "not run", self.missing(better, worse))
        evidence = f"{better} − {worse} = {found.mean:+.{d}f}, paired by seed, {bounds(found, d, '+')}, n = {found.n}"
        theirs = [self.paper_summary(m) for m in (better, worse)]
        if theirs[0] is not None and theirs[1] is not None:
            evidence += f"; the paper has {theirs[0].mean - theirs[1].mean:+.{d}f}"
        return Verdict(claim, where, outcome(found), evidence)

    def missing(self, *models: str) -> str:
        """Words on what a verdict waits for."""
        absent = [m for m in models if not self.of(m)]
        return f"{' and '.join(absent)} not run" if absent else f"no seed has all of {', '.join(models)}"

    # --- table rows ---------------------------------------------------------------------------------------------------

    def accuracy_columns(self, seeds: int) -> list[Column]:
        """Of the accuracy table."""
        return [
            Column("model"),
            Column("mean ± sd", numeric=True),
            Column("95 % CI", numeric=True),
            *(Column(f"seed {s}", numeric=True, digits=self.digits) for s in range(seeds)),
            Column("paper, mean ± sd", numeric=True),
        ]

    def accuracy_rows(self, seeds: int) -> list[Group | Sequence[object]]:
        """Every model's runs under the headings of :data:`GROUPS`."""
        rows: list[Group | Sequence[object]] = []
        for heading, models in self.groups.items():
            rows += [Group(heading), *(self._accuracy_row(m, seeds) for m in models)]
        return rows

    def _accuracy_row(self, model: str, seeds: int) -> Sequence[object]:
        runs, ours = self.of(model), self.summary(model)
        cells: list[object] = [
            Cell(runs[s]["accuracy"], detail="diverged" if runs[s].get("diverged") else "") if s in runs else None
            for s in range(seeds)
        ]
        theirs = spread(self.paper_summary(model), self.digits)
        if not runs:
            return [model_cell(model), None, None, *cells, theirs]
        mean = Cell(spread(ours, self.digits), emphasis=True, bar=ours.mean)
        return [model_cell(model), mean, interval(ours, self.digits), *cells, theirs]


def load_metrics(study: Study, runs: Sequence[Run]) -> dict[Run, dict[str, Any]]:
    """The metrics of those runs that are finished."""
    found = {r: study.metrics(r) for r in runs}
    return {r: m for r, m in found.items() if m is not None}


def variant_of(model: str) -> Variant:
    """The variant of a model's name, e.g. of ``"RR^6_AB"``."""
    return Variant.parse(model.partition("_")[0])


def model_cell(model: str) -> Cell:
    """A model's name with its colour."""
    return Cell(model, variant=variant_of(model).method.shade)
