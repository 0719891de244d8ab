"""``balance``: λ from gradient norms, against gradients of a linear network that are written down here."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import racecar


class Linear:
    """y = V(Wx), without biases; RR^2's reverse pass starts at y: L'_2 = Vᵀy, L'_1 = WᵀL'_2.

    With reduction="sum": d_1 = ½‖x − WᵀVᵀVWx‖², d_2 = ½‖Wx − VᵀVWx‖²; the loss is ½‖y − t‖². Batches are columns.
    """

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64) / 2

        self.W, self.V, self.x, self.t = draw(5, 6), draw(3, 5), draw(6, 8), draw(3, 8)

    def model(self) -> nn.Sequential:
        model = nn.Sequential(nn.Linear(6, 5, bias=False), nn.Linear(5, 3, bias=False)).double()
        with torch.no_grad():
            model[0].weight.copy_(self.W)
            model[1].weight.copy_(self.V)
        return model

    def racecar(self, **options: Any) -> racecar.Racecar:
        return racecar.Racecar(self.model(), self.x.T, reduction="sum", **options)

    def loss(self, output: Tensor) -> Tensor:
        return 0.5 * (output - self.t.T).square().sum()

    def task_gradient(self) -> Tensor:
        """∂/∂(W, V): with e = y − t, Vᵀe xᵀ and e(Wx)ᵀ."""
        e = self.V @ self.W @ self.x - self.t
        return torch.cat([(self.V.T @ e @ self.x.T).flatten(), (e @ (self.W @ self.x).T).flatten()])

    def distance_gradients(self) -> list[Tensor]:
        """Of d_1 and d_2, by hand.

        P = VᵀV is symmetric. d_2 = ½‖(I − P)h‖², h = Wx, r = (I − P)h: ∂h = (I − P)r, ∂P = −r hᵀ.
        d_1 = ½‖x − WᵀPWx‖², q = x − WᵀPh: ∂W = −Ph qᵀ − P(Wq)xᵀ, ∂P = −(Wq)hᵀ. ∂V = V(∂P + ∂Pᵀ).
        """
        P, h = self.V.T @ self.V, self.W @ self.x
        q, r = self.x - self.W.T @ P @ h, h - P @ h
        first = -P @ h @ q.T - P @ self.W @ q @ self.x.T, -(self.W @ q) @ h.T
        second = (r - P @ r) @ self.x.T, -r @ h.T
        return [torch.cat([dW.flatten(), (self.V @ (dP + dP.T)).flatten()]) for dW, dP in (first, second)]


def distance(gradients: list[Tensor], lambdas: list[float]) -> float:
    """The norm of Σ λ_m ∂d_m."""
    return float(sum(value * g for value, g in zip(lambdas, gradients, strict=True)).norm())  # type: ignore[union-attr]


def test_the_gradients_written_down_are_those_of_the_library() -> None:
    case = Linear()
    rr = case.racecar()
    output, distances = rr.distances(case.x.T)
    parameters = list(rr.model.parameters())
    for value, expected in zip(
        [case.loss(output), *distances], [case.task_gradient(), *case.distance_gradients()], strict=True
    ):
        found = torch.autograd.grad(value, parameters, retain_graph=True)
        torch.testing.assert_close(torch.cat([g.flatten() for g in found]), expected)


# --- the closed form --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.01, 1.0, 7.0])
@pytest.mark.parametrize("weight", [1.0, 1e-6, [0.5, 2.0], [0.0, 3.0]])
def test_one_factor_for_all_lambdas(ratio: float, weight: Any) -> None:
    case = Linear()
    rr = case.racecar(weight=weight)
    old = rr.lambdas.tolist()
    output, penalty = rr(case.x.T)
    found = racecar.balance(rr, case.loss(output), penalty, ratio=ratio)
    task, gradients = float(case.task_gradient().norm()), case.distance_gradients()
    assert found.loss == pytest.approx(task)
    assert found.penalty == pytest.approx(distance(gradients, old))
    assert found.ratio == pytest.approx(distance(gradients, old) / task)
    assert found.lambdas == pytest.approx(rr.lambdas.tolist())
    factor = ratio * task / distance(gradients, old)
    assert rr.lambdas.tolist() == pytest.approx([factor * value for value in old])
    assert distance(gradients, rr.lambdas.tolist()) == pytest.approx(ratio * task)


@pytest.mark.parametrize("ratio", [0.1, 2.0])
@pytest.mark.parametrize("weight", [1.0, [1e-3, 5.0], [0.0, 3.0]])
def test_every_layer_on_its_own(ratio: float, weight: Any) -> None:
    case = Linear()
    rr = case.racecar(weight=weight)
    old = rr.lambdas.tolist()
    output, distances = rr.distances(case.x.T)
    found = racecar.balance(rr, case.loss(output), distances, ratio=ratio)
    gradients, new = case.distance_gradients(), rr.lambdas.tolist()
    assert found.penalty == pytest.approx(distance(gradients, old))
    assert distance(gradients, new) == pytest.approx(ratio * float(case.task_gradient().norm()))
    pulls = [value * float(g.norm()) for value, g in zip(new, gradients, strict=True)]
    if old[0] == 0:
        assert pulls[0] == 0  # what was not compared stays so
    else:
        assert pulls[0] == pytest.approx(pulls[1])


@pytest.mark.parametrize("smoothing", [0.0, 0.25, 0.9, 1.0])
@pytest.mark.parametrize("each", [False, True])
def test_smoothing_moves_the_logarithm(smoothing: float, each: bool) -> None:
    case, found = Linear(), []
    for beta in (0.0, smoothing):
        rr = case.racecar(weight=[0.2, 0.03])
        output, values = rr.distances(case.x.T) if each else rr(case.x.T)
        found.append(racecar.balance(rr, case.loss(output), values, smoothing=beta).lambdas)
        assert rr.lambdas.tolist() == pytest.approx(found[-1])
    target, smoothed = found
    expected = [
        math.exp(smoothing * math.log(a) + (1 - smoothing) * math.log(b))
        for a, b in zip([0.2, 0.03], target, strict=True)
    ]
    assert smoothed == pytest.approx(expected)


def test_repeated_calls_give_the_geometric_mean_over_batches() -> None:
    case, alone = Linear(), []
    rr = case.racecar()
    batches = case.x.T.split(2)

    def measure(batch: Tensor, target: Tensor, smoothing: float) -> float:
        output, penalty = rr(batch)
        return racecar.balance(rr, (output - target).square().sum(), penalty, smoothing=smoothing).lambdas[0]

    targets = case.t.T.split(2)
    alone = [measure(batch, target, 0.0) for batch, target in zip(batches, targets, strict=True)]
    together = [measure(b, t, i / (i + 1)) for i, (b, t) in enumerate(zip(batches, targets, strict=True))]
    assert max(alone) > 1.01 * min(alone)
    assert together[-1] == pytest.approx(math.prod(alone) ** (1 / len(alone)))


def test_the_mean_penalty_gets_the_ratio_whatever_every_is() -> None:
    case, found = Linear(), []
    for every in (1, 5):
        rr = case.racecar(every=every)
        output, penalty = rr(case.x.T)
        found.append(racecar.balance(rr, case.loss(output), penalty))
    assert found[0].lambdas == pytest.approx(found[1].lambdas)
    assert found[0].ratio == pytest.approx(found[1].ratio)


def test_what_scales_both_losses_scales_no_lambda() -> None:
    """As a gradient scaler does."""
    case, found = Linear(), []
    for scale in (1.0, 2.0**16):
        rr = case.racecar()
        output, penalty = rr(case.x.T)
        found.append(racecar.balance(rr, scale * case.loss(output), scale * penalty).lambdas)
    assert found[0] == pytest.approx(found[1])


# --- which weights ----------------------------------------------------------------------------------------------------


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(36, 3)
    ).double()


def images(n: int = 6) -> Tensor:
    return torch.randn(n, 2, 5, 5, dtype=torch.float64)


def norms(value: Tensor, parameters: list[nn.Parameter]) -> float:
    grads = torch.autograd.grad(value, parameters, retain_graph=True)
    return math.sqrt(sum(g.square().sum().item() for g in grads))


def test_the_head_and_an_untied_decoder_are_left_out() -> None:
    for untied in (False, True):
        model = net()
        rr = racecar.Racecar(model, images(), decoder=copy.deepcopy(model) if untied else None)
        output, penalty = rr(images())
        loss = output.square().mean()
        found = racecar.balance(rr, loss, penalty)
        trained = [p for n, p in model.named_parameters() if not n.startswith("5.")]
        assert found.loss == pytest.approx(norms(loss, trained))
        if not untied:
            assert found.penalty == pytest.approx(norms(penalty, trained))
        assert found.loss < norms(loss, list(model.parameters()))


def test_frozen_weights_are_left_out() -> None:
    model = net()
    model[0].requires_grad_(False)
    rr = racecar.Racecar(model, images())
    output, penalty = rr(images())
    loss = output.square().mean()
    trained = [p for n, p in model.named_parameters() if n[0] in "13"]
    assert racecar.balance(rr, loss, penalty).loss == pytest.approx(norms(loss, trained))


def test_training_goes_on_as_if_nothing_had_been_measured() -> None:
    """No gradient is touched, the graph is kept, and the penalty at hand keeps its λ."""
    found = []
    for measured in (False, True):
        model = net()
        rr = racecar.Racecar(model, images(), weight=0.3)
        torch.manual_seed(1)
        output, penalty = rr(images())
        loss = output.square().mean()
        if measured:
            racecar.balance(rr, loss, penalty)
            assert rr.lambdas[0] != 0.3
            assert all(p.grad is None for p in model.parameters())
        (loss + penalty).backward()
        found.append([p.grad for p in model.parameters()])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_mixed_precision() -> None:
    torch.manual_seed(0)
    model, x = net().float(), images().float()
    found = []
    for half in (False, True):
        rr = racecar.Racecar(model, x)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output, penalty = rr(x)
            loss = F.cross_entropy(output, torch.arange(6) % 3)
        found.append(racecar.balance(rr, loss, penalty).lambdas[0])
    assert found[1] == pytest.approx(found[0], rel=0.1)  # two gradients of some ten operations, each within 2^-8
    rr = racecar.Racecar(model.to(torch.bfloat16), x.bfloat16(), weight=1e-9)
    output, penalty = rr(x.bfloat16())
    assert racecar.balance(rr, output.float().square().mean(), penalty).lambdas[0] == pytest.approx(
        rr.lambdas[0].item()
    )
    assert rr.lambdas.dtype == torch.float32


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0.0}, "ratio must be positive"),
        ({"ratio": -1.0}, "ratio must be positive"),
        ({"ratio": math.inf}, "ratio must be positive"),
        ({"ratio": math.nan}, "ratio must be positive"),
        ({"smoothing": -0.1}, "smoothing must lie between"),
        ({"smoothing": 1.5}, "smoothing must lie between"),
    ],
)
def test_numbers_out_of_range(options: dict[str, float], message: str) -> None:
    case = Linear()
    rr = case.racecar()
    output, penalty = rr(case.x.T)
    with pytest.raises(racecar.ArgumentError, match=message):
        racecar.balance(rr, case.loss(output), penalty, **options)


def test_what_cannot_be_balanced_is_said_and_leaves_lambda_alone() -> None:
    case = Linear()
    rr = case.racecar(weight=[2.0, 3.0], every=2)
    output, penalty = rr(case.x.T)
    plain_output, plain_penalty = rr(case.x.T)
    loss = case.loss(output)
    distances = rr.distances(case.x.T)[1]
    cases: list[tuple[type[Exception], str, Tensor, Tensor]] = [
        (racecar.ArgumentError, "penalty has no gradient.*every=", case.loss(plain_output), plain_penalty),
        (racecar.ArgumentError, "loss has no gradient", loss.detach(), penalty),
        (racecar.ArgumentError, "no weight is trained by both", torch.ones((), requires_grad=True) * 2, penalty),
        (racecar.ArgumentError, "gradient of the loss is zero", 0 * loss, penalty),
        (racecar.ArgumentError, "gradient of the penalty is zero", loss, 0 * penalty),
        (racecar.ArgumentError, "distance of layer '1' is zero", loss, distances * torch.tensor([1.0, 0.0])),
        (racecar.NonFiniteError, "gradient of the loss is not finite", loss * math.inf, penalty),
        (racecar.NonFiniteError, "gradient of the penalty is not finite", loss, penalty * math.nan),
        (racecar.NonFiniteError, "distance of layer '0' is not finite", loss, distances * torch.tensor([math.inf, 1])),
        (racecar.ArgumentError, r"of shapes \(8, 3\) and \(\)", output, penalty),
        (racecar.ArgumentError, r"distances of 2 layers, not of shapes \(\) and \(3,\)", loss, torch.ones(3)),
    ]
    for error, message, left, right in cases:
        with pytest.raises(error, match=message):
            racecar.balance(rr, left, right)
    assert rr.lambdas.tolist() == [2.0, 3.0]


@pytest.mark.parametrize("beyond", [1e300, 1e-300])
def test_lambdas_beyond_what_a_number_can_hold(beyond: float) -> None:
    case = Linear()
    rr = case.racecar()
    output, penalty = rr(case.x.T)
    rr.lambdas = torch.full_like(rr.lambdas, beyond)
    with pytest.raises(racecar.NonFiniteError, match=r"beyond the range of torch\.float64"):
        racecar.balance(rr, case.loss(output) * beyond ** (1 / 3), penalty)
    assert rr.lambdas.tolist() == [beyond, beyond]


def test_zero_lambdas_cannot_be_scaled() -> None:
    case = Linear()
    rr = case.racecar(weight=0.0)
    for output, penalty in (rr(case.x.T), rr.distances(case.x.T)):
        with pytest.raises(racecar.ArgumentError, match="begin with a positive weight="):
            racecar.balance(rr, case.loss(output), penalty)


# --- elsewhere --------------------------------------------------------------------------------------------------------


def share(rank: str, world: str, store: str, out: str) -> None:
    """One of several processes: a part of the batch; the loss is a mean, the penalty a sum."""
    torch.set_num_threads(1)
    first, step = int(rank), int(world)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=first, world_size=step)
    case = Linear()
    rr = case.racecar()
    results = []
    for each in (False, True):
        output, values = rr.distances(case.x.T[first::step]) if each else rr(case.x.T[first::step])
        loss = F.mse_loss(output, case.t.T[first::step])
        results.append(racecar.balance(rr, loss, values * step).lambdas)
    Path(out).write_text(json.dumps(results))
    torch.distributed.destroy_process_group()


def test_several_processes_agree_with_one(tmp_path: Path) -> None:
    world, run = 2, "import runpy, sys; runpy.run_path(sys.argv[1])['share'](*sys.argv[2:])"
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                run,
                __file__,
                str(rank),
                str(world),
                str(tmp_path / "store"),
                str(tmp_path / f"{rank}"),
            ]
        )
        for rank in range(world)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0] * world
    found = [json.loads((tmp_path / f"{rank}").read_text()) for rank in range(world)]
    assert found[0] == found[1]
    case = Linear()
    rr = case.racecar()
    for number, each in enumerate((False, True)):
        output, values = rr.distances(case.x.T) if each else rr(case.x.T)
        alone = racecar.balance(rr, F.mse_loss(output, case.t.T), values).lambdas
        assert found[0][number] == pytest.approx(alone)


@pytest.mark.filterwarnings("ignore")
def test_within_distributed_data_parallel(tmp_path: Path) -> None:
    """Measured in the loop, on what the wrapped module returned."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        found = []
        for wrap in (False, True):
            torch.manual_seed(3)
            model = net()
            rr = racecar.Racecar(model, images())
            module = nn.parallel.DistributedDataParallel(rr) if wrap else rr
            optimiser = torch.optim.SGD(model.parameters(), 0.01)
            for _ in range(3):
                output, penalty = module(images())
                loss = output.square().mean()
                racecar.balance(rr, loss, penalty, ratio=0.1, smoothing=0.5)
                optimiser.zero_grad()
                (loss + penalty).backward()
                optimiser.step()
            found.append(rr.lambdas)
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(*found)


def test_compiled() -> None:
    torch.compiler.reset()
    case = Linear()
    rr = case.racecar()
    counter: Any = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(rr, fullgraph=True, backend=counter)
    compiled(case.x.T)
    output, penalty = rr(case.x.T)
    racecar.balance(rr, case.loss(output), penalty, ratio=0.01)
    output, penalty = compiled(case.x.T)
    torch.testing.assert_close(penalty, rr(case.x.T)[1])
    assert counter.frame_count == 1
    with pytest.raises(racecar.ArgumentError, match=r"comes from a compiled program.*call rr uncompiled"):
        racecar.balance(rr, case.loss(output), 2 * penalty)
