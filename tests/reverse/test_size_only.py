"""What the reverse pass keeps of the forward pass: not what its rules read for the size alone."""

import pytest
import torch
from torch import Tensor, fx, nn

import racecar
from racecar.reverse.size_only import reads_sizes_alone, size_of


class Residual(nn.Module):
    """Values that nothing but the reverse pass would keep: a norm's output before the activation, both summands."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        return (h + self.norm(self.second(h))).relu()


def kept(rr: racecar.Racecar) -> set[str]:
    """Operations of the forward pass whose outputs the reverse pass reads."""
    program = rr.program.palindrome
    forward = {n.name for n in program.forward.graph.nodes}
    reverse = [n for n in program.training.graph.nodes if n.name not in forward and n.target is not size_of]
    found = {a for n in reverse for a in n.all_input_nodes if a.op == "call_function" and a.name in forward}
    return {str(a.target).split(".")[1] for a in found}


def test_the_reverse_pass_reads_what_it_compares_and_the_start() -> None:
    rr = racecar.Racecar(Residual(), torch.randn(2, 3, 8, 8), layers="all")
    assert kept(rr) == {"relu"}  # L_2 and I_r


def test_a_rule_that_reads_content_gets_it() -> None:
    """The gate of a product is read; so is the content that a rule of a user's own asks for."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            return self.last(h * (h @ torch.ones(4, 4)).sigmoid())

    torch.manual_seed(0)
    model, x = Gated(), torch.randn(5, 3)
    rr = racecar.Racecar(model, x, layers="all")
    assert "sigmoid" in kept(rr)
    h = model.first(x)
    gate = (h @ torch.ones(4, 4)).sigmoid()
    estimate = (model(x) - model.last.bias) @ model.last.weight
    torch.testing.assert_close(rr.reconstruct(x)["last"][1], estimate)
    first = (estimate * gate - model.first.bias) @ model.first.weight
    torch.testing.assert_close(rr.reconstruct(x)["first"][1], first)


def uses(rule):
    x = torch.randn(2, 3, 4)
    return reads_sizes_alone(lambda size: rule(size(x)))


SIZES = [
    lambda x: torch.zeros(x.shape),
    lambda x: torch.zeros(x.size(0), x.size()[1], x.shape[-1], dtype=x.dtype),
    lambda x: torch.zeros(x.dim() + x.ndim + x.numel() + len(x)),
    lambda x: None,
]
CONTENT = [
    lambda x: x + 1,
    lambda x: x,  # handed on
    lambda x: torch.zeros_like(x),
    lambda x: torch.cat([x, x]),
    lambda x: x.sum().item(),
    lambda x: [x.T],
    lambda x: 1 if (x > 0).all() else 2,
    lambda x: x[0],
    lambda x: x.detach(),
    lambda x: x.numpy(),
    lambda x: x.untyped_storage().data_ptr(),
]


@pytest.mark.parametrize("rule", SIZES)
def test_a_rule_that_asks_for_sizes(rule) -> None:
    assert uses(rule)


@pytest.mark.parametrize("rule", CONTENT)
def test_a_rule_that_asks_for_content(rule) -> None:
    assert not uses(rule)


def test_a_stand_in_has_size_type_and_one_element() -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    found = size_of(x)
    assert (found.shape, found.dtype, found.device) == (x.shape, x.dtype, x.device)
    assert found.untyped_storage().nbytes() == x.element_size()


def test_the_distances_come_as_soon_as_their_estimates() -> None:
    """So autograd uses up a gradient of L'_m before it makes the next one, instead of holding all of them."""
    rr = racecar.Racecar(nn.Sequential(*(nn.Linear(3, 3) for _ in range(4))), torch.randn(2, 3))
    order = [n.name for n in rr.program.palindrome.training.graph.nodes if isinstance(n, fx.Node)]
    distances = [i for i, name in enumerate(order) if name.startswith("half_squared_distance")]
    adjoints = [i for i, name in enumerate(order) if name.startswith("linear_adjoint")]
    assert len(distances) == len(adjoints) == 4
    assert distances == sorted(distances)
    assert all(a < d < later for a, d, later in zip(adjoints, distances, [*adjoints[1:], len(order)], strict=True))
