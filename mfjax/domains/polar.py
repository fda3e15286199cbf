"""Cells of an angle from a pole, on which volumes are powers of its sine."""

from math import gamma, pi

import numpy as np


def sphere_volume(dim: int) -> float:
    """The volume of the unit sphere of dimension `dim`; two points for 0.

    >>> [round(sphere_volume(d) / pi, 3) for d in (1, 2)]
    [2.0, 4.0]
    """
    return 2 * pi ** ((dim + 1) / 2) / gamma((dim + 1) / 2)


def sine_integrals(n: int, power: int) -> np.ndarray:
    """int sin^power over each of `n` equal cells of [0, pi], to rounding, the least of them too.

    Gauss quadrature adds positive numbers only, where the recursion in the power cancels at the poles.

    >>> float(np.sum(sine_integrals(5, 3))) * 3
    4.0
    """
    nodes, weights = np.polynomial.legendre.leggauss(20 + power // 2)
    step = pi / n
    angles = step * (np.arange((n + 1) // 2)[:, None] + 0.5 * (nodes + 1))
    return _mirrored(0.5 * step * np.sin(angles) ** power @ weights, n)


def sines_of_centers(n: int) -> np.ndarray:
    """The sine at the center of each of `n` cells."""
    return _mirrored(np.sin(pi / n * (np.arange((n + 1) // 2) + 0.5)), n)


def sines_of_faces(n: int) -> np.ndarray:
    """The sine at the face above each of `n` cells, zero at the last one, which is the other pole."""
    below = np.arange(1, n + 1)
    return np.sin(pi / n * np.minimum(below, n - below))


def _mirrored(values: np.ndarray, n: int) -> np.ndarray:
    """Values in the first half of `n` cells, and the same ones, seen from the other pole, in the rest."""
    return np.concatenate([values, values[: n // 2][::-1]])
