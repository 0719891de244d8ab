"""An exponential moving average of a model's weights, beside those that are trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """Of weights and running statistics, by the names of the model's state; whole numbers are the last ones.

    Args:
        model: as the training begins with it.
        decay: β of average ← β · average + (1 − β) · weights, once it has had time: in step t it is (1 + t) / (10 + t)
            where that is smaller, so that a short training does not end near its random start.

    Attributes:
        tensors: the average.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take the model's weights in, after a step counted from 0."""
        averaged, current = [], []
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                averaged.append(self.tensors[name])
                current.append(value)
            else:
                self.tensors[name].copy_(value)
        get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))(averaged, current, None)

    @contextmanager
    def put_in(self, model: nn.Module) -> Iterator[None]:
        """The averaged values in the model's own tensors for the block; afterwards its own, to the bit."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        for name, value in model.state_dict().items():
            kept = value.clone()
            value.copy_(self.tensors[name])
            self.tensors[name].copy_(kept)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a saved average.

        Raises:
            KeyError: it is another model's.
        """
        if differing := tensors.keys() ^ self.tensors.keys():
            raise KeyError(sorted(differing)[0])
        for name, value in tensors.items():
            self.tensors[name].copy_(value)
