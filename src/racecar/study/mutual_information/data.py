"""The 12-bit data set with its published labels, its two splits and its two ways to measure accuracy.

4096 patterns and labels by Ravid Shwartz-Ziv and Naftali Tishby, "Opening the Black Box of Deep Neural Networks via
Information" (2017), file ``var_u.mat`` of github.com/ravidziv/IDNNs (Copyright 2016 Ravid Shwartz-Ziv). The patterns
are the integers 0 to 4095 in binary, most significant bit first, so only the labels are shipped: ``labels.bin``, one
bit each in that order (2118 ones), packed to 512 bytes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

import torch
from torch import Tensor

Protocol = Literal["paper", "sound"]

N_TRAIN, N_TEST = 3277, 819
_SHA256 = "371b2b46a5052b4f69f7991ca141fb5afa1ac364ef7beb81ec900eecac2f86d9"


def patterns() -> Tensor:
    """All 12-bit patterns, [4096, 12] of 0 and 1, float32."""
    return (torch.arange(4096).unsqueeze(1) >> torch.arange(11, -1, -1) & 1).float()


def labels() -> Tensor:
    """The published label of every pattern, [4096] of 0 and 1, int64."""
    packed = files(__package__).joinpath("labels.bin").read_bytes()
    if hashlib.sha256(packed).hexdigest() != _SHA256:
        raise RuntimeError("labels.bin is damaged: install racecar-training again")
    return (torch.tensor(list(packed)).unsqueeze(1) >> torch.arange(7, -1, -1) & 1).flatten()


@dataclass(frozen=True)
class Split:
    """Indices of the training patterns [3277] and the test patterns [819]."""

    train: Tensor
    test: Tensor


def split(protocol: Protocol, seed: int) -> Split:
    """How the patterns are divided (A.1: 80 % for training).

    ``"paper"``: in file order, as IDNNs does without shuffling; the file is sorted, so the two parts differ (labels'
    means 0.437 and 0.836). ``"sound"``: shuffled with the run's seed and stratified by label.
    """
    if protocol == "paper":
        return Split(torch.arange(N_TRAIN), torch.arange(N_TRAIN, N_TRAIN + N_TEST))
    generator = torch.Generator().manual_seed(10_000 + seed)
    order = torch.randperm(4096, generator=generator)
    ones, zeros = order[labels()[order] == 1], order[labels()[order] == 0]
    test_ones = round(len(ones) * N_TEST / 4096)
    test = torch.cat([ones[:test_ones], zeros[: N_TEST - test_ones]])
    train = torch.cat([ones[test_ones:], zeros[N_TEST - test_ones :]])
    shuffle = torch.randperm(len(train), generator=generator)
    return Split(train[shuffle], test.sort().values)


def accuracy(correct: Tensor, protocol: Protocol, batch_size: int = 512) -> Tensor:
    """Test accuracy from [..., 819] correct answers: [...], float64.

    ``"paper"``: the plain mean over batches of 512 and 307, as IDNNs prints it; ``"sound"``: over samples.
    """
    if protocol == "sound":
        return correct.double().mean(-1)
    return torch.stack([b.double().mean(-1) for b in correct.split(batch_size, -1)]).mean(0)


def constant_predictor(protocol: Protocol, answer: int, seed: int = 0) -> float:
    """The test accuracy of a network that always answers ``answer`` on task A (or 1 - ``answer`` on task B)."""
    return float(accuracy(labels()[split(protocol, seed).test] == answer, protocol))
