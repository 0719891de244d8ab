"""Values taken from or put to places that a tensor of indices names.

What was taken comes back to its place; what several copies share is their mean; what was put somewhere comes back from
there. What nobody took, or was overwritten, is unknown where the index is a constant of the model. Where the index
differs from call to call (it depends on the network's input, on parameters or on random numbers), no mask can say so:
there the estimate is the forward value itself, which adds nothing to the distance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from racecar.rules.arithmetic import mean_to
from racecar.rules.choice import where_chosen
from racecar.rules.registry import ReverseCall, register_reverse, zero_unknown

aten = torch.ops.aten
Put = Callable[[Tensor], Tensor]


def _ones(estimate: Tensor, known: Tensor | None) -> Tensor:
    """1 for every entry that is known."""
    ones = estimate.real.new_ones(()) if known is None else known.to(estimate.real.dtype)
    return ones.expand(estimate.shape)


def _placed(put: Put, estimate: Tensor, ones: Tensor, x: Tensor, varies: bool) -> Tensor:
    """The mean of what is put to every place of x; elsewhere 0, or x where the places differ from call to call.

    Args:
        put: the sum of entries in their places.
        estimate: of what was taken, 0 where it is not known.
        ones: 1 where it is known.
        x: what it was taken of.
        varies: whether the places do.
    """
    count = put(ones)
    mean = put(estimate) / count.clamp(min=1)
    return torch.where(count > 0, mean, x) if varies else mean


def _everywhere(estimate: Tensor, x: Tensor) -> Tensor:
    """Known, all of it: for ``informs``."""
    return (estimate != 0).any().to(torch.float64).expand(x.shape)


# --- taking -----------------------------------------------------------------------------------------------------------


def index_select_back(estimate: Tensor, x: Tensor, dim: int, index: Tensor, *, context: ReverseCall) -> Any:
    """Every slice in its place; one that was taken several times is their mean."""
    if not context.estimated[0]:
        return (None,)
    if x.ndim == 0:
        return estimate.reshape(())
    known = context.known[0]

    def put(values: Tensor) -> Tensor:
        shape = [*values.shape]
        shape[dim] = x.shape[dim]
        return values.new_zeros(shape).index_add(dim, index.reshape(-1), values)

    ones = _ones(estimate, known)
    if known is None:  # counted once for all of a slice
        ones = ones[tuple(slice(None) if d == dim % x.ndim else slice(1) for d in range(x.ndim))]
    return _placed(put, zero_unknown(estimate, known), ones, x, context.changes(1))


def gather_back(
    estimate: Tensor, x: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False, context: ReverseCall
) -> Any:
    """Every entry in its place; one that was taken several times is their mean."""
    if not context.estimated[0]:
        return (None,)
    known = context.known[0]

    def put(values: Tensor) -> Tensor:
        return values.new_zeros(x.shape).scatter_add(dim, index, values)

    return _placed(put, zero_unknown(estimate, known), _ones(estimate, known), x, context.changes(1))


def take_along_dim_back(
    estimate: Tensor, x: Tensor, indices: Tensor, dim: int | None = None, *, context: ReverseCall
) -> Any:
    """Every entry in its place; one that was taken several times, or repeated first, is their mean."""
    if dim is None:
        found = gather_back(estimate, x.reshape(-1), 0, indices.reshape(-1), context=context)
        return found.reshape(x.shape) if isinstance(found, Tensor) else found
    sizes = [max(a, b) for a, b in zip(x.shape, indices.shape, strict=True)]
    repeated, index = (t.expand([*sizes[:dim], t.shape[dim], *sizes[dim:][1:]]) for t in (x, indices))
    found = gather_back(estimate, repeated, dim, index, context=context)
    return mean_to(found, x) if isinstance(found, Tensor) else found


def take_back(estimate: Tensor, x: Tensor, index: Tensor, *, context: ReverseCall) -> Any:
    """``x.take(index)``: every entry in its place of the flattened value."""
    found = gather_back(estimate.reshape(-1), x.reshape(-1), 0, index.reshape(-1), context=_flat(context))
    return found.reshape(x.shape) if isinstance(found, Tensor) else found


def _flat(context: ReverseCall) -> ReverseCall:
    known = context.known[0]
    return context if known is None else context._replace(known=(known.reshape(-1),))


def repeat_each_back(
    estimate: Tensor,
    x: Tensor,
    repeats: Tensor,
    dim: int | None = None,
    *,
    output_size: int | None = None,
    context: ReverseCall,
) -> Any:
    """``repeat_interleave`` with a number per slice: the mean of its copies; what is repeated 0 times is not known."""
    flat, along = (x.reshape(-1), 0) if dim is None else (x, dim)
    places = torch.arange(flat.shape[along], device=x.device)
    index = places.repeat_interleave(repeats.expand(len(places)), output_size=estimate.shape[along])
    found = index_select_back(estimate, flat, along, index, context=context)
    return found.reshape(x.shape) if isinstance(found, Tensor) else found


def index_back(estimate: Tensor, x: Tensor, indices: Sequence[Tensor | None], *, context: ReverseCall) -> Any:
    """``x[indices]``: every entry in its place; one that was taken several times is their mean."""
    if not context.estimated[0]:
        return (None,)
    known, varies = context.known[0], any(map(context.changes, range(1, len(context.estimated))))

    def put(values: Tensor) -> Tensor:
        return aten.index_put.default(values.new_zeros(x.shape), indices, values, True)

    return _placed(put, zero_unknown(estimate, known), _ones(estimate, known).contiguous(), x, varies)


def taken_informs(rule: Callable[..., Any]) -> Callable[..., Any]:
    """What is known of a value of which entries were taken: all where the indices vary, see :func:`_placed`."""

    def informs(estimate: Tensor, x: Tensor, *args: Any, context: ReverseCall, **kwargs: Any) -> Any:
        if context.estimated[0] and any(map(context.changes, range(1, len(context.estimated)))):
            return _everywhere(estimate, x)
        return rule(estimate, x, *args, context=context, **kwargs)

    return informs


_TAKING: dict[Callable[..., Any], Callable[..., Any]] = {
    aten.index_select.default: index_select_back,
    aten.gather.default: gather_back,
    aten.take_along_dim.default: take_along_dim_back,
    aten.take.default: take_back,
    aten.repeat_interleave.self_Tensor: repeat_each_back,
    aten.index.Tensor: index_back,
}
for _taking, _rule in _TAKING.items():
    register_reverse(_taking, _rule, range="within", partial=True, informs=taken_informs(_rule), context=True)


def ranked_back(op: torch._ops.OpOverload) -> Callable[..., Any]:
    """The rule of a sort or of ``topk``: (values, indices) of x → every value in its place."""

    def back(estimate: Sequence[Tensor], x: Tensor, *args: Any, context: ReverseCall, **kwargs: Any) -> Tensor:
        indices = op(x, *args, **kwargs)[1]
        named = [a.name for a in op._schema.arguments[1:] if not a.kwarg_only]
        dim = {**dict(zip(named, args, strict=False)), **kwargs}.get("dim", -1)
        every = context._replace(estimated=(True, True), varies=None, known=context.known[:1])
        return gather_back(estimate[0], x, dim, indices, context=every)

    back.__name__ = back.__qualname__ = f"{op._opname}_back"
    return back


def ranked_informs(estimate: Sequence[Tensor], x: Tensor, *args: Any, context: ReverseCall, **kwargs: Any) -> Tensor:
    """Every entry comes back or is forward's own."""
    return _everywhere(estimate[0], x)


for _op in (aten.sort.default, aten.sort.stable, aten.topk.default):
    register_reverse(_op, ranked_back(_op), informs=ranked_informs, context=True)


# --- putting ----------------------------------------------------------------------------------------------------------

Took = Callable[[Tensor], Tensor]


def _put(
    estimate: Tensor, x: Tensor, over: Tensor, source: Any, took: Took, context: ReverseCall
) -> tuple[Tensor | None, ...]:
    """What was put comes back from its place, the rest from everywhere else.

    Args:
        estimate: of the result.
        x: what was put into.
        over: where something was put, bool, of the estimate's shape.
        source: what was put, the last tensor of the call, or a number.
        took: reads a tensor like the estimate where something was put.
        context: of the call.
    """
    known, varies = context.known[0], _indices_vary(context, source)
    rest = where_chosen(estimate, x, ~over, known, varies) if context.estimated[0] else None
    if not isinstance(source, Tensor) or not context.estimated[-1]:
        return (rest,)
    return rest, *[None] * (len(context.estimated) - 2), _read(estimate, source, took, known, varies)


def _summed(
    estimate: Tensor, x: Tensor, count: Tensor, source: Tensor, took: Took, context: ReverseCall, scale: float = 1
) -> tuple[Tensor | None, ...]:
    """Sums in places: to every summand an equal share, and to x the estimate itself; a constant x is subtracted.

    Args:
        estimate: of the result.
        x: what was added to.
        count: how many summands every entry has, of the estimate's shape.
        source: the summands before they were scaled, the last tensor of the call.
        took: reads a tensor like the estimate where something was added.
        context: of the call.
        scale: by which the summands were multiplied.
    """
    known, varies = context.known[0], _indices_vary(context, source)
    into = estimate if context.estimated[0] else None
    if not context.estimated[-1]:
        return (into,)
    rest = estimate if into is not None else zero_unknown(estimate - x, known)
    share = rest / (count.clamp(min=1) * scale)
    return into, *[None] * (len(context.estimated) - 2), _read(share, source, took, known, varies)


def _read(estimate: Tensor, source: Tensor, took: Took, known: Tensor | None, varies: bool) -> Tensor:
    """What was put, from its places; the mean over them if it was repeated."""
    mask = torch.ones((), dtype=torch.bool, device=estimate.device) if known is None else known
    return where_chosen(took(zero_unknown(estimate, known)), source, took(mask.expand(estimate.shape)), None, varies)


def _indices_vary(context: ReverseCall, source: Any) -> bool:
    """Whether the tensors between the first and what was put may differ from call to call."""
    return any(map(context.changes, range(1, len(context.estimated) - isinstance(source, Tensor))))


def scatter_back(
    estimate: Tensor, x: Tensor, dim: int, index: Tensor, src: Any, *, context: ReverseCall
) -> tuple[Tensor | None, ...]:
    """``x.scatter(dim, index, src)``; of several values put to one place every one gets what came of it."""
    over = torch.zeros(x.shape, dtype=torch.bool, device=x.device).scatter(dim, index, True)
    return _put(estimate, x, over, src, lambda t: t.gather(dim, index), context)


def scatter_sum_back(
    estimate: Tensor, x: Tensor, dim: int, index: Tensor, src: Tensor, *, context: ReverseCall
) -> tuple[Tensor | None, ...]:
    """``x.scatter_add(dim, index, src)``: an equal share to every summand of a place."""
    ones = estimate.real.new_ones(()).expand(index.shape)
    count = estimate.real.new_zeros(x.shape).scatter_add(dim, index, ones)
    return _summed(estimate, x, count, src, lambda t: t.gather(dim, index), context)


def scatter_reduce_back(
    estimate: Tensor,
    x: Tensor,
    dim: int,
    index: Tensor,
    src: Any,
    reduce: str,
    *,
    include_self: bool = True,
    context: ReverseCall,
) -> tuple[Tensor | None, ...]:
    """``x.scatter_reduce(dim, index, src, reduce)``: a sum is shared out; a mean or maximum handed to every value."""
    if reduce == "sum" and isinstance(src, Tensor):
        return scatter_sum_back(estimate, x, dim, index, src, context=context)
    if reduce not in ("mean", "amax", "amin"):
        raise NotImplementedError(f"reduce={reduce!r}: only sum, mean, amax and amin")
    nowhere = torch.zeros((), dtype=torch.bool, device=x.device).expand(x.shape)
    return _put(estimate, x, nowhere, src, lambda t: t.gather(dim, index), context)


def masked_scatter_back(
    estimate: Tensor, x: Tensor, mask: Tensor, source: Tensor, *, context: ReverseCall
) -> tuple[Tensor | None, ...]:
    """``x.masked_scatter(mask, source)``: where the mask holds, one entry of the source after the other."""
    over = mask.expand(x.shape)
    ranks = over.flatten().cumsum(0) - 1
    places = torch.where(over.flatten(), ranks, source.numel()).clamp(max=source.numel())

    def took(t: Tensor) -> Tensor:
        taken = t.new_zeros(source.numel() + 1).scatter(0, places, t.flatten())
        return taken[:-1].reshape(source.shape)

    return _put(estimate, x, over, source, took, context)


def index_copy_back(
    estimate: Tensor, x: Tensor, dim: int, index: Tensor, source: Any, *, context: ReverseCall
) -> tuple[Tensor | None, ...]:
    """``x.index_copy(dim, index, source)`` and ``x.index_fill(dim, index, value)``: slices put to their places."""
    over = torch.zeros(x.shape, dtype=torch.bool, device=x.device).index_fill(dim, index, True)
    return _put(estimate, x, over, source, lambda t: t.index_select(dim, index), context)


def index_sum_back(
    estimate: Tensor, x: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1, context: ReverseCall
) -> tuple[Tensor | None, ...]:
    """``x.index_add(dim, index, source)``: an equal share to every slice that was added to a place."""
    ones = estimate.real.new_ones(()).expand(source.shape)
    count = estimate.real.new_zeros(x.shape).index_add(dim, index, ones)
    return _summed(estimate, x, count, source, lambda t: t.index_select(dim, index), context, alpha)


def _by_mask(t: Tensor, mask: Tensor, count: int) -> Tensor:
    """``t[mask]``, of which it is known how many entries the mask has: so its shape does not depend on values."""
    flat = mask.flatten()
    places = torch.where(flat, flat.cumsum(0) - 1, count).clamp(max=count)
    rows = t.flatten(0, mask.ndim - 1)
    return rows.new_zeros(count + 1, *rows.shape[1:]).index_copy(0, places, rows)[:-1]


def index_put_back(
    estimate: Tensor,
    x: Tensor,
    indices: Sequence[Tensor | None],
    values: Tensor,
    accumulate: bool = False,
    *,
    context: ReverseCall,
) -> tuple[Tensor | None, ...]:
    """``x[indices] = values`` and ``x[indices] += values``."""

    def took(t: Tensor) -> Tensor:
        mask = indices[0]
        if (
            len(indices) == 1
            and mask is not None
            and mask.dtype == torch.bool
            and len(values.shape)
            and len(values) > 1
        ):
            return _by_mask(t, mask, len(values))
        return aten.index.Tensor(t, indices)

    if not accumulate:
        yes = torch.ones((), dtype=torch.bool, device=x.device)
        over = aten.index_put.default(torch.zeros(x.shape, dtype=torch.bool, device=x.device), indices, yes)
        return _put(estimate, x, over, values, took, context)
    one = estimate.real.new_ones(())
    count = aten.index_put.default(estimate.real.new_zeros(x.shape), indices, one, True)
    return _summed(estimate, x, count, values, took, context)


def put_informs(rule: Callable[..., Any], source: int) -> Callable[..., Any]:
    """What is known of what was put, and of what it was put into.

    Args:
        rule: asked itself where the indices are constants.
        source: the place of what was put among the arguments after the first.
    """

    def informs(estimate: Tensor, x: Tensor, *args: Any, context: ReverseCall, **kwargs: Any) -> Any:
        if not _indices_vary(context, put := args[source]):
            return rule(estimate, x, *args, context=context, **kwargs)
        rest = estimate if context.estimated[0] else None
        if not isinstance(put, Tensor) or not context.estimated[-1]:
            return (rest,)
        return rest, *[None] * (len(context.estimated) - 2), _everywhere(estimate, put)

    return informs


_PUTTING: dict[Callable[..., Any], tuple[Callable[..., Any], int]] = {
    aten.scatter.src: (scatter_back, 2),
    aten.scatter.value: (scatter_back, 2),
    aten.index_copy.default: (index_copy_back, 2),
    aten.index_fill.int_Scalar: (index_copy_back, 2),
    aten.index_fill.int_Tensor: (index_copy_back, 2),
    aten.index_put.default: (index_put_back, 1),
    aten.masked_scatter.default: (masked_scatter_back, 1),
}
for _putting, (_rule, _source) in _PUTTING.items():
    register_reverse(_putting, _rule, range="within", partial=True, informs=put_informs(_rule, _source), context=True)
_ADDING: dict[Callable[..., Any], Callable[..., Any]] = {
    aten.scatter_add.default: scatter_sum_back,
    aten.scatter_reduce.two: scatter_reduce_back,
    aten.index_add.default: index_sum_back,
}
for _adding, _rule in _ADDING.items():
    register_reverse(_adding, _rule, informs=put_informs(_rule, 2), context=True)
