"""The experiment's figure: the frame that is asked for, that of now, and forecasts, with their errors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor

from racecar.study.forecasting.data import Task
from racecar.study.forecasting.network import Forecaster
from racecar.study.forecasting.training import forecast
from racecar.study.smoke.figures import figure_19

SHOWN = 4  # test pairs, spread over the test simulations


def examples(model: Forecaster, task: Task) -> dict[str, Tensor]:
    """Some test pairs of a task, [4, 1, size, size] each: ``now``, ``truth``, ``forecast``."""
    count = len(task.test.past)
    rows = torch.linspace(count // 9, count - 1, SHOWN).long()  # simulations are of one length: not all at their start
    past, change = task.test.past[rows], task.test.change[rows]
    now = past[:, 1:] * task.deviation + task.mean
    return {"now": now, "truth": now + change, "forecast": forecast(model, task, past)}


def figure(known: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """Truth above; below it the frame of now, which is persistence's forecast, and the networks', each with its error.

    Args:
        known: :func:`examples` by the network's name, at least one.
    """
    first = next(iter(known.values()))
    outputs = {"now": first["now"]} | {name: shown["forecast"] for name, shown in known.items()}
    return figure_19(first["truth"], outputs)
