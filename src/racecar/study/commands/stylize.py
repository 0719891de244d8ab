"""``racecar stylize``: one picture in the style of another, as a network sees them."""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace

from racecar.study.core.accelerator import make_accelerator
from racecar.study.core.callbacks import Callbacks, Timer
from racecar.study.core.checkpoints import Progress, read_progress, write_progress
from racecar.study.core.errors import StudyError
from racecar.study.core.options import add_both, add_fields, chosen
from racecar.study.core.processes import Stopper
from racecar.study.core.sole import sole_use
from racecar.study.core.terminal import STOPPED, progress_bar
from racecar.study.stylize.networks import KINDS, open_network
from racecar.study.stylize.optimise import Losses, Settings, Stylization
from racecar.study.stylize.pictures import read_picture, write_picture


def parser(argv: Sequence[str]) -> ArgumentParser:
    """The command's options."""
    made = ArgumentParser(
        allow_abbrev=False,
        description="one picture in the style of another: L_total = η L_content + δ L_style, Equations 3 and 4",
    )
    made.add_argument("--config", action="config", help="YAML file with any of the options below")
    made.add_argument("--content", type=str, required=True, help="image")
    made.add_argument("--style", type=str, required=True, help="image")
    made.add_argument("--network", type=str, required=True, help=KINDS)
    made.add_argument(
        "--model",
        type=str,
        default=None,
        help="the module:NAME of --network's folder, to say that this code may be run; timm and torchvision need none",
    )
    made.add_argument("--out", type=str, default="stylized.png", help="PNG to write; while it is made, how far it is")
    add_both(made, "style_only", action="store_true", help="without the content loss: η = 0")
    made.add_argument("--size", type=int, default=512, help="pixels of the longer side of both pictures")
    made.add_argument("--preview", type=float, default=10.0, help="seconds between previews written to --out")
    add_both(made, "save_every", type=float, default=60.0, help="seconds between saved states")
    add_fields(made, Settings)
    return made


def run(parser: ArgumentParser, options: Namespace) -> int:
    """Optimise, from where an earlier call has got."""
    settings = Settings(**chosen(options, Settings) | ({"content_weight": 0.0} if options.style_only else {}))
    out = Path(options.out)
    if out.suffix.lower() != ".png":
        raise StudyError(f"--out must be a .png file, not {out}")
    if options.size < 1:
        raise ValueError(f"--size must be at least 1, not {options.size}")
    content, style = (read_picture(Path(p), options.size) for p in (options.content, options.style))
    seeing = open_network(options.network, options.model)
    device = make_accelerator().device
    stylization = Stylization(
        seeing.network.to(device), content.to(device), style.to(device), seeing.normalisation, settings
    )
    wanted = _fingerprint(settings, seeing.network, content, style)
    out.parent.mkdir(parents=True, exist_ok=True)
    with sole_use(out.parent, f"making {out}", f".{out.name}.lock"):
        return _make(stylization, out, wanted, options, seeing.words)


def _make(stylization: Stylization, out: Path, wanted: list[Any], options: Namespace, words: str) -> int:
    """The picture, from where an earlier call has got; the exit code."""
    settings = stylization.settings
    kept = out.with_name(f".{out.name}.state.safetensors")
    found = read_progress(kept)
    if found is not None and found.metadata.get("wanted") == wanted:
        stylization.restore(found)

    def save(state: Progress) -> None:
        write_progress(kept, Progress(state.tensors, state.metadata | {"wanted": wanted}))

    preview = Timer(options.preview)

    def show(losses: Losses) -> None:
        if preview.due:
            write_picture(out, stylization.picture)
            preview.restart()

    with Stopper() as stop, progress_bar("stylizing", settings.steps, stylization.step) as advance:
        done = stylization.run(Callbacks(advance, save, stop, show, options.save_every))
    write_picture(out, stylization.picture)
    if not done:
        print(STOPPED, file=sys.stderr)
        return 130
    kept.unlink(missing_ok=True)
    with torch.no_grad():
        ends = [float(v) for v in stylization.losses(stylization.pixels)]
    begin = stylization.history[0]
    print(f"L_content (Eq. 3): {begin.content:.5g} → {ends[0]:.5g}")
    print(f"L_style (Eq. 4): {begin.style:.5g} → {ends[1]:.5g}")
    height, width = stylization.pixels.shape[2:]
    print(f"{out}: {width} × {height} pixels, as seen by {words}")
    return 0


def _fingerprint(settings: Settings, network: torch.nn.Module, *pictures: torch.Tensor) -> list[Any]:
    """Of everything that decides the result."""
    weights = float(sum(p.detach().double().abs().sum() for p in network.parameters()))
    return [json.loads(json.dumps(asdict(settings))), weights, *(zlib.crc32(p.numpy().tobytes()) for p in pictures)]
