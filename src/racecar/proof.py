"""A derivation proves itself: on the example the program gives what the real model gave, or it is refused.

What Python does beside the graph is invisible to ``torch.export``: state on ``self``, hooks that store activations,
backward passes of one's own. Instead of a list of such things, the program and the model are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from racecar.errors import ExportError
from racecar.forward.beside.rehearsal import Rehearsal, gradients_of
from racecar.forward.beside.sketch import Sketch

_TOLERANCE = {torch.float64: 1e-7, torch.float32: 2e-3, torch.float16: 0.1, torch.bfloat16: 0.2}


Call = Callable[[], list[Any]]


def compare(model: nn.Module, real: Rehearsal, program: Rehearsal, calls: tuple[Call, Call]) -> None:
    """Refuse a program that gives something else than the model.

    Args:
        model: whose parameters both calls read.
        real: of the model.
        program: of the program, on the same inputs with the same random state.
        calls: of the model and of the program, for the flat outputs. They are called once more where gradients may
            differ: of all gradients sketches alone are kept, and what these say is looked at itself.

    Raises:
        ExportError: naming what differs, the likely cause and what to do.
    """
    differing = _first_difference(real, program) or _first_gradient(model, real, program, calls)
    if differing is None:
        return
    if real.custom:
        cause = (
            f"it uses an autograd.Function of its own ({', '.join(real.custom)}), which the graph can only call where "
            "it takes tensors and plain values and gives one tensor: write it so, or with torch's operations"
        )
    else:
        cause = (
            "something in it happens in Python, beside the graph: a value that a hook or an earlier call has stored, "
            "data of a tensor read with .data, .item() or .detach().copy_()"
        )
    raise ExportError(
        f"the exported graph of {type(model).__name__} does not do what the model does: {differing}.\nLikely cause: "
        f"{cause}. If the difference is meant, verify=False leaves this check out."
    )


def _first_difference(real: Rehearsal, program: Rehearsal) -> str | None:
    for i, (a, b) in enumerate(zip(real.outputs, program.outputs, strict=True)):
        if (words := _difference(a, b)) is not None:
            return f"output {i} differs ({words})"
    for name, a in real.buffers.items():
        if (words := _difference(a, program.buffers.get(name))) is not None:
            return f"buffer {name!r} ends with another value ({words})"
    return None


def _first_gradient(model: nn.Module, real: Rehearsal, program: Rehearsal, calls: tuple[Call, Call]) -> str | None:
    scale = max((g.largest for g in real.gradients.values() if g is not None), default=0.0)
    suspects = [name for name, a in real.gradients.items() if _suspect(a, program.gradients.get(name), scale)]
    for names in _together(model, suspects):
        ours, theirs = (gradients_of(model, call, names) for call in calls)
        for name in names:
            if (words := _difference(ours[name], theirs[name], scale)) is not None:
                return f"the gradient of {name!r} differs ({words})"
    return None


def _suspect(a: Sketch | None, b: Sketch | None, scale: float) -> bool:
    if a is None or b is None:
        return not all(g is None or g.zero() for g in (a, b))
    return a.may_differ(b, _tolerance(a.dtype, max(a.largest, scale)))


def _together(model: nn.Module, names: Sequence[str]) -> Iterator[list[str]]:
    """The same names in groups whose parameters together are no larger than the model's largest one."""
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    most, group = max(sizes.values(), default=0), list[str]()
    for name in names:
        if group and sum(sizes[n] for n in (*group, name)) > most:
            yield group
            group = []
        group.append(name)
    if group:
        yield group


def _tolerance(dtype: torch.dtype, scale: float) -> float:
    return max(_TOLERANCE.get(dtype, 2e-3) * scale, 1e-30)


def _scale(tensor: Tensor) -> float:
    """The largest magnitude among the entries that are finite."""
    return float(tensor.detach().abs().nan_to_num(0.0, 0.0).max())


def _difference(a: Any, b: Any, scale: float = 0.0) -> str | None:
    if isinstance(a, Tensor) and b is None:
        return None if not bool(a.any()) else "it has none, the model's has"
    if isinstance(b, Tensor) and a is None:
        return None if not bool(b.any()) else "the model's has none"
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return None if a is b or a == b else f"{a!r} in the model, {b!r} in the program"
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{a.dtype} {tuple(a.shape)} in the model, {b.dtype} {tuple(b.shape)} in the program"
    if a.requires_grad != b.requires_grad:
        return None
    if not a.numel() or torch.equal(a, b):
        return None
    if not a.is_floating_point() and not a.is_complex():
        return f"{int((a != b).sum())} of {a.numel()} entries"
    if torch.allclose(a, b, rtol=0, atol=_tolerance(a.dtype, max(_scale(a), scale)), equal_nan=True):
        return None
    return f"by up to {float((a - b).abs().nan_to_num(torch.inf).max()):.3g}, values up to {float(a.abs().max()):.3g}"
