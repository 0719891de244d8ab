"""Recurrent layers: the palindrome of the unrolled layer, run from the last time step to the first.

One layer in one direction is one operation here. At every step the rules of its parts hold: a sum hands its estimate to
both terms, gates are coefficients, activations are walked past, a value used several times is the mean of what comes
back; docs/recurrent.md spells it out. The operations return the sequence ``y`` that PyTorch's kernel has computed; the
reverse needs it for the gates, which are those of the forward pass, of all time steps in one product.

Shapes: N samples, T steps, I inputs, H hidden units, K outputs (H, or proj_size). ``batch_first`` sequences are
(N, T, …), others (T, N, …); ``reverse`` layers read them from the end. Initial states are (N, …), None for zeros.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from racecar.rules.registry import ReverseCall, refuse_data_as_weights, register_reverse, unchanged, zero_unknown

aten = torch.ops.aten

Nonlinearity = Literal["tanh", "relu"]
Kind = Literal["tanh", "relu", "gru", "lstm"]


# --- the operations that racecar.forward.recurrent puts into the graph ---------------------------------------------


def rnn_layer(
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    y: Tensor,
    h_0: Tensor | None,
    nonlinearity: Nonlinearity,
    batch_first: bool,
    reverse: bool,
) -> Tensor:
    """``y``, the output of an ``nn.RNN`` layer in one direction."""
    return y


def rnn_output(y: Tensor, nonlinearity: Nonlinearity) -> Tensor:
    """``y`` once more, as what an activation has given its range."""
    return y


def gru_layer(
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    y: Tensor,
    h_0: Tensor | None,
    kept: Tensor | None,
    batch_first: bool,
    reverse: bool,
) -> Tensor:
    """``y``, the output of an ``nn.GRU`` layer in one direction; ``kept`` is h_0 in its second use, z ⊙ h_0."""
    return y


def lstm_layer(
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    w_hr: Tensor | None,
    y: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    batch_first: bool,
    reverse: bool,
) -> Tensor:
    """``y``, the output of an ``nn.LSTM`` layer in one direction."""
    return y


def lstm_layer_and_cell(
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    y: Tensor,
    c_n: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    batch_first: bool,
    reverse: bool,
) -> Tensor:
    """``y`` and after its last step the last cell state ``c_n`` (N, H), for models that use it."""
    time = 1 if batch_first else 0
    return torch.cat([y, c_n.unsqueeze(time)], time)


# --- what their reverses share ------------------------------------------------------------------------------------


def _ordered(value: Tensor, batch_first: bool, reverse: bool) -> Tensor:
    """Time first, in the order in which the layer reads."""
    value = value.transpose(0, 1) if batch_first else value
    return value.flip(0) if reverse else value


def _laid_out(value: Tensor, batch_first: bool, reverse: bool) -> Tensor:
    """Back in the layout of the layer's input."""
    value = value.flip(0) if reverse else value
    return value.transpose(0, 1) if batch_first else value


def _later(known: Tensor) -> Tensor:
    """Per step whether anything is known of a later one: (T, …, K) → (T, …, 1)."""
    some = known.any(-1, keepdim=True)
    total = some.long().flip(0).cumsum(0).flip(0)
    return total > some.long()


def _part(value: Tensor | None, start: int, end: int) -> Tensor | None:
    """The rows of a weight or bias that belong to some gates."""
    return None if value is None else value[start:end]


def _without(estimate: Tensor, bias: Tensor | None, known: Tensor | None) -> Tensor:
    """What of an estimate the adjoint of a linear operation is applied to."""
    return zero_unknown(estimate if bias is None else estimate - bias, known)


def _less_at_start(sequence: Tensor, constant: Tensor | None) -> Tensor:
    """Subtract at the first step what a fixed initial state adds there."""
    if constant is None:
        return sequence
    return torch.cat([(sequence[0] - constant).unsqueeze(0), sequence[1:]])


def _from_start(h_0: Tensor | None, w_hh: Tensor, b_hh: Tensor | None, like: Tensor) -> Tensor | None:
    """W_hh h_0 + b_hh: what the hidden state adds at the first step, None if nothing."""
    if h_0 is None:
        return None if b_hh is None else b_hh.expand_as(like)
    return F.linear(h_0, w_hh, b_hh)


def _before(y: Tensor, h_0: Tensor | None) -> Tensor:
    """h_{t-1} of every step."""
    first = torch.zeros_like(y[0]) if h_0 is None else h_0.to(y.dtype)
    return torch.cat([first.unsqueeze(0), y[:-1]])


def _depends(arguments: tuple[Any, ...], context: ReverseCall) -> list[bool]:
    """Per argument whether it is to be estimated; ``context.estimated`` has an entry per tensor alone."""
    flags = iter(context.estimated)
    found = [isinstance(a, Tensor) and next(flags) for a in arguments]
    refuse_data_as_weights(not any(found[1:5]))
    return found


def _answer(arguments: tuple[Any, ...], estimates: dict[int, Tensor | None]) -> tuple[Tensor | None, ...]:
    """One estimate per tensor among the arguments, by its position."""
    return tuple(estimates.get(i) for i, a in enumerate(arguments) if isinstance(a, Tensor))


def _informs(
    estimate: Tensor, after: Tensor, arguments: tuple[Any, ...], states: tuple[int, ...], *layout: bool
) -> Any:
    """How knowledge passes through a recurrent layer: from every step to itself and, whole, to all before it.

    Asked in place of the rule itself, whose activations and gates saturate when weights and inputs are ones.

    Args:
        estimate: (T, N, K) in the layer's order, 1 where it is known, else 0.
        after: the same of what comes after the last step, (0 or 1, N, H).
        arguments: of the operation; ``states`` are the positions of its initial states.
        layout: ``batch_first`` and ``reverse``.
    """
    x = arguments[0]
    steps = torch.cat([estimate.sum(-1), after.sum(-1)])
    reached = steps.flip(0).cumsum(0).flip(0)[: estimate.shape[0]].unsqueeze(-1)
    shape = (*reached.shape[:2], x.shape[-1])
    found = {i: reached[0].expand(arguments[i].shape) for i in states if isinstance(arguments[i], Tensor)}
    return _answer(arguments, {0: _laid_out(reached.expand(shape), *layout), **found})


# --- RNN ----------------------------------------------------------------------------------------------------------


def rnn_informs(estimate: Tensor, *arguments: Any, **kwargs: Any) -> Any:
    """See :func:`_informs`."""
    ordered = _ordered(estimate, *arguments[-2:])
    return _informs(ordered, ordered[:0], arguments[:-3], (6,), *arguments[-2:])


def rnn_back(
    estimate: Tensor,
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    y: Tensor,
    h_0: Tensor | None,
    nonlinearity: Nonlinearity,
    batch_first: bool,
    reverse: bool,
    *,
    context: ReverseCall,
) -> tuple[Tensor | None, ...]:
    """Sequence (H) → x (I), h_0: h'_{t-1} = f(mean(y'_{t-1}, W_hh^T (h'_t - b_hh))), x'_t = W_ih^T (h'_t - b_ih)."""
    arguments = (x, w_ih, w_hh, b_ih, b_hh, y, h_0)
    wanted = _depends(arguments, context)
    f = torch.tanh if nonlinearity == "tanh" else torch.relu
    given = _ordered(estimate, batch_first, reverse)
    steps, (known,) = len(given), context.known
    later = share = None
    if known is not None:
        known = _ordered(known, batch_first, reverse).expand(steps, -1, -1)
        later = _later(known)
        share = 1 / (known.to(given.dtype) + later).clamp(min=1)
        known = known | later
    found: list[Tensor] = []
    back: Tensor | None = None  # the estimate that comes from the step after
    for t, h in zip(reversed(range(steps)), reversed(given.unbind()), strict=True):
        if back is not None:
            if share is None or later is None:
                h = f((h + back) / 2)
            else:  # where nothing comes from later steps, y'_t has its range already
                h = torch.where(later[t], f((h + back) * share[t]), h)
        found.append(h)
        back = _without(h, b_hh, None if known is None else known[t]) @ w_hh if t or wanted[6] else None
    hidden = torch.stack(found[::-1])
    if not wanted[6]:
        hidden = _less_at_start(hidden, _from_start(h_0, w_hh, b_hh, hidden[0]))
    found_x = _laid_out(_without(hidden, b_ih, known) @ w_ih, batch_first, reverse)
    return _answer(arguments, {0: found_x if wanted[0] else None, 6: back})


def rnn_range(estimate: Tensor, y: Tensor, nonlinearity: Nonlinearity) -> Tensor:
    """The activation of every step."""
    return torch.tanh(estimate) if nonlinearity == "tanh" else torch.relu(estimate)


# --- GRU ----------------------------------------------------------------------------------------------------------


def gru_informs(estimate: Tensor, *arguments: Any, **kwargs: Any) -> Any:
    """See :func:`_informs`; of z ⊙ h_0 the entries of which z ⊙ h_0 is."""
    ordered = _ordered(estimate, *arguments[-2:])
    found = list(_informs(ordered, ordered[:0], arguments[:-2], (6, 7), *arguments[-2:]))
    if isinstance(arguments[7], Tensor):
        found[-1] = ordered[0] + ordered[1:].sum((0, -1)).unsqueeze(-1)
    return tuple(found)


def gru_back(
    estimate: Tensor,
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    y: Tensor,
    h_0: Tensor | None,
    kept: Tensor | None,
    batch_first: bool,
    reverse: bool,
    *,
    context: ReverseCall,
) -> tuple[Tensor | None, ...]:
    """Sequence (H) → x (I), h_0 twice: n'_t = (1 - z_t) ⊙ h'_t, x'_t = W_in^T (n'_t - b_in), h'_{t-1} the mean of
    y'_{t-1}, z_t ⊙ h'_t and W_hn^T (r_t ⊙ n'_t - b_hn).
    """
    arguments = (x, w_ih, w_hh, b_ih, b_hh, y, h_0, kept)
    wanted = _depends(arguments, context)
    units = w_hh.shape[1]
    gates, candidate = (0, 2 * units), (2 * units, 3 * units)
    w_in, w_hn = w_ih[2 * units :], w_hh[2 * units :]
    b_in, b_hn = _part(b_ih, *candidate), _part(b_hh, *candidate)
    before = _before(_ordered(y, batch_first, reverse), h_0)
    gate = torch.sigmoid(
        F.linear(_ordered(x, batch_first, reverse), w_ih[: 2 * units], _part(b_ih, *gates))
        + F.linear(before, w_hh[: 2 * units], _part(b_hh, *gates))
    )
    r, z = (part.unbind() for part in gate.chunk(2, -1))
    given = _ordered(estimate, batch_first, reverse)
    steps, (known,) = len(given), context.known
    share: Tensor | None = None
    if known is not None:
        known = _ordered(known, batch_first, reverse).expand(steps, -1, -1)
        later = _later(known)
        own = known
        known = known | later
        # Of z ⊙ h'_{t+1} what is known of h'_{t+1}; of the other estimate from there all or nothing.
        next_known = torch.cat([known[1:], torch.zeros_like(known[:1])])
        share = 1 / (own.to(given.dtype) + next_known.to(given.dtype) + later).clamp(min=1)
    found: list[Tensor] = []
    back: Tensor | None = None
    held: Tensor | None = None
    for t, h in zip(reversed(range(steps)), reversed(given.unbind()), strict=True):
        if back is not None and held is not None:
            h = (h + held + back) / 3 if share is None else (h + held + back) * share[t]
        n = (1 - z[t]) * (h - z[t] * h_0 if t == 0 and h_0 is not None and not wanted[6] else h)
        found.append(n)
        if t or wanted[6]:
            back = _without(r[t] * n, b_hn, None if known is None else known[t]) @ w_hn
            held = z[t] * h
        else:
            back = held = None
    candidates = torch.stack(found[::-1])
    if not wanted[6]:
        constant = _from_start(h_0, w_hn, b_hn, candidates[0])
        candidates = _less_at_start(candidates, None if constant is None else r[0] * constant)
    found_x = _laid_out(_without(candidates, b_in, known) @ w_in, batch_first, reverse)
    return _answer(arguments, {0: found_x if wanted[0] else None, 6: back, 7: held})


# --- LSTM ---------------------------------------------------------------------------------------------------------


def lstm_informs(estimate: Tensor, *arguments: Any, **kwargs: Any) -> Any:
    """See :func:`_informs`; of c_0 the entries of which c_0 is."""
    ordered = _ordered(estimate, *arguments[-2:])
    return _lstm_informs(ordered, ordered[:0], arguments, 7)


def lstm_and_cell_informs(estimate: Tensor, *arguments: Any, **kwargs: Any) -> Any:
    """See :func:`_informs`; of c_0 the entries of which c_0 is."""
    sequence, cell = _split(estimate, *arguments[-2:])
    return _lstm_informs(sequence, cell, arguments, 7)


def _lstm_informs(ordered: Tensor, cell: Tensor, arguments: tuple[Any, ...], first: int) -> Any:
    found = list(_informs(ordered, cell, arguments[:-2], (first, first + 1), *arguments[-2:]))
    projected = isinstance(arguments[5], Tensor) and arguments[5].ndim == 2
    if isinstance(arguments[first + 1], Tensor) and not projected:
        direct = ordered[0] + ordered[1:].sum((0, -1)).unsqueeze(-1)
        if len(cell):
            direct = direct + (cell[0] if len(ordered) == 1 else cell[0].sum(-1, keepdim=True))
        found[-1] = direct
    return tuple(found)


def _split(packed: Tensor, batch_first: bool, reverse: bool) -> tuple[Tensor, Tensor]:
    """Of what :func:`lstm_layer_and_cell` returns the sequence in the layer's order, and the cell state (1, N, H)."""
    packed = packed.transpose(0, 1) if batch_first else packed
    return _ordered(packed[:-1], False, reverse), packed[-1:]


def lstm_back(
    estimate: Tensor,
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    w_hr: Tensor | None,
    y: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    batch_first: bool,
    reverse: bool,
    *,
    context: ReverseCall,
) -> tuple[Tensor | None, ...]:
    """Sequence (K) → x (I), h_0, c_0: c'_t = mean(o_t ⊙ h'_t, f_{t+1} ⊙ c'_{t+1}), g'_t = i_t ⊙ c'_t, x'_t =
    W_ig^T (g'_t - b_ig), h'_{t-1} = mean(y'_{t-1}, W_hg^T (g'_t - b_hg)).
    """
    arguments = (x, w_ih, w_hh, b_ih, b_hh, w_hr, y, h_0, c_0)
    given = _ordered(estimate, batch_first, reverse)
    (known,) = context.known
    if known is not None:
        known = _ordered(known, batch_first, reverse).expand(len(given), -1, -1)
    wanted = _depends(arguments, context)
    found = _lstm(given, None, arguments, wanted[7:], batch_first, reverse, known, None)
    return _answer(arguments, {0: found[0] if wanted[0] else None, 7: found[1], 8: found[2]})


def lstm_and_cell_back(
    estimate: Tensor,
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    y: Tensor,
    c_n: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    batch_first: bool,
    reverse: bool,
    *,
    context: ReverseCall,
) -> tuple[Tensor | None, ...]:
    """As :func:`lstm_back`, with an estimate of the last cell state."""
    arguments = (x, w_ih, w_hh, b_ih, b_hh, y, c_n, h_0, c_0)
    given, cell = _split(estimate, batch_first, reverse)
    (known,) = context.known
    cell_known: Tensor | None = None
    if known is not None:
        time = 1 if batch_first else 0
        sizes = [-1, -1, -1]
        sizes[time] = len(given) + 1
        known, cell_known = _split(known.expand(sizes), batch_first, reverse)
    wanted = _depends(arguments, context)
    inner = (x, w_ih, w_hh, b_ih, b_hh, None, y, h_0, c_0)
    found = _lstm(given, cell, inner, wanted[7:], batch_first, reverse, known, cell_known)
    return _answer(arguments, {0: found[0] if wanted[0] else None, 7: found[1], 8: found[2]})


def _lstm(
    given: Tensor,
    cell: Tensor | None,
    arguments: tuple[Any, ...],
    wanted: list[bool],
    batch_first: bool,
    reverse: bool,
    known: Tensor | None,
    cell_known: Tensor | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Estimates of x, h_0 and c_0 (None where not wanted), from those of the sequence and of the last cell state."""
    x, w_ih, w_hh, b_ih, b_hh, w_hr, y, h_0, c_0 = arguments
    h_wanted, c_wanted = wanted
    units, steps = w_hh.shape[0] // 4, len(given)
    candidate, output = (2 * units, 3 * units), (3 * units, 4 * units)
    w_ig, w_hg = w_ih[slice(*candidate)], w_hh[slice(*candidate)]
    b_ig, b_hg = _part(b_ih, *candidate), _part(b_hh, *candidate)

    def gates_of(value: Tensor | None) -> Tensor | None:  # the rows of i, f and o
        return None if value is None else torch.cat([value[: 2 * units], value[slice(*output)]])

    before = _before(_ordered(y, batch_first, reverse), h_0)
    gate = torch.sigmoid(
        F.linear(_ordered(x, batch_first, reverse), gates_of(w_ih), gates_of(b_ih))  # type: ignore[arg-type]
        + F.linear(before, gates_of(w_hh), gates_of(b_hh))  # type: ignore[arg-type]
    )
    i, f, o = (part.unbind() for part in gate.chunk(3, -1))

    share: Tensor | None = None
    cell_share: Tensor | None = None
    if known is not None:
        later = _later(known)
        if cell_known is not None:
            later = later | cell_known.any(-1, keepdim=True)
            # The last cell state tells of the hidden states before the last step only.
            later = torch.cat([later[:-1], torch.zeros_like(later[:1])])
        share = 1 / (known.to(given.dtype) + later).clamp(min=1)
        known = known | later
        if w_hr is not None:
            known = known.any(-1, keepdim=True)
        last = torch.zeros_like(known[:1]) if cell_known is None else cell_known
        sizes = [max(a, b) for a, b in zip(known.shape[1:], last.shape[1:], strict=True)]
        known, last = known.expand(-1, *sizes), last.expand(-1, *sizes)
        following = torch.cat([known[1:-1], known[1:][-1:] | last, last]) if steps > 1 else last
        cell_share = 1 / (known.to(given.dtype) + following.to(given.dtype)).clamp(min=1)
        known = known | following
    found: list[Tensor] = []
    back: Tensor | None = None
    carried: Tensor | None = None if cell is None else cell[0]
    for t, h in zip(reversed(range(steps)), reversed(given.unbind()), strict=True):
        if back is not None:
            h = (h + back) / 2 if share is None else (h + back) * share[t]
        c = o[t] * (h if w_hr is None else h @ w_hr)
        if carried is not None:
            c = (c + carried) / 2 if cell_share is None else (c + carried) * cell_share[t]
        g = i[t] * (c - f[t] * c_0 if t == 0 and c_0 is not None and not c_wanted else c)
        found.append(g)
        back = _without(g, b_hg, None if known is None else known[t]) @ w_hg if t or h_wanted else None
        carried = f[t] * c if t or c_wanted else None
    candidates = torch.stack(found[::-1])
    if not h_wanted:
        candidates = _less_at_start(candidates, _from_start(h_0, w_hg, b_hg, candidates[0]))
    return _laid_out(_without(candidates, b_ig, known) @ w_ig, batch_first, reverse), back, carried


register_reverse(rnn_layer, rnn_back, layer="linear", informs=rnn_informs, context=True)
register_reverse(rnn_output, unchanged, range=rnn_range)
register_reverse(gru_layer, gru_back, layer="linear", informs=gru_informs, context=True)
register_reverse(lstm_layer, lstm_back, layer="linear", informs=lstm_informs, context=True)
register_reverse(lstm_layer_and_cell, lstm_and_cell_back, layer="linear", informs=lstm_and_cell_informs, context=True)

LAYERS = frozenset({rnn_layer, gru_layer, lstm_layer, lstm_layer_and_cell})

# torch's own operations, of which racecar.forward.recurrent makes those above: all layers of a module, one step.
KERNELS: dict[object, Kind] = {
    aten.rnn_tanh.input: "tanh",
    aten.rnn_relu.input: "relu",
    aten.gru.input: "gru",
    aten.lstm.input: "lstm",
}
CELLS: dict[object, Kind] = {
    aten.rnn_tanh_cell.default: "tanh",
    aten.rnn_relu_cell.default: "relu",
    aten.gru_cell.default: "gru",
    aten.lstm_cell.default: "lstm",
}
