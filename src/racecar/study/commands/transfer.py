"""``racecar transfer``: fine-tune or probe a checkpoint on other images, beside training from scratch."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table
from torch import nn

from racecar.study.core.accelerator import make_accelerator
from racecar.study.core.callbacks import Callbacks
from racecar.study.core.errors import StudyError
from racecar.study.core.files import is_number, read_object, write_json
from racecar.study.core.options import add_both
from racecar.study.core.processes import Stopper
from racecar.study.core.restart import FRESH, restart
from racecar.study.core.terminal import STOPPED
from racecar.study.images.decoded import Images
from racecar.study.images.load import train_and_validation
from racecar.study.pretrain import checkpoint
from racecar.study.pretrain.heads import freeze, replace_head
from racecar.study.pretrain.options import add_common, recipe_of
from racecar.study.pretrain.probing import FEW, Probed, head_inputs, probe
from racecar.study.pretrain.run import Data, look, no_memory, open_folder, say, train
from racecar.study.report.statistics import Summary, paired_difference, summarise

_FEW = f"probe, {FEW} labels per class"


def parser(argv: Sequence[str]) -> ArgumentParser:
    """The command's options."""
    made = ArgumentParser(
        allow_abbrev=False, description="fine-tune or probe what `racecar train` wrote, on another data set"
    )
    made.add_argument("--from", dest="checkpoint", type=str, required=True, help="the folder of the checkpoint")
    made.add_argument(
        "--model",
        type=str,
        default=None,
        help="the checkpoint's module:NAME, to say that this code may be run; timm and torchvision need none",
    )
    made.add_argument(
        "--mode",
        type=Literal["finetune", "probe"],
        default="finetune",
        help="finetune: all weights; probe: a new last layer alone, the rest and its statistics stay",
    )
    made.add_argument(
        "--restart",
        type=Literal["keep", "head", "shrink"],
        default="head",
        help="begin with: head: a new last layer, also where the classes fit; keep: all weights as they are; shrink: "
        "half of every weight and half of a fresh one (shrink and perturb), a last layer that does not fit is new",
    )
    made.add_argument(
        "--scratch", action="store_true", help="also train all weights from random ones and report p_AB − p_B"
    )
    made.add_argument("--seeds", type=int, default=1, help="how many, counted from 0; may grow later")
    made.add_argument("--labels", type=float, default=1.0, help="share of the training labels, e.g. 0.01, stratified")
    add_both(made, "no_probe", action="store_true", help="do not measure linear probes of the frozen features")
    add_common(made)
    return made


def run(parser: ArgumentParser, options: Namespace) -> int:
    """Train what is missing and report."""
    recipe = recipe_of(options)
    if options.seeds < 1:
        raise ValueError(f"--seeds must be at least 1, not {options.seeds}")
    if not 0 < options.labels <= 1:
        raise ValueError(f"--labels must be above 0 and at most 1, not {options.labels}")
    if options.mode == "probe" and options.restart != "head":
        raise ValueError(
            f"--mode probe trains a new last layer alone: --restart {options.restart} needs --mode finetune"
        )
    source = Path(options.checkpoint)
    _, source_about = checkpoint.open_checkpoint(source, options.model)  # fails before anything is decoded or written
    folder = Path(options.out or f"runs/transfer-{source.resolve().name}-{options.mode}")
    names = ("data", "validation", "image_column", "label_column", "skip_bad", "mode", "labels")
    config = {n: getattr(options, n) for n in names} | {"recipe": asdict(recipe)}
    config |= {"from": options.checkpoint, "weights": zlib.crc32((source / "model.safetensors").read_bytes())}
    if options.restart != "head":  # folders of before do not know it
        config["restart"] = options.restart

    accelerator = make_accelerator()
    look(accelerator, folder, "transfer", config)
    kinds = ("pretrained", "scratch") if options.scratch else ("pretrained",)
    pending = [(s, k) for s in range(options.seeds) for k in kinds if not _ready(accelerator, folder, s, k)]
    unprobed = [s for s in range(options.seeds) if not (options.no_probe or _probe_file(folder, s).exists())]
    if pending or unprobed:
        whole = Data(*_images(accelerator, options, source_about), checkpoint.normalisation(source_about))
        if options.restart == "keep" and (known := len(source_about["classes"])) != (count := len(whole.train.classes)):
            raise StudyError(
                f"--restart keep needs as many classes as {source} knows, {known}, and {options.data} has {count}: use "
                "--restart head or shrink"
            )
        open_folder(accelerator, folder, "transfer", config, whole)
    if unprobed and accelerator.is_main_process:
        with no_memory(accelerator, recipe.batch_size):
            probed = _probe(folder, source, source_about, whole, options, unprobed)
        if not probed:
            say(accelerator, STOPPED, error=True)
            return 130
    for seed, kind in pending:
        data = replace(whole, train=_share(whole.train, options.labels, seed))
        study = open_folder(accelerator, folder / f"{kind}-{seed}", "transfer-run", _config(seed, kind), data)
        model, metadata, frozen = _model(source, source_about, options, kind, seed, len(data.train.classes))
        with no_memory(accelerator, recipe.batch_size):
            model = model.to(accelerator.device)
        with Stopper() as stop:
            done = train(
                study,
                model,
                metadata,
                data,
                recipe,
                seed=seed,
                phase="transfer",
                accelerator=accelerator,
                frozen=frozen,
                callbacks=Callbacks(stop=stop, save_every=options.save_every),
                label=f"{kind}, seed {seed}",
            )
        if not done:
            say(accelerator, STOPPED, error=True)
            return 130
    if accelerator.is_main_process:
        _report(folder, options, bool(pending or unprobed))
    accelerator.end_training()
    return 0


def _config(seed: int, kind: str) -> dict[str, Any]:
    return {"seed": seed, "from": kind}


def _ready(accelerator: Accelerator, folder: Path, seed: int, kind: str) -> bool:
    return look(accelerator, folder / f"{kind}-{seed}", "transfer-run", _config(seed, kind))


def _images(accelerator: Accelerator, options: Namespace, metadata: checkpoint.Metadata) -> tuple[Images, Images]:
    """The new data set, in the size of the checkpoint's."""
    shape = metadata["input"]["channels"], metadata["input"]["height"], metadata["input"]["width"]
    found, test, bad = train_and_validation(
        options.data,
        validation=options.validation,
        image=options.image_column,
        label=options.label_column,
        size=shape[1] if shape[1] == shape[2] else None,
        channels=shape[0],
        skip_bad=options.skip_bad,
    )
    if found.shape != shape:
        raise StudyError(
            f"images of {options.data} are {' × '.join(map(str, found.shape))}, the checkpoint's were "
            f"{' × '.join(map(str, shape))} (channels × height × width), and only squares are resized: crop them"
        )
    if bad:
        say(accelerator, f"racecar: left out {len(bad)} images that do not decode: {', '.join(bad[:5])}", error=True)
    return found.to(accelerator.device), test.to(accelerator.device)


def _share(images: Images, labels: float, seed: int) -> Images:
    """The share of the training images whose labels count, drawn by a seed."""
    if labels == 1:
        return images
    return images.stratified(max(len(images.classes), round(labels * len(images))), seed)[0]


def _probe(
    folder: Path, source: Path, about: checkpoint.Metadata, whole: Data, options: Namespace, seeds: list[int]
) -> bool:
    """Probe the checkpoint's frozen features for every seed, a file each; False if it was stopped."""
    model = checkpoint.load(source, about)
    heads = replace_head(model, len(about["classes"]), len(whole.train.classes))  # its outputs do not matter
    model.to(whole.train.pixels.device)
    classes, train = len(whole.train.classes), None
    with Stopper() as stop:
        size = options.batch_size
        test = head_inputs(model, heads, whole.test, whole.normalisation, size, stop)
        for seed in seeds:
            share = _share(whole.train, options.labels, seed)
            if train is None or options.labels < 1:
                train = head_inputs(model, heads, share, whole.normalisation, size, stop)
            if train is None or test is None or stop():
                return False
            write_json(
                _probe_file(folder, seed), asdict(probe(train, share.labels, test, whole.test.labels, classes, seed))
            )
    return True


def _probe_file(folder: Path, seed: int) -> Path:
    return folder / f"probe-{seed}.json"


def _read_probe(path: Path) -> Probed:
    wanted = {"every": is_number, "few": lambda v: v is None or is_number(v)}
    content = read_object(path, "a linear probe", wanted, remedy="delete it to measure anew")
    return Probed(content["every"], content["few"])


def _model(
    source: Path, metadata: checkpoint.Metadata, chosen: Namespace, kind: str, seed: int, classes: int
) -> tuple[nn.Module, checkpoint.Metadata, tuple[nn.Module, ...]]:
    """The network a run begins with, how to make it, what of it stays in evaluation mode."""
    before, options = len(metadata["classes"]), dict(metadata["options"])
    outputs = metadata["outputs"]
    if "num_classes" in options:
        options["num_classes"] = outputs = classes
    new = {"model": metadata["model"], "options": options, "outputs": outputs, "pretrained_on": str(source)}
    if kind == "scratch":
        return checkpoint.construct(new | {"classes": [""] * classes}, seed), new | {"pretrained_on": None}, ()
    model = checkpoint.load(source, metadata)
    torch.manual_seed(seed)
    heads = replace_head(model, before, classes) if chosen.restart == "head" or before != classes else []
    if chosen.restart == "shrink":
        fresh = checkpoint.construct(new | {"classes": [""] * classes}, seed + FRESH)
        weights = {n: p.data for n, p in model.named_parameters()}
        for name, value in restart(weights, {n: p.data for n, p in fresh.named_parameters()}, "shrink", ()).items():
            if not any(name.startswith(f"{h}.") for h in heads):  # those are fresh already
                weights[name].copy_(value)
    if chosen.mode == "probe":
        freeze(model, heads)
        return model, new, (model,)
    return model, new, ()


def _report(folder: Path, options: Namespace, worked: bool) -> None:
    """transfer.json and the table: p_AB, p_B and their difference paired by seed, linear probes."""

    def accuracies(kind: str) -> list[float]:
        return [float(checkpoint.read_metadata(folder / f"{kind}-{s}")["accuracy"]) for s in range(options.seeds)]

    values = {"p_AB": accuracies("pretrained")}
    rows = {"p_AB": summarise(values["p_AB"])}
    if options.scratch:
        values["p_B"] = accuracies("scratch")
        rows |= {"p_B": summarise(values["p_B"]), "p_AB − p_B": paired_difference(values["p_AB"], values["p_B"])}
    if not options.no_probe:
        probed = [_read_probe(_probe_file(folder, s)) for s in range(options.seeds)]
        values["probe"] = [p.every for p in probed]
        # One checkpoint and all labels give one number, whatever the seed.
        rows["probe"] = summarise(values["probe"][: 1 if options.labels == 1 else None])
        if few := [p.few for p in probed if p.few is not None]:
            values[_FEW] = few
            rows[_FEW] = summarise(few)
    content = {
        "from": options.checkpoint,
        "data": options.data,
        "mode": options.mode,
        "restart": options.restart,
        "labels": options.labels,
        "n": options.seeds,
        "accuracy": values,
        "summary": {name: _json(s) for name, s in rows.items()},
    }
    write_json(folder / "transfer.json", content)
    table = Table("", "mean", "95 % interval", title=f"{options.mode} on {options.data}, n = {options.seeds}")
    for name, s in rows.items():
        alone = "the same for every seed" if name == "probe" and options.labels == 1 else "needs 2 seeds"
        interval = alone if math.isnan(s.low) else f"[{s.low:+.4f}, {s.high:+.4f}]"
        table.add_row(name, f"{s.mean:+.4f}" if "−" in name else f"{s.mean:.4f}", interval)
    Console().print(table)
    if not options.no_probe and len(values.get(_FEW, [])) < options.seeds:
        print(f"{_FEW}: left out where a class has fewer")
    print(f"results: {folder / 'transfer.json'}" + ("" if worked else " (all was done before)"))


def _json(summary: Summary) -> dict[str, float | int | None]:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(summary).items()}
