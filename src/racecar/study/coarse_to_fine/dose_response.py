"""Experiment 3: how much of a signal that task A does not ask for is kept, by its share of the input's variance.

    python -m racecar.study.coarse_to_fine.dose_response RUN… --results FOLDER

reads finished studies of the pairs superposed-SHARE and writes dose-response.md and its figure.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from racecar.errors import RacecarError
from racecar.study.coarse_to_fine.config import TransferConfig
from racecar.study.coarse_to_fine.figures import curve, finish
from racecar.study.coarse_to_fine.results import Comparison, TransferResults
from racecar.study.coarse_to_fine.sources import Superposed
from racecar.study.core.errors import StudyError
from racecar.study.core.files import write_bytes, write_text
from racecar.study.core.growing import reopen
from racecar.study.core.variants import Variant
from racecar.study.report import inference
from racecar.study.report.figures import png
from racecar.study.report.markdown import markdown, portable
from racecar.study.report.models import SCRATCH
from racecar.study.report.statistics import bounds, p_shown, spread

COMPARED = (("RR1", "Std"), ("RR1", "Dec1"), ("RR1-white", "Std"), ("RR1-white", "RR1"), ("RR1-white", "Dec1-white"))
OUTCOME = "probe"
COLUMNS = ("share", "method", "value", "n", "accuracy on A", "probe on B", "10 labels", "20 neighbours", "fine-tuned")

Doses = dict[float, TransferResults]  # by share, ascending


def load(folders: Sequence[Path]) -> Doses:
    """The studies by share of the variance.

    Raises:
        StudyError: one is of another pair, or two are of the same share.
    """
    found: Doses = {}
    for folder in folders:
        study, config = reopen(folder, "transfer", TransferConfig)
        source = config.tasks.source
        if not isinstance(source, Superposed) or not config.tasks.is_reported:
            raise StudyError(f"{folder} is a study on {config.pair}, and not on superposed-SHARE")
        if source.share in found:
            raise StudyError(f"{folder} is the second study with a share of {source.share:g}")
        found[source.share] = TransferResults.load(study, config)
    return dict(sorted(found.items()))


def variants(doses: Doses) -> list[Variant]:
    """Those with finished runs at their chosen value, at any share."""
    known = {v: None for results in doses.values() for v in results.judged}
    return sorted(known, key=lambda v: (v.method.place, v.name))


def comparisons(doses: Doses) -> list[tuple[float, Comparison]]:
    """Every pair of :data:`COMPARED` that was run, at every share."""
    pairs = [(Variant.parse(a), Variant.parse(b)) for a, b in COMPARED]
    found = [(share, results.compare(a, b, OUTCOME)) for a, b in pairs for share, results in doses.items()]
    return [(share, c) for share, c in found if c is not None]


def figure(doses: Doses) -> Figure:
    """The probe on what was laid over, by its share."""
    made, axis = plt.subplots(figsize=(7.4, 4.2), layout="constrained")
    for variant in variants(doses):
        points = [(s, r.summary(r.tuned(variant), OUTCOME)) for s, r in doses.items() if r.tuned(variant)]
        curve(axis, next(iter(doses.values())), variant, points)
    scratch = [(share, r.summary(r.scratch, "accuracy")) for share, r in doses.items()]
    known = [(share, s.mean) for share, s in scratch if s.n]
    axis.plot(*zip(*known, strict=True), color=SCRATCH, linewidth=1, linestyle=":", label="B from scratch")
    axis.axhline(0.1, color="#cccccc", linewidth=0.8)
    axis.text(max(doses), 0.09, "chance", fontsize=8, color="#888888", ha="right", va="top")
    axis.set_xscale("log")
    axis.set_xlabel("share of the input's variance")
    axis.set_ylabel("linear probe on what was laid over")
    finish(axis)
    made.legend(loc="outside right center", fontsize=8.5, frameon=False)
    return made


def text(doses: Doses, command: str) -> str:
    """The file: what was run, means, differences."""
    first = next(iter(doses.values()))
    rows = []
    for share, results in doses.items():
        for variant in results.judged:
            runs, value = results.tuned(variant), results.config.tuned.get(variant.name)
            numbers = [spread(results.summary(runs, o)) for o in ("accuracy", OUTCOME, "probe10", "knn", "finetuned")]
            rows.append([f"{share:g}", variant.label, "—" if value is None else f"{value:g}", len(runs), *numbers])
        scratch = results.summary(results.scratch, "accuracy")
        rows.append([f"{share:g}", "B from scratch", "—", scratch.n, "—", "—", "—", "—", spread(scratch)])
    judged = comparisons(doses)
    adjusted = inference.holm([c.p for _, c in judged])
    differences = []
    for (share, c), p in zip(judged, adjusted, strict=True):
        verdict = c.verdict if p < 0.05 or c.verdict == "equivalent" else "undecided"
        shown = [f"{c.difference.mean:+.4f}", bounds(c.difference, 4, "+").removeprefix("95 % CI "), p_shown(p)]
        differences.append([f"{c.better} − {c.worse}", f"{share:g}", *shown, verdict])
    source = first.config.tasks.source
    assert isinstance(source, Superposed)
    here = first.metadata["environment"]
    revisions = sorted({r for d in doses.values() for r in d.metadata.get("revisions") or [here["revision"]]})
    seconds = sum(d.metadata["seconds"] for d in doses.values())
    said: dict[str, list[str]] = {}  # by what is said: the shares it is said of
    for share, results in doses.items():
        for line in results.not_run():
            said.setdefault(line, []).append(f"{share:g}")
    lines = [
        "# Dose and response: what is kept of a signal that nobody asks for",
        f"`{portable(command)}`, of the studies with `racecar study transfer --preset full --pair superposed-SHARE "
        "--phases A-tuned B --tuned-on TUNED` (docs/plan.md, experiment 3)",
        f"Task A: the classes of {source.base.title}. Task B: those of {source.over.title}, whose images are laid over "
        f"the others with a share of the variance. {here['processor']}, torch {here['torch']}, Python "
        f"{here['python']}, revision {', '.join(revisions)}; {seconds:.0f} s in all. n = {first.config.seeds} seeds. "
        "Mean ± standard deviation over seeds; 95 % intervals by a bootstrap over seeds and test images; p adjusted by "
        "Holm over the table. -white: I and I' in directions of equal variance.",
        "![Linear probe by share of the variance](dose-response.png)",
        "\n".join(
            markdown(
                [
                    "share",
                    "method",
                    "value",
                    "n",
                    "accuracy on A",
                    "probe on B",
                    "10 labels",
                    "20 neighbours",
                    "fine-tuned",
                ],
                rows,
            )
        ),
        "## Differences in the probe on B",
        "\n".join(markdown(["difference", "share", "mean", "95 % interval", "p (Holm)", "verdict"], differences)),
        "## Not run, or to be known",
        "\n".join(f"- {line} (share {', '.join(shares)})" for line, shares in said.items()) or "Nothing.",
    ]
    return "\n\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the table and its figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--results", type=Path, required=True, metavar="FOLDER")
    options = parser.parse_args(argv)
    try:
        doses = load(options.runs)
        command = "python -m racecar.study.coarse_to_fine.dose_response RUN… --results FOLDER"
        write_text(options.results / "dose-response.md", text(doses, command))
        write_bytes(options.results / "dose-response.png", png(figure(doses)))
    except (StudyError, RacecarError, ValueError, OSError) as error:
        print(f"dose_response: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
