"""Racecar training by Hugging Face's ``Trainer``. Needs ``transformers``, of the ``[frameworks]`` extra."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import Trainer

from racecar.errors import ArgumentError
from racecar.integrations import penalty_scale
from racecar.module import Racecar


class RacecarTrainer(Trainer):
    """``transformers.Trainer`` of a Racecar: its penalty is added to the loss in training, and only there.

    Args:
        model: a :class:`racecar.Racecar` of a model that takes a batch's entries as keywords and returns its loss, in
            a dict or first in a tuple, when it is given labels; as transformers' models do. After training the plain
            model is ``trainer.model.model``: save that one (``save_pretrained``, :mod:`racecar.integrations.hub`).
            ``Trainer``'s own checkpoints, from which it resumes, hold its weights under the prefix ``model.``.
        arguments: all others of ``Trainer``, by keyword.

    Raises:
        ArgumentError: ``model`` is no Racecar.
    """

    def __init__(self, model: Racecar, **arguments: Any) -> None:
        if not isinstance(model, Racecar):
            raise ArgumentError(
                f"RacecarTrainer takes a racecar.Racecar, not {type(model).__name__}: "
                "RacecarTrainer(racecar.Racecar(model, example), ...)"
            )
        super().__init__(model=model, **arguments)
        self.rr = model
        parameters = list(inspect.signature(model.model.forward).parameters)
        if self.args.label_names is None:
            self.label_names = [name for name in parameters if "label" in name]
        # Trainer reads both off the signature of the Racecar's own forward, which is any call.
        columns = [*parameters, "label", "label_ids", *self.label_names]
        self._signature_columns = list(dict.fromkeys(columns))  # type: ignore[assignment]
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """``Trainer``'s loss of the model's outputs, plus the penalty in training mode."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        call = _Call(model)
        loss, outputs = super().compute_loss(call, inputs, True, num_items_in_batch)
        steps = getattr(self, "current_gradient_accumulation_steps", self.args.gradient_accumulation_steps)
        factor = penalty_scale(self.rr, self.args.world_size, steps)
        # A loss function of the user's own is divided by the accumulated steps already, by means of the item count.
        divisor = 1 if self.compute_loss_func is None else steps
        loss = loss + call.penalty * (factor / divisor)
        return (loss, outputs) if return_outputs else loss


class _Call(nn.Module):
    """What ``Trainer.compute_loss`` takes for the model; keeps the penalty."""

    penalty: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.__dict__["wrapped"] = model

    def forward(self, **inputs: Any) -> Mapping[str, Any] | tuple[Any, ...]:
        outputs, self.penalty = self.__dict__["wrapped"](**inputs)
        return outputs
