"""L2Init: weights are held near those that training began with (Kumar et al. 2023), a control for lost plasticity."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from racecar.study.core.methods.base import Method, Regulariser, Settings, register


@register
class L2Init(Method):
    """The cross entropy and λ · ‖θ − θ_0‖² over all parameters."""

    family, color, line, place = "L2Init", "#d35f95", "--", 3
    has_weight = True
    strengths, unit = (1e-4, 1e-3, 1e-2, 1e-1, 1.0), "λ"

    def regulariser(self, model: nn.Module, settings: Settings) -> Regulariser:
        """The squared distance from the weights that the model has now."""
        strength = float(settings.weight)
        start = {name: p.detach().clone() for name, p in model.named_parameters()}

        def penalty(model: nn.Module) -> Tensor:
            terms = [(p - start[name]).square().sum() for name, p in model.named_parameters()]
            return strength * torch.stack(terms).sum()

        return penalty

    def note(self, compute_match: float) -> str:
        """What it is."""
        return "L2Init: weights held near those of the start."
