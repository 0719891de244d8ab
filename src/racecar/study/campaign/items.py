"""The list: what wants an accelerator, in order of value, with the commands that do it and the work they are."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from racecar.study.campaign.estimate import Read, Study, Work
from racecar.study.cifar.network import strong
from racecar.study.core.ceilings import Ceilings
from racecar.study.digits.experiment import network as digits
from racecar.study.smoke.network import generator
from racecar.study.vgg.network import VGG19

Size = Literal["full", "tiny"]
Command = tuple[str, ...]


@dataclass(frozen=True)
class Item:
    """One entry of the list.

    Attributes:
        name: short, also of its log.
        decides: what is known afterwards.
        commands: one after the other; the first word is ``racecar`` or ``python``.
        table: the Markdown file that they write.
        fixed: seconds that do not depend on the device's speed: start, deriving, compiling, timing. Assumed; those of
            tiny sizes as measured on two cores.
        works: the rest.
        resumes: cut off, it keeps what is done and goes on next time.
    """

    name: str
    decides: str
    commands: tuple[Command, ...]
    table: Path
    fixed: float
    works: tuple[Work, ...] = ()
    resumes: bool = False

    def seconds(self, on: Ceilings, read: Read) -> float:
        """Estimate of what is left of it.

        Args:
            on: the device.
            read: a study's name and options → its configuration.
        """
        return self.fixed + sum(work.seconds(on, read) for work in self.works)


@dataclass(frozen=True)
class Place:
    """Where a campaign reads and writes.

    Attributes:
        work: its folder: state, logs, studies.
        results: for tables and figures.
        data: folder with mnist, cifar10, cifar100, imagenet_sample and scalarflow in parquet, or ``hub``.
        pictures: for stylization; None: shapes alone.
        card: the device's name as part of a file's.
    """

    work: Path
    results: Path
    data: str
    pictures: str | None
    card: str

    def table(self, name: str) -> Path:
        """Of a benchmark on this device."""
        return self.results / f"{name}-{self.card}.md"

    def of(self, name: str, hub: str) -> str:
        """A data set in the folder, or on the hub."""
        return hub if self.data == "hub" else str(Path(self.data) / name)


def make_items(size: Size, place: Place) -> list[Item]:
    """The list, the most valuable first.

    Args:
        size: ``tiny`` shows that everything runs, in minutes on a CPU.
        place: where.
    """
    tiny = size == "tiny"
    cifar10 = place.of("cifar10", "uoft-cs/cifar10")
    photographs = place.of("imagenet_sample", "ILSVRC/imagenet-1k")
    scalarflow = Path(place.data) / "scalarflow"
    same = () if place.data == "hub" else ("--same",)  # the sample has one image per class
    decoders = 1 if tiny else max(1, min(12, (os.cpu_count() or 2) - 2))

    def study(
        item: str,
        name: str,
        decides: str,
        options: Sequence[str],
        inputs: Sequence[str],
        table: str,
        works: Sequence[Work],
        first: Sequence[Command] = (),
        preset: str = "quick" if tiny else "paper",
        fixed: float = 40.0,
    ) -> Item:
        """Its command, then its page."""
        out = place.work / item
        command = ("racecar", "study", name, "--preset", preset, *options, *inputs)
        stem = f"{table}-{preset}"
        report = ("racecar", "report", str(out), "--results", str(place.results), "--name", stem)
        known = Study(name, command[3:], out)
        counted = () if tiny else tuple(dataclasses.replace(w, study=w.study or known) for w in works)
        return Item(
            item,
            decides,
            (*first, (*command, "--out", str(out)), report),
            place.results / f"{stem}.md",
            120 if tiny else fixed,
            counted,
            resumes=True,
        )

    few = ("--train_images", "200", "--test_images", "100", "--seeds", "1") if tiny else ()
    full_strength = Work(strong, (128, 3, 32, 32), 50_000 / 128 / 10)
    whole = "--train_images null --test_images null --width 64 --a.epochs 16 --b.epochs 8"
    sized = (*few, *("--width 8 --a.epochs 1 --b.epochs 1" if tiny else whole).split())
    chosen = place.work / "coarse-strong-tuning"
    tuning, judged = ("--variants", "Std", "Dec1", "RR1"), ("--variants", "Std", "StdC", "Dec1", "RR1")
    choosing = ("--preset", "full", "--pair", "cifar10-halves", "--seeds", "1", *tuning, *sized)
    coarse = ("--pair", "cifar10-animals", "--seeds", "10", *judged, "--phases", "A-tuned", "B", *sized)
    assumed = ("--preset", "full", *coarse, "--tuned", '{"Dec1": 1, "RR1": 1}')  # what is chosen changes no work
    data = ("--data", place.data)
    # Compiling takes a CPU minutes, whatever the size; `make results` does it there.
    small = ("--size", "tiny", "--seconds", "0.05", "--cases", "Table 9 (digits)")
    cost = ("python", "benchmarks/cost.py", *(small if tiny else ("--compile", "--seconds", "3")))
    speed = ("--batch", "1", "--seconds", "0.1", "--threads", "2") if tiny else ("--batch", "24", "--compile")
    eyes = place.work / "stylize-512-networks"
    seeing: Command = ("--preset", "quick" if tiny else "small", "--data", cifar10, *few)
    smoke = place.work / "simulations"
    simulate: Command = ("racecar", "data", "smoke", "--out", str(smoke))
    if tiny:
        simulate += ("--count", "4", "--frames", "6", "--size", "32", "--warm_up", "4")
    captures = ("--captures", str(scalarflow)) if scalarflow.exists() else ()
    pictures = ("--pictures", place.pictures) if place.pictures is not None else ()
    return [
        Item(
            "cost",
            "whether a racecar step takes what its arithmetic and this device allow: Std, RR and its variants, eager "
            "and compiled, channels last, bfloat16, time and memory",
            ((*cost, "--table", str(place.table("cost"))),),
            place.table("cost"),
            fixed=60 if tiny else 480,
            works=() if tiny else (Work(VGG19, (24, 3, 224, 224), 600),),
        ),
        Item(
            "one-card",
            "whether NCCL, DDP, fully_shard and SyncBatchNorm give a plain step's gradients on the device",
            (("python", "benchmarks/one_card.py", "--table", str(place.table("one-card"))),),
            place.table("one-card"),
            fixed=30,
        ),
        study(
            "cifar-strong",
            "cifar",
            "CIFAR at full strength, ten seeds: whether RR^7's features transfer better than Std's and StdC's",
            (
                *("--recipe", "strong", "--variants", "Std", "StdC", "RR7", *(few or ("--seeds", "10"))),
                *("--phases", "A", "B", "AB", "AB-probe", "AB-10pct", "B-10pct"),
            ),
            data,
            "cifar-strong",
            [full_strength],
        ),
        study(
            "coarse-strong",
            "transfer",
            "CIFAR-10's coarse labels at full strength, ten seeds, tuned so: RR^1 against Std, StdC and Dec^1",
            coarse,
            (*data, "--tuned-on", str(chosen)),
            "transfer-cifar10-strong",
            [
                dataclasses.replace(full_strength, study=Study("transfer", options, folder))
                for options, folder in ((choosing, chosen), (assumed, place.work / "coarse-strong"))
            ],
            first=[("racecar", "study", "transfer", *choosing, *data, "--out", str(chosen))],
            preset="full",
        ),
        study(
            "digits-paper",
            "digits",
            "Table 10 in full: MNIST to n-MNIST, every variant, five seeds",
            few,
            data,
            "digits",
            [Work(digits, (64, 1, 28, 28), 60_000 / 64 / 10)],
        ),
        study(
            "smoke-paper",
            "smoke",
            "Table 14 at the paper's width and batch size, but for the length of phase I",
            ("--steps_a", "4", "--steps_b", "4", "--train_share", "0.5", "--width", "4") if tiny else (),
            ("--simulations", str(smoke), *captures),
            "smoke",
            [Work(generator, (64, 1, 16, 16), 1)],
            first=[simulate],
            fixed=180,
        ),
        Item(
            "vgg-speed",
            "whether the loader keeps up with a step of VGG19, and what a full Table 15 would take",
            (
                (
                    *("python", "benchmarks/vgg.py", "--data", photographs, *same, *speed),
                    *("--decoders", str(decoders)),
                    *("--table", str(place.table("vgg-speed"))),
                ),
            ),
            place.table("vgg-speed"),
            fixed=240 if tiny else 150,
        ),
        study(
            "stylize-512",
            "stylize",
            "Figures 11 to 13 at 512 pixels, as networks trained on CIFAR-10 see them",
            ("--size", "48", "--steps", "2") if tiny else ("--seeds", "3"),
            ("--vgg", str(eyes), *pictures),
            "stylize",
            [
                Work(_small_vgg, (64, 3, 32, 32), 20_000 / 64 / 10, Study("vgg", seeing, eyes)),
                Work(_convolutions, (1, 3, 512, 512), 1.5),
            ],
            first=[("racecar", "study", "vgg", *seeing, "--out", str(eyes))],
        ),
    ]


def _small_vgg() -> nn.Module:
    """As ``--preset small`` of the VGG study has it."""
    return VGG19(10, 16, 1)


def _convolutions() -> nn.Module:
    return VGG19(10, 16, 1).features
