"""From finished runs to numbers: accuracies per model beside the paper's, verdicts on the claims of Section 4."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from racecar.study.core.folder import Study
from racecar.study.mutual_information import paper
from racecar.study.mutual_information.config import MutualInformationConfig
from racecar.study.mutual_information.data import constant_predictor
from racecar.study.mutual_information.figures import Panel
from racecar.study.report import Outcome, Verdict
from racecar.study.report.claims import CONTROL
from racecar.study.report.results import AccuracyResults, load_metrics
from racecar.study.report.statistics import bounds, outcome, paired_difference, spread, summarise

WAYS = {
    "AB-head": "with the last layer drawn anew",
    "AB-two": "with the last two layers drawn anew",
    "AB-shrink": "with all weights shrunk and perturbed",
    "AB-early": "with phase I ended after a tenth of its epochs",
}
REACHED = 0.02  # of accuracy: who is less behind B from scratch has reached it


@dataclass(frozen=True)
class MutualInformationResults(AccuracyResults[MutualInformationConfig]):
    """Everything the tables and figures of one 12-bit study show."""

    accuracy_columns: ClassVar[Sequence[str]] = (
        *("model", "mean ± sd", "95 % CI", "runs by seed", "paper, mean ± sd"),
        "final I(X;L_6), bits",
    )

    @classmethod
    def load(cls, study: Study, config: MutualInformationConfig) -> MutualInformationResults:
        """Read the finished runs of a configuration."""
        runs = config.runs()
        return cls(config, study.metadata(), runs, load_metrics(study, runs), paper.ACCURACY)

    def information(self, model: str, layer: int = -1) -> list[float]:
        """Final I(X;L) of a layer in bits, by seed."""
        return [m["history"][-1]["information"][layer][0] for m in self.of(model).values()]

    @property
    def restarts(self) -> list[str]:
        """Ways of phase II that the paper does not have, as far as they were asked for."""
        return [phase for phase in WAYS if phase in self.config.phases]

    def saturation(self, model: str, name: str) -> list[float]:
        """``"saturated"`` or ``"slope"`` (see :mod:`.saturation`) at the last epoch, by seed; not of old runs."""
        values = [m["history"][-1].get(name) for m in self.of(model).values()]
        return [v for v in values if v is not None]

    def panel(self, model: str) -> Panel | None:
        """The plane of a model's median run by accuracy: one run, as in the paper, and no lucky one."""
        run = self.median_run(model)
        if run is None:
            return None
        metrics = self.metrics[run]
        epochs = [p["epoch"] for p in metrics["history"]]
        information = np.array([p["information"] for p in metrics["history"]])
        return Panel(model, epochs, information, float(metrics["accuracy"]))

    def accuracy_record(self, model: str) -> dict[str, object]:
        """A model's row of the accuracy tables, with the information that its output holds on the input."""
        record = super().accuracy_record(model)
        if self.of(model):
            record["final I(X;L_6), bits"] = spread(summarise(self.information(model)))
        return record

    def constant_records(self) -> list[dict[str, object]]:
        """Rows of the accuracy tables for the two constant answers."""
        empty: dict[str, object] = dict.fromkeys(
            [*self.accuracy_columns, *(f"seed {s}" for s in range(self.config.seeds))], ""
        )
        return [
            empty | {"model": f"always y = {y}", "mean ± sd": f"{constant_predictor(self.config.protocol, y):.4f}"}
            for y in (0, 1)
        ]

    def best_constant(self) -> float:
        """The better of the two constant answers on the test set."""
        return max(constant_predictor(self.config.protocol, y) for y in (0, 1))

    def verdicts(self) -> list[Verdict]:
        """The claims of Section 4, then the controls, each with n, effect and interval."""
        where = "Section 4, Tables 1 and 2"
        return [
            self.gap("Racecar training costs accuracy in phase I", where, "Std_A", "RR^6_A"),
            self.gap("RR^6 outperforms Std when training on A continues", where, "RR^6_AA", "Std_AA"),
            self.gap("RR^6 outperforms Std after transfer to B", where, "RR^6_AB", "Std_AB"),
            self.gap("RR^6 outperforms training on B from scratch", where, "RR^6_AB", "Std_B"),
            self.gap("RR^6 outperforms RR^1 after transfer: inner layers matter", where, "RR^6_AB", "RR^1_AB"),
            self.gap("Ort performs worse than B from scratch", where, "Std_B", "Ort_AB"),
            self._collapse(),
            self._more_information(),
            *self._controls(),
        ]

    def _controls(self) -> list[Verdict]:
        """What phase II needs, and whether it is something that racecar training alone gives."""
        found = [
            self.gap(f"Std transfers better {WAYS[p]} than with its weights kept", CONTROL, f"Std_{p}", "Std_AB")
            for p in self.restarts
        ]
        anew = [p for p in self.restarts if p in ("AB-head", "AB-two")]
        found += [
            self.gap(
                f"Std's features are not what fails: {WAYS[p]} it reaches B from scratch",
                *(CONTROL, f"Std_{p}", "Std_B", REACHED),
            )
            for p in anew
        ]
        found += [
            self.gap(f"RR^6 with its weights kept outperforms Std {WAYS[p]}", CONTROL, "RR^6_AB", f"Std_{p}")
            for p in self.restarts
        ]
        return found + [
            self.gap(f"RR^6 outperforms Std, both {WAYS[p]}", CONTROL, f"RR^6_{p}", f"Std_{p}") for p in anew
        ]

    def _collapse(self) -> Verdict:
        """Std_AB = 0.136 with deviation 0: every run answers the same to everything."""
        claim, where = "Std cannot adapt to task B: all its runs end at 0.136", "Table 2"
        values = self.accuracies("Std_AB")
        if len(values) < 2:
            return Verdict(claim, where, "not run", self.missing("Std_AB"))
        constants = [constant_predictor(self.config.protocol, y) for y in (0, 1)]
        stuck = sum(min(abs(v - c) for c in constants) < 5e-4 for v in values)
        evidence = (
            f"{stuck} of {len(values)} Std_AB runs give a constant answer ({constants[0]:.3f} or {constants[1]:.3f}); "
            f"accuracies {', '.join(f'{v:.3f}' for v in values)}"
        )
        said: Outcome = "reproduced" if stuck == len(values) else "not reproduced" if stuck == 0 else "undecided"
        return Verdict(claim, where, said, evidence)

    def _more_information(self) -> Verdict:
        claim = "After phase I the output layer of RR^6 holds more information on the input than Std's"
        where = "Figure 2"
        ours, other = self.information("RR^6_A"), self.information("Std_A")
        if len(ours) < 2 or len(ours) != len(other):
            return Verdict(claim, where, "not run", self.missing("RR^6_A", "Std_A"))
        gain = paired_difference(ours, other)
        evidence = (
            f"I(X;L_6): {np.mean(ours):.2f} against {np.mean(other):.2f} bits, difference {gain.mean:+.2f}, "
            f"{bounds(gain, 2, '+')}, n = {gain.n}"
        )
        return Verdict(claim, where, outcome(gain), evidence)
