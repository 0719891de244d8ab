"""``racecar transfer``: fine-tune or probe a checkpoint on other images, beside training from scratch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from racecar.study.core.accelerator import make_accelerator
from racecar.study.core.errors import Stopped
from racecar.study.core.options import add_both
from racecar.study.pretrain.options import add_common, extras_of, recipe_of, source_of, trackers_of
from racecar.study.pretrain.run import say
from racecar.study.pretrain.transferring import FEW_LABELS, Mode, Restart, Transferred, transfer


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
        type=Mode,
        default="finetune",
        help="finetune: all weights; probe: a new last layer alone, the rest and its statistics stay",
    )
    made.add_argument(
        "--restart",
        type=Restart,
        default="head",
        help="begin with: head: a new last layer, also where the classes fit; keep: all weights as they are; shrink: "
        "half of every weight and half of a fresh one (shrink and perturb), a last layer that does not fit is new",
    )
    made.add_argument(
        "--scratch", action="store_true", help="also train all weights from random ones and report p_AB − p_B"
    )
    made.add_argument("--seeds", type=int, default=1, help="how many, counted from 0; may grow later")
    made.add_argument(
        "--labels",
        type=float | str,
        default=1.0,
        help="share of the training labels, e.g. 0.01, stratified; a file's name is taken as --labels-file",
    )
    add_both(made, "no_probe", action="store_true", help="do not measure linear probes of the frozen features")
    add_common(made, own_labels=False)
    return made


def run(parser: ArgumentParser, options: Namespace) -> int:
    """Train what is missing and report."""
    accelerator, source = make_accelerator(), source_of(options)
    if isinstance(options.labels, str):
        source, options.labels = replace(source, labels_file=options.labels), 1.0
    try:
        found = transfer(
            options.checkpoint,
            source,
            model=options.model,
            out=options.out,
            mode=options.mode,
            restart=options.restart,
            scratch=options.scratch,
            seeds=options.seeds,
            labels=options.labels,
            probe=not options.no_probe,
            recipe=recipe_of(options),
            extras=extras_of(options),
            freeze=options.freeze,
            trackers=trackers_of(options),
            save_every=options.save_every,
            accelerator=accelerator,
        )
    except Stopped as stopped:
        say(accelerator, str(stopped), error=True)
        return 130
    if accelerator.is_main_process:
        _show(found, options)
    accelerator.end_training()
    return 0


def _show(found: Transferred, options: Namespace) -> None:
    """p_AB, p_B and their difference paired by seed, linear probes."""
    table = Table("", "mean", "95 % interval", title=f"{options.mode} on {options.data}, n = {options.seeds}")
    for name, s in found.summary.items():
        alone = "the same for every seed" if name == "probe" and options.labels == 1 else "needs 2 seeds"
        interval = alone if math.isnan(s.low) else f"[{s.low:+.4f}, {s.high:+.4f}]"
        table.add_row(name, f"{s.mean:+.4f}" if "−" in name else f"{s.mean:.4f}", interval)
    Console().print(table)
    if not options.no_probe and len(found.accuracy.get(FEW_LABELS, [])) < options.seeds:
        print(f"{FEW_LABELS}: left out where a class has fewer")
    print(f"results: {found.folder / 'transfer.json'}" + (" (all was done before)" if found.before else ""))
