"""What single layers take backwards, exactly and in the cheaper forms: arithmetic and time, for ``less.py``."""

from __future__ import annotations

import time
from collections.abc import Callable
from unittest import mock

import torch
import torch.nn.functional as F
from cost import CASES, Setting, make_step
from less_forms import (
    Int8Product,
    adjoint,
    gram_distance,
    in_one,
    on_a_grid,
    plain_distance,
    pooled_adjoint,
)
from timing import Step, flops, turns
from torch import Tensor

from racecar.rules import convolution

LINEAR = ((196, 128, 128), (784, 32, 512), (3072, 64, 512), (3072, 128, 512), (3072, 128, 128), (256, 64, 2048))
CONV = (  # images, outputs, inputs, side of what comes back, pooled: the first four are the conv net's own, at width 16
    (128, 16, 3, 32, False),
    (128, 16, 16, 32, True),
    (128, 64, 64, 16, True),
    (128, 64, 64, 8, False),
    (16, 128, 128, 16, True),
)
SHARES = (0.5, 0.25)
Rows = list[list[str]]


def _times(steps: dict[str, Step], seconds: float) -> dict[str, float]:
    return turns(steps, seconds, time.process_time)


def _ratio(value: float, plain: float) -> str:
    return f"{value / plain:.2f}"


# --- Gram form --------------------------------------------------------------------------------------------------------


def agreement() -> tuple[float, float]:
    """The largest relative difference of value and gradient of the two forms, in float64, over :data:`LINEAR`."""
    worst = [0.0, 0.0]
    for inputs, units, batch in LINEAR:
        x = torch.randn(batch, inputs, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(units, inputs, dtype=torch.float64).div_(inputs**0.5).requires_grad_()
        found = []
        for form in (plain_distance, lambda x, y, w: gram_distance(x, y, w, x @ w.T)):
            value = form(x, torch.relu(x @ weight.T), weight)
            found.append((value.detach(), torch.cat([g.flatten() for g in torch.autograd.grad(value, (x, weight))])))
        (a, g), (b, h) = found
        worst = [max(worst[0], float((a - b).abs() / a)), max(worst[1], float((g - h).norm() / g.norm()))]
    return worst[0], worst[1]


def gram_rows(seconds: float) -> Rows:
    """A layer's training step alone, with the plain distance of its input, and with the Gram form."""
    rows = []
    for inputs, units, batch in LINEAR:
        x = torch.randn(batch, inputs)
        weight = torch.randn(units, inputs).div_(inputs**0.5).requires_grad_()
        gradient = torch.randn(batch, units)

        def alone(x: Tensor = x, weight: Tensor = weight, gradient: Tensor = gradient) -> None:
            torch.relu(F.linear(x, weight)).backward(gradient)

        def plain(x: Tensor = x, weight: Tensor = weight, gradient: Tensor = gradient) -> None:
            y = torch.relu(F.linear(x, weight))
            ((y * gradient).sum() + plain_distance(x, y, weight)).backward()

        def gram(x: Tensor = x, weight: Tensor = weight, gradient: Tensor = gradient) -> None:
            product = F.linear(x, weight)
            y = torch.relu(product)
            ((y * gradient).sum() + gram_distance(x, y, weight, product)).backward()

        steps: dict[str, Step] = {"alone": alone, "plain": plain, "gram": gram}
        count = {name: flops(step) for name, step in steps.items()}
        best = _times(steps, seconds)
        more = [count[n] - count["alone"] for n in ("plain", "gram")]
        taken = [best[n] - best["alone"] for n in ("plain", "gram")]
        rows.append(
            [
                f"{inputs} inputs, {units} units, batch {batch}",
                *(f"{c / 1e6:.1f}" for c in (count["alone"], *more)),
                f"{more[1] / more[0]:.2f}",
                f"{2 / 3 * (units / batch + units / inputs):.2f}",
                *(f"{1e3 * t:.3f}" for t in (best["alone"], *taken)),
                f"{taken[1] / taken[0]:.2f}",
            ]
        )
    return rows


GRAM_HEADER = (
    "layer",
    "its own step, MFLOP",
    "plain form adds",
    "Gram form adds",
    "Gram / plain",
    "⅔ (U/B + U/I)",
    "its own step, ms",
    "plain adds, ms",
    "Gram adds, ms",
    "Gram / plain, time",
)


# --- linear layers: a share of the units, int8 ------------------------------------------------------------------------


def linear_rows(seconds: float) -> Rows:
    """The reverse product and its gradients; ``forward only`` for int8, whose gradient stays as it is."""
    rows = []
    for inputs, units, batch in LINEAR:
        for dtype in (torch.float32, torch.bfloat16):
            weight = torch.randn(units, inputs, requires_grad=True)
            y = torch.randn(batch, units).to(dtype).requires_grad_()
            gradient = torch.randn(batch, inputs).to(dtype)

            def share(part: float, y: Tensor = y, weight: Tensor = weight, dtype: torch.dtype = dtype) -> Tensor:
                chosen = torch.randperm(len(weight))[: round(part * len(weight))]
                return y[:, chosen] @ weight[chosen].to(dtype) * (1 / part)

            def int8(y: Tensor = y, weight: Tensor = weight, dtype: torch.dtype = dtype) -> Tensor:
                return Int8Product.apply(y, weight.to(dtype))

            def plain(y: Tensor = y, weight: Tensor = weight, dtype: torch.dtype = dtype) -> Tensor:
                return y @ weight.to(dtype)

            bytes_of = [t.detach().mul(20).clamp(-127, 127).to(torch.int8) for t in (y, weight)]
            forms: dict[str, Callable[[], Tensor]] = {
                "plain": plain,
                **{f"share {part}": lambda part=part, share=share: share(part) for part in SHARES},
                "int8": int8,
            }
            steps = {name: _with_gradients(form, gradient) for name, form in forms.items()}
            steps |= {f"{name} forward": _forward(forms[name]) for name in ("plain", "int8")}
            steps["product alone"] = lambda b=bytes_of: (torch._int_mm(*b), None)[1]
            best = _times(steps, seconds)
            rows.append(
                [
                    f"{inputs} inputs, {units} units, batch {batch}",
                    str(dtype).removeprefix("torch."),
                    f"{1e3 * best['plain']:.3f}",
                    *(_ratio(best[f"share {part}"], best["plain"]) for part in SHARES),
                    _ratio(best["int8"], best["plain"]),
                    _ratio(best["int8 forward"], best["plain forward"]),
                    _ratio(best["product alone"], best["plain forward"]),
                ]
            )
    return rows


LINEAR_HEADER = (
    "layer",
    "type",
    "exact, ms",
    *(f"{part:g} of the units" for part in SHARES),
    "int8",
    "int8, without gradients",
    "int8, the product alone over the exact one's",
)


def _with_gradients(form: Callable[[], Tensor], gradient: Tensor) -> Step:
    def step() -> None:
        form().backward(gradient)

    return step


def _forward(form: Callable[[], Tensor]) -> Step:
    @torch.no_grad()
    def step() -> None:
        form()

    return step


# --- convolutions -----------------------------------------------------------------------------------------------------


def conv_rows(seconds: float) -> Rows:
    """The adjoint of a convolution of kernel 3, its distance from what was seen, and the gradients."""
    rows = []
    for images, outputs, inputs, side, pooled in CONV:
        for dtype in (torch.float32, torch.bfloat16):
            last = {"memory_format": torch.channels_last}
            weight = torch.randn(outputs, inputs, 3, 3).mul_(0.1).to(**last).requires_grad_()
            small = side // (2 if pooled else 1)
            y = torch.randn(images, outputs, small, small).to(dtype).to(**last).requires_grad_()
            x = torch.randn(images, inputs, side, side).to(dtype).to(**last).requires_grad_()

            def exact(y: Tensor = y, w: Tensor = weight, p: bool = pooled) -> Tensor:
                return adjoint(y, w.to(y.dtype), p)

            def one(y: Tensor = y, w: Tensor = weight, p: bool = pooled) -> Tensor:
                return in_one(y, w, p) if y.dtype == w.dtype else _in_one_half(y, w)

            def grid(y: Tensor = y, w: Tensor = weight, p: bool = pooled) -> Tensor:
                return on_a_grid(y, w.to(y.dtype), p, (0, 1))

            def means(y: Tensor = y, w: Tensor = weight, p: bool = pooled) -> Tensor:
                return pooled_adjoint(y, w.to(y.dtype), p)

            def half(y: Tensor = y, w: Tensor = weight, p: bool = pooled) -> Tensor:
                return adjoint(F.avg_pool2d(y, 2), w.to(y.dtype), p)

            def share(part: float, y: Tensor = y, w: Tensor = weight, p: bool = pooled) -> Tensor:
                chosen = torch.randperm(len(w))[: max(1, round(part * len(w)))]
                return adjoint(y[:, chosen], w[chosen].to(y.dtype), p) * (1 / part)

            forms: dict[str, Callable[[], Tensor]] = {"exact": exact}
            if pooled:
                forms["one"] = one
            forms |= {"grid": grid, "means": means, "half": half}
            forms |= {f"share {part}": lambda part=part, share=share: share(part) for part in SHARES}
            seen: dict[str, Callable[[Tensor], Tensor]] = {
                "grid": lambda x: x[:, :, ::2, 1::2],
                "means": lambda x: F.avg_pool2d(x, 2),
                "half": lambda x: F.avg_pool2d(x, 2),
            }
            steps = {n: _distance(form, x, seen.get(n, lambda x: x)) for n, form in forms.items()}
            count = {n: flops(step) for n, step in steps.items()}
            best = _times(steps, seconds)

            def cell(name: str, count: dict[str, int] = count, best: dict[str, float] = best) -> str:
                if name not in best:
                    return "—"
                return f"{_ratio(count[name], count['exact'])} / **{_ratio(best[name], best['exact'])}**"

            rows.append(
                [
                    f"{outputs} → {inputs} channels, {images} × {side} × {side}{', pooled' * pooled}",
                    str(dtype).removeprefix("torch."),
                    f"{1e3 * best['exact']:.2f}",
                    *map(cell, ("one", "grid", "means", "half", *(f"share {part}" for part in SHARES))),
                ]
            )
            print(" | ".join(rows[-1]), flush=True)
    return rows


CONV_HEADER = (
    "layer backwards",
    "type",
    "exact, ms",
    "upsampling and adjoint in one",
    "every second place",
    "means of 2 × 2",
    "at half the resolution",
    *(f"{part:g} of the channels" for part in SHARES),
)


def _in_one_half(y: Tensor, weight: Tensor) -> Tensor:
    kernel = F.avg_pool2d(F.pad(weight, (1, 1, 1, 1)), 2, 1, divisor_override=1)  # summed in float32
    return F.conv_transpose2d(y, kernel.to(y.dtype), None, 2, 1)


def _distance(form: Callable[[], Tensor], x: Tensor, seen: Callable[[Tensor], Tensor]) -> Step:
    def step() -> None:
        (0.5 * (seen(x).float() - form().float()).square().mean()).backward()

    return step


# --- columns ----------------------------------------------------------------------------------------------------------


def column_rows(seconds: float) -> Rows:
    """A convolution and its weight's gradient: oneDNN's, by columns found twice, and by columns kept."""
    rows = []
    for images, outputs, inputs, side in ((32, 16, 3, 32), (32, 16, 16, 32), (32, 64, 64, 16), (32, 64, 64, 8)):
        x, weight = torch.randn(images, inputs, side, side), torch.randn(outputs, inputs, 3, 3)
        gradient = torch.randn(images, outputs, side, side)
        flat, given = weight.flatten(1), gradient.flatten(2)

        def direct(x: Tensor = x, w: Tensor = weight, g: Tensor = gradient) -> None:
            F.conv2d(x, w, None, 1, 1)
            torch.ops.aten.convolution_backward(
                g, x, w, None, (1, 1), (1, 1), (1, 1), False, (0, 0), 1, (False, True, False)
            )

        def twice(x: Tensor = x, flat: Tensor = flat, g: Tensor = given) -> None:
            flat @ F.unfold(x, 3, 1, 1)
            torch.einsum("nup,ncp->uc", g, F.unfold(x, 3, 1, 1))

        def kept(x: Tensor = x, flat: Tensor = flat, g: Tensor = given) -> None:
            columns = F.unfold(x, 3, 1, 1)
            flat @ columns
            torch.einsum("nup,ncp->uc", g, columns)

        best = _times({"direct": direct, "twice": twice, "kept": kept}, seconds)
        rows.append(
            [
                f"{inputs} → {outputs} channels, {images} × {side} × {side}",
                f"{1e3 * best['direct']:.2f}",
                *(f"{best[n] / best['direct']:.1f}" for n in ("twice", "kept")),
            ]
        )
    return rows


COLUMN_HEADER = ("layer", "oneDNN, ms", "columns found twice, over it", "columns shared, over it")


# --- whole networks: upsampling and adjoint in one --------------------------------------------------------------------

NETWORKS = ("Table 9 (digits)", "Table 11 (CIFAR), width 16", "strong (CIFAR), width 32", "VGG19")


def network_rows(seconds: float) -> Rows:
    """A training step in float32 with upsampling and adjoint in one, as the library has it, and one after the other."""
    rows = []
    for name in NETWORKS:
        case = CASES[name]
        std = make_step(case, None, Setting(), case.small)
        one = make_step(case, {"verify": False}, Setting(), case.small)

        def apart(one: Step = one) -> None:
            with mock.patch.object(convolution, "_sums_taps", return_value=False):
                one()

        steps = {"std": std, "one": one, "apart": apart}
        count = {n: flops(step) for n, step in steps.items()}
        best = _times(steps, seconds)
        rows.append(
            [
                f"{name}, {' × '.join(map(str, case.small))}",
                f"{1e3 * best['std']:.1f}",
                *(_ratio(count[n], count["std"]) for n in ("apart", "one")),
                *(_ratio(best[n], best["std"]) for n in ("apart", "one")),
                f"**{_ratio(best['one'], best['apart'])}**",
            ]
        )
        print(" | ".join(rows[-1]), flush=True)
    return rows


NETWORK_HEADER = (
    "network, input",
    "Std, ms",
    "FLOPs / Std, apart",
    "in one",
    "step / Std, apart",
    "in one",
    "in one / apart",
)
