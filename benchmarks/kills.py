"""Hundreds of SIGKILLs at random moments, over train, transfer, a sweep and two processes: the same bytes at the end.

    python benchmarks/kills.py --kills 500 --table results/kills.md

Each command is first run undisturbed. Then it is started again and again on one folder and killed after a random time,
until it ends by itself; what it has written is compared, and a new folder is begun, until as many kills are done. The
processes are forks of one that has imported everything, so that a kill comes within training and not within imports.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "tests" / "study" / "pretrain")]

import accelerate  # noqa: E402, F401
import datasets  # noqa: E402, F401
import numpy as np  # noqa: E402
import sympy  # noqa: E402, F401
import torch  # noqa: E402
import torch._dynamo  # noqa: E402
import torch._export  # noqa: E402
import torch.fx.experimental.symbolic_shapes  # noqa: E402
import torch.utils.tensorboard  # noqa: E402
from PIL import Image  # noqa: E402
from processes import fork  # noqa: E402

import racecar.study.commands.sweep  # noqa: E402
import racecar.study.commands.train  # noqa: E402
import racecar.study.commands.transfer  # noqa: E402, F401
from racecar.study.cli import main as command  # noqa: E402

SECONDS = 120  # for one process, which then counts as hung
GRACE = 5  # seconds for those left alone; then they are killed, as torchrun does: torch waits half an hour for a peer
TRAIN = ["train", "--model", "small_nets:net", "--data", "data", "--racecar", "1e-2", "--batch-size", "9",
         "--augmentation", "flip-crop", "--learning-rate", "1e-2", "--save-every", "0.01"]  # fmt: skip
TRANSFER = ["transfer", "--from", "source", "--model", "small_nets:net", "--data", "other", "--seeds", "2", "--scratch",
            "--epochs", "8", "--batch-size", "6", "--learning-rate", "1e-2", "--save-every", "0.01"]  # fmt: skip
SWEEP = ["sweep", "mutual-information", "--preset", "quick", "--variants", "Std", "RR1", "--seeds", "2",
         "--snapshots", "2", "--training.epochs", "20", "--training.epochs_b", "10", "--weights", "1e-3", "1e-2",
         "--workers", "1"]  # fmt: skip
PROCESSES = [word if word != "9" else "8" for word in TRAIN] + ["--epochs", "24"]


@dataclass
class Scenario:
    """A command, in one process or in two.

    Attributes:
        words: of it, without ``--out``.
        processes: that it runs in.
        kills, ends: how often it was killed, and came to its end.
        stopped: how often a process that waited for a killed one was killed too.
        differing, failures: what was wrong.
        kept: the files whose bytes must be the same.
    """

    words: list[str]
    kept: str
    processes: int = 1
    kills: int = 0
    ends: int = 0
    stopped: int = 0
    differing: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


SCENARIOS = {
    "train": Scenario([*TRAIN, "--epochs", "24"], "model.safetensors"),
    "transfer, fine-tuned and from scratch, 2 seeds": Scenario(TRANSFER, "**/*.safetensors"),
    "sweep of two λ": Scenario(SWEEP, "*/runs/*/*/model.safetensors"),
    "train in two processes (gloo)": Scenario(PROCESSES, "model.safetensors", processes=2),
}


def images(folder: str, seed: int) -> None:
    """Three classes of 8 × 8 pixels."""
    draw = np.random.default_rng(seed)
    for split in ("train", "test"):
        for number, name in enumerate(("cat", "dog", "owl")):
            place = Path(folder) / split / name
            place.mkdir(parents=True)
            for i in range(9):
                pixels = draw.integers(0, 150, (8, 8, 3))
                pixels[:, :, number % 3] += 100
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i}.png")


def started(words: Sequence[str], out: str, processes: int, port: int) -> list[int]:
    """Process ids."""

    def do(rank: int) -> Callable[[], int]:
        def run() -> int:
            torch.set_num_threads(1)
            if processes > 1:
                os.environ.update(
                    RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes), LOCAL_WORLD_SIZE=str(processes),
                    MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
                )  # fmt: skip
            return command([*words, "--out", out])

        return run

    return [fork(do(rank), f"words-{rank}.txt") for rank in range(processes)]


def ended(children: list[int], limit: float, codes: dict[int, int] | None = None) -> list[int] | None:
    """Exit codes once all have ended; None if it takes longer.

    Args:
        children: process ids.
        limit: seconds.
        codes: of those that have ended before; gains those that end now.
    """
    codes = {} if codes is None else codes
    until = time.monotonic() + limit
    while True:
        for child in children:
            if child not in codes:
                pid, status = os.waitpid(child, os.WNOHANG)
                if pid:
                    codes[child] = os.waitstatus_to_exitcode(status)
        if len(codes) == len(children):
            return [codes[child] for child in children]
        if time.monotonic() > until:
            return None
        time.sleep(0.002)


def written(out: str, pattern: str) -> dict[str, bytes]:
    """Bytes by file."""
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(Path(out).glob(pattern))}


def disturb(scenario: Scenario, kills: int, draw: random.Random, port: Callable[[], int]) -> None:
    """Kill, start again, compare."""
    began = time.monotonic()
    codes = ended(started(scenario.words, "whole", scenario.processes, port()), 10 * SECONDS)
    took = time.monotonic() - began
    assert codes == [0] * scenario.processes, Path("words-0.txt").read_text()[-3000:]
    expected = written("whole", scenario.kept)
    assert expected
    while scenario.kills < kills:
        shutil.rmtree("out", ignore_errors=True)
        while True:
            children = started(scenario.words, "out", scenario.processes, port())
            gone: dict[int, int] = {}
            codes = ended(children, draw.uniform(0, took), gone)
            if codes is None:
                running = [child for child in children if child not in gone]
                for victim in draw.sample(running, draw.randint(1, len(running))):
                    os.kill(victim, signal.SIGKILL)
                scenario.kills += 1
                if ended(children, GRACE, gone) is None:
                    scenario.stopped += 1
                    for child in children:
                        if child not in gone:
                            os.kill(child, signal.SIGKILL)
                            os.waitpid(child, 0)
                continue
            if codes != [0] * scenario.processes:
                said = Path("words-0.txt").read_text().strip().splitlines()
                scenario.failures.append(f"exit {codes}: {said[-1] if said else ''}"[:300])
            break
        scenario.ends += 1
        found = written("out", scenario.kept)
        different = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
        left = [p.name for p in Path("out").rglob(".*") if p.is_file()]
        scenario.differing += different + [f"{name} left over" for name in left]
        print(json.dumps({"kills": scenario.kills, "ends": scenario.ends, "differing": scenario.differing}), flush=True)


def main() -> None:
    from racecar.study.core.environment import environment
    from racecar.study.core.files import write_text

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--kills", type=int, default=500, help="in all")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--commands", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), help="which ones")
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    table = options.table.resolve() if options.table else None
    about, draw, ports = environment(), random.Random(options.seed), iter(range(20_000, 60_000))
    with tempfile.TemporaryDirectory() as folder:
        for name in options.commands:
            scenario = SCENARIOS[name]
            place = Path(folder) / name.split(",")[0].replace(" ", "-")
            place.mkdir()
            os.chdir(place)
            os.environ["HF_DATASETS_CACHE"] = str(place / "cache")
            images("data", 0)
            images("other", 1)
            if "source" in scenario.words:
                assert ended(started([*TRAIN, "--epochs", "4"], "source", 1, next(ports)), SECONDS) == [0]
            print(name, flush=True)
            disturb(scenario, options.kills // len(options.commands), draw, lambda: next(ports))
        os.chdir("/")
    rows = []
    for name, s in ((name, SCENARIOS[name]) for name in options.commands):
        which = f" ({', '.join(s.differing[:3])})" if s.differing else ""
        failures = "; ".join(f"{n} × {what}" for what, n in Counter(s.failures).items()) or "none"
        rows.append(f"| {name} | {s.kills} | {s.ends} | {s.stopped} | {len(s.differing)}{which} | {failures} |")
    lines = [
        "# Killed at random moments",
        "",
        f"`python benchmarks/kills.py --kills {options.kills} --seed {options.seed}`: {about['processor']}, torch "
        f"{about['torch']}, revision {about['revision']}. SIGKILL after a time drawn evenly from that of an "
        "undisturbed run; in two processes one of them or both, and what then waits is killed, as torchrun does; "
        "started again until it ends by itself, then compared "
        "byte by byte.",
        "",
        "| command | kills | ends | waited for a killed one: stopped | files that differ or are left over | errors |",
        "|---|---|---|---|---|---|",
        *rows,
    ]
    print("\n".join(lines))
    if table is not None:
        write_text(table, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
