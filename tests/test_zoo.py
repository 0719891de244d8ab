"""The palindrome of every awkward model: it exists, changes nothing of the model's, and trains."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

import racecar

from .support.zoo import ZOO, Animal


def only(*names: str) -> pytest.MarkDecorator:
    """Some of the animals, where a test is slow and the same for most."""
    return pytest.mark.parametrize("animal", [ZOO[name] for name in names], ids=names)


every = only(*ZOO)


def call(function: Any, example: Any) -> Any:
    return function(**example) if isinstance(example, dict) else function(*example)


@functools.cache
def _derived(animal: Animal) -> racecar.Racecar:
    torch.manual_seed(0)
    model = animal.make()
    return racecar.Racecar(model, animal.example(animal.first), **animal.options)


def wrap(animal: Animal) -> tuple[nn.Module, racecar.Racecar]:
    """The model and its palindrome, fresh: a derivation takes most of a second, a copy none."""
    torch.manual_seed(0)
    rr = copy.deepcopy(_derived(animal))
    return rr.model, rr


def same(left: Any, right: Any, apart: float = 0.0) -> None:
    """Nested alike, equal bit for bit or this far ``apart``."""
    a, b = pytree.tree_flatten(left), pytree.tree_flatten(right)
    assert a[1] == b[1]
    for u, v in zip(a[0], b[0], strict=True):
        if isinstance(u, Tensor):
            assert u.dtype == v.dtype
            torch.testing.assert_close(u, v, rtol=0, atol=apart)
        else:
            assert u == v


@every
def test_output_and_state_are_those_of_the_plain_model(animal: Animal) -> None:
    model, rr = wrap(animal)
    plain = copy.deepcopy(model)
    for seed, batch in enumerate((4, 7, 2, 4)):
        x = animal.example(batch)
        torch.manual_seed(seed)
        expected, state = call(plain, x), torch.get_rng_state()
        torch.manual_seed(seed)
        output, penalty = call(rr, x)
        same(output, expected)
        assert torch.equal(torch.get_rng_state(), state)
        assert penalty.shape == ()
        assert penalty.dtype == torch.float32
        assert torch.isfinite(penalty)
        assert penalty > 0
    same(dict(model.state_dict()), dict(plain.state_dict()))


@every
def test_gradients_of_the_output_are_those_of_the_plain_model(animal: Animal) -> None:
    model, rr = wrap(animal)
    rr.lambdas.zero_()
    plain = copy.deepcopy(model)
    x = animal.example(4)

    def gradients(network: nn.Module, output: Any) -> dict[str, Tensor | None]:
        tensors = [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor)]
        sum(t.float().square().sum() for t in tensors).backward()
        return {n: p.grad for n, p in network.named_parameters()}

    torch.manual_seed(1)
    expected = gradients(plain, call(plain, x))
    torch.manual_seed(1)
    output, penalty = call(rr, x)
    assert penalty == 0
    for name, gradient in gradients(model, output).items():
        if expected[name] is None:
            assert gradient is None
        else:
            torch.testing.assert_close(gradient, expected[name], msg=name)


@every
def test_penalty_reaches_every_mirrored_weight(animal: Animal) -> None:
    model, rr = wrap(animal)
    call(rr, animal.example(5))[1].backward()
    parameters = dict(model.named_parameters())
    names = animal.mirrored or [n for n, p in parameters.items() if p.ndim > 1]
    assert names
    for name in names:
        gradient = parameters[name].grad
        assert gradient is not None, name
        assert torch.isfinite(gradient).all(), name
        assert gradient.abs().sum() > 0, name


@every
def test_evaluation_is_the_plain_model(animal: Animal) -> None:
    model, rr = wrap(animal)
    plain, x = copy.deepcopy(model), animal.example(3)
    same(call(rr.eval(), x), call(plain.eval(), x))
    rr.train()
    plain.train()
    assert [m.training for m in model.modules()] == [m.training for m in plain.modules()]


@every
def test_optimising_the_penalty_alone_lowers_it(animal: Animal) -> None:
    model, rr = wrap(animal)
    x = animal.example(6)
    optimiser = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=3e-3)
    history = []
    for _ in range(5):
        torch.manual_seed(2)  # the same dropout
        penalty = call(rr, x)[1]
        history.append(penalty.item())
        optimiser.zero_grad()
        penalty.backward()
        optimiser.step()
    assert history[-1] < history[0]


@every
def test_copy_is_independent(animal: Animal) -> None:
    model, rr = wrap(animal)
    twin, x = copy.deepcopy(rr), animal.example(4)
    torch.manual_seed(3)
    before = call(rr, x)[1]
    torch.manual_seed(3)
    same(call(twin, x)[1], before)
    assert not {id(p) for p in model.parameters()} & {id(p) for p in twin.parameters()}
    twin.load_state_dict(rr.state_dict())
    with torch.no_grad():
        for p in twin.model.parameters():
            p.add_(0.1)
    twin.lambdas.fill_(2.0)
    torch.manual_seed(3)
    again = call(rr, x)[1]
    torch.manual_seed(3)
    assert call(twin, x)[1] != again


@only("BufferConstant", "FrozenNorm", "NoGradBackbone", "PreActivation", "TwoInputs", "bfloat16", "spectral_norm")
def test_double_precision_after_construction(animal: Animal) -> None:
    model, rr = wrap(animal)
    assert rr.to(torch.float64) is rr
    plain = copy.deepcopy(model)
    x = pytree.tree_map_only(Tensor, Tensor.double, animal.example(4))
    torch.manual_seed(4)
    expected = call(plain, x)
    torch.manual_seed(4)
    output, penalty = call(rr, x)
    same(output, expected)
    assert penalty.dtype == torch.float64
    penalty.backward()


@every
def test_reconstruct_gives_pairs_and_their_distance_is_the_penalty(animal: Animal) -> None:
    model, rr = wrap(animal)
    x, before = animal.example(4), copy.deepcopy(model.state_dict())
    torch.manual_seed(5)
    state = torch.get_rng_state()
    pairs = call(rr.reconstruct, x)
    assert torch.equal(torch.get_rng_state(), state)
    same(dict(model.state_dict()), dict(before))
    assert tuple(pairs) == rr.layers
    expected = sum(0.5 * (a - b).float().square().mean() for a, b in pairs.values())
    torch.testing.assert_close(call(rr, x)[1], expected)


@every
def test_autocast(animal: Animal) -> None:
    model, rr = wrap(animal)
    plain, x = copy.deepcopy(model), animal.example(4)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(6)
        expected = call(plain, x)
        torch.manual_seed(6)
        output, penalty = call(rr, x)
    # The same operations on the same values, but for a recurrent layer: it is called per layer, and which kernel that
    # takes depends on the processor. Its values lie within ±1, each rounded to 8 bits, and an error of a step is added
    # to by the next and by the layer behind it.
    recurrent = any(isinstance(m, nn.RNNBase) for m in model.modules())
    same(output, expected, apart=2**-6 if recurrent else 0.0)
    assert penalty.dtype == torch.float32
    penalty.backward()
    assert any(p.grad is not None for p in model.parameters())


@every
def test_explain_prints(animal: Animal) -> None:
    _, rr = wrap(animal)
    text = str(rr.explain())
    for name in rr.layers:
        assert name in text


@only("TwoInputs", "UNet", "dropout", "NoGradBackbone", "Queue")
def test_compiled_equals_eager(animal: Animal) -> None:
    model, rr = wrap(animal)
    twin, x = copy.deepcopy(rr), animal.example(4)
    torch.manual_seed(7)
    output, penalty = call(rr, x)
    penalty.backward()
    torch.compiler.reset()
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    torch.manual_seed(7)
    compiled_output, compiled_penalty = call(compiled, x)
    compiled_penalty.backward()
    torch.testing.assert_close(compiled_output, output)
    torch.testing.assert_close(compiled_penalty, penalty)
    for (name, p), q in zip(model.named_parameters(), twin.model.parameters(), strict=True):
        if p.grad is not None:
            torch.testing.assert_close(q.grad, p.grad, msg=name)
    same(dict(model.state_dict()), dict(twin.model.state_dict()))
