"""``every=k``: the reverse pass in one of k training calls, plain training in the others."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import racecar
from racecar.every import ring


class Net(nn.Module):
    """Batch norm, dropout and a head behind the palindrome."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.drop = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.25)
        self.conv, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(torch.relu(self.norm(self.stem(x))))
        return self.head(torch.tanh(self.conv(x)).mean((2, 3)))


def net() -> Net:
    torch.manual_seed(0)
    return Net().double()


def images(n: int = 4) -> Tensor:
    return torch.randn(n, 2, 5, 5, dtype=torch.float64)


def train(model: nn.Module, forward: Callable[[int, Tensor], tuple[Tensor, Tensor]], steps: range) -> None:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in steps:
        torch.manual_seed(step)
        output, penalty = forward(step, images())
        optimiser.zero_grad()
        (output.square().mean() + penalty).backward()
        optimiser.step()


def assert_same(left: nn.Module, right: nn.Module) -> None:
    for (name, a), b in zip(left.state_dict().items(), right.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def due(rr: racecar.Racecar, calls: int) -> list[bool]:
    return [bool(rr(images())[1] != 0) for _ in range(calls)]


# --- which calls ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_the_first_of_every_k_calls(k: int) -> None:
    rr = racecar.Racecar(net(), images(), every=k)
    assert due(rr, 7) == [i % k == 0 for i in range(7)]
    assert rr.every == k
    assert rr.calls == 7 % k


def test_only_training_calls_count() -> None:
    rr = racecar.Racecar(net(), images(), every=3)
    rr(images())
    rr.eval()(images())
    rr.train().reconstruct(images())
    rr.distances(images())
    rr.explain()
    assert rr.calls == 1
    with torch.no_grad():
        rr(images())
    assert rr.calls == 2


@pytest.mark.parametrize("bad", [0, -2, True, False, 2.0, "2", None])
def test_what_is_no_count_is_one_clear_error(bad: Any) -> None:
    with pytest.raises(racecar.ArgumentError, match=r"every must be a whole number .* 1 or more, not"):
        racecar.Racecar(net(), images(), every=bad)


@pytest.mark.parametrize("bad", [-1, True, 1.0, None])
def test_calls_takes_counts_alone(bad: Any) -> None:
    rr = racecar.Racecar(net(), images(), every=2)
    with pytest.raises(racecar.ArgumentError, match=r"calls must be a whole number .* 0 or more, not"):
        rr.calls = bad
    assert rr.calls == 0


# --- what the calls do ------------------------------------------------------------------------------------------------


def test_equals_a_loop_that_takes_turns_by_hand() -> None:
    """A step with k times λ, then k − 1 steps of the model without racecar: weights, statistics, dropout."""
    model, twin, k = net(), net(), 3
    lazy = racecar.Racecar(model, images(), weight=0.2, every=k)
    whole = racecar.Racecar(twin, images(), weight=0.2 * k)
    train(model, lambda step, x: lazy(x), range(7))
    train(twin, lambda step, x: whole(x) if step % k == 0 else (twin(x), x.new_zeros(())), range(7))
    for (name, a), b in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12, msg=name)


def test_the_mean_penalty_is_that_of_every_call() -> None:
    model, x = net(), images()
    model.drop.p = 0.0
    lazy, usual = (racecar.Racecar(model, x, weight=[0.5, 0.1], every=k) for k in (4, 1))
    mean = torch.stack([lazy(x)[1] for _ in range(8)]).mean()
    torch.testing.assert_close(mean, usual(x)[1])


def test_a_plain_call_is_a_call_of_the_untouched_model() -> None:
    model, twin, seen = net(), net(), []
    rr = racecar.Racecar(model, images(), every=2)
    model.conv.register_forward_hook(lambda module, args, output: seen.append(output.shape[0]))
    rr.calls = 1
    x = images(3)
    torch.manual_seed(5)
    output, penalty = rr(x)
    state = torch.get_rng_state()
    torch.manual_seed(5)
    assert torch.equal(output, twin(x))
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(model, twin)
    assert seen == [3]
    assert penalty == 0
    assert penalty.shape == ()


def test_a_plain_call_gives_what_the_palindromes_forward_pass_gives() -> None:
    found = []
    for calls in (0, 1):
        model = net()
        rr = racecar.Racecar(model, images(), every=2)
        rr.calls = calls
        torch.manual_seed(5)
        found.append((rr(images())[0], torch.get_rng_state(), model))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert_same(found[0][2], found[1][2])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_zero_penalty_can_be_added_and_has_the_usual_dtype(dtype: torch.dtype) -> None:
    model = net().to(dtype)
    rr = racecar.Racecar(model, images().to(dtype), every=2)
    penalties = [rr(images().to(dtype))[1] for _ in range(2)]
    assert penalties[0].dtype == penalties[1].dtype
    output, penalty = rr(images().to(dtype))
    rr.calls = 1
    output, penalty = rr(images().to(dtype))
    (output.float().mean() + penalty).backward()
    assert model.head.weight.grad is not None


# --- state ------------------------------------------------------------------------------------------------------------


def test_training_goes_on_where_it_stopped() -> None:
    straight, before, after = net(), net(), net()
    rr = racecar.Racecar(straight, images(), every=3)
    train(straight, lambda step, x: rr(x), range(8))
    rr = racecar.Racecar(before, images(), every=3)
    train(before, lambda step, x: rr(x), range(5))
    saved = {"model": before.state_dict(), "calls": rr.calls}
    after.load_state_dict(saved["model"])
    rr = racecar.Racecar(after, images(), every=3)
    rr.calls = saved["calls"]
    train(after, lambda step, x: rr(x), range(5, 8))
    assert_same(after, straight)


def test_the_count_is_in_no_state_dict() -> None:
    model = net()
    rr = racecar.Racecar(model, images(), every=3)
    assert list(rr.state_dict()) == [f"model.{name}" for name in model.state_dict()]
    assert set(model.state_dict()) == set(net().state_dict())


def test_one_turn_for_all_batches_of_an_optimiser_step() -> None:
    rr = racecar.Racecar(net(), images(), every=2)
    found = []
    for step in range(4):
        for _ in range(3):
            rr.calls = step
            found.append(bool(rr(images())[1] != 0))
    assert found == [True] * 3 + [False] * 3 + [True] * 3 + [False] * 3


def test_copies_count_for_themselves() -> None:
    rr = racecar.Racecar(net(), images(), every=2000)  # a long ring must not be copied step by step
    rr(images())
    twin, other = copy.deepcopy(rr), rr.reweighted(3.0)
    twin(images())
    assert (rr.calls, twin.calls, other.calls) == (1, 2, 1)
    other(images())
    assert (rr.calls, other.calls) == (1, 2)


def test_a_pickled_turn_is_the_same_turn() -> None:
    turn = pickle.loads(pickle.dumps(ring(2000).at(4003)))
    assert (turn.position, len(turn), turn.due) == (3, 2000, False)
    assert turn.at(2000).due


# --- elsewhere --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["the module", "in place", "inside a function"])
def test_two_graphs_serve_all_calls_under_compile(way: str) -> None:
    torch.compiler.reset()
    model, twin, k = net(), net(), 4
    rr, eager = (racecar.Racecar(m, images(), weight=0.3, every=k) for m in (model, twin))
    counter: Any = CompileCounterWithBackend("aot_eager")
    options = {"fullgraph": True, "backend": counter}
    if way == "in place":
        rr.compile(**options)
    step = {
        "the module": lambda: torch.compile(rr, **options),
        "in place": lambda: rr,
        "inside a function": lambda: torch.compile(lambda x: rr(x), **options),
    }[way]()
    train(model, lambda _, x: step(x), range(10))
    train(twin, lambda _, x: eager(x), range(10))
    assert counter.frame_count == 2
    assert rr.calls == eager.calls == 10 % k
    for (name, a), b in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


@pytest.mark.filterwarnings("ignore")
def test_distributed_data_parallel(tmp_path: Path) -> None:
    model, alone = net(), net()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        rr, plain = (racecar.Racecar(m, images(), every=2) for m in (model, alone))
        parallel = nn.parallel.DistributedDataParallel(rr)
        train(model, lambda step, x: parallel(x), range(5))
        train(alone, lambda step, x: plain(x), range(5))
    finally:
        torch.distributed.destroy_process_group()
    assert rr.calls == 1
    for p, q in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


def test_what_is_printed_says_so() -> None:
    lazy, usual = (racecar.Racecar(net(), images(), every=k) for k in (4, 1))
    assert "reduction='mean', every=4" in repr(lazy)
    assert "every" not in repr(usual)
    assert str(lazy.explain()).endswith("It runs in one of 4 training calls, its penalty weighted by 4.")
    assert str(usual.explain()) == str(lazy.explain()).removesuffix(
        " It runs in one of 4 training calls, its penalty weighted by 4."
    )


def test_an_ensemble_refuses_it() -> None:
    models = [nn.Sequential(nn.Linear(4, 3), nn.Tanh()) for _ in range(2)]
    with pytest.raises(racecar.ArgumentError, match="takes no every="):
        racecar.Ensemble(models, torch.randn(8, 4), weights=[0.1, 0.1], every=2)
