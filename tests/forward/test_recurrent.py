"""Recurrent networks through the public interface: names, outputs as before, states, cells, what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import racecar

KINDS = (nn.RNN, nn.GRU, nn.LSTM)


class Tagger(nn.Module):
    """Every output of the module is returned, the sequence through a head."""

    def __init__(self, kind: type[nn.RNNBase], **options) -> None:
        super().__init__()
        self.rnn = kind(3, 4, **options)
        self.head = nn.LazyLinear(2)

    def forward(self, x: Tensor):
        y, state = self.rnn(x)
        return self.head(y), state


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [{"batch_first": True}, {"num_layers": 2, "dropout": 0.5, "bidirectional": True, "batch_first": True}],
    ids=str,
)
def test_outputs_are_those_of_the_model_and_every_layer_has_a_name(kind, options: dict) -> None:
    x = torch.randn(3, 5, 3)
    model = Tagger(kind, **options)
    model(x)
    rr = racecar.Racecar(model, x)
    layers, directions = options.get("num_layers", 1), ("", ".reverse")[: 1 + options.get("bidirectional", False)]
    assert rr.layers == (*(f"rnn.{k}{d}" for k in range(layers) for d in directions), "head")
    torch.manual_seed(1)
    expected = model(x)
    torch.manual_seed(1)
    found, penalty = rr(x)
    torch.testing.assert_close(found, expected)
    penalty.backward()
    for name, parameter in model.rnn.named_parameters():
        # Gates are coefficients: they get gradients as well.
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert rr(torch.randn(7, 5, 3))[0][0].shape == (7, 5, 2)


def test_dropout_between_time_major_layers_draws_the_numbers_of_the_kernel() -> None:
    model, x = nn.LSTM(3, 4, 3, dropout=0.5), torch.randn(5, 2, 3)
    rr = racecar.Racecar(model, x)
    assert rr.layers == ("0", "1", "2")
    torch.manual_seed(1)
    expected = model(x)[0]
    torch.manual_seed(1)
    torch.testing.assert_close(rr(x)[0][0], expected)


@pytest.mark.parametrize("batch_first", [True, False])
def test_other_lengths_and_batches(batch_first: bool) -> None:
    torch.manual_seed(0)
    model = nn.LSTM(3, 4, batch_first=batch_first)
    rr = racecar.Racecar(model, torch.randn(2, 5, 3))
    for shape in ((4, 5, 3), (2, 6, 3), (1, 1, 3)):
        x = torch.randn(shape)
        torch.testing.assert_close(rr(x)[1], racecar.Racecar(model, x)(x)[1])


def test_flops_count_both_weights() -> None:
    x = torch.randn(2, 5, 3)
    (step,) = (s for s in racecar.Racecar(nn.GRU(3, 4, batch_first=True), x).explain().steps if s.mirrored)
    assert (step.layer, step.forward) == ("0", "gru layer 3→4")
    assert step.flops == 2 * 10 * (12 * 3 + 12 * 4)


class EncoderDecoder(nn.Module):
    """The decoder reads constants alone: what it tells of the input comes back through its initial states."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.encoder, self.decoder = kind(3, 4, batch_first=True), kind(2, 4, batch_first=True)
        self.token = nn.Parameter(torch.randn(1, 4, 2))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        _, state = self.encoder(x)
        return self.head(self.decoder(self.token.expand(x.shape[0], -1, -1), state)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_an_estimate_comes_back_through_initial_states(kind) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 3)
    model = EncoderDecoder(kind)
    rr = racecar.Racecar(model, x, layers=["encoder"], start="head")
    before = rr.reconstruct(x)["encoder.0"][1]
    assert before.isfinite().all()
    with torch.no_grad():
        model.decoder.weight_hh_l0.mul_(2)
    assert not torch.equal(rr.reconstruct(x)["encoder.0"][1], before)


class Looped(nn.Module):
    """A loop over a cell, or the module with the same weights."""

    def __init__(self, kind: str, looped: bool) -> None:
        super().__init__()
        self.rnn, self.head = getattr(nn, kind)(3, 4, batch_first=True), nn.Linear(4, 2)
        self.cell = getattr(nn, f"{kind}Cell")(3, 4)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            setattr(self.cell, name, getattr(self.rnn, f"{name}_l0"))
        self.looped = looped

    def forward(self, x: Tensor) -> Tensor:
        if not self.looped:
            return self.head(self.rnn(x)[0])
        state, outputs = None, []
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return self.head(torch.stack(outputs, 1))


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_a_loop_over_a_cell_is_the_layer(kind: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 3, dtype=torch.float64)
    loop = Looped(kind, True).double()
    layer = copy.deepcopy(loop)
    layer.looped = False
    found = racecar.Racecar(loop, x, layers=["cell"], start="head", reduction="sum")
    expected = racecar.Racecar(layer, x, layers=["rnn"], start="head", reduction="sum")
    assert found.layers == ("cell#1", "cell#2", "cell#3")
    torch.testing.assert_close(found(x)[1], expected(x)[1], rtol=1e-10, atol=1e-10)


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.full((x.shape[0],), 3)
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        return self.head(self.rnn(packed)[1][-1])


def test_packed_sequences_are_refused() -> None:
    with pytest.raises(racecar.ExportError, match="packed sequence"):
        racecar.Racecar(Packed(), torch.randn(2, 3, 3))


def test_hooks_that_expect_the_states_are_refused() -> None:
    model = nn.GRU(3, 4)
    model.register_forward_hook(lambda module, inputs, output: None)
    with pytest.raises(racecar.ArgumentError, match="returns several tensors"):
        racecar.Racecar(model, torch.randn(5, 2, 3))


def test_the_cell_state_of_a_projected_lstm_is_refused() -> None:
    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(3, 4, proj_size=2), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[1][1][-1])

    with pytest.raises(racecar.ExportError, match="proj_size"):
        racecar.Racecar(Cell(), torch.randn(2, 3, 3))


def test_the_sigmoid_is_the_gate_whichever_operand_it_is() -> None:
    class Gated(nn.Module):
        def __init__(self, swapped: bool) -> None:
            super().__init__()
            self.value, self.gate, self.swapped = nn.Linear(3, 4), nn.Linear(3, 4), swapped

        def forward(self, x: Tensor) -> Tensor:
            value, gate = torch.tanh(self.value(x)), 1 - torch.sigmoid(self.gate(x))
            return gate * value if self.swapped else value * gate

    torch.manual_seed(0)
    x, model = torch.randn(2, 3), Gated(False)
    swapped = Gated(True)
    swapped.load_state_dict(model.state_dict())
    ours, theirs = (racecar.Racecar(m, x, layers="all") for m in (model, swapped))
    assert ours.layers == theirs.layers == ("value",)
    torch.testing.assert_close(ours(x)[1], theirs(x)[1])
