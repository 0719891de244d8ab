"""Analyses of trained networks."""

from racecar.analysis.calibration import Calibration, calibration
from racecar.analysis.features import dead_units, effective_rank, weight_spectrum
from racecar.analysis.mutual_information import (
    bin_activations,
    entropy,
    information_plane,
    mutual_information,
    pattern_ids,
)
from racecar.analysis.novelty import Mahalanobis, auroc, energy, layer_errors, pair_errors
from racecar.analysis.probe import (
    LinearProbe,
    choose_l2,
    few_labels,
    fit_probe,
    knn_accuracy,
    knn_predict,
    usable_information,
)
from racecar.analysis.singular_vectors import principal_angles, principal_directions, right_singular_vectors

__all__ = [
    "Calibration",
    "LinearProbe",
    "Mahalanobis",
    "auroc",
    "bin_activations",
    "calibration",
    "choose_l2",
    "dead_units",
    "effective_rank",
    "energy",
    "entropy",
    "few_labels",
    "fit_probe",
    "information_plane",
    "knn_accuracy",
    "knn_predict",
    "layer_errors",
    "mutual_information",
    "pair_errors",
    "pattern_ids",
    "principal_angles",
    "principal_directions",
    "right_singular_vectors",
    "usable_information",
    "weight_spectrum",
]
