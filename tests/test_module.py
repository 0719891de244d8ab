"""``Racecar`` as a module: the user's model stays the user's, to the last bit."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import racecar


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)) + x)


class Net(nn.Module):
    """Batch norm, dropout, a residual block, a module used twice and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.block = Block(4)
        self.drop = nn.Dropout(0.25)
        self.act = nn.Tanh()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.drop(self.stem(x)))
        x = self.act(self.block(x))
        return self.fc(self.drop(x.mean((2, 3))))


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net().double()


def images(n: int = 4) -> Tensor:
    return torch.randn(n, 2, 5, 5, dtype=torch.float64)


def perceptron(*, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5, bias=bias), nn.Tanh(), nn.Linear(5, 3)).double()


def vectors(n: int = 4) -> Tensor:
    return torch.randn(n, 6, dtype=torch.float64)


def assert_same(left: nn.Module, right: nn.Module) -> None:
    a, b = left.state_dict(), right.state_dict()
    assert list(a) == list(b)
    for name in a:
        assert torch.equal(a[name], b[name]), name


def fit(model: nn.Module, forward: Callable[[Tensor], tuple[Tensor, Tensor]], steps: int = 4) -> Tensor:
    """Some steps of training from a fixed seed; the random state at the end."""
    torch.manual_seed(1)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        output, penalty = forward(images())
        optimiser.zero_grad()
        (output.square().mean() + penalty).backward()
        optimiser.step()
    return torch.get_rng_state()


def plainly(model: nn.Module) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    return lambda x: (model(x), torch.zeros(()))


# --- training with λ = 0 is training without racecar ----------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.0, [0.0, 0.0]])
@pytest.mark.parametrize("steps", [1, 5])
def test_weight_zero_is_plain_training(weight: Any, steps: int) -> None:
    with_racecar, without = net(), net()
    rr = racecar.Racecar(with_racecar, images(), weight=weight)
    assert torch.equal(fit(with_racecar, rr, steps), fit(without, plainly(without), steps))
    assert_same(with_racecar, without)


def test_weight_one_is_not() -> None:
    with_racecar, without = net(), net()
    fit(with_racecar, racecar.Racecar(with_racecar, images()))
    fit(without, plainly(without))
    assert not torch.equal(with_racecar.stem.weight, without.stem.weight)
    assert not torch.equal(with_racecar.fc.weight, without.fc.weight)  # by its input, as the head is not mirrored


def test_running_statistics_of_the_forward_pass_alone() -> None:
    """With λ ≠ 0, too: one step from the same weights."""
    separate, plain = net(), net()
    rr = racecar.Racecar(separate, images())
    x = images()
    torch.manual_seed(2)
    rr(x)
    torch.manual_seed(2)
    plain(x)
    assert_same(separate, plain)
    assert separate.block.norm.num_batches_tracked == 1


# --- hooks -----------------------------------------------------------------------------------------------------------

Log = list[tuple[str, float]]


def watch(model: Net, log: Log) -> None:
    """Hooks of every kind; some change what passes."""

    def pre(name: str, change: float | None) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], *rest: Any) -> Any:
            log.append((name, args[0].sum().item()))
            if change is None:
                return None
            return ((args[0] * change,), *rest) if rest else (args[0] * change,)

        return hook

    def post(name: str, change: float | None) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], *rest: Any) -> Any:
            log.append((name, args[0].sum().item() + rest[-1].sum().item()))
            return None if change is None else rest[-1] * change

        return hook

    model.register_forward_pre_hook(pre("model before", None))
    model.register_forward_hook(post("model after", 0.5))
    model.stem.register_forward_hook(post("stem after", None))
    model.stem.register_forward_hook(post("stem after, prepended", 1.5), prepend=True)
    model.stem.register_forward_pre_hook(pre("stem before", 2.0))
    model.block.register_forward_pre_hook(pre("block before", 0.9), with_kwargs=True)
    model.block.register_forward_hook(post("block after", 1.1), with_kwargs=True)
    model.block.conv.register_forward_pre_hook(pre("conv before", None))
    model.block.norm.register_forward_hook(post("norm after", 0.7), always_call=True)
    model.act.register_forward_hook(post("act after", 1.2))  # runs twice
    model.act.register_forward_pre_hook(pre("act before", None))
    model.fc.register_forward_hook(post("fc after", None))


def test_hooks_run_as_in_the_plain_model() -> None:
    logs: tuple[Log, Log] = ([], [])
    with_racecar, without = net(), net()
    watch(with_racecar, logs[0])
    watch(without, logs[1])
    rr = racecar.Racecar(with_racecar, images(), weight=0.0)
    assert logs[0] == []
    assert torch.equal(fit(with_racecar, rr, 3), fit(without, plainly(without), 3))
    assert_same(with_racecar, without)
    assert len(logs[0]) == 3 * 14
    assert logs[0] == logs[1]


def test_hooks_may_come_and_go() -> None:
    model, calls = net(), []
    rr = racecar.Racecar(model, images())
    rr(images())
    handle = model.stem.register_forward_hook(lambda module, args, output: calls.append(output.shape[0]))
    rr(images(4))
    rr(images(3))
    assert calls == [4, 3]
    handle.remove()
    rr(images())
    assert calls == [4, 3]
    model.stem.register_forward_hook(lambda module, args, output: calls.append("other"))
    rr.eval()(images())
    rr.train()(images())
    assert calls == [4, 3, "other", "other"]


def test_a_copy_runs_the_hooks_of_its_own_modules() -> None:
    model, seen = perceptron(), []
    model[0].register_forward_hook(lambda module, args, output: seen.append(module))
    rr = racecar.Racecar(model, vectors())
    twin = copy.deepcopy(rr)
    twin(vectors())
    rr(vectors())
    assert [id(module) for module in seen] == [id(twin.model[0]), id(model[0])]


def test_a_hook_that_changes_the_output_is_in_the_palindrome() -> None:
    model = perceptron()
    model[0].register_forward_hook(lambda module, args, output: output + 1.0)
    x = vectors()
    rr = racecar.Racecar(model, x)
    assert torch.equal(rr(x)[0], model(x))
    assert torch.equal(rr.reconstruct(x)["2"][0], torch.tanh(F.linear(x, model[0].weight, model[0].bias) + 1.0))


# --- construction ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_construction_leaves_the_model_as_it_was(training: bool) -> None:
    model = net()
    model.train(training)
    model.block.norm.train(not training)
    model.stem.weight.requires_grad_(False)
    watch(model, [])
    model.fc.weight.grad = torch.ones_like(model.fc.weight)

    def state() -> Any:
        return (
            {n: (id(t), t._version, t.clone()) for n, t in [*model.named_parameters(), *model.named_buffers()]},
            {n: (p.requires_grad, id(p.grad)) for n, p in model.named_parameters()},
            {n: (id(m), m.training, list(m.__dict__), dict(m._forward_hooks)) for n, m in model.named_modules()},
            {n: (dict(m._forward_pre_hooks), id(m._forward_hooks)) for n, m in model.named_modules()},
            torch.get_rng_state(),
            torch.is_grad_enabled(),
        )

    x = images()
    before = state()
    racecar.Racecar(model, x)
    after = state()
    assert before[1:4] == after[1:4]
    assert torch.equal(before[4], after[4])
    assert after[5]
    for name, (identity, version, value) in before[0].items():
        assert after[0][name][:2] == (identity, version), name
        assert torch.equal(after[0][name][2], value), name
    assert model.fc.weight.grad.eq(1).all()


def test_parameters_are_the_models_own() -> None:
    model = net()
    rr = racecar.Racecar(model, images())
    assert rr.model is model
    assert [id(p) for p in rr.parameters()] == [id(p) for p in model.parameters()]
    assert set(rr.state_dict()) == {f"model.{name}" for name in model.state_dict()}
    assert list(rr.state_dict()) == [f"model.{name}" for name in model.state_dict()]
    rr(images())[1].backward()
    assert model.stem.weight.grad.abs().sum() > 0


def test_an_optimiser_of_the_model_changes_what_the_penalty_sees() -> None:
    model = net()
    model.drop.p = 0.0
    rr = racecar.Racecar(model, images())
    x = images()
    before = rr(x)[1]
    with torch.no_grad():
        model.stem.weight.mul_(2.0)
    assert rr(x)[1] != before
    with torch.no_grad():
        model.stem.weight.div_(2.0)
    assert torch.equal(rr(x)[1], before)
    model.stem.weight = nn.Parameter(model.stem.weight.detach() * 2)  # a new Parameter
    penalty = rr(x)[1]
    assert penalty != before
    penalty.backward()
    assert model.stem.weight.grad is not None


def test_pickled_weights_load_into_the_plain_class(tmp_path: Path) -> None:
    model = net()
    fit(model, racecar.Racecar(model, images()), 2)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    fresh = net(3)
    fresh.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True), strict=True)
    assert_same(fresh, model)
    assert_same(pickle.loads(pickle.dumps(model)), model)


# --- modes -----------------------------------------------------------------------------------------------------------


def test_modes_are_the_models() -> None:
    model = net().eval()
    rr = racecar.Racecar(model, images())
    assert not rr.training
    assert isinstance(rr(images()), Tensor)
    rr.train()
    assert model.block.norm.training
    assert len(rr(images())) == 2
    rr.eval()
    assert not model.block.norm.training


def reference(model: nn.Module, x: Tensor) -> tuple[Tensor, Any]:
    """The plain model's output and what the call left behind, from a copy."""
    twin = copy.deepcopy(model)
    torch.manual_seed(4)
    return twin(x), twin


def assert_respected(rr: racecar.Racecar, model: nn.Module, x: Tensor) -> None:
    expected, twin = reference(model, x)
    torch.manual_seed(4)
    assert torch.equal(rr(x)[0], expected)
    assert_same(model, twin)


def _freeze(model: Net) -> None:
    model.block.norm.eval()


def _plain_eval(model: Net) -> None:
    model.eval()


def _less_dropout(model: Net) -> None:
    model.drop.p = 0.75


def _momentum(model: Net) -> None:
    model.block.norm.momentum = 0.5


def _no_bias(model: Net) -> None:
    model.stem.bias = None


def _new_head(model: Net) -> None:
    model.fc = nn.Linear(4, 7).double()


def _other_activation(model: Net) -> None:
    model.act = nn.Sigmoid()


def _parametrised(model: Net) -> None:
    nn.utils.parametrizations.weight_norm(model.block.conv)


@pytest.mark.parametrize(
    "change",
    [_freeze, _plain_eval, _less_dropout, _momentum, _no_bias, _new_head, _other_activation, _parametrised],
)
def test_changes_after_construction_are_respected(change: Callable[[Net], None]) -> None:
    model = net()
    rr = racecar.Racecar(model, images())
    rr(images())
    change(model)
    for n in (4, 3):
        assert_respected(rr, model, images(n))
    assert torch.isfinite(rr(images())[1])


def test_a_bias_added_after_construction_is_respected() -> None:
    model = perceptron(bias=False)
    rr = racecar.Racecar(model, vectors())
    model[0].bias = nn.Parameter(torch.ones(5, dtype=torch.float64))
    assert_respected(rr, model, vectors())


def test_unfreezing_is_respected_too() -> None:
    model = net()
    model.block.norm.eval()
    rr = racecar.Racecar(model, images())
    rr(images())
    assert model.block.norm.num_batches_tracked == 0
    model.block.norm.train()
    assert_respected(rr, model, images())
    assert model.block.norm.num_batches_tracked == 1


def test_a_replaced_module_of_another_length_is_one_clear_error() -> None:
    model = perceptron()
    rr = racecar.Racecar(model, vectors(), layers=["2"])
    model[2] = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    with pytest.raises(racecar.ArgumentError, match=r"now has 2 compared layers .*'2.2'.* for 1 λ: make a new"):
        rr(vectors())
    assert isinstance(racecar.Racecar(model, vectors(), layers=["2"])(vectors())[1], Tensor)


# --- reconstruct -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["train", "eval", "model.eval"])
def test_reconstruct_changes_nothing(mode: str) -> None:
    model, calls = net(), []
    rr = racecar.Racecar(model, images())
    if mode == "model.eval":
        model.eval()
    else:
        rr.train(mode == "train")
    before, state, x = copy.deepcopy(model), torch.get_rng_state(), images()
    state = torch.get_rng_state()
    pairs = rr.reconstruct(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(model, before)
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert list(pairs) == ["stem", "block.conv"]
    assert torch.equal(pairs["stem"][0], x)
    # L_m is what the plain model feeds the layer in this very mode.
    before.block.conv.register_forward_pre_hook(lambda module, args: calls.append(args[0]))
    before(x)
    assert torch.equal(pairs["block.conv"][0], calls[0])
    again = rr.reconstruct(x)
    assert torch.equal(again["stem"][1], pairs["stem"][1]) is (mode != "train")  # dropout differs


def test_reconstruct_is_differentiable() -> None:
    model = perceptron()
    rr = racecar.Racecar(model, vectors())
    x = vectors().requires_grad_()
    (left, right) = rr.reconstruct(x)["0"]
    assert left is x
    right.sum().backward()
    assert x.grad.abs().sum() > 0
    assert model[0].weight.grad is not None


# --- λ ----------------------------------------------------------------------------------------------------------------


def test_lambdas_act_in_place_and_per_layer() -> None:
    model = perceptron()
    rr = racecar.Racecar(model, vectors(), weight=[2.0, 3.0])
    x = vectors()
    pairs = rr.reconstruct(x)
    terms = torch.stack([0.5 * (a - b).square().mean() for a, b in pairs.values()])
    torch.testing.assert_close(rr(x)[1], 2 * terms[0] + 3 * terms[1])
    rr.lambdas[0] = 0.0
    torch.testing.assert_close(rr(x)[1], 3 * terms[1])
    rr.lambdas.fill_(0)
    assert rr(x)[1] == 0
    assert rr.explain().lambdas == (0.0, 0.0)


def test_distances_are_the_penaltys_parts() -> None:
    model, twin = net(), net()
    rr, other = (racecar.Racecar(m, images(), weight=[0.3, 2.0]) for m in (model, twin))
    x = images()
    torch.manual_seed(2)
    output, distances = rr.distances(x)
    torch.manual_seed(2)
    expected, penalty = other(x)
    assert distances.shape == (2,)
    assert torch.equal(output, expected)
    torch.testing.assert_close(0.3 * distances[0] + 2.0 * distances[1], penalty)
    assert_same(model, twin)


def test_lambdas_keep_their_precision_in_half() -> None:
    rr = racecar.Racecar(perceptron(), vectors(), weight=1e-9).half()
    assert next(rr.parameters()).dtype == torch.float16
    assert torch.allclose(rr.lambdas.double(), torch.tensor(1e-9, dtype=torch.float64), rtol=1e-6, atol=0)


def test_reweighted_shares_the_model_and_not_the_lambdas() -> None:
    model = perceptron()
    rr = racecar.Racecar(model, vectors())
    other, x = rr.reweighted([0.0, 5.0]), vectors()
    assert other.model is model
    assert rr.lambdas.tolist() == [1.0, 1.0]
    assert other.lambdas.tolist() == [0.0, 5.0]
    assert torch.equal(rr(x)[0], other(x)[0])
    assert rr(x)[1] != other(x)[1]


# --- gradients --------------------------------------------------------------------------------------------------------


def test_gradient_accumulation() -> None:
    model = perceptron()
    rr = racecar.Racecar(model, vectors())
    parts = vectors(), vectors()
    for x in parts:
        (rr(x)[1] / 2).backward()
    accumulated = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    rr(torch.cat(parts))[1].backward()
    for a, p in zip(accumulated, (p for p in model.parameters() if p.grad is not None), strict=True):
        torch.testing.assert_close(a, p.grad)


def test_no_grad_and_inference_mode() -> None:
    model = net()
    rr = racecar.Racecar(model, images())
    with torch.no_grad():
        output, penalty = rr(images())
        assert not torch.is_grad_enabled()
    assert not output.requires_grad
    assert not penalty.requires_grad
    with torch.inference_mode():
        assert rr(images())[1] > 0


class HalfFrozen(nn.Module):
    """A part of the forward pass under ``no_grad``, which fails on demand."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = torch.tanh(self.a(x))
        return self.b(x)


def test_the_models_own_no_grad_does_not_leak() -> None:
    model = HalfFrozen()
    rr = racecar.Racecar(model, torch.randn(4, 6))
    with torch.no_grad():
        rr(torch.randn(4, 6))
        assert not torch.is_grad_enabled()
    model.a.weight.data = torch.zeros(6, 7)
    with pytest.raises(RuntimeError):
        rr(torch.randn(4, 6))
    assert torch.is_grad_enabled()


def test_construction_under_no_grad_and_autocast() -> None:
    model = perceptron().float()
    x = torch.randn(4, 6)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rr = racecar.Racecar(model, x)
    output, penalty = rr(x)
    assert torch.equal(output, model(x))
    penalty.backward()
    assert model[0].weight.grad is not None


@pytest.mark.filterwarnings("ignore")
def test_distributed_data_parallel(tmp_path: Path) -> None:
    model, alone = net(), net()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(racecar.Racecar(model, images()))
        states = fit(model, parallel), fit(alone, racecar.Racecar(alone, images()))
    finally:
        torch.distributed.destroy_process_group()
    assert torch.equal(*states)
    for p, q in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


# --- calls ------------------------------------------------------------------------------------------------------------


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(8, 3)

    def forward(self, left: Tensor, right: Tensor, scale: float = 1.0, *, flip: bool = False) -> Tensor:
        hidden = torch.tanh(torch.cat([self.a(left), self.b(right)], 1))
        return self.c(-hidden if flip else hidden) * scale


def test_every_spelling_of_a_call() -> None:
    model = Two()
    left, right = torch.randn(4, 5), torch.randn(4, 5)
    expected = model(left, right)
    for example in ((left, right), {"left": left, "right": right}, {"right": right, "left": left}):
        rr = racecar.Racecar(model, example)
        assert torch.equal(rr(left, right)[0], expected)
        assert torch.equal(rr(left, right=right)[0], expected)
        assert torch.equal(rr(right=right, left=left)[0], expected)
        assert torch.equal(rr(left=left, right=right)[0], expected)


def test_flags_and_numbers_are_not_those_of_the_example() -> None:
    model = Two()
    left, right = torch.randn(4, 5), torch.randn(4, 5)
    rr = racecar.Racecar(model, {"left": left, "right": right, "scale": 1.0, "flip": False})
    for scale in (1.0, 2.0):
        for flip in (False, True):
            call = {"scale": scale, "flip": flip}
            assert torch.equal(rr(left, right, **call)[0], model(left, right, **call))


def test_explain_counts_for_the_example_even_if_it_is_a_single_sample() -> None:
    rows = [racecar.Racecar(perceptron(), vectors(n)).explain().steps for n in (1, 2, 3)]
    for one, two, three in zip(*rows, strict=True):
        assert (2 * one.flops, 3 * one.flops) == (two.flops, three.flops)
        assert (one.shape[0], two.shape[0], three.shape[0]) == (1, 2, 3)
    assert sum(step.flops for step in rows[0]) == 2 * (6 * 5 + 5 * 3)


def test_repr_names_the_options() -> None:
    assert "2 layers compared: 0, 2; reduction='sum'" in repr(racecar.Racecar(perceptron(), vectors(), reduction="sum"))


def test_a_batch_that_cannot_vary_costs_a_program_each_not_one_for_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Swin and DaViT count windows with int(…), which fixes the batch: tracing them for any size takes minutes."""

    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            windows = self.first(x.view(-1, 2, 4)).relu()
            return self.last(windows.view(int(len(windows) / (x.shape[1] / 2)), -1, 4))

    asked: list[bool] = []
    derive = racecar.program.Program.derive

    def recorded(*args: Any, sizes_vary: bool, **kwargs: Any) -> Any:
        asked.append(sizes_vary)
        return derive(*args, sizes_vary=sizes_vary, **kwargs)

    monkeypatch.setattr(racecar.program.Program, "derive", recorded)
    torch.manual_seed(0)
    model = Windows()
    rr = racecar.Racecar(model, torch.randn(4, 6, 4), layers="all")
    for batch in (4, 3, 4, 2):
        x = torch.randn(batch, 6, 4)
        output, penalty = rr(x)
        torch.testing.assert_close(output, model(x))
        estimate = ((output - model.last.bias) @ model.last.weight).relu()
        hidden = model.first(x).relu()
        regenerated = (estimate - model.first.bias) @ model.first.weight
        expected = 0.5 * (F.mse_loss(estimate, hidden) + F.mse_loss(regenerated, x))
        torch.testing.assert_close(penalty, expected)
    assert asked == [False, False, False]
    assert rr(torch.randn(3, 8, 4))[0].shape == (3, 8, 3)
    assert asked[3:] == [True]
