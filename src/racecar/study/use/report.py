"""The report of a training or a transfer: data, curves, classes, regenerated images, what was compared, the card."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from racecar import RacecarError
from racecar.study.core.errors import StudyError
from racecar.study.core.files import read_json
from racecar.study.core.folder import read_description
from racecar.study.pretrain.figures import curves
from racecar.study.pretrain.trained import Trained
from racecar.study.report import Block, Column, Command, Figure, KeyValues, Only, Page, Provenance, Section, Table, Text
from racecar.study.use.card import card_of
from racecar.study.use.evaluating import Evaluation
from racecar.study.use.labelled import Shown, labelled
from racecar.study.use.network import Network
from racecar.study.use.regenerating import BESIDE, of_pixels

_SHOWN = 8  # regenerated images


def is_run(folder: Path) -> bool:
    """Whether a folder is of `racecar train` or `racecar transfer`; a study of coarse and fine labels is not."""
    if not (folder / "study.json").exists():
        return False
    content = read_description(folder / "study.json")
    return content["experiment"] in ("train", "transfer-run") or (
        content["experiment"] == "transfer" and "from" in content["config"]
    )


def page_of_run(folder: Path, model: str | None = None) -> Page:
    """The report of what is finished.

    Args:
        folder: of a training, or of a transfer.
        model: the run's ``module:NAME``, to say that this code may be run; else what needs the network is left out.

    Raises:
        StudyError: nothing there is finished.
    """
    description = read_description(folder / "study.json")
    if description["experiment"] == "transfer":
        return _transfer(folder, description, model)
    run = Trained(folder)
    answer, sections = _training(run, model)
    return Page(
        f"Training of {run.about['model']}",
        _data(run),
        sections,
        provenance=_provenance(description, run, "1 network"),
        name=folder.resolve().name,
        answer=answer,
        figure=_drawn(run),
    )


def _provenance(description: dict[str, Any], run: Trained, amount: str) -> Provenance:
    seed = run.about.get("seed", "?")
    return Provenance(description, description["config"], _data(run), amount, f"Seed {seed}.")


def _data(run: Trained) -> str:
    kept = run.about.get("data")
    if isinstance(kept, dict) and isinstance(kept.get("said"), str):
        return f"{kept.get('source', '')}: {kept['said']}."
    count = f"{run.about.get('train_images', '?')} training and {run.about.get('validation_images', '?')} validation"
    return f"{count} images of {len(run.classes)} classes."


def _drawn(run: Trained) -> Figure | None:
    """Curves; one epoch has none."""
    if len(run.history) < 2:
        return None
    return Figure(partial(curves, run.history), "Loss and accuracy by epoch.", "Training curves", name="curves")


def _training(run: Trained, model: str | None) -> tuple[str, list[Section]]:
    """The answer, and sections of one training."""
    sections: list[Section] = []
    try:
        network = Network.open(run.folder, model)
        images = labelled(network, None)
    except (StudyError, ValueError) as error:
        left_out = Text(f"Classes, regenerated images and the card are left out: {error}")
        return f"Validation accuracy {run.accuracy:.4f}.", [*sections, Section("Left out", [left_out])]
    found = Evaluation.of(network, images)
    low, high = found.interval
    summary = (
        f"Validation accuracy **{found.top(1):.4f}**, 95 % interval {low:.4f} to {high:.4f} (Wilson's; of other "
        f"images, not of other trainings), over {len(found.labels)} images: {found.words}. Mean over classes "
        f"{found.balanced:.4f}, expected calibration error {found.calibration.error:.4f}."
    )
    sections.append(_classes(found))
    parts: list[tuple[str, Callable[[], list[Block]]]] = [
        ("Regenerated images", lambda: _regenerated(network, images)),
        ("What was compared", lambda: _compared(network)),
        ("Model card", lambda: [Only("page", Command(str(card_of(network)[1])))]),
    ]
    for title, make in parts:
        sections.append(Section(title, _or_why(make)))
    return summary, sections


def _or_why(make: Callable[[], list[Block]]) -> list[Block]:
    try:
        return make()
    except (StudyError, RacecarError, RuntimeError) as error:
        return [Text(f"Not shown: {error}")]


def _classes(found: Evaluation) -> Section:
    columns: list[str | Column] = [
        "class",
        Column("images", numeric=True),
        Column("recall", numeric=True, digits=3),
        Column("precision", numeric=True, digits=3),
        "most taken for",
    ]
    rows = [
        [
            c.name,
            c.images,
            "no image" if math.isnan(c.recall) else c.recall,
            "no such answer" if math.isnan(c.precision) else c.precision,
            c.confused_with or "–",
        ]
        for c in found.per_class
    ]
    drawn = Figure(
        found.figure, "Confusion matrix and calibration.", "Confusion matrix and reliability diagram", name="classes"
    )
    return Section("Classes", [Table(columns, rows, "Validation images by class"), drawn])


def _regenerated(network: Network, images: Shown) -> list[Block]:
    labels = images.labels.tolist()
    shown = [labels.index(c) for c in sorted(set(labels))][:_SHOWN]
    rest = torch.tensor([i for i in range(len(labels)) if i not in shown][:BESIDE], dtype=torch.long)
    found = of_pixels(
        network,
        images.pixels[shown],
        tuple(images.names[i] for i in shown),
        images.pixels[rest],
        f"{len(rest)} other validation images",
        compare=False,
    )
    caption = (
        f"The first validation image of each class, what the reverse pass regenerates of it, and of other layers the "
        f"input L in the forward and L′ in the reverse pass ({found.words})."
    )
    return [Figure(found.figure, caption, "Regenerated validation images", name="regenerated", dpi=90)]


def _compared(network: Network) -> list[Block]:
    rr, words = network.racecar(torch.zeros(2, *network.shape, dtype=torch.uint8))
    table = rr.explain()
    layers = {name: f"λ = {weight:g}" for name, weight in zip(rr.layers, table.lambdas, strict=True)}
    if network.about.get("racecar") is None:
        return [Text("Nothing: the network was trained plainly. Above stands what its default reverse pass would do.")]
    how = {"start of the reverse pass": table.start, "reduction": rr.options.reduction}
    return [Text(f"The network was {words}."), KeyValues(layers | how, "Compared layers", open=True)]


# --- a transfer -------------------------------------------------------------------------------------------------------


def _transfer(folder: Path, description: dict[str, Any], model: str | None) -> Page:
    path = folder / "transfer.json"
    if not path.exists():
        raise StudyError(f"{folder} holds a transfer that is not finished: run its command again")
    content = read_json(path)
    seeds = int(content["n"])
    rows = [
        [name, s["mean"], "–" if s["low"] is None else f"{s['low']:+.4f} to {s['high']:+.4f}", s["n"]]
        for name, s in content["summary"].items()
    ]
    columns: list[str | Column] = [
        "",
        Column("mean", digits=4, numeric=True),
        Column("95 % interval", numeric=True),
        "n",
    ]
    result = Table(columns, rows, f"Accuracy on {content['data']}, {content['mode']}", "Student's t over seeds.")
    runs = {k: Trained(folder / f"{k}-0") for k in ("pretrained", "scratch") if (folder / f"{k}-0").exists()}
    of_seed_0, sections = _training(runs["pretrained"], model)
    if "scratch" in runs and len(runs["scratch"].history) > 1:
        drawn = partial(curves, runs["scratch"].history)
        shown = Figure(drawn, "Seed 0, from scratch.", "Curves of training from scratch", name="scratch")
        sections.insert(0, Section("From scratch", [shown]))
    lead = Text(f"What follows is of the fine-tuned network of seed 0. {of_seed_0}")
    return Page(
        f"Transfer of {content['from']} to {content['data']}",
        _data(runs["pretrained"]),
        sections,
        [result, lead],
        provenance=_provenance(description, runs["pretrained"], f"{seeds * len(runs)} networks"),
        name=folder.resolve().name,
        answer=_gained(content["summary"], seeds),
        figure=_drawn(runs["pretrained"]),
    )


def _gained(summary: dict[str, Any], seeds: int) -> str:
    """Accuracy after the transfer, beside that from scratch where both were run."""
    said = f"Fine-tuned, the network reaches p_AB = {summary['p_AB']['mean']:.4f}"
    if "p_B" in summary:
        said += f"; from scratch p_B = {summary['p_B']['mean']:.4f}"
        gain = summary["p_AB − p_B"]
        if gain["low"] is not None:
            said += f": {gain['mean']:+.4f}, 95 % interval {gain['low']:+.4f} to {gain['high']:+.4f}"
    return f"{said}; n = {seeds}."
