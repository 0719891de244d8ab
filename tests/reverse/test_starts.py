"""Several heads: the reverse pass starts at each, and what is not mirrored is named with its reason."""

import torch
from torch import Tensor, nn

import racecar


class Heads(nn.Module):
    """A trunk, two heads on it, an auxiliary one halfway, and a layer that no output uses."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.trunk = nn.Linear(6, 8), nn.Linear(8, 8)
        self.aux, self.one, self.two, self.unused = (nn.Linear(8, n) for n in (4, 3, 2, 5))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = torch.relu(self.stem(x))
        deep = torch.relu(self.trunk(h))
        self.unused(deep)
        return {"aux": self.aux(h), "one": self.one(deep), "two": self.two(deep)}


def adjoint(layer: nn.Linear, y: Tensor) -> Tensor:
    return (y - layer.bias) @ layer.weight


def test_estimates_of_all_heads_meet_in_the_trunk() -> None:
    torch.manual_seed(0)
    model, x = Heads().double(), torch.randn(5, 6, dtype=torch.float64)
    rr = racecar.Racecar(model, x, layers="all")
    h = torch.relu(model.stem(x))
    deep = torch.relu(model.trunk(h))
    deep_back = torch.relu((adjoint(model.one, model.one(deep)) + adjoint(model.two, model.two(deep))) / 2)
    h_back = torch.relu((adjoint(model.aux, model.aux(h)) + adjoint(model.trunk, deep_back)) / 2)
    pairs = rr.reconstruct(x)
    assert set(rr.layers) == {"stem", "trunk", "aux", "one", "two"}
    torch.testing.assert_close(pairs["two"][1], deep_back)
    torch.testing.assert_close(pairs["trunk"][1], h_back)
    torch.testing.assert_close(pairs["stem"][1], adjoint(model.stem, h_back))


def test_one_start_leaves_the_other_heads_out_and_says_so() -> None:
    rr = racecar.Racecar(Heads(), torch.randn(5, 6), layers="all", start="one")
    assert rr.layers == ("stem", "trunk", "one")
    explained = rr.explain()
    assert explained.left_out == dict.fromkeys(("aux", "two", "unused"), "not on the way back from the start")
    assert "Not mirrored (not on the way back from the start): 'unused', 'aux', 'two'." in str(explained)


def test_what_comes_before_the_named_layers_is_named_too() -> None:
    rr = racecar.Racecar(Heads(), torch.randn(5, 6), layers=["one"])
    assert rr.explain().left_out["stem"] == "before the compared layers"


def test_a_chain_has_one_start_and_leaves_nothing_out() -> None:
    rr = racecar.Racecar(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)), torch.randn(5, 6))
    assert rr.explain().left_out == {}
    assert "Not mirrored" not in str(rr.explain())
