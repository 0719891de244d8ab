"""From finished runs to numbers: accuracies per model beside the paper's, verdicts on the claims of Section 4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from racecar.study.mutual_information import paper
from racecar.study.mutual_information.config import Config
from racecar.study.mutual_information.data import constant_predictor
from racecar.study.mutual_information.experiment import runs_of
from racecar.study.mutual_information.figures import Panel
from racecar.study.protocol import Run
from racecar.study.report import Outcome, Verdict
from racecar.study.runs import Study
from racecar.study.statistics import Summary, paired_difference, summarise


@dataclass(frozen=True)
class Results:
    """Everything the tables and figures of one study show.

    Attributes:
        config: of the study.
        metrics: per finished run, the content of its run.json.
    """

    config: Config
    metrics: dict[Run, dict[str, Any]]

    @classmethod
    def load(cls, study: Study, config: Config) -> Results:
        """Read the finished runs of a configuration."""
        found = {r: study.metrics(r) for r in runs_of(config)}
        return cls(config, {r: m for r, m in found.items() if m is not None})

    @property
    def models(self) -> list[str]:
        """Models of the configuration in the paper's naming, in its order of variants and phases."""
        return list(dict.fromkeys(r.model for r in runs_of(self.config)))

    def accuracies(self, model: str) -> list[float]:
        """Test accuracy at the last epoch, by seed."""
        return [float(m["accuracy"]) for r, m in sorted(self.metrics.items()) if r.model == model]

    def summary(self, model: str) -> Summary:
        """n, mean, deviation and interval of a model's accuracy."""
        return summarise(self.accuracies(model))

    def difference(self, a: str, b: str) -> Summary:
        """Paired by seed: accuracy of ``a`` minus that of ``b``."""
        by_seed: dict[str, dict[int, float]] = {a: {}, b: {}}
        for run, metrics in self.metrics.items():
            if run.model in by_seed:
                by_seed[run.model][run.seed] = float(metrics["accuracy"])
        seeds = sorted(by_seed[a].keys() & by_seed[b].keys())
        return paired_difference([by_seed[a][s] for s in seeds], [by_seed[b][s] for s in seeds])

    def information(self, model: str, layer: int = -1) -> list[float]:
        """Final I(X;L) of a layer in bits, by seed."""
        return [m["history"][-1]["information"][layer][0] for r, m in sorted(self.metrics.items()) if r.model == model]

    def panel(self, model: str) -> Panel | None:
        """The plane of the median run by accuracy: one run, as in the paper, and no lucky one."""
        runs = sorted((m["accuracy"], r) for r, m in self.metrics.items() if r.model == model)
        if not runs:
            return None
        accuracy, run = runs[(len(runs) - 1) // 2]
        history = self.metrics[run]["history"]
        return Panel(
            model, [p["epoch"] for p in history], np.array([p["information"] for p in history]), float(accuracy)
        )

    def best_constant(self) -> float:
        """The better of the two constant answers on the test set."""
        return max(constant_predictor(self.config.protocol, y) for y in (0, 1))

    def verdicts(self) -> list[Verdict]:
        """The claims of Section 4, each with n, effect and interval."""
        return [
            self._gap("Racecar training costs accuracy in phase I", "Std_A", "RR^6_A"),
            self._gap("RR^6 outperforms Std when training on A continues", "RR^6_AA", "Std_AA"),
            self._gap("RR^6 outperforms Std after transfer to B", "RR^6_AB", "Std_AB"),
            self._gap("RR^6 outperforms training on B from scratch", "RR^6_AB", "Std_B"),
            self._gap("RR^6 outperforms RR^1 after transfer: inner layers matter", "RR^6_AB", "RR^1_AB"),
            self._gap("Ort performs worse than B from scratch", "Std_B", "Ort_AB"),
            self._collapse(),
            self._more_information(),
        ]

    def _gap(self, claim: str, better: str, worse: str) -> Verdict:
        where = "Section 4, Tables 1 and 2"
        found = self.difference(better, worse)
        if found.n == 0:
            return Verdict(claim, where, "not run", f"{better} or {worse} was not run")
        theirs = summarise(paper.ACCURACY[better]).mean - summarise(paper.ACCURACY[worse]).mean
        evidence = (
            f"{better} − {worse} = {found.mean:+.3f}, paired by seed, 95 % CI [{found.low:+.3f}, {found.high:+.3f}], "
            f"n = {found.n}; the paper has {theirs:+.3f}"
        )
        return Verdict(claim, where, _outcome(found), evidence)

    def _collapse(self) -> Verdict:
        """Std_AB = 0.136 with deviation 0: every run answers the same to everything."""
        claim, where = "Std cannot adapt to task B: all its runs end at 0.136", "Table 2"
        values = self.accuracies("Std_AB")
        if not values:
            return Verdict(claim, where, "not run", "Std_AB was not run")
        constants = [constant_predictor(self.config.protocol, y) for y in (0, 1)]
        stuck = sum(min(abs(v - c) for c in constants) < 5e-4 for v in values)
        evidence = (
            f"{stuck} of {len(values)} Std_AB runs give a constant answer ({constants[0]:.3f} or {constants[1]:.3f}); "
            f"accuracies {', '.join(f'{v:.3f}' for v in values)}"
        )
        outcome = "reproduced" if stuck == len(values) else "not reproduced" if stuck == 0 else "undecided"
        return Verdict(claim, where, outcome, evidence)  # type: ignore[arg-type]

    def _more_information(self) -> Verdict:
        claim, where = (
            "After phase I the output layer of RR^6 holds more information on the input than Std's",
            "Figure 2",
        )
        ours, other = self.information("RR^6_A"), self.information("Std_A")
        if not ours or len(ours) != len(other):
            return Verdict(claim, where, "not run", "RR^6_A or Std_A was not run")
        found = paired_difference(ours, other)
        evidence = (
            f"I(X;L_6): {np.mean(ours):.2f} against {np.mean(other):.2f} bits, difference {found.mean:+.2f}, "
            f"95 % CI [{found.low:+.2f}, {found.high:+.2f}], n = {found.n}"
        )
        return Verdict(claim, where, _outcome(found), evidence)


def _outcome(difference: Summary) -> Outcome:
    """What an interval says of a claim that the difference is positive; NaN for a single run decides nothing."""
    return "reproduced" if difference.low > 0 else "not reproduced" if difference.high < 0 else "undecided"
