"""Baseline: the energy distance of two samples from the whole tensors of their differences, in NumPy."""

import numpy as np


def mean_distance(x, y):
    """E|x - y|."""
    return np.linalg.norm(x[:, None] - y[None], axis=-1).mean(dtype=np.float64)


def energy_distance(x, y):
    """2 E|x - y| - E|x - x'| - E|y - y'| of points (M, d), (K, d): the V-statistic."""
    return float(2 * mean_distance(x, y) - mean_distance(x, x) - mean_distance(y, y))
