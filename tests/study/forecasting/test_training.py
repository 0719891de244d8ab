"""One network: its error, its probe, and every method."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LinearRegression

import racecar
from racecar.study.core.callbacks import Callbacks
from racecar.study.core.errors import Stopped
from racecar.study.core.variants import Variant
from racecar.study.forecasting import data, training
from racecar.study.forecasting.config import QUICK, Config
from racecar.study.forecasting.network import Forecaster


@pytest.fixture(scope="module")
def tasks() -> dict[str, data.Task]:
    generator = torch.Generator().manual_seed(0)
    density = torch.rand(6, 8, 1, 8, 8, generator=generator).cumsum(1) / 8
    return data.tasks(density, QUICK)


def test_a_network_that_answers_zero_has_the_error_of_persistence(tasks) -> None:
    model, task = Forecaster(4, 0), tasks["B"]
    torch.nn.init.zeros_(model.head.weight)
    assert training.error(model, task, task.test) == pytest.approx(task.test.persistence, rel=1e-5)
    now = task.test.past[:, 1:] * task.deviation + task.mean
    assert torch.allclose(training.forecast(model, task, task.test.past), now, atol=1e-6)
    torch.nn.init.constant_(model.head.bias, 0.5 / task.unit)  # always half a unit of density more
    expected = (task.test.change - 0.5).square().mean().sqrt()
    assert training.error(model, task, task.test) == pytest.approx(float(expected), rel=1e-5)


def test_the_probe_is_least_squares_on_the_frozen_body(tasks) -> None:
    model, task = Forecaster(4, 0), tasks["B"]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    new = training.probed(model, task)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(v, before[f"body.{k}"]) for k, v in new.body.state_dict().items())
    with torch.no_grad():
        columns = F.unfold(model.body(task.train.past), 3, padding=1).transpose(1, 2).flatten(0, 1).double().numpy()
    wanted = (task.train.change.flatten() / task.unit).double().numpy()
    reference = torch.from_numpy(LinearRegression().fit(columns, wanted).predict(columns)).float()
    with torch.no_grad():
        assert torch.allclose(new(task.train.past).flatten(), reference, atol=1e-3)


@pytest.mark.parametrize("name", ["Std", "StdC", "Ort", "Pre", "RR5", "Dec1"])
def test_every_method_is_trained_and_again_to_the_same_numbers(tasks, name) -> None:
    variant = Variant(name)
    job = training.Job(variant, QUICK.strengths(variant)[0] if variant.method.strengths else 0.0, 1)
    done: list[int] = []
    found, _ = training.train(job, tasks, QUICK, Callbacks(advance=done.append))
    assert {"A", "AB", "probe"} == found.keys() - {"weight"}
    assert ("weight" in found) == (variant.depth > 0)
    layers = 5 * 1 if name == "Pre" else 0  # an epoch of a layer, a twentieth of A's steps, is one step
    assert sum(done) == job.work(QUICK) == (12 if name == "StdC" else 6) + 3 + layers
    assert training.train(job, tasks, QUICK)[0] == found
    if name != "Std":
        plain, _ = training.train(training.Job(Variant("Std"), 0.0, 1), tasks, QUICK)
        assert plain["A"] != found["A"]


def test_racecar_training_on_a_regenerates_more_of_the_input(tasks) -> None:
    left = {}
    for name, value in (("Std", 0.0), ("RR1", 10.0)):
        model = Forecaster(4, 0)
        training.pretrained(model, Variant(name), value, tasks["A"], QUICK, 0, 60)
        rr = racecar.Racecar(model, tasks["A"].train.past, layers=1, start="body.relu5")
        left[name] = float(rr.distances(tasks["A"].test.past)[1].detach())
    assert left["RR1"] < 0.9 * left["Std"]


def test_networks_of_tuning_see_no_test_and_take_half_the_steps(tasks) -> None:
    job = training.Job(Variant("Std"), 0.0, 0, tuning=True)
    assert job.steps(QUICK) == (3, 2)
    blind = {
        k: data.Task(t.train, t.validation, t.test.standardised(0, float("nan")), t.mean, t.deviation)
        for k, t in tasks.items()
    }
    assert training.train(job, blind, QUICK)[0] == training.train(job, tasks, QUICK)[0]


def test_b_from_scratch_takes_the_steps_of_fine_tuning_or_those_of_a_as_well(tasks) -> None:
    assert training.Job(None, 0.0, 0).steps(QUICK) == (0, 3)
    assert training.Job(None, 1.0, 0).steps(QUICK) == (0, 9)
    assert training.train(training.Job(None, 0.0, 0), tasks, QUICK)[0].keys() == {"B"}


def test_it_stops_when_it_is_told(tasks) -> None:
    with pytest.raises(Stopped):
        training.train(training.Job(Variant("Pre"), 1.0, 0), tasks, Config(width=4), Callbacks(stop=lambda: True))
