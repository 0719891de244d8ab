"""Seeding the random numbers of one device, fast enough for every step."""

from __future__ import annotations

import torch


def seed_device(device: torch.device, number: int) -> None:
    """Seed the default generators of the CPU and of a device.

    ``torch.manual_seed`` does so for all kinds of device: where one has not been used it keeps a formatted stack for
    later, a millisecond and some memory at every call.

    Args:
        device: whose.
        number: within 32 bits.
    """
    torch.default_generator.manual_seed(number)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(number)
