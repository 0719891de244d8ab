"""``racecar data smoke``: the simulated set of Section 5.3."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from racecar.study.core.errors import StudyError
from racecar.study.core.files import write_bytes
from racecar.study.core.processes import Stopper, run_shares
from racecar.study.core.sole import sole_use
from racecar.study.core.terminal import STOPPED, progress_bar, worker_count
from racecar.study.smoke import dataset
from racecar.study.smoke.simulation import Settings


def parser(argv: Sequence[str]) -> ArgumentParser:
    """The command's options."""
    made = ArgumentParser(description="simulate rising smoke with PhiFlow for `racecar study smoke`")
    made.add_argument("--out", type=str, default=".data/smoke", help="folder")
    made.add_argument("--count", type=int, default=20, help="simulations; more may be added later")
    made.add_argument("--seed", type=int, default=0, help="of the random inflows and buoyancies")
    made.add_argument("--workers", type=int, default=None, help="processes (default: one per core, two at most)")
    made.add_class_arguments(Settings)
    return made


def run(parser: ArgumentParser, options: Namespace) -> int:
    """Make what is missing, a preview, and say what the checks found."""
    if options.count < 1:
        raise StudyError(f"--count must be at least 1, not {options.count}")
    folder = Path(options.out)
    settings = Settings(options.frames, options.size, options.warm_up)
    workers = worker_count(options.workers)
    dataset.open_folder(folder, settings, options.count, options.seed)
    with sole_use(folder, f"making simulations in {folder}"):
        return _make(folder, settings, workers)


def _make(folder: Path, settings: Settings, workers: int) -> int:
    left = dataset.missing(folder)
    if left:
        each = settings.warm_up + settings.frames
        count = dataset.description(folder)["count"]
        shares = [(folder, left[i::workers]) for i in range(min(workers, len(left)))]
        with Stopper() as stop, progress_bar(f"{count} simulations", count * each, (count - len(left)) * each) as bar:
            complete = run_shares(dataset.make, shares, bar, stop)
        if not complete:
            print(STOPPED, file=sys.stderr)
            return 130
    from racecar.study.report.figures import png
    from racecar.study.smoke.figures import strips

    shown = dataset.load(folder).density[:6]
    pictures = {f"simulation {number}": frames for number, frames in enumerate(shown)}
    write_bytes(folder / "preview.png", png(strips(pictures, 8)))
    found = dataset.checks(folder)
    print(
        f"{folder}: largest divergence {found['divergence']:.2g} per time step, largest gain of mass by advection "
        f"{found['gain']:.2%} per frame, mean density {found['density']:.3f}; a look at it: {folder / 'preview.png'}"
    )
    return 0
