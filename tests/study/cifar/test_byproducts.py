"""By-products of phase I: networks whose behaviour is known, and the command on a small study."""

import pytest
import torch
from torch import nn

from racecar.study.cifar.byproducts import main, measure
from racecar.study.cifar.experiment import Cifar
from racecar.study.cifar.spec import SPEC
from racecar.study.classification.batches import Normalisation
from racecar.study.classification.experiment import ClassificationConfig, Task
from racecar.study.core.growing import remember
from racecar.study.images.decoded import Images


def network() -> nn.Sequential:
    """Tells dark from bright images, and is sure of it."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model[1].weight[0] = 1 / 12
        model[1].bias[0] = 2.0
        model[3].weight[:, 0] = torch.tensor([-20.0, 20.0])
        model[3].bias[:] = torch.tensor([40.0, -40.0])
    return model


def images(level: int, count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(level, level + 40, (count, 3, 2, 2), generator=generator).byte()


def test_a_sure_network_is_calibrated_and_sees_what_lies_between_its_classes() -> None:
    pixels, labels = torch.cat([images(0, 50, 0), images(210, 50, 1)]), torch.arange(2).repeat_interleave(50)
    found = measure(
        network(), Normalisation((0.5,) * 3, (0.3,) * 3), (pixels, labels), (pixels, labels), images(108, 60, 2), None
    )
    assert found["accuracy"] == 1
    assert found["calibration error"] < 1e-3
    assert found["confidence"] > 0.95  # between dark and bright it is not sure
    assert found["Mahalanobis"] > 0.95
    assert found["I − I'"] == pytest.approx(0.5, abs=0.02)  # its reverse pass grows with brightness: grey is between
    assert "accuracy, corrupted" not in found


def test_the_command_measures_the_networks_of_phase_one_and_says_what_it_cannot(tmp_path, capsys) -> None:
    config = ClassificationConfig(
        architecture="strong", variants=["Std", "RR1", "Dec1"], seeds=2, phases=["A"], width=2
    )
    study, experiment = SPEC.open(tmp_path / "run", config), Cifar()
    remember(study, config)
    study.note(command=f"racecar study cifar --width 2 --data {tmp_path}")
    assert main([str(study.folder)]) == 2
    assert "no finished network of phase I" in capsys.readouterr().err
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (20, 3, 32, 32), generator=generator).byte()
    some = Images(pixels, torch.arange(20) % 10, tuple(map(str, range(10))))
    experiment.keep(study, {"A": Task(some, some), "B": Task(some, some)})
    for run in (r for r in config.runs() if r.seed == 0):
        model = experiment.network(config, 3, 32, 10, run.seed)
        study.finish(run, model.state_dict(), {"accuracy": 0.1, "history": []})
    assert main([str(study.folder), "--images", "10", "--table", str(tmp_path / "table.md")]) == 0
    rows = {line.split(" | ")[0]: line for line in (tmp_path / "table.md").read_text().splitlines()}
    assert rows["| Dec¹"].count("not measured") == 2
    assert "not measured" not in rows["| RR¹"]
    text = (tmp_path / "table.md").read_text()
    assert "`python -m racecar.study.cifar.byproducts RUN --images 10 --table " in text
    assert "`racecar study cifar --width 2 --data DATA`" in text
    said = text.partition("Not finished, and left out: ")[2].partition(".")[0]
    assert sorted(said.split("; ")) == ["Dec¹, seed 1", "RR¹, seed 1", "Std, seed 1"]


def test_corruptions_are_those_that_the_library_can_do() -> None:
    pytest.importorskip("imagecorruptions", reason="needs imagecorruptions")
    from racecar.study.classification.corruptions import corrupted

    pixels = images(100, 30, 0).repeat(1, 1, 16, 16)
    made, good, bad = corrupted(pixels)
    assert made.shape == pixels.shape
    assert made.dtype == torch.uint8
    assert len(good) + len(bad) == 15
    assert not torch.equal(made, pixels)
