"""Weights and moments to tensors and back."""

import pytest
import torch
from torch import nn

from racecar.study.core.checkpoints import pack, unpack


def trained(steps: int, kind=torch.optim.Adam) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).to(memory_format=torch.channels_last)
    optimiser = kind(model.parameters(), 0.1)
    for step in range(steps):
        step_on(model, optimiser, step)
    return model, optimiser


def step_on(model: nn.Module, optimiser: torch.optim.Optimizer, number: int) -> None:
    x = torch.rand(2, 2, 5, 5, generator=torch.Generator().manual_seed(number))
    optimiser.zero_grad()
    model(x).square().sum().backward()
    optimiser.step()


@pytest.mark.parametrize("kind", [torch.optim.Adam, lambda p, r: torch.optim.SGD(p, r, momentum=0.9), torch.optim.SGD])
def test_training_goes_on_from_packed_tensors(kind) -> None:
    whole, optimiser = trained(2, kind)
    tensors = {k: v.contiguous() for k, v in pack([whole], [optimiser]).items()}  # as files hold them
    step_on(whole, optimiser, 2)
    again, other = trained(0, kind)
    unpack(tensors, [again], [other])
    step_on(again, other, 2)
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_what_is_packed_is_a_copy() -> None:
    model, optimiser = trained(1)
    tensors = pack([model], [optimiser])
    before = {k: v.clone() for k, v in tensors.items()}
    step_on(model, optimiser, 1)
    assert all(torch.equal(before[k], v) for k, v in tensors.items())


def test_tensors_of_something_else_are_refused() -> None:
    model, optimiser = trained(1)
    tensors = pack([model, nn.Linear(2, 2)], [optimiser, optimiser])
    with pytest.raises(KeyError):
        unpack(tensors, [model], [optimiser])
    with pytest.raises((KeyError, ValueError, RuntimeError)):
        unpack(pack([nn.Linear(2, 2)], []), [model], [optimiser])
