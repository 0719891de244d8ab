"""Complex numbers: every linear rule is the conjugate transpose, as autograd's vjp is; real ones are as they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import racecar
from racecar.rules import find_rule

aten = torch.ops.aten


def number(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex128)


def real(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


# name → (operation, its arguments, which of them is the data); the rest of the arguments are coefficients and a bias
LINEAR: dict[str, tuple[Any, tuple[Any, ...], int]] = {
    "linear": (aten.linear.default, (number(2, 4), number(3, 4), number(3)), 0),
    "linear without bias": (aten.linear.default, (number(2, 5, 4), number(3, 4)), 0),
    "conv1d": (aten.conv1d.default, (number(2, 4, 9), number(6, 2, 3), number(6), [2], [1], [2], 2), 0),
    "conv2d": (aten.conv2d.default, (number(2, 3, 8, 7), number(4, 3, 3, 2), number(4), [2, 3], [1, 0]), 0),
    "conv2d same": (aten.conv2d.padding, (number(2, 3, 6, 7), number(4, 3, 2, 3), None, [1, 1], "same"), 0),
    "conv3d": (aten.conv3d.default, (number(1, 2, 4, 5, 4), number(3, 2, 2, 2, 2), number(3), [2, 2, 2]), 0),
    "conv_transpose1d": (aten.conv_transpose1d.default, (number(2, 4, 5), number(4, 3, 3), number(3), [2], [1]), 0),
    "conv_transpose2d": (aten.conv_transpose2d.input, (number(2, 4, 3, 4), number(4, 1, 2, 3), None, [2], [0]), 0),
    "conv_transpose3d": (aten.conv_transpose3d.input, (number(1, 2, 2, 3, 2), number(2, 3, 2, 2, 2), number(3)), 0),
    "matmul, left": (aten.matmul.default, (number(5, 2, 4), number(4, 3)), 0),
    "matmul, right": (aten.matmul.default, (number(2, 4), number(5, 4, 3)), 1),
    "matmul, vector": (aten.matmul.default, (number(5, 2, 4), number(4)), 0),
    "mm": (aten.mm.default, (number(2, 4), number(4, 3)), 0),
    "bmm": (aten.bmm.default, (number(5, 2, 4), number(5, 4, 3)), 1),
    "addmm": (aten.addmm.default, (number(3), number(2, 4), number(4, 3)), 1),
    "einsum": (aten.einsum.default, ("bix,iox->box", [number(2, 4, 5), number(4, 3, 5)]), 0),
    "mul": (aten.mul.Tensor, (number(2, 3), number(3)), 0),
    "mul, second": (aten.mul.Tensor, (number(2, 3), number(3)), 1),
    "mul by a number": (aten.mul.Tensor, (number(2, 3), 2 - 3j), 0),
    "div": (aten.div.Tensor, (number(2, 3), number(2, 1)), 0),
    "div by a number": (aten.div.Tensor, (number(2, 3), 2 - 3j), 0),
    "addcmul": (aten.addcmul.default, (number(3), number(2, 3), number(2, 1)), 1),
    "a real one times a complex one": (aten.mul.Tensor, (real(2, 3), number(3)), 0),
    "a real one by a complex one": (aten.div.Tensor, (real(2, 3), number(3)), 0),
    "a real one and a complex one": (aten.add.Tensor, (real(2, 3), number(3)), 0),
    "a complex one by a real one": (aten.div.Tensor, (number(2, 3), real(3)), 0),
    "a cast": (aten.to.dtype, (real(2, 3), torch.complex128), 0),
    "minus": (aten.neg.default, (number(2, 3),), 0),
}


@pytest.mark.parametrize("name", LINEAR)
def test_the_adjoint_is_that_of_autograd(name: str) -> None:
    op, args, position = LINEAR[name]
    listed = isinstance(args[1], list) if len(args) > 1 and op is aten.einsum.default else False
    places = args[1] if listed else args
    x = places[position]

    def forward(value: Tensor) -> Any:
        given = [value if i == position else a for i, a in enumerate(places)]
        return op(args[0], given) if listed else op(*given)

    y = forward(x)
    estimate = torch.randn_like(y)
    rule = find_rule(op)
    assert rule is not None
    tensors = [a for a in places if isinstance(a, Tensor)]
    context = {"context": racecar.ReverseCall(tuple(t is x for t in tensors))} if rule.context else {}
    back = rule.reverse(estimate, *args, **context)
    if isinstance(back, tuple):
        (back,) = [b for b in back if b is not None]
    bias = forward(torch.zeros_like(x))
    (expected,) = torch.func.vjp(forward, x)[1](estimate - bias)
    assert back.dtype == x.dtype
    torch.testing.assert_close(back, expected, rtol=1e-12, atol=1e-12)


class Net(nn.Module):
    """Two complex layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Linear(*sizes, dtype=torch.complex128) for sizes in ((4, 6), (6, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


def test_a_complex_network_is_mirrored_by_conjugate_transposes() -> None:
    torch.manual_seed(0)
    net, x = Net(), number(5, 4)
    rr = racecar.Racecar(net, x, layers="all")
    output, penalty = rr(x)
    assert torch.equal(output, net(x))
    hidden = (output - net.b.bias) @ net.b.weight.conj()
    back = (hidden - net.a.bias) @ net.a.weight.conj()
    pairs = rr.reconstruct(x)
    torch.testing.assert_close(pairs["b"], (net.a(x), hidden))
    torch.testing.assert_close(pairs["a"], (x, back))
    expected = sum(0.5 * (left - right).abs().square().mean() for left, right in pairs.values())
    torch.testing.assert_close(penalty, expected)
    gradients = torch.autograd.grad(penalty, list(net.parameters()))
    for got, wanted in zip(gradients, torch.autograd.grad(expected, list(net.parameters())), strict=True):
        torch.testing.assert_close(got, wanted)


def test_steps_against_the_gradient_lower_the_penalty() -> None:
    """With a transpose in place of the adjoint a layer could not learn to be unitary."""
    torch.manual_seed(0)
    net, x = nn.Linear(4, 4, bias=False, dtype=torch.complex128), number(64, 4)
    rr = racecar.Racecar(net, x)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        rr(x)[1].backward()
        optimizer.step()
    product = net.weight.mH @ net.weight
    torch.testing.assert_close(product, torch.eye(4, dtype=product.dtype), rtol=0, atol=1e-2)


def test_what_is_unknown_of_a_complex_value() -> None:
    class Rows(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x)[:, 1])

    torch.manual_seed(0)
    net, x = Rows(), number(5, 3, 4)
    _, right = racecar.Racecar(net, x, layers="all").reconstruct(x)["a"]
    assert right[:, [0, 2]].isnan().all()
    hidden = (net(x) - net.b.bias) @ net.b.weight.conj()
    torch.testing.assert_close(right[:, 1], (hidden - net.a.bias) @ net.a.weight.conj())


def test_the_rules_of_real_layers_are_bit_equal_to_the_plain_transpose() -> None:
    torch.manual_seed(0)
    call = racecar.ReverseCall((True, False, False))
    x, y, w, b = torch.randn(5, 4), torch.randn(5, 3), torch.randn(3, 4), torch.randn(3)
    rule = find_rule(aten.linear.default)
    assert rule is not None
    assert torch.equal(rule.reverse(y, x, w, b, context=call), (y - b) @ w)
    image, picture, kernel = torch.randn(2, 4, 6, 6), torch.randn(2, 3, 6, 6), torch.randn(3, 4, 3, 3)
    rule = find_rule(aten.conv2d.default)
    assert rule is not None
    got = rule.reverse(picture, image, kernel, None, [1, 1], [1, 1], context=racecar.ReverseCall((True, False)))
    assert torch.equal(got, F.conv_transpose2d(picture, kernel, padding=1))
