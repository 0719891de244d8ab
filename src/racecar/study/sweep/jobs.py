"""What a sweep has to train: a study per λ and one of what has no λ, all opened, and divided into jobs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from racecar.study.core import growing
from racecar.study.core.locks import Locks
from racecar.study.core.variants import Variant
from racecar.study.studies import ReadyStudy, StudySpec
from racecar.study.sweep.results import has_weight, open_sweep, study_name
from racecar.study.sweep.workers import Job


def make_jobs(
    spec: StudySpec, config: Any, inputs: Any, weights: Sequence[float], options: Any, folder: Path, locks: Locks
) -> list[Job]:
    """Open all studies of a sweep; their jobs, low seeds of all λ first.

    Args:
        spec: what is swept.
        config, inputs: as the spec's ``choose`` has them; λ among them does not count.
        weights: all λ.
        options: of the study's command.
        folder: of the sweep.
        locks: of its jobs.

    Raises:
        StudyError, ValueError, OSError: a folder or the data are not as they must be.
    """
    config = with_weight(spec, config, config.variants, 0.0)
    asked = {
        "weights": weights,
        "variants": list(dict.fromkeys(config.variants)),
        "phases": config.phases,
        "seeds": config.seeds,
    }
    open_sweep(folder, spec.name, growing.settings(config), asked)
    plain, swept = ([v for v in asked["variants"] if has_weight(v) is has] for has in (False, True))
    wanted: list[tuple[float | None, list[str]]] = [(None, plain)] if plain else []
    wanted += [(w, swept) for w in weights]
    others = [locks.state(name) for name in locks.names() if name != "preparing"]
    alone = all(state.open or state.finished for state in others)
    jobs: list[Job] = []
    first: ReadyStudy | None = None
    for weight, variants in wanted:
        name, own = study_name(weight), with_weight(spec, config, variants, weight or 0.0)
        ready = spec.ready(folder / name, own, inputs, options, like=first.study if first is not None else None)
        first = first or ready
        if alone:
            ready.study.remove_leftovers()
        parts = ready.parts(len(ready.runs))
        jobs += [Job(f"{name}-{runs[0].key.replace('/', '-')}", ready, runs) for runs in parts]
    for job in jobs:
        if not job.finished and locks.state(job.name).finished:  # more seeds or phases, or results were deleted
            locks.reopen(job.name)
    return sorted(jobs, key=lambda j: j.runs[0].seed)


def with_weight(spec: StudySpec, config: Any, variants: Sequence[str], weight: float) -> Any:
    """A configuration with other variants and another λ."""
    assert spec.weight is not None  # the command has refused others
    changed = dataclasses.replace(config, variants=[Variant.parse(v).name for v in variants])
    return _replaced(changed, spec.weight, weight)


def _replaced(config: Any, name: str, value: object) -> Any:
    """A dataclass with another value under a dotted name."""
    field, _, rest = name.partition(".")
    return dataclasses.replace(config, **{field: _replaced(getattr(config, field), rest, value) if rest else value})
