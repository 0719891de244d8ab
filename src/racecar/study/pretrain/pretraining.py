"""``racecar train``, and the same in Python: :func:`train`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator

from racecar.study.classification.extras import PLAIN, Extras
from racecar.study.classification.recipe import Recipe
from racecar.study.core.accelerator import make_accelerator
from racecar.study.core.callbacks import Callbacks
from racecar.study.core.errors import Stopped
from racecar.study.core.processes import Stopper
from racecar.study.core.terminal import STOPPED
from racecar.study.pretrain import checkpoint, longer, published, run
from racecar.study.pretrain.data import Data, normalisation_of, read, teller
from racecar.study.pretrain.heads import freeze_named, replace_head
from racecar.study.pretrain.mirror import Mirror
from racecar.study.pretrain.run import look, no_memory, open_folder, say
from racecar.study.pretrain.source import Source
from racecar.study.pretrain.tracking import check_trackers
from racecar.study.pretrain.trained import Trained

Task = Literal["classify", "reconstruct"]


def train(
    model: str,
    data: str | os.PathLike[str] | Source,
    *,
    out: str | os.PathLike[str] | None = None,
    racecar: float | Literal["auto"] | Mirror = 0.0,
    recipe: Recipe | None = None,
    extras: Extras = PLAIN,
    size: int | None = None,
    channels: int | None = None,
    model_options: Mapping[str, Any] | None = None,
    pretrained: str | None = None,
    freeze: Sequence[str] = (),
    task: Task = "classify",
    seed: int = 0,
    trackers: Sequence[str] = ("tensorboard",),
    save_every: float = 60.0,
    accelerator: Accelerator | None = None,
) -> Trained:
    """Pretrain a classifier, with racecar or plainly, on somebody's images.

    A finished folder is left alone, an unfinished one goes on to the same weights.

    Args:
        model: ``timm:NAME``, ``torchvision:NAME`` or ``module:NAME`` of a class or function.
        data: a folder, a parquet file or a name on the hub; :class:`Source` says more of it.
        out: the training's folder; None: below ``runs/``, by the model's name.
        racecar: λ, e.g. 1e-4; 0: plain training; ``"auto"``: from gradients; :class:`Mirror` says which layers are
            compared and how.
        recipe: epochs, optimiser, schedule, augmentation, precision; None: the defaults. More epochs than a folder was
            trained for go on from its end, unless the schedule is a cosine.
        extras: what is kept, when training stops, averaging, clipping, mixing, weights of classes.
        size: pixels of the square images; None: as they are.
        channels: 1: grey, 3: colour; None: 3 for timm and torchvision, else as the images are.
        model_options: for the model's constructor.
        pretrained: begin with weights of before: ``"library"``: those that timm or torchvision give, whose images'
            normalisation is used too; or the path of a safetensors file; None: from scratch.
        freeze: names of modules that stay as they are, statistics included; ``*`` and ``?`` stand for more than one.
        task: ``"reconstruct"``: labels are not asked for, racecar's penalty is all that is minimised, by default that
            of the input alone (RR^1); :func:`racecar.study.transfer` goes on from there.
        seed: of weights, order, augmentation and dropout.
        trackers: what is told of every epoch: ``"tensorboard"``, ``"csv"``, ``"wandb"``, ``"mlflow"``.
        save_every: seconds between saved states.
        accelerator: device, processes, precision; None: as ``accelerate launch`` says, else this process.

    Returns:
        The training's folder with its numbers.

    Raises:
        StudyError: data, folder or checkpoint are not as they must be, out of memory, a loss that is not finite.
        ValueError: no such model, or an argument out of range.
        Stopped: by SIGINT or SIGTERM, at a saved state.
    """
    source, recipe = Source.of(data), recipe or Recipe()
    mirror = racecar if isinstance(racecar, Mirror) else Mirror(racecar)
    if task == "reconstruct":
        mirror = _alone(mirror, source, extras)
    if size is not None and size < 1:
        raise ValueError(f"--size must be at least 1, not {size}")
    folder = Path(out or f"runs/train-{model.partition(':')[2].replace('/', '-')}")
    channels = channels or (3 if checkpoint.library(model) else None)
    options = None if model_options is None else dict(model_options)
    config = source.config() | {"model": model, "model_options": options, "size": size, "seed": seed}
    config |= {"channels": channels, "racecar": mirror.stored(), "recipe": asdict(recipe)}
    config |= extras.stored() | ({"pretrained": pretrained} if pretrained else {})
    config |= {"freeze": list(freeze)} if freeze else {}  # folders of before know none of these
    config |= {"task": task} if task != "classify" else {}

    accelerator = accelerator or make_accelerator()
    if mirror.balanced and mirror.ratio > mirror.safe_ratio:
        words = f"racecar: --ratio {mirror.ratio:g} is beyond what was measured as safe (results/balance.md)"
        say(accelerator, f"{words}: {mirror.safe_ratio:g} is used", error=True)
    extras.check_libraries(recipe.augmentation)
    check_trackers(trackers)
    if pretrained:
        published.check(pretrained, model)
    if accelerator.is_main_process:
        longer.raise_epochs(folder, "train", run.same_as_known(folder, config), recipe)
    if look(accelerator, folder, "train", config):
        return Trained(folder, before=True)
    labelled = task == "classify"
    device, tell = accelerator.device, teller(accelerator)
    loaded = read(source, size, channels, folder=folder, accelerator=accelerator, labelled=labelled)
    normalisation = published.normalisation_of(model, pretrained, loaded.train.shape[0])
    normalisation = normalisation or normalisation_of(accelerator, folder, loaded.train, tell)
    images = Data(loaded.train, loaded.validation, normalisation, listed=loaded.listed())
    classes = len(images.classes)
    network, made = checkpoint.build(model, options or {}, classes, images.shape[0], seed)
    if pretrained:
        new = published.begin_with(network, pretrained, model, made)
        say(accelerator, f"racecar: begins with trained weights, but for {', '.join(new) or 'none'}")
    frozen = freeze_named(network, freeze)
    with no_memory(accelerator, recipe.batch_size):
        network = network.to(device)
        example = images.normalisation(images.train.first(2))
        outputs = classes if labelled else checkpoint.outputs_of(network, model, example)
        if outputs != classes:
            replace_head(network, outputs, classes)
            network.to(device)
        checkpoint.check(network, model, example, classes)
    study = open_folder(accelerator, folder, "train", config, images)
    if accelerator.is_main_process:
        study.note(normalisation=asdict(normalisation))
    with Stopper() as stop:
        done = run.train(
            study,
            network,
            {
                "model": model,
                "options": made,
                "outputs": outputs,
                "task": task,
                "pretrained": pretrained,
                "frozen": list(freeze),
                "data": loaded.about(),
            },
            images,
            recipe,
            seed=seed,
            accelerator=accelerator,
            mirror=mirror,
            frozen=frozen,
            extras=extras,
            trackers=trackers,
            may_go_on=True,
            labelled=labelled,
            callbacks=Callbacks(stop=stop, save_every=save_every),
            label=model,
        )
    if not done:
        raise Stopped(STOPPED)
    return Trained(folder)


def _alone(mirror: Mirror, source: Source, extras: Extras) -> Mirror:
    """The penalty where it is all that is minimised: of the input, with λ = 1, where nothing else is said.

    All layers together have a way out: what is 0 everywhere is regenerated without error.

    Raises:
        ValueError: something that needs labels.
    """
    needs = {
        "--racecar auto": mirror.balanced,
        "--validation": source.validation,
        "--class-weights": extras.class_weights,
        "--mixup": extras.mixup,
        "--cutmix": extras.cutmix,
    }
    if asked := [option for option, given in needs.items() if given]:
        raise ValueError(f"--task reconstruct has no labels: {' and '.join(asked)} cannot be used with it")
    return replace(mirror, weight=mirror.weight or 1.0, layers=1 if mirror.layers is None else mirror.layers)
