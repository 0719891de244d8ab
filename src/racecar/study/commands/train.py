"""``racecar train``: pretrain any classifier on somebody's images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from racecar.study.commands.explain import layers_of
from racecar.study.core.accelerator import make_accelerator
from racecar.study.core.errors import Stopped
from racecar.study.pretrain.mirror import Mirror
from racecar.study.pretrain.options import add_common, extras_of, recipe_of, source_of, trackers_of
from racecar.study.pretrain.pretraining import train
from racecar.study.pretrain.published import LIBRARY
from racecar.study.pretrain.run import say
from racecar.study.pretrain.trained import Trained


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
    made.add_argument(
        "--racecar",
        type=float | Literal["auto"],
        default=0.0,
        help="λ, e.g. 1e-4; 0: plain training; auto: from the gradients of the first batches, by --ratio",
    )
    made.add_argument(
        "--ratio",
        type=float,
        default=0.3,
        help="with --racecar auto: length of the penalty's gradient over the cross entropy's. 0.3 where all weights "
        "will be fine-tuned, 1 to 3 where features stay frozen; more than 3 counts as 3 (docs/training.md)",
    )
    made.add_argument(
        "--task",
        type=Literal["classify", "reconstruct"],
        default="classify",
        help="reconstruct: labels are not asked for, the penalty is all that is minimised, of the input (--layers 1) "
        "if not said otherwise",
    )
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
    made.add_argument(
        "--pretrained",
        nargs="?",
        type=str,
        const=LIBRARY,
        default=None,
        help="begin with trained weights: timm's or torchvision's, or those of a safetensors file",
    )
    made.add_argument("--seed", type=int, default=0, help="of weights, order, augmentation and dropout")
    add_common(made)
    return made


def run(parser: ArgumentParser, options: Namespace) -> int:
    """Train; a finished folder is left alone, an unfinished one goes on."""
    accelerator = make_accelerator()
    try:
        trained = train(
            options.model,
            source_of(options),
            out=options.out,
            racecar=Mirror(options.racecar, layers_of(options.layers), options.start, options.reduction, options.ratio),
            recipe=recipe_of(options),
            extras=extras_of(options),
            pretrained=options.pretrained,
            freeze=options.freeze,
            task=options.task,
            trackers=trackers_of(options),
            size=options.size,
            channels=options.channels,
            model_options=options.model_options,
            seed=options.seed,
            save_every=options.save_every,
            accelerator=accelerator,
        )
    except Stopped as stopped:
        say(accelerator, str(stopped), error=True)
        return 130
    if accelerator.is_main_process:
        _show(trained)
    accelerator.end_training()
    return 0


def _show(trained: Trained) -> None:
    if trained.before:
        print(f"{trained.folder} is finished: nothing to do. To train again, choose another --out.")
    table = Table("", "", show_header=False)
    if trained.task == "reconstruct":
        table.add_row("penalty on validation images", f"{trained.error:.4g}")
    else:
        table.add_row("validation accuracy", f"{trained.accuracy:.4f}")
    table.add_row("seconds per epoch", f"{trained.seconds_per_epoch:.2f}")
    if (racecar := trained.about.get("racecar") or {}).get("ratio"):
        table.add_row("λ, from gradients", f"{racecar['weight']:.3g}")
    epoch, last = trained.about.get("epoch", len(trained.history)), len(trained.history)
    table.add_row(f"checkpoint ({'last epoch' if epoch == last else f'epoch {epoch} of {last}'})", str(trained.weights))
    Console().print(table)
    print(f"without racecar:\n\n{trained.how_to_load}\n")
