"""``racecar transfer``, and the same in Python: :func:`transfer`.

OUT/pretrained-SEED/, OUT/scratch-SEED/    a training each, see :mod:`.run`
OUT/probe-SEED.json                        what linear probes of the frozen features reach
OUT/transfer.json                          accuracies of all seeds and what follows from them
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import nn

from racecar.study.classification.extras import PLAIN, Extras
from racecar.study.classification.recipe import Recipe
from racecar.study.core.accelerator import make_accelerator
from racecar.study.core.callbacks import Callbacks
from racecar.study.core.errors import Stopped, StudyError
from racecar.study.core.files import is_number, read_object, write_json
from racecar.study.core.processes import Stopper
from racecar.study.core.restart import FRESH, restart
from racecar.study.core.terminal import STOPPED
from racecar.study.images.labelled import Labelled
from racecar.study.images.load import Loaded
from racecar.study.pretrain import checkpoint, run
from racecar.study.pretrain.data import Data, read
from racecar.study.pretrain.heads import freeze_named, replace_head, train_only
from racecar.study.pretrain.probing import FEW, Probed, head_inputs, probe
from racecar.study.pretrain.run import look, no_memory, open_folder
from racecar.study.pretrain.source import Source
from racecar.study.pretrain.tracking import check_trackers
from racecar.study.pretrain.trained import Trained
from racecar.study.report.statistics import Summary, clipped, paired_difference, summarise

Mode = Literal["finetune", "probe"]
Restart = Literal["keep", "head", "shrink"]

FEW_LABELS = f"probe, {FEW} labels per class"


@dataclass(frozen=True)
class Transferred:
    """What :func:`racecar.study.transfer` has found.

    Attributes:
        folder: with ``transfer.json`` and the trainings.
        accuracy: on the validation images, a value per seed: ``p_AB``, ``p_B`` where the network was also trained from
            scratch, ``probe`` and ``probe, 10 labels per class`` where the frozen features were probed.
        summary: of the same, and of the paired difference ``p_AB − p_B``.
        pretrained, scratch: the trainings, by seed.
        before: whether all was done by earlier calls.
    """

    folder: Path
    accuracy: dict[str, list[float]]
    summary: dict[str, Summary]
    pretrained: list[Trained]
    scratch: list[Trained]
    before: bool


def transfer(
    run: str | os.PathLike[str],
    data: str | os.PathLike[str] | Source,
    *,
    model: str | None = None,
    out: str | os.PathLike[str] | None = None,
    mode: Mode = "finetune",
    restart: Restart = "head",
    scratch: bool = False,
    seeds: int = 1,
    labels: float = 1.0,
    probe: bool = True,
    recipe: Recipe | None = None,
    extras: Extras = PLAIN,
    freeze: Sequence[str] = (),
    trackers: Sequence[str] = ("tensorboard",),
    save_every: float = 60.0,
    accelerator: Accelerator | None = None,
) -> Transferred:
    """Fine-tune or probe a checkpoint on other images, beside training from scratch.

    Args:
        run: the folder of a checkpoint.
        data: a folder, a parquet file or a name on the hub; :class:`Source` says more of it.
        model: the checkpoint's ``module:NAME``, to say that this code may be run; timm and torchvision need none.
        out: the folder; None: below ``runs/``. What an earlier call has done there is not done again.
        mode: ``"finetune"``: all weights; ``"probe"``: a new last layer alone, the rest and its statistics stay.
        restart: ``"head"``: a new last layer; ``"keep"``: all weights as they are; ``"shrink"``: half of every weight
            and half of a fresh one.
        scratch: also train from random weights.
        seeds: how many, counted from 0.
        labels: share of the training labels that count, stratified.
        probe: measure linear probes of the frozen features.
        recipe: epochs, optimiser, schedule, augmentation, precision; None: the defaults.
        extras: as in :func:`racecar.study.train`.
        freeze: as in :func:`racecar.study.train`; not from scratch.
        trackers: as in :func:`racecar.study.train`.
        save_every: seconds between saved states.
        accelerator: device, processes, precision; None: as ``accelerate launch`` says, else this process.

    Raises:
        StudyError: checkpoint, data or folder are not as they must be, out of memory, a loss that is not finite.
        ValueError: an argument out of range.
        Stopped: by SIGINT or SIGTERM, at a saved state.
    """
    if seeds < 1:
        raise ValueError(f"--seeds must be at least 1, not {seeds}")
    if not 0 < labels <= 1:
        raise ValueError(f"--labels must be above 0 and at most 1, not {labels}")
    if mode == "probe" and restart != "head":
        raise ValueError(f"--mode probe trains a new last layer alone: --restart {restart} needs --mode finetune")
    if freeze and mode == "probe":
        raise ValueError("--mode probe freezes all but the last layer: --freeze needs --mode finetune")
    extras.check_libraries((recipe or Recipe()).augmentation)
    check_trackers(trackers)
    given = Path(run)
    _, about = checkpoint.open_checkpoint(given, model)  # fails before anything is decoded or written
    work = _Transfer(
        given, about, Source.of(data), Path(out or f"runs/transfer-{given.resolve().name}-{mode}"), mode, restart,
        ("pretrained", "scratch") if scratch else ("pretrained",), range(seeds), labels, probe, recipe or Recipe(),
        extras, freeze, trackers, save_every, accelerator or make_accelerator(),
    )  # fmt: skip
    return work.do(os.fspath(run))


@dataclass(frozen=True)
class _Transfer:
    """What was asked for."""

    run: Path
    about: checkpoint.Metadata
    source: Source
    folder: Path
    mode: Mode
    restart: Restart
    kinds: tuple[str, ...]
    seeds: range
    labels: float
    probe: bool
    recipe: Recipe
    extras: Extras
    freeze: Sequence[str]
    trackers: Sequence[str]
    save_every: float
    accelerator: Accelerator

    def do(self, named: str) -> Transferred:
        """Train what is missing, and gather."""
        weights = zlib.crc32((self.run / "model.safetensors").read_bytes())
        config = self.source.config() | {"mode": self.mode, "labels": self.labels, "recipe": asdict(self.recipe)}
        config |= {"from": named, "weights": weights} | self.extras.stored()
        config |= {"freeze": list(self.freeze)} if self.freeze else {}
        if self.restart != "head":  # folders of before do not know it
            config["restart"] = self.restart
        look(self.accelerator, self.folder, "transfer", config)
        pending = [(s, k) for s in self.seeds for k in self.kinds if not self._ready(s, k)]
        unprobed = [s for s in self.seeds if self.probe and not self._probe_file(s).exists()]
        if pending or unprobed:
            loaded = self._images()
            normalisation = checkpoint.normalisation(self.about)
            whole = Data(loaded.train, loaded.validation, normalisation, listed=loaded.listed())
            known, count = len(self.about["classes"]), len(whole.train.classes)
            if self.restart == "keep" and known != count:
                raise StudyError(
                    f"--restart keep needs as many classes as {self.run} knows, {known}, and {self.source.data} has "
                    f"{count}: use --restart head or shrink"
                )
            open_folder(self.accelerator, self.folder, "transfer", config, whole)
        if unprobed and self.accelerator.is_main_process:
            with no_memory(self.accelerator, self.recipe.batch_size), Stopper() as stop:
                self._measure_probes(whole, unprobed, stop)
        for seed, kind in pending:
            self._train(whole, seed, kind, loaded.about())
        self.accelerator.wait_for_everyone()
        return self._gathered(named, not (pending or unprobed))

    def _ready(self, seed: int, kind: str) -> bool:
        return look(self.accelerator, self.folder / f"{kind}-{seed}", "transfer-run", {"seed": seed, "from": kind})

    def _images(self) -> Loaded[Labelled]:
        """The new data set, in the size of the checkpoint's."""
        shape = tuple(self.about["input"][k] for k in ("channels", "height", "width"))
        size = shape[1] if shape[1] == shape[2] else None
        loaded = read(self.source, size, shape[0], folder=self.folder, accelerator=self.accelerator)
        if loaded.train.shape != shape:
            raise StudyError(
                f"images of {self.source.data} are {' × '.join(map(str, loaded.train.shape))}, the checkpoint's were "
                f"{' × '.join(map(str, shape))} (channels × height × width), and only squares are resized: crop them"
            )
        return loaded

    def _share(self, images: Labelled, seed: int) -> Labelled:
        """The share of the training images whose labels count, drawn by a seed."""
        if self.labels == 1:
            return images
        return images.stratified(max(len(images.classes), round(self.labels * len(images))), seed)[0]

    # --- the trainings ------------------------------------------------------------------------------------------------

    def _train(self, whole: Data, seed: int, kind: str, found: dict[str, Any]) -> None:
        data = replace(whole, train=self._share(whole.train, seed))
        folder, config = self.folder / f"{kind}-{seed}", {"seed": seed, "from": kind}
        study = open_folder(self.accelerator, folder, "transfer-run", config, data)
        model, metadata, frozen = self._model(kind, seed, len(data.train.classes))
        with no_memory(self.accelerator, self.recipe.batch_size):
            model = model.to(self.accelerator.device)
        with Stopper() as stop:
            done = run.train(
                study,
                model,
                metadata | {"data": found},
                data,
                self.recipe,
                seed=seed,
                phase="transfer",
                accelerator=self.accelerator,
                frozen=frozen,
                extras=self.extras,
                trackers=self.trackers,
                callbacks=Callbacks(stop=stop, save_every=self.save_every),
                label=f"{kind}, seed {seed}",
            )
        if not done:
            raise Stopped(STOPPED)

    def _model(
        self, kind: str, seed: int, classes: int
    ) -> tuple[nn.Module, checkpoint.Metadata, tuple[nn.Module, ...]]:
        """The network a run begins with, how to make it, what of it stays in evaluation mode."""
        before, options = len(self.about["classes"]), dict(self.about["options"])
        outputs = self.about["outputs"]
        if "num_classes" in options:
            options["num_classes"] = outputs = classes
        new = {"model": self.about["model"], "options": options, "outputs": outputs, "pretrained_on": str(self.run)}
        if kind == "scratch":
            return checkpoint.construct(new | {"classes": [""] * classes}, seed), new | {"pretrained_on": None}, ()
        model = checkpoint.load(self.run, self.about)
        torch.manual_seed(seed)
        heads = replace_head(model, before, classes) if self.restart == "head" or before != classes else []
        if self.restart == "shrink":
            fresh = checkpoint.construct(new | {"classes": [""] * classes}, seed + FRESH)
            weights = {n: p.data for n, p in model.named_parameters()}
            others = {n: p.data for n, p in fresh.named_parameters()}
            for name, value in restart(weights, others, "shrink", ()).items():
                if not any(name.startswith(f"{h}.") for h in heads):  # those are fresh already
                    weights[name].copy_(value)
        if self.mode == "probe":
            train_only(model, heads)
            return model, new, (model,)
        return model, new, freeze_named(model, self.freeze)

    # --- linear probes ------------------------------------------------------------------------------------------------

    def _probe_file(self, seed: int) -> Path:
        return self.folder / f"probe-{seed}.json"

    def _measure_probes(self, whole: Data, seeds: list[int], stop: Stopper) -> None:
        """Probe the checkpoint's frozen features for every seed, a file each."""
        model = checkpoint.load(self.run, self.about)
        classes, size, train = len(whole.train.classes), self.recipe.batch_size, None
        heads = replace_head(model, len(self.about["classes"]), classes)  # its outputs do not matter
        model.to(self.accelerator.device)
        test = head_inputs(model, heads, whole.test, whole.normalisation, size, stop)
        for seed in seeds:
            share = self._share(whole.train, seed)
            if train is None or self.labels < 1:
                train = head_inputs(model, heads, share, whole.normalisation, size, stop)
            if train is None or test is None or stop():
                raise Stopped(STOPPED)
            found = probe(train, share.labels, test, whole.test.labels, classes, seed)
            write_json(self._probe_file(seed), asdict(found))

    def _read_probe(self, seed: int) -> Probed:
        wanted = {"every": is_number, "few": lambda v: v is None or is_number(v)}
        content = read_object(self._probe_file(seed), "a linear probe", wanted, remedy="delete it to measure anew")
        return Probed(content["every"], content["few"])

    # --- what was found -----------------------------------------------------------------------------------------------

    def _gathered(self, named: str, before: bool) -> Transferred:
        """Everything, and transfer.json."""
        trained = {k: [Trained(self.folder / f"{k}-{s}") for s in self.seeds] for k in self.kinds}
        values = {"p_AB": [t.accuracy for t in trained["pretrained"]]}
        rows = {"p_AB": clipped(summarise(values["p_AB"]))}
        if "scratch" in self.kinds:
            values["p_B"] = [t.accuracy for t in trained["scratch"]]
            rows |= {
                "p_B": clipped(summarise(values["p_B"])),
                "p_AB − p_B": paired_difference(values["p_AB"], values["p_B"]),
            }
        if self.probe:
            probed = [self._read_probe(s) for s in self.seeds]
            values["probe"] = [p.every for p in probed]
            # One checkpoint and all labels give one number, whatever the seed.
            rows["probe"] = clipped(summarise(values["probe"][: 1 if self.labels == 1 else None]))
            if few := [p.few for p in probed if p.few is not None]:
                values[FEW_LABELS] = few
                rows[FEW_LABELS] = clipped(summarise(few))
        if self.accelerator.is_main_process:
            content = {
                "from": named,
                "data": self.source.data,
                "mode": self.mode,
                "restart": self.restart,
                "labels": self.labels,
                "n": len(self.seeds),
                "accuracy": values,
                "summary": {name: _json(s) for name, s in rows.items()},
            }
            write_json(self.folder / "transfer.json", content)
        return Transferred(self.folder, values, rows, trained["pretrained"], trained.get("scratch", []), before)


def _json(summary: Summary) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(summary).items()}
