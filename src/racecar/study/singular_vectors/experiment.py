"""Train small networks on known data and measure angles: ``python -m racecar.study.singular_vectors.experiment``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from itertools import repeat
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import racecar
from racecar import analysis
from racecar.errors import RacecarError
from racecar.study.core import greedy
from racecar.study.core.environment import environment, pasted
from racecar.study.core.errors import StudyError
from racecar.study.core.files import write_text
from racecar.study.core.initialisation import initialise_glorot
from racecar.study.core.methods import Strength
from racecar.study.core.randomness import seed_device
from racecar.study.core.sole import sole_use
from racecar.study.core.terminal import STOPPED, progress_bar
from racecar.study.core.variants import Variant
from racecar.study.images.load import train_and_validation
from racecar.study.report.markdown import markdown, portable
from racecar.study.report.statistics import summarise
from racecar.study.singular_vectors.data import Case, peaks, two_images
from racecar.study.singular_vectors.kept import Kept, Measured

VARIANTS = ("Std", "Ort", "Pre", "Dec1", "Dec2", "RR1", "RR2")
STEPS, RATE, HIDDEN = 2000, 3e-3, (16, 8)
Found = dict[tuple[str, str, float], list[Measured]]  # by case, method and value, over seeds


def network(inputs: int, seed: int) -> nn.Sequential:
    """Two hidden layers of 16 and 8 units, and a head for two classes."""
    first, second = HIDDEN
    model = nn.Sequential(
        *(nn.Linear(inputs, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, 2))
    )
    initialise_glorot(model, seed)
    return model


def train(case: Case, variant: Variant, strength: float, seed: int, steps: int = STEPS) -> Measured:
    """Train one network on a case, all samples at every step, and measure it."""
    seed_device(case.inputs.device, seed)  # SRIP's power iteration begins with random vectors
    method = variant.method
    model = network(case.inputs.shape[1], seed)
    if epochs := method.pretraining(strength):
        again = partial(repeat, case.inputs, epochs * steps // 10)
        greedy.pretrain(model, case.inputs, again, depth=len(HIDDEN), start="3", rate=RATE)
    rr, regulariser = None, method.regulariser(model, Strength(strength))
    if method.arguments:
        decoder = network(case.inputs.shape[1], 10_000 + seed) if method.untied else None
        rr = racecar.Racecar(model, case.inputs, start="3", decoder=decoder, **method.arguments)
        output, penalty = rr(case.inputs)
        racecar.balance(rr, F.cross_entropy(output, case.classes), penalty, ratio=strength)
    trained = [*model.parameters(), *(rr.decoder.parameters() if rr is not None and rr.decoder is not None else ())]
    optimiser = torch.optim.Adam(trained, RATE)
    for _ in range(steps):
        output, penalty = rr(case.inputs) if rr is not None else (model(case.inputs), torch.zeros(()))
        if regulariser is not None:
            penalty = regulariser(model)
        optimiser.zero_grad()
        (F.cross_entropy(output, case.classes) + penalty).backward()
        optimiser.step()
    weight = model[0].weight
    assert isinstance(weight, Tensor)
    vectors = analysis.right_singular_vectors(weight, case.directions.shape[1])
    angle = float(analysis.principal_angles(vectors, case.directions).mean())
    with torch.no_grad():
        right = model(case.inputs).argmax(1) == case.classes
    return Measured(angle, float(right.double().mean()))


def cases(mnist: str | None) -> list[Case]:
    """Peaks, and two images of MNIST where there is one.

    Args:
        mnist: hub name or folder; None: peaks alone.
    """
    inputs, classes = peaks(256, 0)
    found = [Case("two classes of peaks, k = 3", inputs, classes, analysis.principal_directions(inputs, 3))]
    if mnist is not None:
        images, _ = train_and_validation(mnist, channels=1)
        inputs, classes = two_images(images.pixels, images.labels)
        directions = analysis.principal_directions(inputs, 2, centred=False)
        found.append(Case("two MNIST images, k = 2", inputs, classes, directions))
    return found


def table(found: Found) -> str:
    """Markdown: a row per method and value, the mean angle in every case."""
    titles = list(dict.fromkeys(title for title, _, _ in found))
    rows = []
    for name, strength in dict.fromkeys((name, strength) for _, name, strength in found):
        cells = []
        for title in titles:
            runs = found[title, name, strength]
            summary = summarise([m.angle for m in runs])
            worst = min(m.accuracy for m in runs)
            low = "" if worst == 1 else f"; lowest accuracy {worst:.2f}"
            interval = f" [{summary.low:.1f}, {summary.high:.1f}]" if summary.n > 1 else ""
            cells.append(f"{summary.mean:.1f}°{interval}{low}")
        unit = Variant(name).method.unit
        rows.append([Variant(name).label, f"{strength:g} ({unit})" if unit else "—", *cells])
    return "\n".join(markdown(["method", "value", *titles], rows))


def train_all(cases: Sequence[Case], variants: Sequence[Variant], seeds: int, steps: int, kept: Kept) -> Found:
    """Every method and value in every case, less what is kept."""
    jobs = [(c, v, s, i) for c in cases for v in variants for s in v.method.strengths or (0.0,) for i in range(seeds)]
    names = [f"{c.title}: {v.name}, {s:g}, seed {i}" for c, v, s, i in jobs]
    known = sum(kept.get(name) is not None for name in names)
    found: Found = {}
    with progress_bar(f"{len(jobs)} networks", len(jobs), known) as advance:
        for (case, variant, strength, seed), name in zip(jobs, names, strict=True):
            measured = kept.get(name)
            if measured is None:
                measured = train(case, variant, strength, seed, steps)
                kept.add(name, measured)
                advance(1)
            found.setdefault((case.title, variant.name, strength), []).append(measured)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=None, help="MNIST: a hub name or a folder; without it peaks alone")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/singular-vectors"), help="finished networks are kept here"
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--table", type=Path, default=None, help="write the table here as well")
    options = parser.parse_args(argv)
    given = sys.argv[1:] if argv is None else argv
    try:
        if options.seeds < 1 or options.steps < 1:
            raise StudyError("--seeds and --steps must be at least 1")
        known = cases(options.data)
        variants = [Variant.parse(v) for v in options.variants]
        options.out.mkdir(parents=True, exist_ok=True)
        with sole_use(options.out):
            kept = Kept(options.out, known, options.steps)
            found = train_all(known, variants, options.seeds, options.steps, kept)
        written = text(found, options.seeds, options.steps, given)
        print(written)
        if options.table is not None:
            write_text(options.table, written)
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        return 130
    except (StudyError, RacecarError, ValueError) as error:
        print(f"singular vectors: {error}", file=sys.stderr)
        return 2
    return 0


def text(found: Found, seeds: int, steps: int, given: Sequence[str]) -> str:
    """The table with its command and what its numbers are."""
    here = environment()
    command = portable(pasted(["python", "-m", "racecar.study.singular_vectors.experiment", *given]))
    return (
        f"# Singular vectors of the first layer, and the directions of the data\n\n`{command}`\n\n"
        "Mean principal angle between the span of the first layer's k strongest right singular vectors and that of the "
        "data's k principal directions (of the two images: their span): 0° is the same span, 90° one that has nothing "
        f"in common with it. Mean over seeds with a 95 % t interval, n = {seeds}; {steps} steps of "
        f"Adam on all samples, layers of {HIDDEN[0]} and {HIDDEN[1]} units. Data and networks are made after the "
        "description in arXiv 2007.00024, whose own are not published; what it compares by LPIPS is compared by angles "
        "here. "
        f"{here['processor']}, torch {here['torch']}, Python {here['python']}, revision {here['revision']}.\n\n"
        f"{table(found)}\n"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
