"""Baseline: variable projection of ReLU on the circle in NumPy and SciPy: dense Gram matrix, Cholesky."""

import numpy as np
import scipy.linalg


class VarPro:
    """omega_i <- normalized(omega_i - step P_i grad V(omega_i)) for uniform masses 1/M, in the dtype of `x`.

    V = -(u^2 - center^2) / 2 with u(omega) = center + mean_j relu(omega . x_j) (y_j - F_j) / lam; P_i is the
    projection to the tangent. The system is that of the smaller side of the feature matrix.
    """

    def __init__(self, x, y, lam, center=1.0, step=2.0**-10):
        self.x, self.y = x, y
        as_given = x.dtype.type
        self.lam, self.center, self.step = as_given(lam), as_given(center), as_given(step)

    def solve(self, points):
        """(features (N, M), outer weights u (M,), dual variable (y - F) / lam (N,), reduced risk)."""
        features = self.x @ points.T
        np.maximum(features, 0, out=features)
        n, m = features.shape
        target = self.y - self.center * features.mean(axis=1)
        small = features.T if m <= n else features
        gram = small @ small.T
        gram /= n * m
        gram[np.diag_indices_from(gram)] += self.lam
        right = features.T @ target / n if m <= n else target
        solved = scipy.linalg.cho_solve(
            scipy.linalg.cho_factor(gram, lower=True, overwrite_a=True, check_finite=False),
            right,
            check_finite=False,
        )
        shift = solved if m <= n else features.T @ solved / n
        error = target - features @ shift / m
        risk = 0.5 * np.mean(error**2) / self.lam + 0.5 * np.mean(shift**2)
        return features, self.center + shift, error / self.lam, risk

    def __call__(self, points):
        """(points (M, 2) after one step, reduced risk before it)."""
        features, u, dual, risk = self.solve(points)
        active = (features > 0).astype(features.dtype)
        slope = active.T @ (dual[:, None] * self.x) / len(self.y)
        velocity = u[:, None] * slope
        velocity -= np.sum(velocity * points, axis=1, keepdims=True) * points
        moved = points + self.step * velocity
        return moved / np.linalg.norm(moved, axis=1, keepdims=True), risk

    def run(self, points, steps):
        """The points after `steps` steps."""
        for _ in range(steps):
            points, _ = self(points)
        return points
