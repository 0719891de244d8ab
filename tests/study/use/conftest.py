"""A small network, trained on coloured images, for whatever is done with it."""

from pathlib import Path

import pytest

from racecar.study import Recipe, Trained, train

from ..pretrain.conftest import _place, command, data

NET = "small_nets:net"
__all__ = ["_place", "command", "data"]


@pytest.fixture
def trained(data: Path) -> Trained:
    return train(NET, "data", out="a", racecar=1e-2, recipe=Recipe(epochs=4, batch_size=8, learning_rate=1e-2))
