"""What a checkpoint's frozen features know of a data set: linear probes of the tensors that enter its last layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from racecar.analysis import few_labels, fit_probe
from racecar.study.core.errors import StudyError
from racecar.study.images.decoders import processes_gone
from racecar.study.images.labelled import Labelled

FEW = 10  # labels per class
_LEAVE_OUT = "leave the probe out with --no-probe"


@dataclass(frozen=True)
class Probed:
    """Accuracies on the validation images.

    Attributes:
        every: of the probe trained with all labels.
        few: of the one with ten labels per class; None where a class has fewer.
    """

    every: float
    few: float | None


@processes_gone()
def head_inputs(
    model: nn.Module,
    heads: list[str],
    images: Labelled,
    normalisation: Callable[[Tensor], Tensor],
    batch: int,
    stop: Callable[[], bool] = lambda: False,
) -> Tensor | None:
    """The tensors [N, D] that enter the last layer, in evaluation mode; the model is left in it.

    A map [N, C, H, W] before a convolution and tokens [N, T, D] before a linear layer are averaged over their places;
    what enters several last layers is put side by side.

    Args:
        model: on the device of what ``normalisation`` gives.
        heads: names of its last layers.
        images: what it sees.
        normalisation: from pixels in uint8 to what it sees.
        batch: images at a time.
        stop: asked before every batch.

    Returns:
        The features, or None if it was stopped.

    Raises:
        StudyError: a last layer is not called once for a batch.
    """
    entered: dict[str, list[Tensor]] = {}
    hooks = [model.get_submodule(h).register_forward_pre_hook(_record(entered.setdefault(h, []))) for h in heads]
    found = []
    model.eval()
    try:
        with torch.no_grad():
            for pixels, _ in images.in_order(batch):
                if stop():
                    return None
                model(normalisation(pixels))
                for name, inputs in entered.items():
                    if len(inputs) != 1:
                        raise StudyError(
                            f"the last layer {name} of {type(model).__name__} is called {len(inputs)} times in a "
                            f"forward pass, not once, so what enters it is not one tensor: {_LEAVE_OUT}"
                        )
                found.append(
                    torch.cat([_flat(inputs.pop(), model.get_submodule(n)) for n, inputs in entered.items()], 1)
                )
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(found)


def probe(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, classes: int, seed: int) -> Probed:
    """Train both probes on features [N, D]; a seed draws the ten labels of each class.

    Raises:
        StudyError: features or labels of which none can be trained.
    """
    try:
        every = fit_probe(train, labels, classes).accuracy(test, test_labels)
        if int(labels.bincount(minlength=classes).min()) < FEW:
            return Probed(every, None)
        drawn = few_labels(labels, FEW, seed)
        return Probed(every, fit_probe(train[drawn], labels[drawn], classes).accuracy(test, test_labels))
    except (ValueError, RuntimeError) as error:
        raise StudyError(f"no linear probe of the frozen features: {error}. Else {_LEAVE_OUT}") from error


def _record(inputs: list[Tensor]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    return lambda module, given: inputs.append(given[0])


def _flat(entered: Tensor, head: nn.Module) -> Tensor:
    """[N, D], in float32."""
    places = tuple(range(1, entered.ndim - 1)) if isinstance(head, nn.Linear) else tuple(range(2, entered.ndim))
    return (entered.mean(dim=places) if places else entered).float()
