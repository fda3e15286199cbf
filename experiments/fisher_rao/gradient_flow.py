"""Neurons by themselves, without mfjax: what the flow of their measure is compared with."""

import numpy as np
from scipy.integrate import solve_ivp


def kernel_and_gradient(b, other):
    """E relu(b . z) relu(c . z), z standard normal, and its gradient in b, for all pairs (n, d), (k, d)."""
    norm, size = np.linalg.norm(b, axis=1)[:, None], np.linalg.norm(other, axis=1)[None, :]
    t = np.arccos(np.clip(b @ other.T / (norm * size), -1, 1))
    value = norm * size * (np.sin(t) + (np.pi - t) * np.cos(t)) / (2 * np.pi)
    along = (size * np.sin(t) / norm)[:, :, None] * b[:, None, :]
    return value, (along + (np.pi - t)[:, :, None] * other[None]) / (2 * np.pi)


def neurons(times, bound, b, teachers, c):
    """(a, b) at `times` by gradient flow of 1/2 E (sum_i a_i relu(b_i . z) - sum_j c_j relu(t_j . z))^2.

    They start with a_i = |b_i|; `bound` neurons keep it by definition and train b alone.
    """
    n = len(b)
    lengths = lambda b: np.linalg.norm(b, axis=1)

    def rate(_, flat):
        b = flat[n:].reshape(n, -1)
        a = lengths(b) if bound else flat[:n]
        value, gradient = kernel_and_gradient(b, np.concatenate([b, teachers]))
        error = np.concatenate([a, -c])
        slope_a, slope_b = value @ error, a[:, None] * np.einsum("ijd,j->id", gradient, error)
        if bound:
            slope_b = slope_b + (slope_a / a)[:, None] * b
        return -np.concatenate([slope_a, slope_b.ravel()])

    start = np.concatenate([lengths(b), b.ravel()])
    options = {"method": "DOP853", "rtol": 1e-12, "atol": 1e-13}
    path = solve_ivp(rate, (0, times[-1]), start, t_eval=times, **options).y.T
    b = path[:, n:].reshape(len(times), n, -1)
    return (np.linalg.norm(b, axis=-1) if bound else path[:, :n]), b
