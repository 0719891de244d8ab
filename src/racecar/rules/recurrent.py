"""Recurrent layers: the palindrome of the unrolled layer, run from the last time step to the first.

One layer in one direction is one operation here. At every step the rules of its parts hold: a sum hands its estimate to
both terms, gates are coefficients, activations are walked past, a value used several times is the mean of what comes
back; docs/recurrent.md spells it out. The operations return the sequence ``y`` that PyTorch's kernel has computed; the
reverse needs it for the gates, which are those of the forward pass, of all time steps in one product.

Shapes: N samples, T steps, I inputs, H hidden units, K outputs (H, or proj_size). ``batch_first`` sequences are
(N, T, …), others (T, N, …); ``reverse`` layers read them from the end. Initial states are (N, …), None for zeros.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from racecar.rules.registry import ReverseCall, refuse_data_as_weights, register_reverse, unchanged, zero_unknown

aten = torch.ops.aten

Kind = Literal["tanh", "relu", "gru", "lstm"]


class LayerCall(NamedTuple):
    """The operands of one recurrent layer in one direction: the arguments of every operation of this file, in order.

    Attributes:
        x: the layer's input, (N, T, I) or (T, N, I).
        w_ih: (H, I), for a GRU three and for an LSTM four times as many rows.
        w_hh: (H, K), or as many rows as w_ih.
        b_ih: one entry per row of w_ih, or None.
        b_hh: one entry per row of w_hh, or None.
        w_hr: the projection of an LSTM with ``proj_size``, (K, H); else None.
        y: the output that PyTorch's kernel has computed, (N, T, K) or (T, N, K).
        c_n: the last cell state of an LSTM, (N, H), where the operation returns it; else None.
        h_0: the initial hidden state, (N, K), or None: zeros.
        carried: the initial value of what a step hands on by a gate: c_0 of an LSTM, (N, H); of a GRU h_0 in its second
            use, z ⊙ h_0. None: zeros.
        kind: of layer: an RNN's nonlinearity, ``"gru"`` or ``"lstm"``.
        batch_first: whether sequences are (N, T, …).
        reverse: whether the layer reads them from the end.
    """

    x: Tensor
    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None
    b_hh: Tensor | None
    w_hr: Tensor | None
    y: Tensor
    c_n: Tensor | None
    h_0: Tensor | None
    carried: Tensor | None
    kind: Kind
    batch_first: bool
    reverse: bool

    def ordered(self, value: Tensor) -> Tensor:
        """A sequence time first, in the order in which the layer reads."""
        value = value.transpose(0, 1) if self.batch_first else value
        return value.flip(0) if self.reverse else value

    def laid_out(self, value: Tensor) -> Tensor:
        """An ordered sequence back in the layout of the layer's input."""
        value = value.flip(0) if self.reverse else value
        return value.transpose(0, 1) if self.batch_first else value

    def split(self, packed: Tensor) -> tuple[Tensor, Tensor]:
        """What :func:`lstm_layer_and_cell` returns, split: the ordered sequence (T, N, K), the cell state (1, N, H)."""
        packed = packed.transpose(0, 1) if self.batch_first else packed
        return packed[:-1].flip(0) if self.reverse else packed[:-1], packed[-1:]

    def before(self) -> Tensor:
        """h_{t-1} of every step, (T, N, K) in the layer's order."""
        y = self.ordered(self.y)
        first = torch.zeros_like(y[0]) if self.h_0 is None else self.h_0.to(y.dtype)
        return torch.cat([first.unsqueeze(0), y[:-1]])

    def wanted(self, context: ReverseCall) -> Wanted:
        """Which of x and the initial states are to be estimated."""
        flags = iter(context.estimated)
        wanted = dict(zip(self._fields, [isinstance(o, Tensor) and next(flags) for o in self], strict=True))
        refuse_data_as_weights(not any(wanted[name] for name in ("w_ih", "w_hh", "b_ih", "b_hh")))
        return Wanted(wanted["x"], wanted["h_0"], wanted["carried"])

    def answer(
        self, x: Tensor | None = None, h_0: Tensor | None = None, carried: Tensor | None = None
    ) -> tuple[Tensor | None, ...]:
        """What a rule returns: one estimate, or None, per tensor among the operands."""
        estimates = {"x": x, "h_0": h_0, "carried": carried}
        return tuple(estimates.get(n) for n, o in zip(self._fields, self, strict=True) if isinstance(o, Tensor))


class Wanted(NamedTuple):
    """Which operands of a layer are to be estimated."""

    x: bool
    h_0: bool
    carried: bool


# --- the operations that racecar.forward.recurrent puts into the graph ------------------------------------------------


def rnn_layer(*operands: Any) -> Tensor:
    """``y``, the output of an ``nn.RNN`` layer in one direction; operands as in :class:`LayerCall`."""
    return LayerCall(*operands).y


def rnn_output(y: Tensor, nonlinearity: Kind) -> Tensor:
    """``y``, the output of an ``nn.RNN`` layer, as what its activation has given its range."""
    return y


def gru_layer(*operands: Any) -> Tensor:
    """``y``, the output of an ``nn.GRU`` layer in one direction; operands as in :class:`LayerCall`."""
    return LayerCall(*operands).y


def lstm_layer(*operands: Any) -> Tensor:
    """``y``, the output of an ``nn.LSTM`` layer in one direction; operands as in :class:`LayerCall`."""
    return LayerCall(*operands).y


def lstm_layer_and_cell(*operands: Any) -> Tensor:
    """``y`` of an ``nn.LSTM`` layer and after its last step ``c_n``, for models that use the last cell state.

    Operands as in :class:`LayerCall`, without projection.
    """
    layer = LayerCall(*operands)
    assert layer.c_n is not None
    time = 1 if layer.batch_first else 0
    return torch.cat([layer.y, layer.c_n.unsqueeze(time)], time)


# --- what their reverses share ----------------------------------------------------------------------------------------


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


def _informed(layer: LayerCall, sequence: Tensor, after: Tensor, carried: Tensor | None = None) -> Any:
    """How knowledge passes through a recurrent layer: from every step to itself and, whole, to all before it.

    Asked in place of the rule itself, whose activations and gates saturate when weights and inputs are ones.

    Args:
        layer: the forward call.
        sequence: (T, N, K) in the layer's order, 1 where the estimate is known, else 0.
        after: likewise of what comes after the last step, (0 or 1, N, H).
        carried: likewise of the layer's operand ``carried``, where it is known entry by entry.
    """
    steps = torch.cat([sequence.sum(-1), after.sum(-1)])
    reached = steps.flip(0).cumsum(0).flip(0)[: sequence.shape[0]].unsqueeze(-1)
    x = layer.laid_out(reached.expand(*reached.shape[:2], layer.x.shape[-1]))
    if carried is None and layer.carried is not None:
        carried = reached[0].expand(layer.carried.shape)
    return layer.answer(x, None if layer.h_0 is None else reached[0].expand(layer.h_0.shape), carried)


def _by_gate(sequence: Tensor) -> Tensor:
    """Where knowledge gets that is handed on by a gate: entry by entry from the first step, whole from later ones."""
    return sequence[0] + sequence[1:].sum((0, -1)).unsqueeze(-1)


# --- RNN --------------------------------------------------------------------------------------------------------------


def rnn_informs(estimate: Tensor, *operands: Any, context: ReverseCall) -> Any:
    """How knowledge passes through an RNN layer: from every step to itself and, whole, to all before it."""
    layer = LayerCall(*operands)
    sequence = layer.ordered(estimate)
    return _informed(layer, sequence, sequence[:0])


def rnn_back(estimate: Tensor, *operands: Any, context: ReverseCall) -> tuple[Tensor | None, ...]:
    """Sequence (H) → x (I), h_0: h'_{t-1} = f(mean(y'_{t-1}, W_hh^T (h'_t - b_hh))), x'_t = W_ih^T (h'_t - b_ih)."""
    layer = LayerCall(*operands)
    wanted = layer.wanted(context)
    f = torch.tanh if layer.kind == "tanh" else torch.relu
    given = layer.ordered(estimate)
    steps, (known,) = len(given), context.known
    later = share = None
    if known is not None:
        known = layer.ordered(known).expand(steps, -1, -1)
        later = _later(known)
        share = 1 / (known.to(given.dtype) + later).clamp(min=1)
        known = known | later
    estimates: list[Tensor] = []  # h'_t, the last first
    back: Tensor | None = None  # the estimate that comes from the step after
    for t, h in zip(reversed(range(steps)), reversed(given.unbind()), strict=True):
        if back is not None:
            if share is None or later is None:
                h = f((h + back) / 2)
            else:  # where nothing comes from later steps, y'_t has its range already
                h = torch.where(later[t], f((h + back) * share[t]), h)
        estimates.append(h)
        needed = t or wanted.h_0
        back = _without(h, layer.b_hh, None if known is None else known[t]) @ layer.w_hh if needed else None
    hidden = torch.stack(estimates[::-1])
    if not wanted.h_0:
        hidden = _less_at_start(hidden, _from_start(layer.h_0, layer.w_hh, layer.b_hh, hidden[0]))
    x = layer.laid_out(_without(hidden, layer.b_ih, known) @ layer.w_ih)
    return layer.answer(x if wanted.x else None, back)


def rnn_range(estimate: Tensor, y: Tensor, nonlinearity: Kind) -> Tensor:
    """The activation of every step."""
    return torch.tanh(estimate) if nonlinearity == "tanh" else torch.relu(estimate)


# --- GRU --------------------------------------------------------------------------------------------------------------


def gru_informs(estimate: Tensor, *operands: Any, context: ReverseCall) -> Any:
    """How knowledge passes through a GRU layer: whole to all steps before, of z ⊙ h_0 entry by entry."""
    layer = LayerCall(*operands)
    sequence = layer.ordered(estimate)
    return _informed(layer, sequence, sequence[:0], _by_gate(sequence))


def gru_back(estimate: Tensor, *operands: Any, context: ReverseCall) -> tuple[Tensor | None, ...]:
    """Sequence (H) → x (I), h_0 twice: n'_t = (1 - z_t) ⊙ h'_t, x'_t = W_in^T (n'_t - b_in), h'_{t-1} the mean of
    y'_{t-1}, z_t ⊙ h'_t and W_hn^T (r_t ⊙ n'_t - b_hn).
    """
    layer = LayerCall(*operands)
    wanted = layer.wanted(context)
    units, h_0 = layer.w_hh.shape[1], layer.h_0
    gates, candidate = (0, 2 * units), (2 * units, 3 * units)
    w_in, w_hn = layer.w_ih[slice(*candidate)], layer.w_hh[slice(*candidate)]
    b_in, b_hn = _part(layer.b_ih, *candidate), _part(layer.b_hh, *candidate)
    before = layer.before()
    gate = torch.sigmoid(
        F.linear(layer.ordered(layer.x), layer.w_ih[slice(*gates)], _part(layer.b_ih, *gates))
        + F.linear(before, layer.w_hh[slice(*gates)], _part(layer.b_hh, *gates))
    )
    r, z = (part.unbind() for part in gate.chunk(2, -1))
    given = layer.ordered(estimate)
    steps, (known,) = len(given), context.known
    share: Tensor | None = None
    if known is not None:
        known = layer.ordered(known).expand(steps, -1, -1)
        later = _later(known)
        own = known
        known = known | later
        # Of z ⊙ h'_{t+1} what is known of h'_{t+1}; of the other estimate from there all or nothing.
        next_known = torch.cat([known[1:], torch.zeros_like(known[:1])])
        share = 1 / (own.to(given.dtype) + next_known.to(given.dtype) + later).clamp(min=1)
    estimates: list[Tensor] = []  # n'_t, the last first
    back: Tensor | None = None
    held: Tensor | None = None
    for t, h in zip(reversed(range(steps)), reversed(given.unbind()), strict=True):
        if back is not None and held is not None:
            h = (h + held + back) / 3 if share is None else (h + held + back) * share[t]
        n = (1 - z[t]) * (h - z[t] * h_0 if t == 0 and h_0 is not None and not wanted.h_0 else h)
        estimates.append(n)
        if t or wanted.h_0:
            back = _without(r[t] * n, b_hn, None if known is None else known[t]) @ w_hn
            held = z[t] * h
        else:
            back = held = None
    candidates = torch.stack(estimates[::-1])
    if not wanted.h_0:
        constant = _from_start(h_0, w_hn, b_hn, candidates[0])
        candidates = _less_at_start(candidates, None if constant is None else r[0] * constant)
    x = layer.laid_out(_without(candidates, b_in, known) @ w_in)
    return layer.answer(x if wanted.x else None, back, held)


# --- LSTM -------------------------------------------------------------------------------------------------------------


def lstm_informs(estimate: Tensor, *operands: Any, context: ReverseCall) -> Any:
    """How knowledge passes through an LSTM layer: whole to all steps before, of c_0 entry by entry."""
    layer = LayerCall(*operands)
    sequence = layer.ordered(estimate)
    carried = _by_gate(sequence) if layer.w_hr is None else None  # a projection mixes the entries
    return _informed(layer, sequence, sequence[:0], carried)


def lstm_and_cell_informs(estimate: Tensor, *operands: Any, context: ReverseCall) -> Any:
    """How knowledge passes through an LSTM layer that returns c_n too: as from one more step, of c_0 entry by entry."""
    layer = LayerCall(*operands)
    sequence, cell = layer.split(estimate)
    from_cell = cell[0] if len(sequence) == 1 else cell[0].sum(-1, keepdim=True)
    return _informed(layer, sequence, cell, _by_gate(sequence) + from_cell)


def lstm_back(estimate: Tensor, *operands: Any, context: ReverseCall) -> tuple[Tensor | None, ...]:
    """Sequence (K) → x (I), h_0, c_0: c'_t = mean(o_t ⊙ h'_t, f_{t+1} ⊙ c'_{t+1}), g'_t = i_t ⊙ c'_t, x'_t =
    W_ig^T (g'_t - b_ig), h'_{t-1} = mean(y'_{t-1}, W_hg^T (g'_t - b_hg)).
    """
    layer = LayerCall(*operands)
    given, (known,) = layer.ordered(estimate), context.known
    if known is not None:
        known = layer.ordered(known).expand(len(given), -1, -1)
    return _lstm(layer, layer.wanted(context), given, None, known, None)


def lstm_and_cell_back(estimate: Tensor, *operands: Any, context: ReverseCall) -> tuple[Tensor | None, ...]:
    """Sequence (K) and last cell state (H) → x (I), h_0, c_0: :func:`lstm_back`, with c'_T from the cell state too."""
    layer = LayerCall(*operands)
    given, cell = layer.split(estimate)
    (known,) = context.known
    cell_known: Tensor | None = None
    if known is not None:
        steps = len(given) + 1
        known, cell_known = layer.split(known.expand((-1, steps, -1) if layer.batch_first else (steps, -1, -1)))
    return _lstm(layer, layer.wanted(context), given, cell, known, cell_known)


def _lstm(
    layer: LayerCall,
    wanted: Wanted,
    given: Tensor,
    cell: Tensor | None,
    known: Tensor | None,
    cell_known: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Estimates of x, h_0 and c_0 (None where not wanted), from those of the sequence and of the last cell state.

    Args:
        layer: the forward call.
        wanted: which operands are to be estimated.
        given: the estimate of the sequence, (T, N, K) in the layer's order.
        cell: the estimate of the last cell state, (1, N, H), or None.
        known: which entries of ``given`` are known, broadcasting to it; None: all.
        cell_known: which entries of ``cell`` are known, broadcasting to it; None: all.
    """
    h_0, c_0, w_hr = layer.h_0, layer.carried, layer.w_hr
    units, steps = layer.w_hh.shape[0] // 4, len(given)
    candidate, output = (2 * units, 3 * units), (3 * units, 4 * units)
    w_ig, w_hg = layer.w_ih[slice(*candidate)], layer.w_hh[slice(*candidate)]
    b_ig, b_hg = _part(layer.b_ih, *candidate), _part(layer.b_hh, *candidate)

    def gates_of(value: Tensor) -> Tensor:  # the rows of i, f and o
        return torch.cat([value[: 2 * units], value[slice(*output)]])

    before = layer.before()
    gate = torch.sigmoid(
        F.linear(layer.ordered(layer.x), gates_of(layer.w_ih), None if layer.b_ih is None else gates_of(layer.b_ih))
        + F.linear(before, gates_of(layer.w_hh), None if layer.b_hh is None else gates_of(layer.b_hh))
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
    estimates: list[Tensor] = []  # g'_t, the last first
    back: Tensor | None = None
    carried: Tensor | None = None if cell is None else cell[0]
    for t, h in zip(reversed(range(steps)), reversed(given.unbind()), strict=True):
        if back is not None:
            h = (h + back) / 2 if share is None else (h + back) * share[t]
        c = o[t] * (h if w_hr is None else h @ w_hr)
        if carried is not None:
            c = (c + carried) / 2 if cell_share is None else (c + carried) * cell_share[t]
        g = i[t] * (c - f[t] * c_0 if t == 0 and c_0 is not None and not wanted.carried else c)
        estimates.append(g)
        back = _without(g, b_hg, None if known is None else known[t]) @ w_hg if t or wanted.h_0 else None
        carried = f[t] * c if t or wanted.carried else None
    candidates = torch.stack(estimates[::-1])
    if not wanted.h_0:
        candidates = _less_at_start(candidates, _from_start(h_0, w_hg, b_hg, candidates[0]))
    x = layer.laid_out(_without(candidates, b_ig, known) @ w_ig)
    return layer.answer(x if wanted.x else None, back, carried)


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
