"""The page and the results file of a classification study, from a made-up folder with real weights and images."""

import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from racecar.study.classification import report
from racecar.study.classification.experiment import ClassificationConfig, Task
from racecar.study.classification.regenerated import regenerate, step_work
from racecar.study.core.errors import StudyError
from racecar.study.core.folder import Study
from racecar.study.core.growing import remember
from racecar.study.core.variants import Run, Variant
from racecar.study.digits.experiment import Digits
from racecar.study.digits.spec import SPEC
from racecar.study.images.decoded import Images
from racecar.study.report import write_results

CONFIG = ClassificationConfig(variants=["Std", "Ort", "RR3", "Dec3"], seeds=2, width=4)
SOURCES = {"A": "MNIST", "B": "n-MNIST made from MNIST: the original file was not at hand"}


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    command = "racecar study digits --preset small --data /home/someone/data --out=/home/someone/runs"
    monkeypatch.setattr("sys.argv", command.split())
    found = SPEC.open(tmp_path / "s", CONFIG)
    remember(found, CONFIG)
    found.note(sources=SOURCES, setting="paper recipe, small preset", seconds=12.0)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (40, 1, 28, 28), dtype=torch.uint8, generator=generator)
    images = Images(pixels, torch.arange(40) % 10, tuple(map(str, range(10))))
    Digits().keep(found, {"A": Task(images, images), "B": Task(images, images)})
    for run in CONFIG.runs():
        if run.key == "RR3_AA/seed-1":
            continue
        weights = Digits().network(CONFIG, 1, 28, 10, run.seed).state_dict()
        accuracy = 0.9 + 0.01 * run.seed + 0.02 * (run.variant.family == "RR")
        history = [{"epoch": e, "accuracy": accuracy - 0.01 / e, "seconds": 1.0} for e in (1, 2)]
        metrics = {"accuracy": accuracy, "seconds_per_epoch": 1.0, "history": history}
        if run.phase == "A":
            metrics["regeneration"] = {"error": 1e30 if run.variant.name == "Ort" else 0.5, "correlation": 0.7}
        if run.key == "Ort_AB/seed-0":
            metrics |= {"diverged": "the loss is not finite in epoch 2", "history": [], "seconds_per_epoch": None}
        found.finish(run, weights, metrics)
    return found


def test_the_page_has_every_section_and_says_what_was_not_run(study) -> None:
    html = report.page(study, Digits(), CONFIG).html()
    for words in (
        "Figure 6",
        "Figure 16",
        "Figure 5",
        "1.61×",
        "0.9821 ± 0.0007",
        "StdC<sub>AB</sub> not run",
        "RR<sup>3</sup><sub>AA</sub>: 1 of 2 seeds finished",
        "paper recipe, small preset",
        "SRIP, Eq. 2",
        "overflow",
        "Dec<sup>3</sup>: left out",
    ):
        assert words in html, words
    assert html.count("<svg") == 3
    assert "nan" not in re.sub(r"<svg.*?</svg>|<style>.*?</style>", "", html, flags=re.DOTALL)


def test_the_sources_are_said_once(study) -> None:
    page = report.page(study, Digits(), CONFIG)
    assert page.html().count("the original file was not at hand") == 1
    assert page.markdown().count("the original file was not at hand") == 1


def test_a_diverged_run_is_marked_with_its_message(study) -> None:
    html = report.page(study, Digits(), CONFIG).html()
    assert "Diverged: Ort<sub>AB</sub>, seed 0: the loss is not finite in epoch 2." in html
    row = next(r for r in re.findall(r"<tr>.*?</tr>", html) if ">Ort<sub>AB</sub></th>" in r)
    assert row.count("diverged") == 1
    assert "0.9000" in row


def test_the_results_file(study, tmp_path) -> None:
    written = write_results(report.page(study, Digits(), CONFIG), tmp_path / "out")
    assert [p.name for p in written] == [
        "digits-small.md",
        "digits-small-accuracy.png",
        "digits-small-curves.png",
        "digits-small-regenerated.png",
    ]
    assert all(p.stat().st_size < 150_000 for p in written)
    text = written[0].read_text()
    for words in (
        "`racecar study digits --preset small --data DATA --out=OUT`",
        "torch",
        "in 12 s",
        "| RR³_AB | 2 | 0.9250 ± 0.0071 | 0.8615 – 0.9885 | 0.9200 0.9300 | 0.9611 ± 0.0044 |",
        "0.9000 (diverged)",
        "- RR³_AA: 1 of 2 seeds finished.",
        "- The paper preset",
        "- The published n-MNIST file was not used",
        "![accuracy](digits-small-accuracy.png)",
    ):
        assert words in text, words
    assert "/home" not in text


@pytest.mark.parametrize("gone", ["data-A-test.safetensors", "runs/RR3_A/seed-0/model.safetensors"])
def test_absent_weights_or_data_are_said_to_be_absent(study, gone) -> None:
    (study.folder / gone).unlink()
    html = report.page(study, Digits(), CONFIG).html()
    assert "Regenerated inputs are not shown" in html
    assert html.count("<svg") == 2


def test_a_study_without_a_finished_run_has_a_page(tmp_path) -> None:
    study = SPEC.open(tmp_path / "empty", CONFIG)
    remember(study, CONFIG)
    html = report.page(study, Digits(), CONFIG).html()
    assert "nothing to regenerate" in html
    assert "Origin of the data not recorded" in html
    assert not json.loads((study.folder / "study.json").read_text()).get("sources")
    write_results(report.page(study, Digits(), CONFIG), tmp_path / "out")


def test_regenerated_images_are_the_reverse_pass_of_the_kept_weights(study) -> None:
    run = Run(Variant("RR3"), "A", 0)
    found = regenerate(study, Digits(), CONFIG, [run])
    assert found.reference.shape == found.pictures[run].shape == (10, 1, 28, 28)
    images = Images.read(Path(study.folder) / "data-A-test.safetensors")
    assert torch.equal(found.reference, images.pixels[:10].float() / 255)  # labels are 0 to 9 in order
    model, x = Digits().network(CONFIG, 1, 28, 10, 0), found.reference
    with torch.no_grad():
        back = model[:8](x)  # I_r, then Table 9 backwards
        for conv, up in ((model.conv3, 2), (model.conv2, 2), (model.conv1, 1)):
            back = F.conv_transpose2d(back - conv.bias.view(1, -1, 1, 1), conv.weight, padding=1).relu()
            back = back.repeat_interleave(up, 2).repeat_interleave(up, 3)
    torch.testing.assert_close(found.pictures[run], back, rtol=1e-4, atol=1e-5)
    assert found.range(run) == pytest.approx((float(back.min()), float(back.max())), rel=1e-4)


def test_work_of_a_step_is_counted(study) -> None:
    work = step_work(
        study, Digits(), ClassificationConfig(width=64), [Variant("RR3"), Variant("Dec3"), Variant("StdC")]
    )
    # Multiplications per image of Table 9: each layer forward, gradients of weights and, but for the first, of inputs;
    # the reverse pass costs the convolutions three times, the first two, which a pooling follows, with 4 of 9 taps.
    layers = {"conv1": 9 * 64 * 784, "conv2": 9 * 64 * 64 * 196, "conv3": 9 * 64 * 49, "fc": 490}
    plain = 3 * sum(layers.values()) - layers["conv1"]
    both = plain + 3 * layers["conv3"] + 3 * 4 / 9 * (layers["conv1"] + layers["conv2"])
    assert work["RR3"] == pytest.approx(both / plain, rel=1e-6)
    assert work["Dec3"] == pytest.approx(work["RR3"])
    assert work["StdC"] == work["Std"] == 1


def test_nothing_to_read_is_an_error_of_the_study(tmp_path) -> None:
    with pytest.raises(StudyError, match=r"data-A-test.safetensors"):
        step_work(SPEC.open(tmp_path / "e", CONFIG), Digits(), CONFIG, [])
