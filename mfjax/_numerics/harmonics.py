"""Zonal harmonics of the sphere S^d: Gegenbauer polynomials of the cosine of the polar angle."""

from math import comb

import numpy as np


def zonal_harmonics(degree: int, dim: int) -> np.ndarray:
    """The table A with P_l(cos theta) = sum_k A_lk cos(k theta), P_l(1) = 1, for l = 0, ..., degree.

    Its entries are not negative and rows add up to one: values and slopes are right to rounding, at the
    poles too. P_l is the Gegenbauer polynomial of index (d - 1) / 2, that of Legendre on S^2, and
    cos(l theta) on the circle.

    >>> zonal_harmonics(2, 2).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.25, 0.0, 0.75]]
    """
    if dim == 1:
        return np.eye(degree + 1)
    k = np.arange(1, degree + 1)
    rising = np.cumprod(np.concatenate([[1.0], ((dim - 3) / 2 + k) / k]))
    table = np.zeros((degree + 1, degree + 1))
    for n in range(degree + 1):
        frequency = np.abs(n - 2 * np.arange(n + 1))
        np.add.at(table[n], frequency, rising[: n + 1] * rising[n::-1])
    return table / table.sum(axis=1, keepdims=True)


def multiplicities(degree: int, dim: int) -> np.ndarray:
    """The numbers N_l of independent harmonics of degree l = 0, ..., degree on S^dim.

    >>> multiplicities(3, 1).tolist(), multiplicities(3, 2).tolist()
    ([1.0, 2.0, 2.0, 2.0], [1.0, 3.0, 5.0, 7.0])
    """
    below = lambda n: comb(n + dim, dim) if n >= 0 else 0
    return np.array([float(below(n) - below(n - 2)) for n in range(degree + 1)])
