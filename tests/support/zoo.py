"""Awkward models in one place: what people write that a tool for "any model" has to survive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations


@dataclass(frozen=True, eq=False)
class Animal:
    """One model of the zoo.

    Attributes:
        make: builds it, freshly initialised.
        example: a call's inputs (tuple or dict) for a batch size.
        options: for ``Racecar``.
        mirrored: names of the parameters that the penalty's gradient must reach; None means every weight (two or
            more dimensions) that requires a gradient.
        first: batch size of the example given to ``Racecar``.
        dtype: of the model's parameters.
    """

    make: Callable[[], nn.Module]
    example: Callable[[int], Any]
    options: dict[str, Any]
    mirrored: tuple[str, ...] | None = None
    first: int = 4
    dtype: torch.dtype = torch.float32


ZOO: dict[str, Animal] = {}


def _animal(example: Callable[[int], Any], **fields: Any) -> Callable[[Any], Any]:
    """Register a model class (or a factory) under its name."""
    options = {k: fields.pop(k) for k in ("layers", "start", "input_range") if k in fields}

    def add(make: Any) -> Any:
        ZOO[make.__name__] = Animal(make, example, options, **fields)
        return make

    return add


def _images(size: int = 8, channels: int = 3) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda n: (torch.randn(n, channels, size, size),)


def _vectors(width: int = 6) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda n: (torch.randn(n, width),)


# --- in place ---------------------------------------------------------------------------------------------------------


@_animal(_images(), mirrored=("0.weight", "2.weight"))
def inplace_relu() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 5, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(5, 4, 3),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(4 * 16, 3),
    )


@_animal(_images(), mirrored=("stem.weight", "a.weight", "b.weight"))
class InplaceResidual(nn.Module):
    """``out += x`` and ``relu_`` on the sum, as torchvision writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu_()
        out = self.norm(self.b(F.relu(self.a(x), inplace=True)))
        out += x
        out.relu_()
        return self.head(out.mean((2, 3)))


@_animal(_images(), mirrored=("a.weight", "b.weight"))
class InplaceUnused(nn.Module):
    """An in-place operation whose result is dropped: later code reads the changed tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x.mul_(2.0)
        x.tanh_()
        return self.b(x).flatten(1)


# --- free-form code ---------------------------------------------------------------------------------------------------


@_animal(_images(), mirrored=("kernel", "second"))
class Functional(nn.Module):
    """No layers, only Parameters and ``torch.nn.functional``."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 3, 3, 3) / 5)
        self.second = nn.Parameter(torch.randn(5, 4, 3, 3) / 6)
        self.bias = nn.Parameter(torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.tanh(F.conv2d(x, self.kernel, padding=1)), 2)
        return F.conv2d(x, self.second, self.bias).sigmoid().amax((2, 3))


@_animal(_vectors())
class ControlFlow(nn.Module):
    """A loop over layers, an ``if`` on the configuration and one on a (fixed) width."""

    def __init__(self, activate: bool = True) -> None:
        super().__init__()
        self.activate = activate
        self.layers = nn.ModuleList([nn.Linear(6, 7), nn.Linear(7, 7), nn.Linear(7, 3)])

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 2 or x.shape[1] != 6:
            raise ValueError("rows of six")
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if self.activate and i < len(self.layers) - 1:
                x = torch.tanh(x)
        return x


@_animal(_vectors(), layers="all")
class UsedTwice(nn.Module):
    """One module, two calls."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.shared = nn.Linear(6, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.one(x))
        return self.shared(torch.tanh(self.shared(x)))


@_animal(_vectors())
class TiedWeights(nn.Module):
    """Two modules, one Parameter (and a use of its transpose)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.b(torch.tanh(self.a(x)))), self.a.weight.t())


@_animal(_images(), mirrored=("a.weight", "b.weight", "c.weight"))
class Dense(nn.Module):
    """DenseNet: concatenate what came before."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(7, 4, 3, padding=1)
        self.c = nn.Conv2d(11, 4, 3, padding=1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self.a(x).relu()], 1)
        x = torch.cat([x, self.b(x).relu()], 1)
        return self.head(self.c(x).relu().mean((2, 3)))


@_animal(lambda n: {"right": torch.randn(n, 5), "left": torch.randn(n, 6)})
class TwoInputs(nn.Module):
    """Keyword arguments, given in another order than the signature's; outputs in a dict with a tuple inside."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 4), nn.Linear(5, 4), nn.Linear(8, 3)

    def forward(self, left: Tensor, right: Tensor, scale: float = 1.0) -> dict[str, Any]:
        hidden = torch.tanh(torch.cat([self.a(left), self.b(right)], 1))
        logits = self.c(hidden)
        return {"logits": logits * scale, "features": (hidden, None), "width": 3}


@_animal(lambda n: (torch.randn(n, 6), [torch.randn(n, 6), torch.randn(n, 6)]))
class NestedInput(nn.Module):
    """A list of tensors as an argument, a tuple as the result."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, more: list[Tensor]) -> tuple[Tensor, Tensor]:
        x = torch.tanh(self.a(x + more[0] + more[1]))
        return self.b(x), x


@_animal(_images())
class BufferConstant(nn.Module):
    """A buffer and a literal tensor take part in the forward pass (input normalisation)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.randn(3, 1, 1))
        self.register_buffer("std", torch.rand(3, 1, 1) + 0.5, persistent=False)
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / self.std
        x = self.a(x) * torch.tensor([1.0, 2.0, 0.5, 1.0]).view(4, 1, 1)
        return self.b(x.relu())


# --- architectures ----------------------------------------------------------------------------------------------------


@_animal(_images(), mirrored=("stem.weight", "a.weight", "b.weight", "shortcut.weight"))
class PreActivation(nn.Module):
    """Norm and activation before the convolution; in-place ReLU; a strided shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(4), nn.BatchNorm2d(6)
        self.a = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False)
        self.b = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(4, 6, 1, stride=2, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        out = self.relu(self.norm1(x))
        out = self.b(self.relu(self.norm2(self.a(out)))) + self.shortcut(out)
        return self.head(out.mean((2, 3)))


@_animal(_images(8))
class UNet(nn.Module):
    """Down, up, and a skip concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 4, 3, padding=1)
        self.middle = nn.Conv2d(4, 6, 3, padding=1)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x).relu()
        x = self.middle(F.max_pool2d(skip, 2)).relu()
        return self.last(torch.cat([self.up(x).relu(), skip], 1))


@_animal(_images(9))
def autoencoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 3),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 3, 3, stride=2),
    )


@_animal(lambda n: (torch.randn(n, 2, 17),), mirrored=("0.weight", "3.weight"))
def one_d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, stride=2, padding=1),
        nn.LeakyReLU(0.1),
        nn.AvgPool1d(2),
        nn.Conv1d(4, 4, 3, dilation=1, groups=2),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(8, 2),
    )


@_animal(lambda n: (torch.randn(n, 1, 6, 6, 6),), mirrored=("0.weight", "4.weight"))
def three_d() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 3, 3, padding=1),
        nn.BatchNorm3d(3),
        nn.ReLU(),
        nn.MaxPool3d(2),
        nn.Conv3d(3, 4, 3, padding="same"),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )


@_animal(_images(), mirrored=("0.weight", "2.weight"))
def no_bias() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.SiLU(), nn.Conv2d(4, 5, 3, bias=False))


@_animal(lambda n: (torch.randn(n, 3, 8, 8).contiguous(memory_format=torch.channels_last),))
def channels_last() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3))
    return model.to(memory_format=torch.channels_last)


# --- randomness, modes, frozen parts ----------------------------------------------------------------------------------


@_animal(_images(), mirrored=("0.weight", "3.weight"))
def dropout() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.Dropout2d(0.3),
        nn.Conv2d(4, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(4 * 16, 2),
    )


@_animal(_images())
class FrozenNorm(nn.Module):
    """Batch norm that the user keeps in evaluation mode, whatever ``train()`` says."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        nn.init.normal_(self.norm.running_mean)
        self.norm.eval()

    def train(self, mode: bool = True) -> FrozenNorm:
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.a(x)).relu())


@_animal(_images(), mirrored=("2.weight",))
def frozen_parameters() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
    model[0].requires_grad_(False)
    return model


@_animal(_vectors(), first=1)
def batch_of_one() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, 3))


@_animal(_vectors(), first=1)
def batch_norm_of_one() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3))


@_animal(_vectors(), mirrored=("b.weight",))
class NoGradBackbone(nn.Module):
    """A part of the forward pass under ``torch.no_grad``."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = torch.tanh(self.a(x))
        return self.b(x)


@_animal(_vectors())
class OwnPrecision(nn.Module):
    """A part of the forward pass in a precision of its own, whatever the autocast around it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 7), nn.Linear(7, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.a(x))
        with torch.autocast("cpu", enabled=False):
            x = torch.tanh(self.b(x.to(self.b.weight.dtype)))
        return self.c(x)


@_animal(_vectors())
class Queue(nn.Module):
    """Buffers written in the forward pass: through a view, in place and by assignment."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 7), nn.Linear(7, 3)
        self.register_buffer("memory", torch.zeros(5, 3))
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("average", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(torch.tanh(self.a(x)))
        with torch.no_grad():
            self.memory[1:3] = y[:2]
            self.memory[0] += 1
        self.calls += 1
        self.average = 0.9 * self.average + 0.1 * y.detach().mean(0)
        return y


@_animal(_images(9), mirrored=("a.weight", "b.weight"))
class ShapeBranch(nn.Module):
    """``if`` on a size: other batches take another path."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.a(x))
        if x.shape[0] > 4:
            x = F.max_pool2d(x, 2)
        return self.b(x).mean((2, 3))


@_animal(_vectors())
class SizeAsNumber(nn.Module):
    """A size that becomes a number in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x))) / float(x.shape[0])


@_animal(lambda n: (torch.randn(n, 7, 6),), layers=["a"], mirrored=("a.weight",))
class Recurrent(nn.Module):
    """An LSTM behind what is mirrored: it hides its parameters in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.lstm, self.head = nn.Linear(6, 5), nn.LSTM(5, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(torch.tanh(self.a(x)))[0][:, -1])


@_animal(lambda n: (torch.randn(n, 2, 10, 12),))
def unruly_strides() -> nn.Module:
    """Sizes whose algebra torch.export cannot do (torch 2.13)."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2),
        nn.BatchNorm2d(4),
        nn.ELU(),
        nn.Conv2d(4, 3, 3, stride=(3, 2), dilation=(1, 2)),
    )


# --- parametrised weights, precision ----------------------------------------------------------------------------------


@_animal(_vectors(), mirrored=tuple(f"{i}.parametrizations.weight.original{j}" for i in (0, 2) for j in (0, 1)))
def weight_norm() -> nn.Module:
    return nn.Sequential(
        parametrizations.weight_norm(nn.Linear(6, 6)),
        nn.Tanh(),
        parametrizations.weight_norm(nn.Linear(6, 3)),
    )


@_animal(_vectors(), mirrored=("0.parametrizations.weight.original", "2.weight"))
def spectral_norm() -> nn.Module:
    return nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 6)), nn.Tanh(), nn.Linear(6, 3))


@_animal(_vectors(), mirrored=("0.parametrizations.weight.original", "2.weight"))
def orthogonal() -> nn.Module:
    return nn.Sequential(parametrizations.orthogonal(nn.Linear(6, 6)), nn.Tanh(), nn.Linear(6, 3))


@_animal(lambda n: (torch.randn(n, 3, 8, 8, dtype=torch.bfloat16),), dtype=torch.bfloat16)
def bfloat16() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()).bfloat16()
