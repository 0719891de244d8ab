"""Analyses of trained networks."""

from racecar.analysis.mutual_information import (
    bin_activations,
    entropy,
    information_plane,
    mutual_information,
    pattern_ids,
)

__all__ = ["bin_activations", "entropy", "information_plane", "mutual_information", "pattern_ids"]
