"""Does gloo bear two collective operations under way at once? Pairs of processes that do nothing but gather a tensor.

    python benchmarks/gloo.py --table results/gloo.md

One gathering at a time, and two at a time, both waited for. Nothing of racecar takes part. A process that ends by a
signal was killed by the system or by its allocator.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.distributed._functional_collectives as collectives  # noqa: E402
from processes import fork, together, wait  # noqa: E402

BETWEEN = 500  # gatherings, then a look at the clock


def gather(at_once: int, seconds: float, rank: int) -> None:
    """Gather over and over again; how often is written down."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo")
    value, count, end = torch.rand(8, 16), 0, time.monotonic() + seconds
    go_on = torch.ones(())
    while go_on:
        for _ in range(BETWEEN // at_once):
            for begun in [collectives.all_gather_tensor(value, 0, dist.group.WORLD) for _ in range(at_once)]:
                begun.wait()  # type: ignore[attr-defined]
        count += BETWEEN
        go_on.fill_(time.monotonic() < end)
        dist.broadcast(go_on, 0)  # both stop after the same number
        Path(f"count-{rank}.txt").write_text(str(count))
    dist.destroy_process_group()


def pair(at_once: int, seconds: float, folder: Path) -> None:
    """Two processes that gather, in a folder of their own; their exit codes are written there."""
    os.chdir(folder)
    codes = together(2, functools.partial(gather, at_once, seconds))
    Path("codes.json").write_text(json.dumps(codes))


def found_in(folder: Path) -> tuple[list[int], int]:
    """Exit codes of a pair, and how often it has gathered."""
    count = folder / "count-0.txt"
    return json.loads((folder / "codes.json").read_text()), int(count.read_text()) if count.exists() else 0


def main() -> None:
    from racecar.study.core.environment import environment
    from racecar.study.core.files import write_text

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--pairs", type=int, default=6, help="of processes side by side")
    parser.add_argument("--seconds", type=float, default=120, help="for each kind")
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    about, rows = environment(), []
    with tempfile.TemporaryDirectory() as folder:
        for at_once in (1, 2):
            places = [Path(folder, f"{at_once}-{i}") for i in range(options.pairs)]
            for place in places:
                place.mkdir()
            children = [fork(functools.partial(pair, at_once, options.seconds, p), str(p / "pair.txt")) for p in places]
            for child in children:
                wait(child)
            found = [found_in(place) for place in places]
            ended = sorted(code for codes, _ in found for code in codes if code < 0)
            crashed = sum(min(codes) < 0 for codes, _ in found)
            signals = f" (signals {', '.join(str(-code) for code in ended)})" if ended else ""
            rows.append(f"| {at_once} | {sum(count for _, count in found):,} | {crashed}{signals} |")
            print(rows[-1], flush=True)
    lines = [
        "# Collective operations at once under gloo",
        "",
        f"`python benchmarks/gloo.py --pairs {options.pairs} --seconds {options.seconds:g}`: {about['processor']}, "
        f"torch {about['torch']}, revision {about['revision']}. Pairs of processes gather 8 × 16 numbers over and "
        f"over; {options.pairs} pairs side by side.",
        "",
        f"| gatherings under way | gatherings until the end or a crash | of {options.pairs} pairs, ended by a signal |",
        "|---|---|---|",
        *rows,
    ]
    print("\n".join(lines))
    if options.table is not None:
        write_text(options.table, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
