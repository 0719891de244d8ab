"""Counts in a configuration: seeds, steps, widths, sizes."""

from __future__ import annotations


def at_least_one(config: object, *names: str) -> None:
    """Look at counts of a configuration.

    Args:
        config: a dataclass.
        names: of its fields; what is None was not asked for.

    Raises:
        ValueError: one is below 1.
    """
    for name in names:
        count = getattr(config, name)
        if count is not None and count < 1:
            raise ValueError(f"{name} must be at least 1, not {count}")
