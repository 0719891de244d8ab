"""What the paper leaves open in the 12-bit study, one change at a time: ``python -m …ablation --out FOLDER``.

Every setting is a study of its own (Std and RR^6, the paper's split and metric); the table compares its means with
Tables 1 and 2. Interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import torch

from racecar.study.core.callbacks import Callbacks
from racecar.study.core.environment import environment
from racecar.study.core.files import read_json, write_text
from racecar.study.core.growing import open_study
from racecar.study.core.processes import Advance, Stop, Stopper, run_shares
from racecar.study.mutual_information import paper
from racecar.study.mutual_information.config import MutualInformationConfig, Training
from racecar.study.mutual_information.experiment import NAME, run_study
from racecar.study.report.statistics import summarise

CHANGES: dict[str, dict[str, Any]] = {
    "the preset": {},
    "initialisation: Glorot": {"initialisation": "glorot"},
    "initialisation: torch's": {"initialisation": "torch"},
    "softmax once": {"softmax": "once"},
    "inputs −1 and 1": {"coding": "pm1"},
    "patterns in file order every epoch": {"order": "fixed"},
    "shuffled every epoch": {"order": "shuffled"},
    "Adam's state carried into phase II": {"optimiser": "carried"},
    "Adam's ε = 1e-4": {"epsilon": 1e-4},
    "remainder of 205 patterns dropped": {"remainder": "dropped"},
}
MODELS = ("Std_A", "Std_AA", "Std_AB", "Std_B", "RR^6_A", "RR^6_AA", "RR^6_AB")


def settings(base: Training) -> dict[str, MutualInformationConfig]:
    """Every change that changes something, as a configuration."""
    found = {}
    for label, change in CHANGES.items():
        training = dataclasses.replace(base, **change)
        if not change or training != base:
            found[label] = MutualInformationConfig(variants=["Std", "RR6"], snapshots=2, training=training)
    return found


def train(argument: tuple[Path, list[tuple[str, MutualInformationConfig]]], advance: Advance, stop: Stop) -> bool:
    """One process's share of the settings."""
    out, share = argument
    callbacks = Callbacks(advance, stop=stop)
    return all(run_study(open_study(_folder(out, label), NAME, config), config, callbacks) for label, config in share)


def _folder(out: Path, label: str) -> Path:
    return out / "".join(c if c.isalnum() else "-" for c in label.encode("ascii", "ignore").decode()).strip("-")


def table(out: Path, configs: dict[str, MutualInformationConfig]) -> str:
    """Markdown: a row per setting, mean ± standard deviation of five runs, distance to the paper."""
    lines = [
        "| setting | " + " | ".join(MODELS) + " | mean distance to the paper |",
        "|---|" + "---|" * (len(MODELS) + 1),
        "| *the paper* | " + " | ".join(_cell(paper.ACCURACY[m]) for m in MODELS) + " | |",
    ]
    for label, config in configs.items():
        study = open_study(_folder(out, label), NAME, config)
        cells, distances = [], []
        for model in MODELS:
            found = [study.metrics(r) for r in config.runs() if r.model == model]
            values = [m["accuracy"] for m in found if m is not None]
            cells.append(_cell(values) if values else "not run")
            if values:
                distances.append(abs(summarise(values).mean - summarise(paper.ACCURACY[model]).mean))
        distance = f"{sum(distances) / len(distances):.3f}" if len(distances) == len(MODELS) else "—"
        lines.append(f"| {label} | " + " | ".join(cells) + f" | {distance} |")
    return "\n".join(lines) + "\n"


def _cell(values: Any) -> str:
    summary = summarise(list(values))
    return f"{summary.mean:.3f} ± {summary.sd:.3f}"


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/mutual-information-ablation"))
    parser.add_argument("--table", type=Path, default=None, help="write the table here as well")
    parser.add_argument("--epochs", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    base = Training(epochs=options.epochs, epochs_b=2 * options.epochs)
    configs = {k: dataclasses.replace(c, seeds=options.seeds) for k, c in settings(base).items()}
    items = list(configs.items())
    shares = [(options.out, items[i :: options.workers]) for i in range(min(options.workers, len(items)))]
    with Stopper() as stop:
        done = run_shares(train, shares, lambda n: None, stop)
    if not done:
        sys.exit("stopped; what is done is kept and the same command goes on from here")
    metadata = environment()
    studies = [read_json(_folder(options.out, label) / "study.json")["environment"] for label in configs]
    revisions = ", ".join(sorted({e["revision"] for e in studies}))
    text = (
        f"# 12-bit study: what the paper leaves open\n\n`python -m racecar.study.mutual_information.ablation "
        f"--epochs {options.epochs} --seeds {options.seeds}`\n\nPaper's split and metric, accuracy as mean ± standard "
        f"deviation, n = {options.seeds} seeds. {metadata['processor']}, torch {metadata['torch']}, runs at revision "
        f"{revisions}.\n\nPreset: {base}\n\n{table(options.out, configs)}"
    )
    print(text)
    if options.table is not None:
        write_text(options.table, text)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
