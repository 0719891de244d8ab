"""Networks as plain modules, and for each its reverse pass written out by hand, from the paper's tables.

Nothing here knows the library. A ``*_pairs`` function runs the forward and the reverse pass and returns the pairs
(L_m, L'_m) in the order of the layers; ``penalty`` is Eq. 1 as the authors' code has it, Σ λ_m ½‖L_m − L'_m‖².
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pairs = list[tuple[Tensor, Tensor]]


def penalty(pairs: Iterable[tuple[Tensor, Tensor]], lambdas: Sequence[float], reduction: str) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for weight, (forward, reverse) in zip(lambdas, pairs, strict=True):
        squared = (forward - reverse) ** 2
        if reduction == "mean":
            squared = squared / squared.numel()
        total = total + weight * 0.5 * squared.sum()
    return total


class Norms:
    """Batch norm by its definition, with copies of the running statistics: ``after`` is what a run leaves behind."""

    def __init__(self, shared: bool) -> None:
        self.shared = shared
        self.after: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def forward(self, norm: Any, x: Tensor) -> Tensor:
        dims = [0, *range(2, x.ndim)]
        mean, var = self.after.get(norm, (norm.running_mean.clone(), norm.running_var.clone()))
        unbiased = x.detach().var(dims, unbiased=True)
        m = norm.momentum
        self.after[norm] = (1 - m) * mean + m * x.detach().mean(dims), (1 - m) * var + m * unbiased
        shape = (1, -1, *[1] * (x.ndim - 2))
        return standardise(x, norm.eps) * norm.weight.view(shape) + norm.bias.view(shape)

    def reverse(self, norm: Any, estimate: Tensor) -> Tensor:
        before = dict(self.after)
        result = self.forward(norm, estimate)
        if not self.shared:
            self.after = before
        return result


def standardise(x: Tensor, eps: float = 1e-5) -> Tensor:
    dims = [0, *range(2, x.ndim)]
    centred = x - x.mean(dims, keepdim=True)
    return centred / ((centred**2).mean(dims, keepdim=True) + eps).sqrt()


def deconv2d(estimate: Tensor, conv: Any, **kwargs: Any) -> Tensor:
    """(estimate − b) through the transposed convolution with the layer's kernel."""
    if conv.bias is not None:
        estimate = estimate - conv.bias.view(1, -1, 1, 1)
    return F.conv_transpose2d(estimate, conv.weight, **kwargs)


def up(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


# --- Table 7: the 12-bit task ----------------------------------------------------------------------------------------


class MutualInformation(nn.Module):
    """I(12) → tanh(FC(10)+b₁) → … 7, 5, 4, 3 … → tanh(FC(2)+b₆); 294 weights."""

    layers = ("fc.0", "fc.1", "fc.2", "fc.3", "fc.4", "fc.5")

    def __init__(self) -> None:
        super().__init__()
        sizes = (12, 10, 7, 5, 4, 3, 2)
        self.fc = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.fc:
            x = torch.tanh(layer(x))
        return x

    @staticmethod
    def example() -> Tensor:
        return torch.randn(6, 12)

    def pairs(self, x: Tensor, norms: Norms, paper_range: bool) -> Pairs:
        w = [layer.weight for layer in self.fc]
        b = [layer.bias for layer in self.fc]
        l1 = x
        l2 = torch.tanh(F.linear(l1, w[0], b[0]))
        l3 = torch.tanh(F.linear(l2, w[1], b[1]))
        l4 = torch.tanh(F.linear(l3, w[2], b[2]))
        l5 = torch.tanh(F.linear(l4, w[3], b[3]))
        l6 = torch.tanh(F.linear(l5, w[4], b[4]))
        output = torch.tanh(F.linear(l6, w[5], b[5]))
        r6 = torch.tanh(F.linear(output - b[5], w[5].T))
        r5 = torch.tanh(F.linear(r6 - b[4], w[4].T))
        r4 = torch.tanh(F.linear(r5 - b[3], w[3].T))
        r3 = torch.tanh(F.linear(r4 - b[2], w[2].T))
        r2 = torch.tanh(F.linear(r3 - b[1], w[1].T))
        r1 = F.linear(r2 - b[0], w[0].T)
        if paper_range:
            r1 = torch.tanh(r1)
        return [(l1, r1), (l2, r2), (l3, r3), (l4, r4), (l5, r5), (l6, r6)]


# --- Table 9: MNIST --------------------------------------------------------------------------------------------------


class Mnist(nn.Module):
    """Three 3×3 convolutions (64, 64, 1) with ReLU, two max poolings, a fully connected layer; 38 645 weights."""

    layers = ("conv1", "conv2", "conv3")

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 64, 3, padding="same")
        self.conv2 = nn.Conv2d(64, 64, 3, padding="same")
        self.conv3 = nn.Conv2d(64, 1, 3, padding="same")
        self.fc = nn.Linear(49, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc(F.relu(self.conv3(x)).flatten(1))

    @staticmethod
    def example() -> Tensor:
        return torch.randn(2, 1, 28, 28)

    def pairs(self, x: Tensor, norms: Norms, paper_range: bool) -> Pairs:
        w1, w2, w3 = self.conv1, self.conv2, self.conv3
        l1 = x
        l2 = F.max_pool2d(F.relu(F.conv2d(l1, w1.weight, w1.bias, padding=1)), 2)
        l3 = F.max_pool2d(F.relu(F.conv2d(l2, w2.weight, w2.bias, padding=1)), 2)
        i_r = F.relu(F.conv2d(l3, w3.weight, w3.bias, padding=1))
        r3 = F.relu(deconv2d(i_r, w3, padding=1))
        r2 = F.relu(deconv2d(up(r3), w2, padding=1))
        r1 = deconv2d(up(r2), w1, padding=1)
        if paper_range:
            r1 = F.relu(r1)
        return [(l1, r1), (l2, r2), (l3, r3)]


# --- Table 11: CIFAR -------------------------------------------------------------------------------------------------


class Cifar(nn.Module):
    """Thirteen 3×3 convolutions with batch norm and ReLU, four max poolings, three fully connected layers with both.

    ``width`` is 64 in the paper; ``hidden`` 4096.
    """

    layers = tuple(f"convs.{i}" for i in range(13))
    pool_after = (2, 4, 7, 10)

    def __init__(self, width: int = 64, hidden: int = 4096) -> None:
        super().__init__()
        channels = [3, *(width * f for f in (1, 1, 2, 2, 4, 4, 4, 8, 8, 8, 8, 8, 8))]
        self.convs = nn.ModuleList(nn.Conv2d(channels[m - 1], channels[m], 3, padding=1) for m in range(1, 14))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels[m]) for m in range(1, 14))
        sizes = (8 * width * 4, hidden, hidden, 10)
        self.fcs = nn.ModuleList(nn.Linear(sizes[i], sizes[i + 1]) for i in range(3))
        self.fc_norms = nn.ModuleList(nn.BatchNorm1d(sizes[i + 1]) for i in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for m, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True), start=1):
            x = F.relu(norm(conv(x)))
            if m in self.pool_after:
                x = F.max_pool2d(x, 2)
        x = x.flatten(1)
        for fc, norm in zip(self.fcs, self.fc_norms, strict=True):
            x = F.relu(norm(fc(x)))
        return x

    @staticmethod
    def example() -> Tensor:
        return torch.randn(3, 3, 32, 32)

    def pairs(self, x: Tensor, norms: Norms, paper_range: bool) -> Pairs:
        forward = {1: x}  # L_m
        for m in range(1, 14):
            conv = self.convs[m - 1]
            x = F.relu(norms.forward(self.norms[m - 1], F.conv2d(x, conv.weight, conv.bias, padding=1)))
            if m in self.pool_after:
                x = F.max_pool2d(x, 2)
            forward[m + 1] = x
        estimate = forward[14]  # I_r
        reverse = {}
        for m in range(13, 1, -1):
            # … − b_m → relu(BN(D(…))), BN and relu those of layer m − 1; then UP where layer m − 1 was pooled
            raw = deconv2d(estimate, self.convs[m - 1], padding=1)
            reverse[m] = estimate = F.relu(norms.reverse(self.norms[m - 2], raw))
            if m - 1 in self.pool_after:
                estimate = up(estimate)
        reverse[1] = deconv2d(estimate, self.convs[0], padding=1)
        if paper_range:
            reverse[1] = F.relu(standardise(reverse[1]))
        # The head takes part in the forward pass only, with batch norms of its own.
        x = x.flatten(1)
        for fc, norm in zip(self.fcs, self.fc_norms, strict=True):
            x = F.relu(norms.forward(norm, F.linear(x, fc.weight, fc.bias)))
        return [(forward[m], reverse[m]) for m in range(1, 14)]


# --- Table 13: the smoke generator -----------------------------------------------------------------------------------


class Generator(nn.Module):
    """Six 5×5 convolutions with ReLU (64, 128, 128, 64, 32, 1), upsampled twice: 16×16 → 64×64."""

    layers = ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6")

    def __init__(self, width: int = 64, size: int = 16) -> None:
        super().__init__()
        self.size = size
        self.conv1 = nn.Conv2d(1, width, 5, padding=2)
        self.conv2 = nn.Conv2d(width, 2 * width, 5, padding=2)
        self.conv3 = nn.Conv2d(2 * width, 2 * width, 5, padding=2)
        self.conv4 = nn.Conv2d(2 * width, width, 5, padding=2)
        self.conv5 = nn.Conv2d(width, width // 2, 5, padding=2)
        self.conv6 = nn.Conv2d(width // 2, 1, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(F.relu(self.conv1(x)), scale_factor=2, mode="nearest")
        x = F.interpolate(F.relu(self.conv2(x)), scale_factor=2, mode="nearest")
        x = F.relu(self.conv4(F.relu(self.conv3(x))))
        return F.relu(self.conv6(F.relu(self.conv5(x))))

    def example(self) -> Tensor:
        return torch.randn(2, 1, self.size, self.size)

    def pairs(self, x: Tensor, norms: Norms, paper_range: bool) -> Pairs:
        l1 = x
        l2 = up(F.relu(F.conv2d(l1, self.conv1.weight, self.conv1.bias, padding=2)))
        l3 = up(F.relu(F.conv2d(l2, self.conv2.weight, self.conv2.bias, padding=2)))
        l4 = F.relu(F.conv2d(l3, self.conv3.weight, self.conv3.bias, padding=2))
        l5 = F.relu(F.conv2d(l4, self.conv4.weight, self.conv4.bias, padding=2))
        l6 = F.relu(F.conv2d(l5, self.conv5.weight, self.conv5.bias, padding=2))
        i_r = F.relu(F.conv2d(l6, self.conv6.weight, self.conv6.bias, padding=2))
        r6 = F.relu(deconv2d(i_r, self.conv6, padding=2))
        r5 = F.relu(deconv2d(r6, self.conv5, padding=2))
        r4 = F.relu(deconv2d(r5, self.conv4, padding=2))
        r3 = F.relu(deconv2d(r4, self.conv3, padding=2))
        r2 = F.relu(deconv2d(F.max_pool2d(r3, 2), self.conv2, padding=2))
        r1 = deconv2d(F.max_pool2d(r2, 2), self.conv1, padding=2)
        if paper_range:
            r1 = F.relu(r1)
        return [(l1, r1), (l2, r2), (l3, r3), (l4, r4), (l5, r5), (l6, r6)]


# --- beyond the tables -----------------------------------------------------------------------------------------------


class Block(nn.Module):
    """The basic block of ResNet-18."""

    def __init__(self, fan_in: int, fan_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(fan_out)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(fan_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or fan_in != fan_out:
            self.downsample = nn.Sequential(nn.Conv2d(fan_in, fan_out, 1, stride, bias=False), nn.BatchNorm2d(fan_out))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Residual(nn.Module):
    """A stem, a block of stride 2 at an odd size, an identity block, global average pooling, a head."""

    layers = ("stem", "down.conv1", "down.conv2", "down.downsample.0", "same.conv1", "same.conv2")

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(2, 3, 3, 1, 1), nn.BatchNorm2d(3)
        self.down, self.same = Block(3, 4, 2), Block(4, 4, 1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)), inplace=True)
        x = self.same(self.down(x))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))

    @staticmethod
    def example() -> Tensor:
        return torch.randn(3, 2, 9, 11)

    def pairs(self, x: Tensor, norms: Norms, paper_range: bool) -> Pairs:
        down, same = self.down, self.same
        skip, skip_norm = down.downsample[0], down.downsample[1]
        h0 = F.relu(norms.forward(self.bn, F.conv2d(x, self.stem.weight, self.stem.bias, padding=1)))
        t1 = F.relu(norms.forward(down.bn1, F.conv2d(h0, down.conv1.weight, stride=2, padding=1)))
        main = norms.forward(down.bn2, F.conv2d(t1, down.conv2.weight, padding=1))
        h1 = F.relu(main + norms.forward(skip_norm, F.conv2d(h0, skip.weight, stride=2)))
        t2 = F.relu(norms.forward(same.bn1, F.conv2d(h1, same.conv1.weight, padding=1)))
        h2 = F.relu(norms.forward(same.bn2, F.conv2d(t2, same.conv2.weight, padding=1)) + h1)
        # Both branches of a sum get its estimate; h1 and h0 are used twice: the mean, then their ReLU (and norm).
        t2r = F.relu(norms.reverse(same.bn1, deconv2d(h2, same.conv2, padding=1)))
        h1r = F.relu((deconv2d(t2r, same.conv1, padding=1) + h2) / 2)
        t1r = F.relu(norms.reverse(down.bn1, deconv2d(h1r, down.conv2, padding=1)))
        back = deconv2d(t1r, down.conv1, stride=2, padding=1)  # 5×6 → 9×11: no output padding needed
        extra = deconv2d(h1r, skip, stride=2)
        assert back.shape == extra.shape == h0.shape
        h0r = F.relu(norms.reverse(self.bn, (back + extra) / 2))
        r = deconv2d(h0r, self.stem, padding=1)
        if paper_range:
            r = F.relu(standardise(r))
        return [(x, r), (h0, h0r), (t1, t1r), (h0, h0r), (h1, h1r), (t2, t2r)]


class Even(nn.Module):
    """Strided convolutions on sizes where the last stride leaves rows over: they come back as zeros."""

    layers = ("a", "b")

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2)
        self.bn = nn.BatchNorm2d(4)
        self.b = nn.Conv2d(4, 3, 3, stride=(3, 2), dilation=(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(self.b(F.leaky_relu(self.bn(self.a(x)), 0.1)))

    @staticmethod
    def example() -> Tensor:
        return torch.randn(2, 2, 16, 20)

    def pairs(self, x: Tensor, norms: Norms, paper_range: bool) -> Pairs:
        h = F.conv2d(x, self.a.weight, self.a.bias, stride=2, padding=1, groups=2)  # 8×10
        h = F.leaky_relu(norms.forward(self.bn, h), 0.1)
        out = F.elu(F.conv2d(h, self.b.weight, self.b.bias, stride=(3, 2), dilation=(1, 2)))  # 2×3
        raw = deconv2d(out, self.b, stride=(3, 2), dilation=(1, 2))  # 6×9
        raw = F.pad(raw, (0, 1, 0, 2))
        hr = F.leaky_relu(norms.reverse(self.bn, raw), 0.1)
        r = deconv2d(hr, self.a, stride=2, groups=2)[:, :, 1:17, 1:21]  # 17×21 without its padding
        if paper_range:
            r = F.leaky_relu(standardise(r), 0.1)
        return [(x, r), (h, hr)]


class Dense(nn.Module):
    """Every convolution sees all values before it (DenseNet), one with a norm, others without."""

    layers = ("conv0", "conv1", "conv2", "conv3")

    def __init__(self) -> None:
        super().__init__()
        self.conv0, self.conv1 = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 2, 3, padding=1)
        self.conv2, self.conv3 = nn.Conv2d(5, 4, 3, padding=1), nn.Conv2d(9, 2, 1)
        self.bn1 = nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.conv0(x))
        a = F.relu(self.bn1(self.conv1(h)))
        b = torch.sigmoid(self.conv2(torch.cat([h, a], 1)))
        return self.conv3(torch.cat([h, a, b], 1)).mean((2, 3))

    @staticmethod
    def example() -> Tensor:
        return torch.randn(3, 2, 5, 4)

    def pairs(self, x: Tensor, norms: Norms, paper_range: bool) -> Pairs:
        h = torch.tanh(F.conv2d(x, self.conv0.weight, self.conv0.bias, padding=1))
        a = F.relu(norms.forward(self.bn1, F.conv2d(h, self.conv1.weight, self.conv1.bias, padding=1)))
        c2 = torch.cat([h, a], 1)
        b = torch.sigmoid(F.conv2d(c2, self.conv2.weight, self.conv2.bias, padding=1))
        c3 = torch.cat([h, a, b], 1)
        i_r = F.conv2d(c3, self.conv3.weight, self.conv3.bias)
        # Each piece of a cat goes to the range of the value that it estimates.
        h3, a3, b3 = deconv2d(i_r, self.conv3).split([3, 2, 4], 1)
        h3, a3, b3 = torch.tanh(h3), F.relu(norms.reverse(self.bn1, a3)), torch.sigmoid(b3)
        h2, a2 = deconv2d(b3, self.conv2, padding=1).split([3, 2], 1)
        h2, a2 = torch.tanh(h2), F.relu(norms.reverse(self.bn1, a2))
        ar = (a3 + a2) / 2
        hr = torch.tanh((h3 + h2 + deconv2d(ar, self.conv1, padding=1)) / 3)
        r = deconv2d(hr, self.conv0, padding=1)
        if paper_range:
            r = torch.tanh(standardise(r))
        return [(x, r), (h, hr), (c2, torch.cat([h2, a2], 1)), (c3, torch.cat([h3, a3, b3], 1))]


class Fork(nn.Module):
    """One value feeds two layers, whose outputs are added."""

    layers = ("trunk", "left", "right", "top")

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.left, self.right = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(6, 5)
        self.top = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.trunk(x))
        return self.top(torch.tanh(self.left(h)) + torch.sigmoid(self.right(h)))

    @staticmethod
    def example() -> Tensor:
        return torch.randn(4, 4)

    def pairs(self, x: Tensor, norms: Norms, paper_range: bool) -> Pairs:
        h = torch.tanh(F.linear(x, self.trunk.weight, self.trunk.bias))
        left = torch.tanh(F.linear(h, self.left.weight, self.left.bias))
        total = left + torch.sigmoid(F.linear(h, self.right.weight, self.right.bias))
        out = F.linear(total, self.top.weight, self.top.bias)
        total_r = (out - self.top.bias) @ self.top.weight  # a sum has no activation of its own
        from_left = (total_r - self.left.bias) @ self.left.weight
        from_right = (total_r - self.right.bias) @ self.right.weight
        hr = torch.tanh((from_left + from_right) / 2)
        r = (hr - self.trunk.bias) @ self.trunk.weight
        if paper_range:
            r = torch.tanh(r)
        return [(x, r), (h, hr), (h, hr), (total, total_r)]


class Recurrent(nn.Module):
    """One module used twice: two layers with the same weights."""

    layers = ("into", "again#1", "again#2", "out")

    def __init__(self) -> None:
        super().__init__()
        self.into, self.again, self.out = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.into(x))
        for _ in range(2):
            x = F.gelu(self.again(x))
        return self.out(x)

    @staticmethod
    def example() -> Tensor:
        return torch.randn(2, 3, 3)

    def pairs(self, x: Tensor, norms: Norms, paper_range: bool) -> Pairs:
        w, b = self.again.weight, self.again.bias
        l2 = torch.tanh(F.linear(x, self.into.weight, self.into.bias))
        l3 = F.gelu(F.linear(l2, w, b))
        l4 = F.gelu(F.linear(l3, w, b))
        r4 = F.gelu(F.linear(l4, self.out.weight) @ self.out.weight)
        r3 = F.gelu((r4 - b) @ w)
        r2 = torch.tanh((r3 - b) @ w)
        r1 = (r2 - self.into.bias) @ self.into.weight
        if paper_range:
            r1 = torch.tanh(r1)
        return [(x, r1), (l2, r2), (l3, r3), (l4, r4)]


class Conv1d(nn.Module):
    """Two convolutions over a sequence with norms, average pooling between them."""

    layers = ("a", "b")

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(2, 4, 4, stride=2, padding=2), nn.Conv1d(4, 3, 3, padding="same", dilation=2)
        self.bn_a, self.bn_b = nn.BatchNorm1d(4), nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool1d(F.relu(self.bn_a(self.a(x))), 2)
        return F.relu(self.bn_b(self.b(x)))

    @staticmethod
    def example() -> Tensor:
        return torch.randn(3, 2, 17)

    def pairs(self, x: Tensor, norms: Norms, paper_range: bool) -> Pairs:
        h = F.relu(norms.forward(self.bn_a, F.conv1d(x, self.a.weight, self.a.bias, stride=2, padding=2)))  # 9
        p = F.avg_pool1d(h, 2)  # 4
        out = F.relu(norms.forward(self.bn_b, F.conv1d(p, self.b.weight, self.b.bias, padding=2, dilation=2)))
        raw = F.conv_transpose1d(out - self.b.bias[:, None], self.b.weight, padding=2, dilation=2)
        pr = F.relu(norms.reverse(self.bn_a, raw))
        spread = pr[:, :, [0, 0, 0, 1, 1, 2, 2, 3, 3]]  # nearest: 4 → 9, place i takes ⌊4 i / 9⌋
        r = F.conv_transpose1d(spread - self.a.bias[:, None], self.a.weight, stride=2)[:, :, 2:19]  # 20 = 17 + 2·2 − 1
        r = F.pad(r, (0, 17 - r.shape[2]))
        if paper_range:
            r = F.relu(standardise(r))
        return [(x, r), (p, pr)]


class Conv3d(nn.Module):
    """A volume: convolution with norm, max pooling of an odd size, convolution."""

    layers = ("a", "b")

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv3d(1, 3, 3, padding=1), nn.Conv3d(3, 2, 2)
        self.bn = nn.BatchNorm3d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.max_pool3d(F.silu(self.bn(self.a(x))), 2))

    @staticmethod
    def example() -> Tensor:
        return torch.randn(2, 1, 4, 6, 4)

    def pairs(self, x: Tensor, norms: Norms, paper_range: bool) -> Pairs:
        h = F.silu(norms.forward(self.bn, F.conv3d(x, self.a.weight, self.a.bias, padding=1)))
        p = F.max_pool3d(h, 2)
        out = F.conv3d(p, self.b.weight, self.b.bias)
        pr = F.silu(norms.reverse(self.bn, F.conv_transpose3d(out - self.b.bias.view(-1, 1, 1, 1), self.b.weight)))
        spread = pr.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
        r = F.conv_transpose3d(spread - self.a.bias.view(-1, 1, 1, 1), self.a.weight, padding=1)
        if paper_range:
            r = F.silu(standardise(r))
        return [(x, r), (p, pr)]
