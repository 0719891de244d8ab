"""``racecar train``: pretrain any classifier on somebody's images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from racecar.study.classification.batches import Normalisation
from racecar.study.commands.explain import layers_of
from racecar.study.core.accelerator import make_accelerator
from racecar.study.core.callbacks import Callbacks
from racecar.study.core.processes import Stopper
from racecar.study.core.terminal import STOPPED
from racecar.study.images.load import train_and_validation
from racecar.study.pretrain import checkpoint
from racecar.study.pretrain.options import add_common, recipe_of
from racecar.study.pretrain.run import Data, Mirror, look, no_memory, open_folder, say, train


def parser(argv: Sequence[str]) -> ArgumentParser:
    """The command's options."""
    made = ArgumentParser(
        allow_abbrev=False, description="pretrain a classifier with racecar, or plainly, on your own images"
    )
    made.add_argument(
        "--model", type=str, required=True, help="timm:NAME, torchvision:NAME or module:NAME of a class or function"
    )
    made.add_argument(
        "--model-options", type=dict[str, Any] | None, default=None, help="for its constructor, e.g. '{\"depth\": 20}'"
    )
    made.add_argument("--racecar", type=float, default=0.0, help="λ, e.g. 1e-4; 0: plain training")
    made.add_argument("--layers", type=str, default=None, help="conv, all, an integer s (RR^s) or names with commas")
    made.add_argument("--start", type=str, default=None, help="module at whose output the reverse pass starts")
    made.add_argument(
        "--reduction", type=Literal["mean", "sum"], default="mean", help="of the penalty; sum: as the paper's λ need"
    )
    made.add_argument("--size", type=int, default=None, help="pixels of the square images (default: as they are)")
    made.add_argument(
        "--channels",
        type=Literal[1, 3],
        default=None,
        help="1: grey, 3: colour (default: 3 for timm and torchvision, else as the images are)",
    )
    made.add_argument("--seed", type=int, default=0, help="of weights, order, augmentation and dropout")
    add_common(made)
    return made


def run(parser: ArgumentParser, options: Namespace) -> int:
    """Train; a finished folder is left alone, an unfinished one goes on."""
    recipe = recipe_of(options)
    mirror = Mirror(options.racecar, layers_of(options.layers), options.start, options.reduction)
    if options.size is not None and options.size < 1:
        raise ValueError(f"--size must be at least 1, not {options.size}")
    folder = Path(options.out or f"runs/train-{options.model.partition(':')[2].replace('/', '-')}")
    channels = options.channels or (3 if checkpoint.library(options.model) else None)
    names = ("model", "model_options", "data", "validation", "image_column", "label_column", "size", "skip_bad", "seed")
    config = {n: getattr(options, n) for n in names}
    config |= {"channels": channels, "racecar": asdict(mirror), "recipe": asdict(recipe)}

    accelerator = make_accelerator()
    if look(accelerator, folder, "train", config):
        say(accelerator, f"{folder} is finished: nothing to do. To train again, choose another --out.")
        _show(accelerator, folder)
        return 0
    found, test, bad = train_and_validation(
        options.data,
        validation=options.validation,
        image=options.image_column,
        label=options.label_column,
        size=options.size,
        channels=channels,
        skip_bad=options.skip_bad,
    )
    if bad:
        say(accelerator, f"racecar: left out {len(bad)} images that do not decode: {', '.join(bad[:5])}", error=True)
    device, classes = accelerator.device, len(found.classes)
    data = Data(found.to(device), test.to(device), Normalisation.of(found))
    model, made = checkpoint.build(options.model, options.model_options or {}, classes, found.shape[0], options.seed)
    with no_memory(accelerator, recipe.batch_size):
        model = model.to(device)
        checkpoint.check(model, options.model, data.normalisation(data.train.pixels[:2]), classes)
    study = open_folder(accelerator, folder, "train", config, data)
    metadata = {"model": options.model, "options": made, "outputs": classes}
    with Stopper() as stop:
        done = train(
            study,
            model,
            metadata,
            data,
            recipe,
            seed=options.seed,
            accelerator=accelerator,
            mirror=mirror,
            callbacks=Callbacks(stop=stop, save_every=options.save_every),
            label=options.model,
        )
    if not done:
        say(accelerator, STOPPED, error=True)
        return 130
    _show(accelerator, folder)
    accelerator.end_training()
    return 0


def _show(accelerator: Accelerator, folder: Path) -> None:
    if not accelerator.is_main_process:
        return
    metadata = checkpoint.read_metadata(folder)
    table = Table("", "", show_header=False)
    table.add_row("validation accuracy", f"{metadata['accuracy']:.4f}")
    table.add_row("seconds per epoch", f"{metadata['seconds_per_epoch']:.2f}")
    table.add_row("checkpoint (last epoch)", str(folder / "model.safetensors"))
    Console().print(table)
    print(f"without racecar:\n\n{checkpoint.how_to_load(folder, metadata)}\n")
