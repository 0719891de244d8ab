"""A sweep over λ on disk, and what its finished runs say: one study per λ, and one of the variants that have no λ.

OUT/sweep.json              experiment, settings, what was asked for
OUT/weight-1e-05/           a study as any other; `racecar report OUT` makes the pages of all
OUT/without-weight/         Std, StdC and Ort, and B from scratch: trained once, not once per λ
OUT/claims/, OUT/jobs/      who trains what; files of submitit
OUT/sweep.md, sweep.png     the tables and the figure
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from racecar.study.core.errors import StudyError
from racecar.study.core.files import (
    is_count,
    is_empty,
    is_number,
    is_object,
    is_text,
    read_json,
    read_object,
    write_bytes,
    write_json,
    write_text,
)
from racecar.study.core.folder import check_same
from racecar.study.core.variants import START, Run, Variant
from racecar.study.report.markdown import markdown
from racecar.study.report.statistics import Summary, bounds, outcome, paired_difference, spread, summarise

WITHOUT = "without-weight"


def study_name(weight: float | None) -> str:
    """The folder of a λ's study, or of what has none."""
    return WITHOUT if weight is None else f"weight-{weight!r}"


def has_weight(variant: str) -> bool:
    """Whether a variant depends on λ."""
    return Variant.parse(variant).method.has_weight


def check_folder(folder: Path) -> None:
    """Refuse a folder with something else in it.

    Raises:
        StudyError: it is no sweep's.
    """
    if (folder / "sweep.json").exists() or not folder.exists():
        return
    if not is_empty(folder, beside=("claims",)):
        raise StudyError(f"{folder} is not empty and holds no sweep: choose another --out")


def open_sweep(folder: Path, experiment: str, config: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Make the folder, or see that it is this sweep's; what is asked for may grow, as in a study.

    Args:
        folder: of the sweep.
        experiment: its name.
        config: settings that all its studies share.
        asked: ``weights``, ``variants``, ``phases`` and ``seeds``.

    Raises:
        StudyError: it belongs to another experiment or configuration.
    """
    path = folder / "sweep.json"
    config = json.loads(json.dumps(config))
    known: dict[str, Any] = _read(path) if path.exists() else {"experiment": experiment, "config": config}
    if known["experiment"] != experiment:
        raise StudyError(f"{folder} holds a sweep of {known['experiment']!r}: choose another --out")
    check_same(folder, known["config"], config)
    grown = {n: list(dict.fromkeys([*known.get(n, []), *asked[n]])) for n in ("weights", "variants", "phases")}
    grown["weights"].sort()
    content = known | grown | {"seeds": max(known.get("seeds", 0), asked["seeds"])}
    if not path.exists() or content != known:
        write_json(path, content)


def _read(path: Path) -> dict[str, Any]:
    """A sweep.json."""
    wanted = {"experiment": is_text, "config": is_object, "weights": _are_weights, "variants": _are_variants}
    content: dict[str, Any] = read_object(path, "a sweep", wanted | {"phases": _are_phases, "seeds": is_count})
    return content | {"weights": [float(w) for w in content["weights"]]}


def _are_weights(value: object) -> bool:
    return isinstance(value, list) and value != [] and all(is_number(w) and w >= 0 for w in value)


def _are_variants(value: object) -> bool:
    return _are_runs([f"{v}_A/seed-0" for v in value] if isinstance(value, list) else value)


def _are_phases(value: object) -> bool:
    return _are_runs([f"Std_{p}/seed-0" for p in value] if isinstance(value, list) else value)


def _are_runs(keys: object) -> bool:
    try:
        return isinstance(keys, list) and keys != [] and all(Run.parse(k).key == k for k in keys)
    except ValueError:
        return False


def _run(folder: Path) -> Run | None:
    """Whose folder it is; None for copies and whatever else lies there."""
    key = f"{folder.parent.name}/{folder.name}"
    return Run.parse(key) if _are_runs([key]) else None


def _accuracy(path: Path) -> float:
    """Of a run.json."""
    content = read_json(path)
    value = content.get("accuracy") if isinstance(content, dict) else None
    if not is_number(value):
        raise StudyError(f"{path} holds no accuracy: delete it, and the sweep's command trains the run again")
    return float(value)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Best:
    """The λ chosen for a variant.

    Attributes:
        weight: λ.
        summary: of its accuracies.
        lead: over the next best λ, paired by seed; None where there is one λ alone.
    """

    weight: float
    summary: Summary
    lead: Summary | None


class SweepResults:
    """Accuracies of a sweep's finished runs.

    Args:
        folder: of the sweep.
        criterion: the phase that decides on λ; None: AB, else AA, else A, whichever was asked for.

    Raises:
        StudyError: no sweep.
        ValueError: the criterion is no phase that depends on λ, or there is none.
    """

    def __init__(self, folder: Path, criterion: str | None = None) -> None:
        metadata = _read(folder / "sweep.json")
        self.experiment: str = metadata["experiment"]
        self.seeds: int = metadata["seeds"]
        self.weights: list[float] = metadata["weights"]
        self.variants: list[str] = metadata["variants"]
        self.phases: list[str] = [p for p in metadata["phases"] if p != START]
        phases = [p for p in self.phases if p.startswith("A")]
        if not phases:
            raise ValueError(f"{folder}: no phase of this sweep depends on λ, as all do that begin with A")
        if criterion is not None and criterion not in phases:
            raise ValueError(f"--criterion {criterion}: this sweep chooses λ by one of {', '.join(phases)}")
        self.criterion = criterion or min(phases, key=lambda p: (-len(p.partition("-")[0]), p[:2] != "AB", len(p)))
        self._found: dict[tuple[float | None, str, str], dict[int, float]] = {}
        for weight in (None, *self.weights):
            for path in (folder / study_name(weight) / "runs").glob("*/seed-*/run.json"):
                if (run := _run(path.parent)) is not None:
                    place = self._found.setdefault((weight, run.variant.name, run.phase), {})
                    place[run.seed] = _accuracy(path)

    def of(self, weight: float | None, variant: str, phase: str) -> dict[int, float]:
        """Accuracies by seed."""
        return dict(sorted(self._found.get((weight, variant, phase), {}).items()))

    def summary(self, weight: float | None, variant: str, phase: str) -> Summary:
        """n, mean and deviation."""
        return summarise(list(self.of(weight, variant, phase).values()))

    def best(self, variant: str) -> Best | None:
        """The λ with the highest mean accuracy in the phase of the criterion, of those whose seeds are all there.

        The smaller λ wins a tie.
        """
        found = {w: self.of(w, variant, self.criterion) for w in self.weights}
        complete = [w for w in self.weights if len(found[w]) >= self.seeds]
        if not complete:
            return None
        first, *others = sorted(complete, key=lambda w: (-self.summary(w, variant, self.criterion).mean, w))
        lead = None
        if others:
            seeds = sorted(found[first].keys() & found[others[0]].keys())
            lead = paired_difference([found[first][s] for s in seeds], [found[others[0]][s] for s in seeds])
        return Best(first, self.summary(first, variant, self.criterion), lead)

    @property
    def title(self) -> str:
        """Of :attr:`rows`."""
        return (
            f"{self.experiment}: test accuracy at the last epoch, mean ± standard deviation, n = {self.seeds} where "
            "nothing else is said"
        )

    @property
    def header(self) -> list[str]:
        """Of :attr:`rows`."""
        return ["variant", "λ", *self.phases]

    @property
    def rows(self) -> list[list[str]]:
        """Variants × λ, accuracy per phase; the phases that have no λ beside Std."""
        found = []
        for variant in self.variants:
            for weight in self.weights if has_weight(variant) else [None]:
                cells = [self._cell(self.summary(weight, variant, p)) for p in self.phases]
                found.append([Variant(variant).label, "—" if weight is None else f"{weight:g}", *cells])
        return found

    @property
    def chosen_header(self) -> list[str]:
        """Of :attr:`chosen`."""
        return ["variant", "best λ", self.criterion, "lead over the next λ, paired by seed", "is it the best?"]

    @property
    def chosen(self) -> list[list[str]]:
        """The best λ of every variant that has one."""
        found = []
        for variant in filter(has_weight, self.variants):
            label, best = Variant(variant).label, self.best(variant)
            if best is None:
                found.append([label, "—", "—", "—", "no λ has all seeds yet"])
                continue
            lead = "—" if best.lead is None else f"{best.lead.mean:+.4f}, {bounds(best.lead, 4, '+')}"
            missing = sum(len(self.of(w, variant, self.criterion)) < self.seeds for w in self.weights)
            words = "the only λ" if best.lead is None else _VERDICT[outcome(best.lead)]
            words += f"; {missing} λ unfinished" if missing else ""
            found.append([label, f"{best.weight:g}", self._cell(best.summary), lead, words])
        return found

    @property
    def words(self) -> str:
        """The criterion, in a sentence for beneath the tables."""
        return (
            f"Best λ: highest mean test accuracy in phase {self.criterion} over seeds (n = {self.seeds}), among the λ "
            "whose seeds are all finished; the smaller λ wins a tie. It is chosen on the very test data it is reported "
            "on, so its accuracy is optimistic, the more so the more λ were tried."
        )

    def _cell(self, summary: Summary) -> str:
        return spread(summary, 4) + (f" (n = {summary.n})" if summary.n not in (0, self.seeds) else "")

    def write(self, folder: Path) -> list[Path]:
        """sweep.md and sweep.png."""
        lines = [
            f"# Sweep over λ: {self.experiment}",
            "",
            f"{self.title}.",
            "",
            *markdown(self.header, self.rows),
            "",
            self.words,
            "",
            *markdown(self.chosen_header, self.chosen),
            "",
            f"![Accuracy in phase {self.criterion} over λ](sweep.png)",
        ]
        write_text(folder / "sweep.md", "\n".join(lines) + "\n")
        write_bytes(folder / "sweep.png", self._figure())
        return [folder / "sweep.md", folder / "sweep.png"]

    def _figure(self) -> bytes:
        # Imported here: training processes need no matplotlib.
        import matplotlib.pyplot as plt

        from racecar.study.report import figures, models

        figure, axis = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
        places = range(len(self.weights))
        for variant in self.variants:
            kind = Variant(variant)
            style: dict[str, Any] = {"color": models.color_of(variant), "label": models.math_title(kind.label)}
            if has_weight(variant):
                found = [self.summary(w, variant, self.criterion) for w in self.weights]
                spreads = [0.0 if math.isnan(s.sd) else s.sd for s in found]
                marker = dict(zip(filter(has_weight, self.variants), "osD^vP*X", strict=False)).get(variant, ".")
                axis.errorbar(places, [s.mean for s in found], spreads, capsize=3, marker=marker, **style)
            elif (level := self.summary(None, variant, self.criterion)).n:
                axis.axhline(level.mean, linestyle="--", linewidth=1, **style)
        axis.set_xticks(places, [f"{w:g}" for w in self.weights])  # side by side, as λ = 0 has no place on a log axis
        axis.set_xlabel("λ")
        axis.set_ylabel(f"test accuracy in phase {self.criterion}")
        axis.legend(fontsize=8, frameon=False)
        return figures.png(figure)


_VERDICT = {"reproduced": "yes", "not reproduced": "no", "undecided": "undecided", "not run": "undecided"}


def check_weights(weights: Iterable[float | str]) -> list[float]:
    """The λ of a sweep, each once, in order.

    Raises:
        ValueError: none, or one that is no number, infinite or negative.
    """
    found: Sequence[float] = sorted(dict.fromkeys(float(w) for w in weights))
    if not found:
        raise ValueError("--weights is missing: name the λ to sweep over, e.g. --weights 1e-6 1e-5 1e-4")
    for weight in found:
        if not 0 <= weight < math.inf:
            raise ValueError(f"--weights must be finite and not negative, not {weight:g}")
    return list(found)
