"""The page and the results file of a small study that was really run, whole and in part."""

import shutil

import pytest
import torch

from racecar.study.commands.report import report_on
from racecar.study.core.growing import remember
from racecar.study.report import write_results
from racecar.study.smoke import experiment, report
from racecar.study.smoke.config import SmokeConfig
from racecar.study.smoke.frames import Frames
from racecar.study.smoke.spec import SPEC

CONFIG = SmokeConfig(
    seeds=2,
    phases=["A", "B1", "B2", "AB1", "AB2", "AB1-leaky"],
    width=4,
    discriminator_width=2,
    steps_a=5,
    steps_b=5,
    batch_size=2,
    evaluations=2,
)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    found = SPEC.open(tmp_path_factory.mktemp("report") / "s", CONFIG)
    for task, shape in (("A", (1, 16, 16)), ("B2", (3, 24, 16))):
        pictures = torch.rand(12, *shape, generator=torch.Generator().manual_seed(1))
        experiment.keep_data(found, task, Frames(pictures[:6], pictures[6:]))
    found.note(sources={"A and B1": "made up", "B2": "made up, too"}, setting="quick preset")
    remember(found, CONFIG)
    assert experiment.run_share(found, CONFIG, CONFIG.runs())
    return found


@pytest.fixture(scope="module")
def page(study):
    return report.page(study, CONFIG)


def test_the_page_has_tables_figures_and_what_was_not_run(page) -> None:
    html = page.html()
    for words in (
        "made up, too",
        "Figure 8",
        "Figure 9",
        "Figures 18 and 20",
        "Figure 19",
        "Figure 21",
        "nearest upsampling",
        "½ Σ of squared differences",
        "settled from step",
        "StdC<sub>AB1</sub> not run",
        "width 4 (64 in the paper)",
    ):
        assert words in html, words
    # Not run, and said once.
    assert html.count("outperforms an untied decoder of the same shape, after transfer to B2") == 1
    assert html.count("<svg") == 7


def test_results_hold_the_numbers_and_their_command(study, page, tmp_path) -> None:
    written = write_results(page, tmp_path)
    assert sorted(p.name for p in written) == sorted(p.name for p in tmp_path.iterdir())
    text = (tmp_path / "smoke-quick.md").read_text(encoding="utf-8")
    for model in ("Std_AB1", "RR^6_AB2", "Std_B2", "RR^6_AB1-leaky"):
        values = ", ".join(f"{m['l2']:.4g}" for m in (study.metrics(r) for r in CONFIG.runs() if r.model == model))
        assert values in text
    assert "| Std_AB1 | 2 |" in text
    assert "8401 | 1828 |" in text  # Table 6
    for link in written[1:]:
        assert f"]({link.name})" in text
        assert link.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("left", [(), ("Std_A",), ("Std_A", "RR6_A", "Std_B1")])
def test_a_study_on_its_way_has_a_page_too(study, tmp_path, left) -> None:
    folder = tmp_path / "part"
    shutil.copytree(study.folder, folder)
    for path in (folder / "runs").iterdir():
        if path.name not in left:
            shutil.rmtree(path)
    report_on(folder)
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "0 of 2 seeds finished" in html
    assert ("<strong>Figure 8</strong>" in html) == bool(left)


def test_numbers_remain_where_weights_are_gone(study, tmp_path) -> None:
    folder = tmp_path / "light"
    shutil.copytree(study.folder, folder)
    for path in (folder / "runs" / "RR6_A").rglob("*.safetensors"):
        path.unlink()
    report_on(folder)
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "Figure 9" in html
    text = html.partition("Tasks B1 and B2")[2]
    assert f"{study.metrics(CONFIG.runs()[-1])['l2']:.4g}" in text
