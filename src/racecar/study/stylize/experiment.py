"""The stylization study: every comparison of the paper with every network of a VGG study, kept and resumed.

OUT/runs/RR16_A-shapes/seed-0/run.json       numbers of one comparison as one network sees it
OUT/runs/RR16_A-shapes/seed-0/NAME.png       its pictures
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from racecar.study.core.accelerator import make_accelerator
from racecar.study.core.callbacks import QUIET, Callbacks
from racecar.study.core.checkpoints import Progress
from racecar.study.core.counts import at_least_one
from racecar.study.core.errors import StudyError
from racecar.study.core.files import write_json
from racecar.study.core.folder import Study
from racecar.study.core.resume import saved_state, slot
from racecar.study.core.variants import Run, Variant
from racecar.study.stylize.comparisons import COMPARISONS, FILES, Pair, pairs
from racecar.study.stylize.judge import Judge
from racecar.study.stylize.networks import open_network
from racecar.study.stylize.optimise import Settings, Stylization
from racecar.study.stylize.pictures import read_picture, write_picture

NAME = "stylize"


@dataclass(frozen=True)
class StylizeConfig:
    """What can be chosen in the stylization study.

    Attributes:
        variants: of phase I, see :class:`racecar.study.core.variants.Variant`.
        seeds: how many, counted from 0.
        phases: comparisons: shapes, building, horse, detail.
        size: pixels of the pictures' longer side.
        factor: between high and low resolution of the comparison ``detail``.
        steps: of L-BFGS.
        content_weight: η; the shapes have none.
        style_weight: δ.
        detail_weight: δ of the comparison ``detail``, where the content counts more.
        pooling: in the networks, while they stylize.
    """

    variants: list[str] = field(default_factory=lambda: ["Std", "RR16"])
    seeds: int = 1
    phases: list[str] = field(default_factory=lambda: list(COMPARISONS))
    size: int = 512
    factor: int = 4
    steps: int = 300
    content_weight: float = 1.0
    style_weight: float = 1e5
    detail_weight: float = 1e4
    pooling: Literal["max", "avg"] = "avg"

    def __post_init__(self) -> None:
        at_least_one(self, "seeds", "size", "steps")
        if self.factor < 2:
            raise ValueError(f"factor must be at least 2, not {self.factor}")
        for name in ("content_weight", "style_weight", "detail_weight"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        if unknown := [p for p in self.phases if p not in COMPARISONS]:
            raise ValueError(f"no comparison {unknown[0]!r}: use {', '.join(COMPARISONS)}")
        if not self.variants or not self.phases:
            raise ValueError("name at least one variant, e.g. Std, and one comparison, e.g. shapes")
        self.runs()

    def runs(self) -> list[Run]:
        """Every run of the study; the way of a run is its comparison."""
        variants = dict.fromkeys(Variant.parse(v) for v in self.variants)
        return [Run(v, f"A-{c}", s) for s in range(self.seeds) for c in self.phases for v in variants]

    def settings(self, comparison: str, pair: Pair) -> Settings:
        """How a picture of a comparison is stylized."""
        return Settings(
            content_weight=0.0 if pair.style_only else self.content_weight,
            style_weight=self.detail_weight if comparison == "detail" else self.style_weight,
            steps=self.steps,
            pooling=self.pooling,
        )


@dataclass(frozen=True)
class Sources:
    """Where networks and pictures come from.

    Attributes:
        vgg: folder of a VGG study.
        pictures: folder with the paintings and photographs; None: the shapes alone.
        judge: a network that took no part, see :func:`.networks.open_network`; None: none is at hand.
    """

    vgg: Path
    pictures: Path | None
    judge: str | None

    def network(self, run: Run) -> Path:
        """The folder of the network that a run sees with."""
        return self.vgg / "runs" / Run(run.variant, "A", run.seed).key


def check(sources: Sources, config: StylizeConfig) -> None:
    """See, before anything costly, that all networks and pictures are there.

    Raises:
        StudyError: what is missing.
    """
    absent = [r.key for r in config.runs() if not (sources.network(r) / "run.json").exists()]
    if absent:
        some = sorted({str(sources.network(Run.parse(k))) for k in absent})
        raise StudyError(
            f"{len(some)} networks are not trained, the first is {some[0]}: run `racecar study vgg` first (with --out "
            f"{sources.vgg}), or ask for fewer --seeds or other --variants"
        )
    for comparison in config.phases:
        pairs(comparison, sources.pictures, config.size, config.factor)


def fingerprints(sources: Sources, config: StylizeConfig) -> dict[str, int]:
    """Check sums of every network and picture that decides a result, by name."""
    files = {
        f"network {r.variant.name}, seed {r.seed}": sources.network(r) / "model.safetensors" for r in config.runs()
    }
    for name in dict.fromkeys(n for c in config.phases for n in FILES.get(c, ())):
        assert sources.pictures is not None  # else check() has refused
        files[f"picture {name}"] = next(iter(sorted(sources.pictures.glob(f"{name}.*"))))
    if sources.judge is not None:
        network = open_network(sources.judge).network
        judge = sum(zlib.crc32(t.contiguous().numpy().tobytes()) for t in network.state_dict().values())
        return {n: zlib.crc32(p.read_bytes()) for n, p in files.items()} | {"judge": judge}
    return {n: zlib.crc32(p.read_bytes()) for n, p in files.items()}


def agree(study: Study, now: Mapping[str, int]) -> None:
    """Keep the fingerprints of networks, pictures and judge beside those of earlier calls.

    Raises:
        StudyError: a network, a picture or the judge is another one than before.
    """
    known = study.metadata().get("fingerprints", {})
    if other := [n for n, v in now.items() if known.get(n, v) != v]:
        raise StudyError(
            f"{', '.join(other)}: not what {study.folder} has used before. Bring it back, or choose another --out"
        )
    study.note(fingerprints={**known, **now})


def judge_finished(study: Study, config: StylizeConfig, sources: Sources) -> None:
    """Have pictures judged that were made before a judge was given."""
    for run in config.runs():
        metrics = study.metrics(run)
        if metrics is None or sources.judge is None or run.way == "shapes" or "judge" in str(sorted(metrics)):
            continue
        for pair, kept in zip(
            pairs(run.way, sources.pictures, config.size, config.factor), metrics["pictures"], strict=True
        ):
            kept |= _judged(sources.judge, pair, read_picture(study.path(run) / f"{pair.name}.png"))
        write_json(study.path(run) / "run.json", metrics | _means(metrics["pictures"]))


def _means(pictures: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means of every number that all pictures of a run have."""
    names = {k for p in pictures for k, v in p.items() if isinstance(v, float) and k != "seconds"}
    return {k: sum(p[k] for p in pictures) / len(pictures) for k in sorted(names) if all(k in p for p in pictures)}


def cost(config: StylizeConfig, run: Run) -> int:
    """Steps of all pictures of a run."""
    return config.steps * {"shapes": 3, "building": 2, "horse": 1, "detail": 2}[run.way]


def run_share(
    study: Study, config: StylizeConfig, sources: Sources, runs: Sequence[Run], callbacks: Callbacks = QUIET
) -> bool:
    """Stylize what is missing, in order. Safe to stop or kill at any moment and to call again.

    Args:
        study: the folder.
        config: settings.
        sources: of networks and pictures.
        runs: this process's.
        callbacks: ``advance`` is told of steps; states are kept in the study's folder.

    Returns:
        Whether all are finished.
    """
    device = make_accelerator().device
    return all(_stylize(study, config, sources, r, device, callbacks) for r in runs if not study.finished(r))


def _stylize(
    study: Study,
    config: StylizeConfig,
    sources: Sources,
    run: Run,
    device: torch.device,
    callbacks: Callbacks,
) -> bool:
    folder, kept = study.path(run), saved_state(study, run)
    seeing, total = open_network(str(sources.network(run))), cost(config, run)
    wanted = pairs(run.way, sources.pictures, config.size, config.factor)
    done: list[dict[str, Any]] = []
    if kept is not None:
        with kept.restored("run"):
            done = [{"name": pair["name"], **pair} for pair in kept.metadata["done"]]
            if [d["name"] for d in done] != [pair.name for pair in wanted[: len(done)]]:
                raise ValueError("it is of other pictures")
            kept = Progress(kept.tensors, kept.metadata | {"step": int(kept.metadata["inner"])}, kept.path)
    network = seeing.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def save(state: Progress) -> None:
        step = len(done) * config.steps + state.metadata["step"]
        metadata = state.metadata | {
            "run": run.key,
            "done": done,
            "inner": state.metadata["step"],
            "step": step,
            "total": total,
        }
        study.save_progress(slot(run), Progress(state.tensors, metadata))

    for pair in wanted[len(done) :]:
        content, style = pair.content.to(device), pair.style.to(device)
        made = Stylization(network, content, style, seeing.normalisation, config.settings(run.way, pair))
        if kept is not None and kept.metadata["step"]:
            made.restore(kept)
        kept = None
        began = time.monotonic()
        if not made.run(replace(callbacks, save=save)):
            return False
        picture = made.picture.cpu()
        write_picture(folder / f"{pair.name}.png", picture)
        with torch.no_grad():
            last = [float(v) for v in made.losses(made.pixels)]
        done.append(
            {
                "name": pair.name,
                "style": [made.history[0].style, last[1]],
                "content": [made.history[0].content, last[0]],
                "seconds": round(time.monotonic() - began, 2),
                **pair.measure(picture),
                **_judged(sources.judge, pair, picture),
            }
        )
        save(Progress({"none": torch.zeros(1)}, {"step": 0}))  # between two pictures
        if callbacks.stop() and len(done) * config.steps < total:
            return False
    study.conclude(run, {"network": seeing.words, **_means(done), "pictures": done})
    study.drop_progress(slot(run))
    return True


def _judged(judge: str | None, pair: Pair, picture: torch.Tensor) -> dict[str, float]:
    """What the independent network says of a picture."""
    if judge is None or pair.style_only:
        return {}
    seeing = open_network(judge)
    by = Judge(seeing.network, seeing.normalisation)
    if pair.reference is None:
        return {"judge_style": by.style(pair.style, picture), "judge_content": by.distance(pair.content, picture)}
    return {
        "judge": by.distance(pair.reference, picture),
        "low_judge": by.distance(pair.reference, pair.content),
    }
