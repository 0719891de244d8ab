"""The CIFAR study as a command: the paper's recipe, and a strong one."""

from typing import Any, Literal

from jsonargparse import ArgumentParser

from racecar.study.cifar.experiment import Cifar
from racecar.study.classification.spec import classification_study


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--recipe",
        type=Literal["paper", "strong"],
        default="paper",
        help="paper: Table 12; strong: one whose Std reaches 93 %% with the paper preset, with probes and few labels",
    )


def _preset_file(options: Any) -> str:
    return f"{options.recipe}-{options.preset}".removeprefix("paper-")


SPEC = classification_study(
    Cifar(),
    "natural images: CIFAR-10, then CIFAR-100: Table 5, Figures 7, 17 (Section 5.2)",
    data="a folder with cifar10 and cifar100 in parquet",
    recipe=lambda options: options.recipe,
    add_options=_add_options,
    chosen_by=("recipe",),
    preset_file=_preset_file,
)
