"""The palindrome equals reverse passes written out by hand (tests/reference.py), in value and in gradient."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import racecar
from racecar.reverse.loss import half_squared_distance

from ..support import reference

NETS: dict[str, Callable[[], Any]] = {
    "Table 7": reference.MutualInformation,
    "Table 9": reference.Mnist,
    "Table 11": lambda: reference.Cifar(width=2, hidden=6),
    "Table 13": lambda: reference.Generator(width=4, size=6),
    "residual": reference.Residual,
    "strided": reference.Even,
    "dense": reference.Dense,
    "fork": reference.Fork,
    "recurrent": reference.Recurrent,
    "conv1d": reference.Conv1d,
    "conv3d": reference.Conv3d,
}
SMALL = [n for n in NETS if n not in ("Table 9", "Table 11")]


def build(name: str) -> tuple[Any, Tensor]:
    """The net in double precision, γ, β and running statistics away from 1 and 0, and an input."""
    torch.manual_seed(11)
    net = NETS[name]().double()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                    tensor.uniform_(0.5, 1.5)
            elif isinstance(module, nn.Conv2d) and name in ("Table 9", "Table 13"):
                module.weight.mul_(2)
                module.bias.add_(0.1)  # keeps the last ReLU alive
    return net, net.example().double()


def gradients(loss: Tensor, net: nn.Module) -> list[Tensor]:
    parameters = list(net.parameters())
    return list(torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True))


def compare(name: str, layers: Any, count: int, reduction: Any, input_range: Any, statistics: Any) -> None:
    net, x = build(name)
    twin = copy.deepcopy(net)
    weight = [0.3 + 0.2 * m for m in range(count)]
    rr = racecar.Racecar(
        net,
        x,
        layers=layers,
        weight=weight,
        reduction=reduction,
        input_range=input_range,
        norm_statistics=statistics,
    )
    assert rr.layers == net.layers[:count]

    norms = reference.Norms(shared=statistics == "shared")
    expected_pairs = twin.pairs(x, norms, input_range == "paper")[:count]
    expected = reference.penalty(expected_pairs, weight, reduction)
    pairs = rr.reconstruct(x)
    assert tuple(pairs) == net.layers[:count]
    for mine, theirs in zip(pairs.values(), expected_pairs, strict=True):
        torch.testing.assert_close(mine[0], theirs[0], rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(mine[1], theirs[1], rtol=1e-9, atol=1e-11)
        assert float(theirs[1].detach().std()) > 1e-3  # not dead

    output, penalty = rr(x)
    assert float(expected.detach()) > 1e-3
    torch.testing.assert_close(penalty, expected, rtol=1e-9, atol=1e-11)
    for (key, _), mine, theirs in zip(
        net.named_parameters(), gradients(penalty, net), gradients(expected, twin), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6 * float(theirs.abs().max()) + 1e-12, msg=key)
    for key, module in net.named_modules():
        if module in norms_of(net):
            mean, var = norms.after[twin.get_submodule(key)]
            torch.testing.assert_close(module.running_mean, mean, msg=key)
            torch.testing.assert_close(module.running_var, var, msg=key)
            assert int(module.num_batches_tracked) == 1
    torch.testing.assert_close(output, twin(x))


def norms_of(net: nn.Module) -> set[nn.Module]:
    return {m for m in net.modules() if hasattr(m, "running_mean")}


@pytest.mark.parametrize("input_range", [None, "paper"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("name", NETS)
def test_the_penalty_and_its_gradients_equal_the_tables(name: str, reduction: str, input_range: Any) -> None:
    """All layers; with the paper's input range also the authors' shared statistics."""
    net, _ = build(name)
    compare(name, None, len(net.layers), reduction, input_range, "shared" if input_range else "separate")


@pytest.mark.parametrize("where", ["first", "middle", "all"])
@pytest.mark.parametrize("name", NETS)
def test_rr_s_compares_the_first_s_inputs(name: str, where: str) -> None:
    """RR^1, RR^s and RR^n: the reverse pass runs from the same start."""
    net, _ = build(name)
    count = {"first": 1, "middle": (len(net.layers) + 1) // 2, "all": len(net.layers)}[where]
    shared = name in ("Table 11", "residual")
    compare(name, count, count, "mean", "paper", "separate" if shared else "shared")
    if shared:
        compare(name, count, count, "sum", None, "shared")


def test_weight_counts() -> None:
    def count(net: nn.Module) -> int:
        return sum(p.numel() for p in net.parameters())

    assert count(reference.MutualInformation()) == 294
    assert count(reference.Mnist()) == 38645
    with torch.device("meta"):
        assert count(reference.Generator()) == 873217
        cifar = reference.Cifar()
    # VGG-16's convolutions, γ and β for 4 224 channels, and the head with its own.
    assert count(cifar.convs) == 14714688
    assert count(cifar.norms) == 2 * 4224
    assert count(cifar.fcs) == 2048 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 10 + 10
    assert count(cifar.fc_norms) == 2 * (4096 + 4096 + 10)
    residual = reference.Residual()
    assert count(residual) == (57 + 6) + (108 + 8 + 144 + 8 + 12 + 8) + (144 + 8 + 144 + 8) + 25


def test_the_wrapper_adds_no_weights() -> None:
    net, x = build("residual")
    before = list(net.state_dict())
    rr = racecar.Racecar(net, x)
    assert list(net.state_dict()) == before
    assert {id(p) for p in rr.parameters()} == {id(p) for p in net.parameters()}


# --- the start -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "start"),
    [("Table 7", "tanh_5"), ("Table 9", "relu_2"), ("Table 11", "relu_12"), ("Table 13", "relu_5")],
)
def test_the_reverse_pass_starts_after_the_last_mirrored_layers_activation(name: str, start: str) -> None:
    net, x = build(name)
    explanation = racecar.Racecar(net, x).explain()
    assert explanation.start == start
    assert explanation.steps[-1].layer == ""  # the activation itself, in the model's own forward


def test_a_residual_nets_start_is_behind_the_last_add_and_its_activation() -> None:
    net, x = build("residual")
    explanation = racecar.Racecar(net, x).explain()
    assert explanation.start == "same.relu"
    assert [s.forward for s in explanation.steps[-3:]] == ["batch_norm", "add", "relu"]


def test_start_by_name() -> None:
    net, x = build("Table 7")
    rr = racecar.Racecar(net, x, layers=["fc.0", "fc.1"], start="fc.3")
    assert rr.layers == ("fc.0", "fc.1")
    hidden = x
    for layer in list(net.fc)[:3]:
        hidden = torch.tanh(layer(hidden))
    estimate = net.fc[3](hidden)  # the layer's own output, before its activation
    for m in (3, 2, 1):
        estimate = torch.tanh((estimate - net.fc[m].bias) @ net.fc[m].weight)
    pairs = rr.reconstruct(x)
    torch.testing.assert_close(pairs["fc.1"][1], estimate)
    torch.testing.assert_close(pairs["fc.0"][1], (estimate - net.fc[0].bias) @ net.fc[0].weight)


def test_start_at_a_module_is_its_output() -> None:
    net, x = build("residual")
    rr = racecar.Racecar(net, x, layers="down", start="down")
    assert rr.layers == ("down.conv1", "down.conv2", "down.downsample.0")
    norms, copied = reference.Norms(shared=False), copy.deepcopy(net)
    h0 = F.relu(copied.bn(copied.stem(x)))
    h1 = copied.down(h0)
    raw = reference.deconv2d(h1, net.down.conv2, padding=1)
    expected = F.relu(norms.reverse(net.down.bn1, raw))
    torch.testing.assert_close(rr.reconstruct(x)["down.conv2"][1], expected)
    assert rr.explain().start == "down.relu"


@pytest.mark.parametrize("pool", [nn.AdaptiveMaxPool2d(1), nn.MaxPool2d(2, return_indices=True)])
def test_start_at_max_pooling_is_its_values_and_not_its_indices(pool: nn.Module) -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool, self.head = nn.Conv2d(1, 2, 3, padding=1), pool, nn.LazyLinear(2)

        def forward(self, x: Tensor) -> Tensor:
            found = self.pool(torch.relu(self.conv(x)))
            return self.head((found[0] if isinstance(found, tuple) else found).flatten(1))

    model, x = Pooled(), torch.randn(2, 1, 4, 4)
    model(x)
    rr = racecar.Racecar(model, x, start="pool")
    hidden = torch.relu(model.conv(x))
    pooled = pool(hidden)
    back = (pooled[0] if isinstance(pooled, tuple) else pooled).repeat_interleave(4 // pooled[0].shape[-1], 2)
    back = back.repeat_interleave(4 // pooled[0].shape[-1], 3)
    estimate = nn.functional.conv_transpose2d(back - model.conv.bias.view(1, -1, 1, 1), model.conv.weight, padding=1)
    ((_, found),) = rr.reconstruct(x).values()
    torch.testing.assert_close(found, estimate)


def test_a_start_in_the_head_mirrors_the_head_too() -> None:
    net, x = build("Table 9")
    rr = racecar.Racecar(net, x, layers="all")
    assert rr.layers == ("conv1", "conv2", "conv3", "fc")
    raw = (net(x) - net.fc.bias) @ net.fc.weight
    torch.testing.assert_close(rr.reconstruct(x)["fc"][1], F.relu(raw))


def test_a_start_before_a_compared_layer_is_refused() -> None:
    net, x = build("Table 7")
    with pytest.raises(racecar.ArgumentError, match=r"'fc\.4'"):
        racecar.Racecar(net, x, layers=["fc.0", "fc.4"], start="fc.2")
    with pytest.raises(racecar.ArgumentError, match=r"nearest.*'fc\.5'"):
        racecar.Racecar(net, x, start="fc.55")


# --- layers by name --------------------------------------------------------------------------------------------------


def chosen(name: str, layers: Any) -> tuple[str, ...]:
    net, x = build(name)
    return racecar.Racecar(net, x, layers=layers).layers


def test_layers_by_name() -> None:
    assert chosen("Table 7", ["fc.4", "fc.1"]) == ("fc.1", "fc.4")  # forward order, whatever was asked
    assert chosen("Table 7", "fc.3") == ("fc.3",)
    assert chosen("Table 7", ["fc"]) == reference.MutualInformation.layers
    assert chosen("residual", ["down"]) == ("down.conv1", "down.conv2", "down.downsample.0")
    assert chosen("residual", ["same", "down.downsample"]) == ("down.downsample.0", "same.conv1", "same.conv2")
    assert chosen("recurrent", "again#2") == ("again#2",)
    assert chosen("recurrent", ["again"]) == ("again#1", "again#2")
    assert chosen("residual", "conv") == reference.Residual.layers
    assert chosen("residual", "all") == (*reference.Residual.layers, "fc")


def test_unknown_layers() -> None:
    with pytest.raises(racecar.ArgumentError, match=r"'down\.conv3'; nearest: 'down\.conv"):
        chosen("residual", ["down.conv3"])
    with pytest.raises(racecar.ArgumentError, match="no layer is called 'dow'"):
        chosen("residual", "dow")  # a part of a name is no prefix
    with pytest.raises(racecar.ArgumentError, match="no convolution"):
        chosen("Table 7", "conv")
    with pytest.raises(racecar.ArgumentError, match="1 ≤ s ≤ 6"):
        chosen("Table 7", 7)
    with pytest.raises(racecar.ArgumentError, match="empty"):
        chosen("Table 7", [])


def test_layers_between_are_walked_though_not_compared() -> None:
    net, x = build("Table 7")
    pairs = racecar.Racecar(net, x, layers=["fc.1", "fc.5"]).reconstruct(x)
    expected = net.pairs(x, reference.Norms(shared=False), False)
    torch.testing.assert_close(pairs["fc.1"][1], expected[1][1])
    torch.testing.assert_close(pairs["fc.5"][1], expected[5][1])


# --- explain() -------------------------------------------------------------------------------------------------------


def test_explain_describes_table_9() -> None:
    net, x = build("Table 9")
    rr = racecar.Racecar(net, x, layers=2, weight=[0.5, 0.25])
    explanation = rr.explain()
    described = [(s.layer, s.forward, s.reverse, s.mirrored, s.compared) for s in explanation.steps]
    assert described == [
        ("conv1", "conv2d 1→64", "conv adjoint", True, 0),
        ("", "relu", "(nothing)", False, None),
        ("", "max_pool2d", "resize2d", False, None),
        ("conv2", "conv2d 64→64", "conv adjoint", True, 1),
        ("", "relu", "(nothing)", False, None),
        ("", "max_pool2d", "resize2d", False, None),
        ("conv3", "conv2d 64→1", "conv adjoint", True, None),
        ("", "relu", "(nothing)", False, None),
    ]
    conv1, conv2, conv3 = (s for s in explanation.steps if s.mirrored)
    assert [conv1.shape, conv2.shape, conv3.shape] == [(2, 1, 28, 28), (2, 64, 14, 14), (2, 64, 7, 7)]
    # a multiplication and an addition per weight, output place and sample
    assert conv1.flops == 2 * 2 * (3 * 3 * 1 * 64) * 28 * 28
    assert conv2.flops == 2 * 2 * (3 * 3 * 64 * 64) * 14 * 14
    assert conv3.flops == 2 * 2 * (3 * 3 * 64 * 1) * 7 * 7
    assert explanation.lambdas == (0.5, 0.25)
    text = str(explanation)
    for word in ("conv1", "conv2d 64→64", "0.25", "starts at", "reuses 3 layers", "compares 2"):
        assert word in text
    total = (conv1.flops + conv2.flops + conv3.flops) / 1e6
    assert f"{total:.4g} MFLOP" in text


def flops(layer: nn.Module, x: Tensor) -> int:
    (step,) = (s for s in racecar.Racecar(layer, x).explain().steps if s.mirrored)
    return step.flops


def test_flops_of_single_layers() -> None:
    assert flops(nn.Linear(7, 5), torch.randn(3, 7)) == 2 * 3 * 7 * 5
    assert flops(nn.Linear(7, 5), torch.randn(3, 4, 7)) == 2 * 3 * 4 * 7 * 5
    assert flops(nn.Conv2d(4, 6, (3, 2), groups=2), torch.randn(5, 4, 8, 9)) == 2 * 5 * 6 * 6 * 8 * (4 // 2 * 6)
    assert flops(nn.Conv2d(4, 6, 3, 2, 1), torch.randn(5, 4, 8, 9)) == 2 * 5 * (4 * 5) * 9 * 4 * 6
    assert flops(nn.Conv1d(2, 3, 5, dilation=2), torch.randn(1, 2, 11)) == 2 * 3 * 5 * 2 * 3
    assert flops(nn.Conv3d(2, 3, 2), torch.randn(2, 2, 4, 5, 6)) == 2 * 2 * (3 * 4 * 5) * 8 * 2 * 3
    assert flops(nn.ConvTranspose2d(4, 6, 3, 2), torch.randn(5, 4, 8, 9)) == 2 * 5 * (8 * 9) * 9 * 4 * 6


def test_flops_of_an_example_of_one() -> None:
    """For the example as it was given, though a batch of one is doubled to be exported."""
    assert flops(nn.Linear(7, 5), torch.randn(1, 7)) == 2 * 7 * 5


def test_flops_without_a_batch_dimension() -> None:
    assert flops(nn.Conv2d(4, 6, 3), torch.randn(4, 9, 10)) == 2 * (7 * 8) * 9 * 4 * 6


# --- torch.compile, autocast, batch sizes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "statistics"),
    [("Table 7", "separate"), ("residual", "separate"), ("residual", "shared"), ("dense", "shared")],
)
def test_compiled_as_one_graph(name: str, statistics: Any) -> None:
    torch._dynamo.reset()
    net, x = build(name)
    twin = copy.deepcopy(net)
    rr, plain = (
        racecar.Racecar(n, x, weight=0.7, norm_statistics=statistics, input_range="paper") for n in (net, twin)
    )
    compiled = torch.compile(rr, fullgraph=True, backend="aot_eager")
    for inputs in (x, 2 * x):
        output, penalty = compiled(inputs)
        expected_output, expected = plain(inputs)
        torch.testing.assert_close(output, expected_output)
        torch.testing.assert_close(penalty, expected)
        for mine, theirs in zip(gradients(penalty, net), gradients(expected, twin), strict=True):
            torch.testing.assert_close(mine, theirs)
    for mine, theirs in zip(net.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_autocast_is_close(name: str) -> None:
    net, x = build(name)
    net, x = net.float(), x.float()
    _, expected = racecar.Racecar(net, x)(x)
    rr = racecar.Racecar(net, x)
    with torch.autocast("cpu", torch.bfloat16):
        _, penalty = rr(x)
    assert penalty.dtype == torch.float32
    # A dozen operations forth and back, each rounded to 8 bits (by 2^-8 at most), and squares double it: 24 · 2^-8.
    torch.testing.assert_close(penalty, expected, rtol=0.1, atol=1e-3)
    assert not torch.equal(penalty, expected)
    penalty.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in net.parameters())


def test_half_precision_distances_are_summed_in_single_precision() -> None:
    left, right = torch.randn(2, 3003).to(torch.bfloat16)
    for reduction in ("sum", "mean"):
        distance = half_squared_distance(left, right, reduction)
        assert distance.dtype == torch.float32
        expected = half_squared_distance(left.double(), right.double(), reduction)
        torch.testing.assert_close(distance.double(), expected, rtol=0.01, atol=0)
        exact = 0.5 * (left - right).double().square().sum() / (3003 if reduction == "mean" else 1)
        torch.testing.assert_close(distance.double(), exact, rtol=1e-5, atol=0)


def test_deriving_under_autocast() -> None:
    net, x = build("residual")
    net, x = net.float(), x.float()
    with torch.autocast("cpu", torch.bfloat16):
        rr = racecar.Racecar(net, x)
    _, expected = racecar.Racecar(net, x)(x)
    _, penalty = rr(x)
    torch.testing.assert_close(penalty, expected)


@pytest.mark.parametrize("example", [1, 2, 5])
@pytest.mark.parametrize("name", ["Table 7", "Table 13", "residual", "strided", "recurrent", "conv1d"])
def test_other_batch_sizes_than_the_examples(name: str, example: int) -> None:
    net, x = build(name)
    x = torch.cat([x, x.flip(-1), 0.5 * x, -x])
    rr = racecar.Racecar(net, x[:example], reduction="sum")
    sizes = (1, 2, 3, 7) if not norms_of(net) else (2, 3, 7)
    for size in sizes:
        batch = x[:size]
        expected = copy.deepcopy(net).pairs(batch, reference.Norms(shared=False), False)
        _, penalty = rr(batch)
        torch.testing.assert_close(penalty, reference.penalty(expected, [1.0] * len(expected), "sum"))


@pytest.mark.parametrize("name", ["Table 9", "residual", "dense", "conv3d"])
def test_evaluation_is_the_plain_model(name: str) -> None:
    net, x = build(name)
    rr = racecar.Racecar(net, x)
    rr.eval()
    assert not net.training
    output = rr(x)
    assert torch.equal(output, copy.deepcopy(net)(x))
    rr.train()
    assert net.training
    assert isinstance(rr(x), tuple)
