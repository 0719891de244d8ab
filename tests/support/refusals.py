"""What a process refused, as tensors, which is what processes hand back."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import racecar


def refused(do: Callable[[], Any]) -> dict[str, Tensor]:
    """The message of the one error."""
    try:
        do()
    except racecar.ArgumentError as error:
        return {"message": torch.tensor(list(str(error).encode()), dtype=torch.uint8)}
    raise AssertionError("not refused")
