"""Racecar training in a ``LightningModule``: a mixin, for ``lightning`` and ``pytorch_lightning``; it imports neither.

Releases 2.6.2 and 2.6.3 of both are malicious: the ``[frameworks]`` extra excludes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from racecar.errors import ArgumentError
from racecar.integrations import penalty_scale
from racecar.module import Racecar


class RacecarMixin:
    """Adds :meth:`racecar` to a ``LightningModule``: ``class Net(RacecarMixin, L.LightningModule)``.

    The palindrome is derived from the first batch, where the model then is. It is no submodule: checkpoints hold the
    plain model's weights under its own names. Under DDP call it in ``training_step``; DDP wraps the LightningModule.

    Example:
        >>> import torch
        >>> from racecar.integrations.lightning import RacecarMixin
        >>> class Net(RacecarMixin, torch.nn.Module):  # in earnest: lightning.LightningModule
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.model = torch.nn.Linear(3, 2)
        ...         self.add_racecar(self.model, weight=0.1)  # the added line
        ...
        ...     def training_step(self, batch, index):
        ...         output, penalty = self.racecar(batch[0])
        ...         return torch.nn.functional.cross_entropy(output, batch[1]) + penalty
    """

    if TYPE_CHECKING:
        trainer: Any

    def add_racecar(self, model: nn.Module, **options: Any) -> None:
        """Say which module is trained how; before training starts.

        Args:
            model: the module that :meth:`racecar` calls, this LightningModule's own.
            options: of :class:`racecar.Racecar`, without ``example_inputs`` and ``decoder``.

        Raises:
            ArgumentError: not a module, or a ``decoder``, whose weights no optimiser of Lightning's would know.
        """
        if not isinstance(model, nn.Module):
            raise ArgumentError(f"model must be a torch.nn.Module, not {type(model).__name__}")
        if "decoder" in options or "example_inputs" in options:
            raise ArgumentError("add_racecar takes racecar.Racecar's options but for example_inputs and decoder")
        # Past torch's registration of submodules, and so past state_dict.
        self.__dict__["_racecar_of"], self.__dict__["_racecar"] = (model, options), None

    def racecar(self, *args: Any, **kwargs: Any) -> tuple[Any, Tensor]:
        """Call the model: (its output, the penalty), to be added to the loss that ``training_step`` returns.

        The penalty counts as it would for one process with the whole batch: Lightning averages over processes and
        accumulated batches, so with ``reduction="sum"`` it is multiplied by both numbers.

        Raises:
            ArgumentError: :meth:`add_racecar` was not called; else as :class:`racecar.Racecar`.
        """
        if "_racecar_of" not in self.__dict__:
            raise ArgumentError("call self.add_racecar(model, ...) in __init__ before self.racecar(...)")
        model, options = self.__dict__["_racecar_of"]
        rr: Racecar | None = self.__dict__["_racecar"]
        if rr is None:
            rr = self.__dict__["_racecar"] = Racecar(model, dict(kwargs) if kwargs and not args else args, **options)
        rr.training = True
        if rr.lambdas.device != (device := next(model.parameters()).device):
            rr.to(device)  # the LightningModule was moved, which rr is no part of
        processes, steps = self.trainer.world_size, self.trainer.accumulate_grad_batches
        output, penalty = rr(*args, **kwargs)
        return output, penalty * penalty_scale(rr, processes, steps)
