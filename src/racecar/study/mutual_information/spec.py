"""The 12-bit study as a command; its data are a part of the code."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from racecar.study.core.callbacks import Callbacks
from racecar.study.core.folder import Study
from racecar.study.core.variants import Run
from racecar.study.mutual_information import experiment
from racecar.study.mutual_information.config import MutualInformationConfig
from racecar.study.studies import StudySpec

if TYPE_CHECKING:
    from racecar.study.report import Page


class _ByVariants:
    """Neighbours in one program: a part has all seeds and phases of some variants."""

    def divide(self, config: MutualInformationConfig, workers: int) -> list[list[Run]]:
        parts = experiment.parts(config, workers)
        return [dataclasses.replace(config, variants=variants).runs() for variants in parts]

    def work(self, study: Study, config: MutualInformationConfig, runs: Sequence[Run]) -> tuple[int, int]:
        return experiment.work(study, config, runs)


def _train(
    study: Study, config: MutualInformationConfig, runs: Sequence[Run], inputs: None, callbacks: Callbacks
) -> bool:
    variants = list(dict.fromkeys(r.variant.name for r in runs))
    return experiment.run_study(study, dataclasses.replace(config, variants=variants), callbacks)


def _report(study: Study, config: MutualInformationConfig) -> Page:
    from racecar.study.mutual_information.report import page

    return page(study, config)


SPEC = StudySpec(
    name=experiment.NAME,
    description="the 12-bit task: Tables 1 and 2, Figures 2, 3, 4, 14 (Section 4)",
    config=MutualInformationConfig,
    presets={"paper": "in full", "quick": "under 20 seconds"},
    examples={"variants": "e.g. Std Ort RR1 RR6", "phases": "e.g. A B AB AB-head AB-two AB-shrink A-early AB-early"},
    division=_ByVariants(),
    train=_train,
    report=_report,
    label=lambda options: f"{options.preset}-{options.protocol}",
    weight="training.weight",
)
