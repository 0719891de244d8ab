"""Norms map estimates to a layer's range with the forward γ and β; batch norm's statistics are separate or shared."""

import copy
import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, update_bn

import racecar

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
BACK = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
BATCH_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def randomise(model: nn.Module) -> nn.Module:
    """Double precision; γ, β and running statistics away from 1, 0."""
    generator = torch.Generator().manual_seed(7)
    model.double()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
                continue
            for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
                if tensor.is_floating_point():
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model


def conv_net(norm: nn.Module, dims: int = 2) -> tuple[Any, Tensor]:
    torch.manual_seed(6)
    model = nn.Sequential(CONV[dims](2, 4, 3), norm, nn.ReLU(), CONV[dims](4, 3, 2))
    return randomise(model), torch.randn(3, 2, *[6] * dims, dtype=torch.float64)


def raw_estimate(model: Any, x: Tensor) -> Tensor:
    """W₂ᵀ(I_r − b₂) with I_r the output; run on a copy, so that no statistics change."""
    last = model[3]
    output = copy.deepcopy(model)(x)
    if isinstance(last, nn.Linear):
        return (output - last.bias) @ last.weight
    dims = last.weight.ndim - 2
    return BACK[dims](output - last.bias.view(-1, *[1] * dims), last.weight)


def by_hand(t: Tensor, dims: list[int], eps: float) -> Tensor:
    mean = t.mean(dims, keepdim=True)
    return (t - mean) / (t.var(dims, unbiased=False, keepdim=True) + eps).sqrt()


def channels(v: Tensor, t: Tensor) -> Tensor:
    return v.view(1, -1, *[1] * (t.ndim - 2))


@pytest.mark.parametrize("statistics", ["separate", "shared"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_batch_norm_maps_with_the_reverse_batchs_statistics(dims: int, statistics: Any) -> None:
    model, x = conv_net(BATCH_NORM[dims](4, eps=0.1), dims)
    raw = raw_estimate(model, x)
    norm = model[1]
    pairs = racecar.Racecar(model, x, norm_statistics=statistics).reconstruct(x)
    normal = by_hand(raw, [0, *range(2, raw.ndim)], 0.1)
    expected = torch.relu(normal * channels(norm.weight, raw) + channels(norm.bias, raw))
    torch.testing.assert_close(pairs["3"][1], expected)


def test_batch_norm_after_a_linear_layer() -> None:
    torch.manual_seed(6)
    model = randomise(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, affine=False), nn.Tanh(), nn.Linear(5, 3)))
    x = torch.randn(8, 4, dtype=torch.float64)
    raw = raw_estimate(model, x)
    pairs = racecar.Racecar(model, x).reconstruct(x)
    torch.testing.assert_close(pairs["3"][1], torch.tanh(by_hand(raw, [0], 1e-5)))


@pytest.mark.parametrize("options", [{}, {"checkpoint": True}, {"fraction": 0.5}, {"subset": 1}], ids=str)
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.SyncBatchNorm])
@pytest.mark.parametrize("momentum", [0.1, 0.3, None])
def test_separate_statistics_are_those_of_the_plain_model(momentum: Any, norm: Any, options: Any) -> None:
    model, x = conv_net(norm(4, momentum=momentum))
    x = torch.cat([x, x + 1])
    plain = copy.deepcopy(model)
    plain[1].forward = functools.partial(_BatchNorm.forward, plain[1])  # torch's SyncBatchNorm wants a GPU
    rr = racecar.Racecar(model, x, norm_statistics="separate", **options)
    for factor in (1, 2, 3):
        plain(x * factor)
        rr(x * factor)
    for (name, mine), other in zip(model.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-14, msg=name)
    assert int(model[1].num_batches_tracked) == 3


@pytest.mark.parametrize("momentum", [0.1, 0.3, None])
def test_shared_statistics_are_updated_by_both_passes(momentum: float | None) -> None:
    model, x = conv_net(nn.BatchNorm2d(4, momentum=momentum))
    model[1].num_batches_tracked.fill_(4)
    mean, var = model[1].running_mean.clone(), model[1].running_var.clone()
    raw, hidden = raw_estimate(model, x), model[0](x)
    racecar.Racecar(model, x, norm_statistics="shared")(x)
    momentum = 1 / 5 if momentum is None else momentum  # the fifth batch of a plain average, in both passes
    for batch in (hidden, raw):  # forward first
        mean = (1 - momentum) * mean + momentum * batch.mean([0, 2, 3])
        var = (1 - momentum) * var + momentum * batch.var([0, 2, 3], unbiased=True)
    torch.testing.assert_close(model[1].running_mean, mean)
    torch.testing.assert_close(model[1].running_var, var)


def test_update_bn_averages_over_all_batches_and_leaves_the_momentum() -> None:
    model, x = conv_net(nn.BatchNorm2d(4, momentum=0.3))
    batches = [x, 2 * x, x - 1]
    averaged = AveragedModel(racecar.Racecar(model, x))
    plain = AveragedModel(model)
    update_bn(batches, averaged)
    update_bn(batches, plain)
    mine, theirs = averaged.module.model[1], plain.module[1]
    torch.testing.assert_close(mine.running_mean, theirs.running_mean)
    torch.testing.assert_close(mine.running_var, theirs.running_var)
    assert mine.momentum == 0.3
    averaged(x)
    plain(x)
    torch.testing.assert_close(mine.running_var, theirs.running_var)


@pytest.mark.parametrize("statistics", ["separate", "shared"])
@pytest.mark.parametrize("training", [True, False])
def test_deriving_and_reconstructing_change_no_statistics(statistics: Any, training: bool) -> None:
    model, x = conv_net(nn.BatchNorm2d(4))
    before = copy.deepcopy(model.state_dict())
    rr = racecar.Racecar(model.train(training), x, norm_statistics=statistics)
    rr.reconstruct(x)
    assert model.training == training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_in_evaluation_shared_uses_the_running_statistics_and_separate_the_batchs() -> None:
    model, x = conv_net(nn.BatchNorm2d(4, eps=0.1))
    model.eval()
    norm = model[1]
    raw = raw_estimate(model, x)
    scale, shift = channels(norm.weight, raw), channels(norm.bias, raw)
    pairs = racecar.Racecar(model, x, norm_statistics="shared").reconstruct(x)
    fixed = (raw - channels(norm.running_mean, raw)) / (channels(norm.running_var, raw) + 0.1).sqrt()
    torch.testing.assert_close(pairs["3"][1], torch.relu(fixed * scale + shift))
    pairs = racecar.Racecar(model, x, norm_statistics="separate").reconstruct(x)
    torch.testing.assert_close(pairs["3"][1], torch.relu(by_hand(raw, [0, 2, 3], 0.1) * scale + shift))


def test_batch_norm_without_running_statistics() -> None:
    for statistics in ("separate", "shared"):
        model, x = conv_net(nn.BatchNorm2d(4, track_running_stats=False))
        raw = raw_estimate(model, x)
        norm = model[1]
        pairs = racecar.Racecar(model, x, norm_statistics=statistics).reconstruct(x)
        normal = by_hand(raw, [0, 2, 3], 1e-5)
        expected = torch.relu(normal * channels(norm.weight, raw) + channels(norm.bias, raw))
        torch.testing.assert_close(pairs["3"][1], expected)


PER_SAMPLE = [
    nn.GroupNorm(2, 4),
    nn.GroupNorm(1, 4, affine=False, eps=0.1),
    nn.InstanceNorm2d(4),
    nn.InstanceNorm2d(4, affine=True, eps=0.1),
    nn.LayerNorm([4, 4, 4]),
    nn.LayerNorm(4, elementwise_affine=False),
    nn.RMSNorm([4, 4], eps=0.1),
]


@pytest.mark.parametrize("norm", PER_SAMPLE, ids=str)
def test_norms_of_single_samples_are_applied_to_the_estimate(norm: nn.Module) -> None:
    model, x = conv_net(norm)
    raw = raw_estimate(model, x)
    pairs = racecar.Racecar(model, x).reconstruct(x)
    torch.testing.assert_close(pairs["3"][1], torch.relu(norm(raw)))
    assert not torch.allclose(norm(raw), raw)


def test_layer_norm_by_hand() -> None:
    torch.manual_seed(6)
    model = randomise(nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 3)))
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    raw = raw_estimate(model, x)
    pairs = racecar.Racecar(model, x).reconstruct(x)
    normal = by_hand(raw, [-1], 1e-5) * model[1].weight + model[1].bias
    torch.testing.assert_close(pairs["3"][1], F.gelu(normal))


@pytest.mark.parametrize("statistics", ["separate", "shared"])
def test_instance_norm_keeps_its_running_statistics_to_the_forward_pass(statistics: Any) -> None:
    model, x = conv_net(nn.InstanceNorm2d(4, affine=True, track_running_stats=True))
    plain = copy.deepcopy(model)
    plain(x)
    racecar.Racecar(model, x, norm_statistics=statistics)(x)
    torch.testing.assert_close(model[1].running_mean, plain[1].running_mean)
    torch.testing.assert_close(model[1].running_var, plain[1].running_var)


def test_an_example_of_one_sample_will_do() -> None:
    """Only the example's shape matters: one sample leaves batch norm a single value per channel."""
    torch.manual_seed(6)
    model = randomise(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)))
    x = torch.randn(6, 4, dtype=torch.float64)
    of_one, of_many = racecar.Racecar(model, x[:1]), racecar.Racecar(model, x)
    torch.testing.assert_close(of_one(x)[1], of_many(x)[1])
    spatial, images = conv_net(nn.InstanceNorm2d(4))
    racecar.Racecar(spatial, images[:1])(images)


@torch.library.custom_op("test_normalization::unit_rms_norm", mutates_args=())
def unit_rms_norm(x: Tensor) -> Tensor:
    return x / x.square().mean(-1, keepdim=True).sqrt()


unit_rms_norm.register_fake(torch.empty_like)


@pytest.mark.parametrize("norm", [lambda x: F.layer_norm(x, (5,)), unit_rms_norm])
def test_the_papers_input_range_is_an_activations_and_no_norms(norm: Any) -> None:
    """Also where the norm is a user's own operation, by its name."""
    op = torch.ops.test_normalization.unit_rms_norm.default
    racecar.register_reverse(op, lambda estimate, x: estimate, range=lambda estimate, x: unit_rms_norm(estimate))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.tanh(norm(self.first(x))))

    torch.manual_seed(0)
    net, x = Net(), torch.randn(4, 3)
    with torch.no_grad():
        raw = racecar.Racecar(net, x, layers="all").reconstruct(x)["first"][1]
        mapped = racecar.Racecar(net, x, layers="all", input_range="paper").reconstruct(x)["first"][1]
    torch.testing.assert_close(mapped, torch.tanh(raw))
