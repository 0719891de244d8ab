"""A classification study as a command, from its :class:`.experiment.Experiment`: options, data kept, runs trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from racecar.study.classification import running
from racecar.study.classification.experiment import ClassificationConfig, Experiment
from racecar.study.core.callbacks import Callbacks
from racecar.study.core.folder import Study
from racecar.study.core.schedule import ByCost
from racecar.study.core.variants import Run
from racecar.study.studies import StudySpec

if TYPE_CHECKING:
    from racecar.study.report import Page

PRESETS = {"paper": "in full, for a GPU", "small": "an hour on 2 cores", "quick": "minutes"}
EXAMPLES = {"variants": "e.g. Std Ort RR3 Dec3", "phases": "e.g. A B AA AB AB-probe"}
DIVISION = ByCost(running.cost)


def classification_study(
    experiment: Experiment,
    description: str,
    *,
    data: str,
    published: str | None = None,
    recipe: Callable[[Any], str] | None = lambda options: "paper",
    add_options: Callable[[ArgumentParser], object] = lambda parser: None,
    **more: Any,
) -> StudySpec:
    """What a classification study supplies to commands, reports, sweeps and workers.

    Args:
        experiment: data, network, penalty.
        description: of its command.
        data: what ``--data`` may be beside ``hub``.
        published: the option, if any, that names a data set's published file.
        recipe: by options, the recipe that the report names; None: it names none.
        add_options: adds what its command takes beside settings and ``--data``.
        more: of :class:`racecar.study.studies.StudySpec`.
    """
    parts = _Parts(experiment, data, published, recipe, add_options)
    usual = {"presets": PRESETS, "examples": EXAMPLES, "weight": "weight"}
    return StudySpec(
        name=experiment.name,
        description=description,
        config=experiment.config,
        division=DIVISION,
        train=parts.train,
        report=parts.report,
        add_options=parts.add_all,
        choose=parts.choose,
        prepare=parts.prepare,
        together=parts.train if experiment.together else None,
        **usual | more,
    )


@dataclass(frozen=True)
class _Parts:
    """The functions of a :class:`racecar.study.studies.StudySpec`."""

    experiment: Experiment
    data: str
    published: str | None
    recipe: Callable[[Any], str] | None
    add_options: Callable[[ArgumentParser], object]

    def add_all(self, parser: ArgumentParser) -> None:
        parser.add_argument("--data", type=str, default="hub", help=f"hub, or {self.data}")
        self.add_options(parser)

    def choose(self, config: ClassificationConfig, options: Any, folder: Path) -> tuple[ClassificationConfig, None]:
        self.experiment.check(config)
        return config, None

    def prepare(self, study: Study, config: ClassificationConfig, options: Any, like: Study | None) -> None:
        known = study.metadata().get("data")
        given = str(Path(options.data).resolve()) if Path(options.data).exists() else options.data
        study.note(data=given if given != "hub" else known or given)
        try:
            self._keep(study, config, options, like)
        except BaseException:
            study.note(data=known)  # what was wrong is not where the next call looks
            raise
        recipe = f"{self.recipe(options)} recipe, " if self.recipe is not None else ""
        study.note(setting=f"{recipe}{options.preset} preset")

    def _keep(self, study: Study, config: ClassificationConfig, options: Any, like: Study | None) -> None:
        """The data, where they are not kept yet and something is to be trained."""
        total, done = DIVISION.work(study, config, config.runs())
        if like is not None:
            study.take_data(like)
        if done < total and not self.experiment.kept(study, config):
            file = options[self.published] if self.published is not None else None
            tasks, sources = self.experiment.load(options.data, config, Path(file) if file is not None else None)
            tasks, sources = self.experiment.subsets(tasks, sources, config)
            self.experiment.keep(study, tasks)
            study.note(sources=sources)

    def train(
        self,
        study: Study,
        config: ClassificationConfig,
        part: Sequence[Run],
        inputs: None,
        callbacks: Callbacks,
        shard: bool = False,
    ) -> bool:
        return running.run_share(study, self.experiment, config, part, callbacks, shard=shard)

    def report(self, study: Study, config: ClassificationConfig) -> Page:
        from racecar.study.classification.report import page

        return page(study, self.experiment, config)
