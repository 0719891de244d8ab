"""Experiment 8: what racecar training does beside features: corrupted images, calibration, images of another kind.

    python -m racecar.study.cifar.byproducts RUN --table FILE

reads the networks of phase I of a finished CIFAR study. Unknown images are those of task B.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import racecar
from racecar.analysis import Mahalanobis, auroc, calibration, energy, layer_errors
from racecar.errors import RacecarError
from racecar.study.cifar.experiment import NAMES, Cifar
from racecar.study.classification.batches import Normalisation
from racecar.study.classification.corruptions import SEVERITIES, corrupted
from racecar.study.classification.experiment import ClassificationConfig
from racecar.study.core.environment import environment, pasted
from racecar.study.core.errors import StudyError
from racecar.study.core.files import write_text
from racecar.study.core.folder import Study
from racecar.study.core.growing import reopen
from racecar.study.core.terminal import progress_bar
from racecar.study.core.variants import Run
from racecar.study.report import typography
from racecar.study.report.markdown import markdown, portable
from racecar.study.report.statistics import paired_difference, spread, summarise

BATCH = 200
SCORES = ("confidence", "energy", "Mahalanobis", "I − I'", "all layers")
FIRST = ("accuracy", "accuracy, corrupted", "calibration error", *SCORES)


@torch.no_grad()
def _features(model: nn.Sequential, x: Tensor) -> Tensor:
    return torch.cat([model[:-1](part) for part in x.split(BATCH)]).float()


@torch.no_grad()
def measure(
    model: nn.Sequential,
    normalisation: Normalisation,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    unknown: Tensor,
    harder: Tensor | None,
    *,
    mirrored: bool = True,
    seed: int = 0,
) -> dict[str, float]:
    """Of one network, in evaluation mode.

    Args:
        model: its last module is the last layer.
        normalisation: of its images.
        train, test: images [N, C, H, W] in uint8 and labels.
        unknown: images of another data set, as many as there are test images at most.
        harder: the test images, corrupted; None: left out.
        mirrored: whether its reverse pass is its own; errors of a decoder that was not kept cannot be measured.
        seed: of the order in which known and unknown images share batches: the reverse pass's batch norm mixes them.
    """
    model.eval()
    seen, other = normalisation(test[0]), normalisation(unknown)
    features, strange = _features(model, seen), _features(model, other)
    logits, far = model[-1](features), model[-1](strange)
    found = {
        "accuracy": float((logits.argmax(1) == test[1]).double().mean()),
        "calibration error": calibration(logits, test[1]).error,
        "confidence": auroc(-logits.softmax(1).amax(1), -far.softmax(1).amax(1)),
        "energy": auroc(energy(logits), energy(far)),
    }
    score = Mahalanobis.fit(_features(model, normalisation(train[0])), train[1], logits.shape[1])
    found["Mahalanobis"] = auroc(score(features), score(strange))
    if harder is not None:
        answers = model[-1](_features(model, normalisation(harder))).argmax(1)
        found["accuracy, corrupted"] = float((answers == test[1]).double().mean())
    if mirrored:
        rr = racecar.Racecar(model, seen[:2])
        both = torch.cat([seen, other])
        order = torch.randperm(len(both), generator=torch.Generator().manual_seed(seed))
        errors = torch.empty(len(both), len(rr.layers))
        errors[order] = torch.cat([layer_errors(rr, part) for part in both[order].split(BATCH)])
        scaled = (errors.log() - errors[: len(seen)].log().mean(0)) / errors[: len(seen)].log().std(0)
        found["I − I'"] = auroc(errors[: len(seen), 0], errors[len(seen) :, 0])
        found["all layers"] = auroc(scaled[: len(seen)].mean(1), scaled[len(seen) :].mean(1))
    return found


def runs_of(study: Study, config: ClassificationConfig) -> list[Run]:
    """The finished networks of phase I.

    Raises:
        StudyError: none.
    """
    found = [r for r in config.runs() if r.phase == "A" and study.finished(r)]
    found = [r for r in found if "diverged" not in (study.metrics(r) or {})]
    if not found:
        raise StudyError(f"{study.folder} has no finished network of phase I: run the study first")
    return found


def table(found: Mapping[Run, Mapping[str, float]]) -> str:
    """Means and standard deviations by variant, then differences from Std, paired by seed."""
    variants = sorted({r.variant for r in found}, key=lambda v: (v.method.place, v.name))
    columns = [c for c in FIRST if any(c in m for m in found.values())]
    by = {v: sorted((r for r in found if r.variant == v), key=lambda r: r.seed) for v in variants}
    rows, differences = [], []
    plain = {r.seed: found[r] for v in variants if v.name == "Std" for r in by[v]}
    for variant, runs in by.items():
        cells = []
        for column in columns:
            values = [found[r][column] for r in runs if column in found[r]]
            cells.append(spread(summarise(values)) if values else "not measured")
            pairs = [(found[r][column], plain[r.seed][column]) for r in runs if r.seed in plain and column in found[r]]
            if variant.name != "Std" and len(pairs) > 1:
                d = paired_difference(*map(list, zip(*pairs, strict=True)))
                differences.append(
                    [f"{variant.label} − Std", column, f"{d.mean:+.4f}", f"[{d.low:+.4f}, {d.high:+.4f}]", d.n]
                )
        rows.append([variant.label, len(runs), *cells])
    lines = markdown(["method", "n", *columns], rows)
    return (
        "\n".join(lines) + "\n\n" + "\n".join(markdown(["difference", "in", "mean", "95 % interval", "n"], differences))
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every network and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--images", type=int, default=2000, help="test images, and as many unknown ones")
    parser.add_argument("--table", type=Path, default=None, help="write the table here as well")
    options = parser.parse_args(argv)
    try:
        text = _measured(options.run, options.images, argv)
        print(text)
        if options.table is not None:
            write_text(options.table, text)
    except (StudyError, RacecarError, ValueError, OSError) as error:
        print(f"byproducts: {error}", file=sys.stderr)
        return 2
    return 0


def _measured(folder: Path, count: int, argv: Sequence[str] | None) -> str:
    if count < 2:
        raise ValueError(f"--images must be at least 2, not {count}")
    study, config = reopen(folder, Cifar.name, ClassificationConfig)
    experiment = Cifar()
    runs = runs_of(study, config)
    tasks = experiment.kept(study, config)
    train, test, unknown = tasks["A"].train, tasks["A"].test, tasks["B"].test
    test, unknown = (s if count >= len(s) else s.stratified(count, 0)[0] for s in (test, unknown))
    harder, said = None, "Corrupted images: not measured, as imagecorruptions is not installed."
    try:
        harder, good, bad = corrupted(test.pixels)
        said = f"Corruptions, in turn, severities {', '.join(map(str, SEVERITIES))}: {', '.join(good)}" + (
            f"; imagecorruptions cannot do {', '.join(bad)} beside the other libraries installed." if bad else "."
        )
    except ImportError:
        pass
    normalisation = experiment.normalisation_of(study, config)
    channels, size, _ = train.shape
    found: dict[Run, dict[str, float]] = {}
    with progress_bar(f"{len(runs)} networks", len(runs), 0) as advance:
        for run in runs:
            model = experiment.network(config, channels, size, len(train.classes), run.seed)
            assert isinstance(model, nn.Sequential)
            model.load_state_dict(study.weights(run))
            found[run] = measure(
                model,
                normalisation,
                (train.pixels, train.labels),
                (test.pixels, test.labels),
                unknown.pixels,
                harder,
                mirrored=not run.variant.method.untied,
                seed=run.seed,
            )
            advance(1)
    missing = [f"{r.variant.label}, seed {r.seed}" for r in config.runs() if r.phase == "A" and r not in runs]
    said += f" Not finished, and left out: {typography.plain('; '.join(missing))}." if missing else ""
    here = environment()
    given = ["RUN" if Path(word) == folder else word for word in (sys.argv[1:] if argv is None else argv)]
    command = portable(pasted(["python", "-m", "racecar.study.cifar.byproducts", *given]))
    trained = study.metadata()
    return (
        f"# By-products: corruptions, calibration, unknown images\n\n`{command}`\n\n"
        f"Networks of phase I of `{portable(trained.get('command', 'racecar study cifar'))}`, "
        f"{trained.get('setting', 'own settings')}, {len(train)} training images of {NAMES['A']}. "
        f"{len(test)} test images, {len(unknown)} unknown ones of {NAMES['B']}. "
        "Columns from confidence on: the area under the ROC curve by which a score tells the unknown from the test "
        "images; 0.5 is chance. I − I': the reverse pass's error of the input; all layers: the mean of "
        "the errors' logarithms in standard deviations of the test images. Known and unknown images share the batches. "
        "The decoder of Dec is not kept, so that its errors are not measured. "
        f"{said} Mean ± standard deviation over seeds, 95 % t intervals of differences paired by seed. "
        f"{here['processor']}, torch {here['torch']}, Python {here['python']}, "
        f"revision {here['revision']}.\n\n{table(found)}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
