"""Scenarios with processes that are killed, run out of disk, or share a batch: a script of its own.

It imports everything once and forks: each process starts within a second. Nothing may be computed before a fork, as
torch's threads do not survive it. Prints JSON.
"""

import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import datasets  # noqa: F401
import small_nets
import sympy  # noqa: F401
import torch
import torch._dynamo
import torch._export
import torch.fx.experimental.symbolic_shapes
import torch.utils.tensorboard
from processes import fork, together, wait, wait_until
from safetensors.torch import save_file

import racecar.study.commands.train
import racecar.study.core.files
from racecar.study.classification.batches import InMemory, Normalisation
from racecar.study.classification.recipe import Recipe
from racecar.study.classification.training import Trainer
from racecar.study.cli import main
from racecar.study.core.accelerator import make_accelerator
from racecar.study.core.callbacks import Callbacks
from racecar.study.core.files import read_tensors
from racecar.study.images.decoded import Images
from racecar.study.pretrain.mirror import Mirror

TRAIN = ["train", "--model", "small_nets:net", "--data", "data", "--racecar", "1e-2", "--epochs", "16",
         "--batch-size", "9", "--augmentation", "flip-crop", "--learning-rate", "1e-2"]  # fmt: skip


def train(*more: str, before: Callable[[], None] = lambda: None, errors: str = "errors.txt") -> int:
    def do() -> int:
        before()
        return main([*TRAIN, *more])

    return fork(do, errors)


def same(name: str) -> bool:
    return (Path(name) / "model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()


def leftovers(name: str) -> list[str]:
    return [p.name for p in Path(name).glob(".*")]


def saved_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:  # not yet, or removed at the end of the run
        return 0


def at_random_moments() -> dict[str, Any]:
    """SIGKILL after a random time, again and again; then to the end."""
    draw, codes, progress = random.Random(0), [], Path("a/progress-run.safetensors")
    assert wait(train("--out", "whole")) == 0
    for _ in range(4):
        before = saved_at(progress)
        child = train("--out", "a", "--save-every", "0.01")
        if not wait_until(child, lambda: saved_at(progress) not in (0, before)):  # noqa: B023
            codes.append(wait(child))
            continue
        time.sleep(draw.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        codes.append(wait(child))
    codes.append(wait(train("--out", "a")))
    return {"codes": codes, "same": same("a"), "leftovers": leftovers("a")}


def while_writing() -> dict[str, Any]:
    """Killed with half of a file written: a saved state, then the finished weights."""
    found: dict[str, Any] = {"codes": [], "damaged": [], "leftovers": []}

    def half(number: int, final: bool) -> None:
        count = 0

        def save(tensors: Any, path: Path, metadata: dict[str, str]) -> None:
            nonlocal count
            save_file(tensors, path, metadata)
            count += ("model" in metadata) == final
            if count == number:
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
                os.kill(os.getpid(), signal.SIGKILL)

        racecar.study.core.files.save_file = save

    progress = Path("b/progress-run.safetensors")
    for number, final in ((3, False), (1, True)):
        found["codes"].append(wait(train("--out", "b", "--save-every", "0", before=lambda: half(number, final))))  # noqa: B023
        found["leftovers"].append(leftovers("b"))
        if progress.exists():
            read_tensors(progress)  # whole
    assert not Path("b/model.safetensors").exists()
    found["codes"].append(wait(train("--out", "b")))
    return found | {"same": same("b"), "at_the_end": leftovers("b")}


def full_disk() -> dict[str, Any]:
    """No file may grow beyond a size: first while training, then with only the finished weights missing."""
    progress = Path("c/progress-run.safetensors")

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))

    child = train("--out", "c", "--save-every", "0")
    assert wait_until(child, progress.exists)
    os.kill(child, signal.SIGKILL)
    wait(child)
    before = progress.read_bytes()
    code = wait(train("--out", "c", "--save-every", "0", before=limit, errors="full.txt"))
    unchanged = progress.read_bytes() == before
    last = wait(train("--out", "c"))
    return {
        "code": code, "unchanged": unchanged, "size": len(before), "errors": Path("full.txt").read_text(),
        "last": last, "same": same("c"),
    }  # fmt: skip


def interrupted() -> dict[str, Any]:
    """SIGTERM in the middle."""
    progress = Path("d/progress-run.safetensors")
    child = train("--out", "d", "--save-every", "0", errors="term.txt")
    assert wait_until(child, progress.exists)
    os.kill(child, signal.SIGTERM)
    code = wait(child)
    return {"code": code, "errors": Path("term.txt").read_text(), "last": wait(train("--out", "d")), "same": same("d")}


# --- several processes ------------------------------------------------------------------------------------------------

CASES = [(8, 0.5, "mean"), (7, 0.0, "mean"), (7, 0.5, "mean"), (7, 0.05, "sum")]


def one_step(count: int, weight: float, reduction: Any) -> dict[str, torch.Tensor]:
    """Weights after one step of plain SGD on ``count`` images, shared by however many processes there are."""
    accelerator = make_accelerator()
    draw = torch.Generator().manual_seed(0)
    images = Images(
        torch.randint(256, (count, 3, 8, 8), generator=draw, dtype=torch.uint8),
        torch.arange(count) % 3,
        ("x", "y", "z"),
    )
    torch.manual_seed(0)
    model = small_nets.plain(3)
    normalisation = Normalisation.of(images)
    objective = Mirror(weight, None, None, reduction).objective(model, normalisation(images.pixels[:2]))
    recipe = Recipe(epochs=1, batch_size=count, optimiser="sgd", momentum=0.0, learning_rate=0.5)
    trainer = Trainer(objective, recipe, InMemory(images, images, normalisation), seed=0, accelerator=accelerator)
    assert trainer.run()
    return {k: v.clone() for k, v in model.state_dict().items()} | {
        "history": torch.tensor([trainer.history[0].loss, trainer.history[0].penalty, trainer.history[0].accuracy])
    }


def stopped_within_an_epoch(file: str) -> None:
    """Losses and accuracies of two epochs, whole and stopped after 16 steps of 20."""
    draw, accelerator = torch.Generator().manual_seed(0), make_accelerator()
    pixels = torch.randint(256, (40, 3, 8, 8), generator=draw, dtype=torch.uint8)
    images = Images(pixels, torch.arange(40) % 3, ("x", "y", "z"))

    def trainer() -> Trainer:
        torch.manual_seed(0)
        normalisation = Normalisation.of(images)
        objective = Mirror(0.5, None, None, "mean").objective(small_nets.plain(3), normalisation(images.pixels[:2]))
        data = InMemory(images, images, normalisation)
        return Trainer(objective, Recipe(epochs=2, batch_size=2), data, seed=0, accelerator=accelerator)

    whole, stopped, resumed = trainer(), trainer(), trainer()
    saved: list[Any] = []
    assert whole.run()
    assert not stopped.run(Callbacks(stop=lambda: True, save=saved.append))
    assert stopped.step == 16
    resumed.restore(saved[-1])
    assert resumed.run()
    numbers = [[(p.loss, p.penalty, p.accuracy) for p in t.history] for t in (whole, resumed)]
    save_file({"history": torch.tensor(numbers, dtype=torch.float64)}, file)


def steps(file: str) -> None:
    found = {f"{i}.{k}": v for i, case in enumerate(CASES) for k, v in one_step(*case).items()}
    save_file(found, file)


def two_processes() -> dict[str, Any]:
    words = ["train", "--model", "small_nets:plain", "--data", "data", "--racecar", "auto", "--epochs", "3",
             "--batch-size", "8", "--optimiser", "sgd", "--learning-rate", "0.02", "--clip", "0.5", "--ema", "0.8",
             "--keep", "best", "--class-weights", "cat=2", "--layer-decay", "0.9"]  # fmt: skip

    def do(rank: int) -> int:
        steps(f"rank{rank}.safetensors")
        stopped_within_an_epoch(f"stopped{rank}.safetensors")
        return main([*words, "--out", "two"])

    codes = together(2, do)
    codes += [wait(fork(lambda: steps("single.safetensors"))), wait(fork(lambda: main([*words, "--out", "one"])))]
    if any(codes):
        return {"codes": codes}

    def difference(left: str, right: str) -> float:
        a, b = read_tensors(Path(left)), read_tensors(Path(right))
        assert a.keys() == b.keys()
        return max(float((a[k] - b[k]).abs().max()) for k in a)

    single = read_tensors(Path("single.safetensors"))
    return {
        "codes": codes,
        "accelerate": accelerate.__version__,
        "ranks": difference("rank0.safetensors", "rank1.safetensors"),
        "single": difference("rank0.safetensors", "single.safetensors"),
        "penalties": [float(single[f"{i}.history"][1]) for i in range(len(CASES))],
        "moved": min(
            float((single[f"{i}.0.weight"] - single[f"{j}.0.weight"]).abs().max()) for i, j in ((0, 2), (1, 2), (2, 3))
        ),
        "trained": difference("two/model.safetensors", "one/model.safetensors"),
        "lambdas": [json.loads((Path(n) / "model.json").read_text())["racecar"]["weight"] for n in ("one", "two")],
        "processes": [json.loads((Path(n) / "model.json").read_text())["processes"] for n in ("one", "two")],
        "history": read_tensors(Path("stopped0.safetensors"))["history"].tolist(),
        "lines": Path("rank1.txt").read_text(),
    }


if __name__ == "__main__":
    if sys.argv[1] == "processes":
        print(json.dumps({"processes": two_processes()}))
    else:
        found = {"random": at_random_moments(), "writing": while_writing()}
        print(json.dumps(found | {"full": full_disk(), "interrupted": interrupted()}))
