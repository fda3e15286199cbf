"""The least reduced risk over all measures, by a convex program that shares nothing with the flow."""

from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfjax._numerics.arrays import is_traced
from mfjax.energies.reduced import ReducedPotential
from mfjax.energies.reduced_risk import ReducedRisk, require_reduced_risk
from mfjax.measures import Grid
from mfjax.regularizers import Power, Quadratic


class Minimum(eqx.Module):
    """What `minimize_reduced_risk` found, in float64 and on the host.

    - `value`: inf L over the measures on the grid, and `gap` >= value - inf L, its duality gap.
    - `measure`: the minimizer mu = |nu| / |nu|_TV, a `Grid`; `signed` (K,): the masses of nu.
    - `variation`: |nu|_TV. At the optimum all its neurons have the outer weight u = +-|nu|_TV.
    - `weights` (K,): (f*)'(Phi^T alpha), the outer weight that a neuron in each cell would have; the dual
      certificate is |weights| <= variation, with equality on the support. For f = t^2 / 2 it reads
      |Phi^T alpha| <= |nu|_TV.
    - `potential`: the first variation of L at mu, minus f*(Phi^T alpha), as a function of any point.
    """

    value: Float[np.ndarray, ""]
    gap: Float[np.ndarray, ""]
    variation: Float[np.ndarray, ""]
    measure: Grid
    signed: Float[np.ndarray, " K"]
    weights: Float[np.ndarray, " K"]
    potential: ReducedPotential

    @property
    def atoms(self) -> Any:
        """The indices of the cells that carry mass."""
        return np.flatnonzero(self.signed)

    @property
    def violation(self) -> float:
        """max |weights| / variation - 1: zero to rounding at the optimum."""
        return float(np.max(np.abs(self.weights)) / self.variation - 1)

    def gap_over(self, points: Float[Array | np.ndarray, "M d"]) -> float:
        """The duality gap where mu may charge `points` too: how far the grid is from the continuum."""
        least = lambda support: float(jnp.min(jax.vmap(self.potential)(support)))
        return float(self.gap) + max(0.0, least(self.measure.points) - least(points))


def minimize_reduced_risk(
    energy: ReducedRisk, grid: Grid, *, tolerance: float = 1e-10, max_atoms: int | None = None
) -> Minimum:
    """The least reduced risk over all probability measures on a grid, with a certificate.

    inf of the reduced risk L(mu) over probability measures mu on the cells of `grid`, with certificate.

    Minimizing over mu first leaves a convex problem for the signed measure nu = u mu: by Jensen's
    inequality int f(dnu/dmu) dmu >= f(|nu|_TV) for even f, with equality at mu = |nu| / |nu|_TV, so

    inf L = min over nu of f(|nu|_TV) + |int phi dnu - y|^2 / (2 lam),

    and for f = (t - c)^2 / 2 the first term becomes |nu|_TV^2 / 2 - c nu(1) + c^2 / 2. This is multiple
    kernel learning; with f = t^2 / 2 it is the Beurling lasso with a squared norm. The dual is
    max over alpha of <alpha, y> - lam |alpha|^2 / 2 - max over omega of f*(Phi^T alpha (omega)), with
    alpha = (y - F) / lam at the optimum.

    Solved on nu = p - q, p, q >= 0, by an active set in the manner of Lawson and Hanson: the cell with the
    steepest descent joins, Newton's method on the support, and atoms that reach zero leave. Every solution
    has at most N + 1 atoms; where many measures are optimal (f_u and a smooth teacher) it is one of them.

    - `grid`: the cells that mu may charge; its masses do not matter.
    - `tolerance`: of the duality gap, relative to the greater of L and |nu|_TV^2.
    - `max_atoms`: 4 N + 100 additions unless given.

    Runs on the host: over several lam or data call it in a Python loop, not in `jit` or `mf.sweep`.

    **Raises** `ValueError` where traced, for lam = 0 and for f other than `Quadratic` and `Power`,
    `RuntimeError` if the gap stays above 1e4 times the tolerance. The optimum between cells is lower by
    O(spacing^2).

    Source: VarPro paper, Lemma 3.2 for f = |t|^r; other centers are derived here.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> x, y = jnp.eye(2), jnp.array([1.0, 0.0])
    >>> energy = ReducedRisk(mf.features.ReLU(), x, y, lam=1.0)
    >>> found = minimize_reduced_risk(energy, Grid.uniform(mf.domains.Sphere(1), 64))
    >>> bool(found.gap < 1e-8), round(float(found.value), 2)
    (True, 0.17)
    """
    require_reduced_risk(energy, "minimize_reduced_risk")
    if is_traced((energy, grid)):
        raise ValueError(
            "minimize_reduced_risk runs on the host, and its energy or grid is traced: call it outside jit, "
            "vmap and mf.sweep, in a Python loop over the values"
        )
    task = _Programme(energy, grid)
    signed = task.solve(tolerance, max_atoms)
    alpha, weights, gap = task.certificate(signed)
    value = task.value(signed)
    variation = float(np.sum(np.abs(signed)))
    if not gap <= 1e4 * tolerance * max(value, variation**2):
        raise RuntimeError(
            f"the minimization stopped at a duality gap of {gap:.1e} (value {value:.3e}): take a larger lam, "
            "a coarser grid or a larger max_atoms"
        )
    if variation == 0:
        raise RuntimeError("the optimal network is zero: every measure is a minimizer")
    dtype = grid.dtype
    measure = grid.with_weights(jnp.asarray(np.abs(signed) / variation, dtype))
    alpha = jnp.asarray(np.sqrt(np.asarray(energy.data.weights, float)) * alpha, dtype)
    potential = energy.potential_of(alpha)
    value, gap, variation = (np.asarray(number, float) for number in (value, gap, variation))
    return Minimum(value, gap, variation, measure, signed, weights, potential)


class _Programme:
    """min over w = (p, q) >= 0 of h(1.w) - l.w + |A (p - q) - b|^2 / (2 lam)."""

    def __init__(self, energy: ReducedRisk, grid: Grid):
        energy.validate(grid)
        self.lam = float(energy.lam)
        if not self.lam > 0:
            raise ValueError(f"lam must be positive, got {self.lam:g}: the dual variable is (y - F) / lam")
        if energy.data.outputs is not None:
            raise ValueError(
                f"minimize_reduced_risk is for one output, got y of shape {energy.data.y.shape}: where one "
                "column is taken it is energies.ReducedRisk(features, x, y[:, 0], lam)"
            )
        f = energy.regularizer
        if not isinstance(f, (Quadratic, Power)):
            raise ValueError(
                f"the reduction to total variation is known for Quadratic and Power, got {type(f).__name__}"
            )
        self.center = float(f.center) if isinstance(f, Quadratic) else 0.0
        self.order = float(f.order) if isinstance(f, Power) else 2.0
        self.scale = 1 / (self.order - 1) if isinstance(f, Power) else 0.5
        root = np.sqrt(np.asarray(energy.data.weights, float))
        # Data of no weight say nothing, and alpha is not defined on them by the weighted residual.
        self.root = np.where(root > 0, root, 1)
        self.a = root[:, None] * np.asarray(energy.features.matrix(grid.points, energy.data.x), float)
        self.b = root * np.asarray(energy.data.y, float)

    def _penalty(self, t: float) -> tuple[float, float, float]:
        """h(t) = f(t) minus its linear part, h'(t), h''(t), for t >= 0."""
        r, s = self.order, self.scale
        t = max(t, 1e-300)
        return s * t**r + 0.5 * self.center**2, s * r * t ** (r - 1), s * r * (r - 1) * t ** (r - 2)

    def _outer_weight(self, score: np.ndarray) -> np.ndarray:
        """(f*)'(s), in closed form."""
        if self.order == 2:
            return self.center + score / (2 * self.scale)
        size = (np.abs(score) / (self.scale * self.order)) ** (1 / (self.order - 1))
        return np.sign(score) * size

    def _score(self, signed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The weighted dual variable (b - A nu) / lam, and Phi^T alpha in each cell."""
        dual = (self.b - self.a @ signed) / self.lam
        return dual, dual @ self.a

    def value(self, signed: np.ndarray) -> float:
        """The objective."""
        residual = self.a @ signed - self.b
        size = self._penalty(float(np.sum(np.abs(signed))))[0]
        return size - self.center * float(np.sum(signed)) + float(residual @ residual) / (2 * self.lam)

    def certificate(self, signed: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """(alpha, outer weights, duality gap) of nu and of its own dual variable, without cancellation."""
        dual, score = self._score(signed)
        weights, variation = self._outer_weight(score), float(np.sum(np.abs(signed)))
        largest = float(np.max(np.abs(weights)))
        # f*(s) = int_0^s (f*)' is s u - f(u), which grows with |u|.
        conjugate = (self.order - 1) * self.scale * largest**self.order - 0.5 * self.center**2
        gap = self._penalty(variation)[0] - float((score + self.center) @ signed) + conjugate
        return dual / self.root, weights, gap

    def solve(self, tolerance: float, max_atoms: int | None) -> np.ndarray:
        """The masses of nu."""
        k = self.a.shape[1]
        w, blocked = np.zeros(2 * k), np.zeros(2 * k, bool)
        for _ in range(4 * self.a.shape[0] + 100 if max_atoms is None else max_atoms):
            signed = w[:k] - w[k:]
            _, score = self._score(signed)
            total = float(np.sum(w))
            level = self._penalty(total)[1] if total > 0 else 0.0
            # Descent of each half-cell: the certificate says that none is positive.
            descent = np.concatenate([score + self.center, -score - self.center]) - level
            if total > 0 and self.certificate(signed)[2] <= tolerance * max(self.value(signed), total**2):
                break
            free = np.where((w > 0) | blocked, -np.inf, descent)
            entering = int(np.argmax(free))
            if not free[entering] > 0:
                break
            trial = self._on_support(w, entering)
            if trial[entering] > 0 and self.value(trial[:k] - trial[k:]) < self.value(signed):
                w, blocked = trial, np.zeros(2 * k, bool)
            else:
                # A column that depends on the support, to rounding.
                blocked[entering] = True
        return w[:k] - w[k:]

    def _on_support(self, w: np.ndarray, entering: int) -> np.ndarray:
        """The minimizer with the support of `w` and one more half-cell; those that reach zero leave."""
        k, w = self.a.shape[1], w.copy()
        support = np.append(np.flatnonzero(w), entering)
        for _ in range(20 * support.size + 100):
            sign = np.where(support < k, 1.0, -1.0)
            columns = sign * self.a[:, support % k] / np.sqrt(self.lam)
            total = max(float(np.sum(w)), 1e-12 if self.order == 2 else 1e-3)
            _, slope, curvature = self._penalty(total)
            gradient = columns.T @ (columns @ w[support] - self.b / np.sqrt(self.lam)) + slope
            gradient = gradient - self.center * sign
            # Gram matrix of these columns and the row of h'' by its triangular factor: half the digits lost.
            factor = cast(
                np.ndarray,
                np.linalg.qr(np.vstack([columns, np.full(support.size, np.sqrt(curvature))]), mode="r"),
            )
            diagonal = np.abs(np.diag(factor))
            if factor.shape[0] < support.size or diagonal.min() <= 1e-13 * diagonal.max():
                return w
            step = -np.linalg.solve(factor, np.linalg.solve(factor.T, gradient))
            ahead = w[support] + step
            leaving = (ahead <= 0) & (step < 0)
            if not leaving.any():
                w[support] = ahead
                if np.max(np.abs(step)) <= 1e-14 * np.sum(w) or self.order == 2:
                    return w
                continue
            length = np.min(-w[support][leaving] / step[leaving])
            w[support] = np.maximum(w[support] + length * step, 0)
            w[support[leaving & (ahead + (length - 1) * step <= 0)]] = 0
            support = support[(w[support] > 0) | ((support == entering) & ~leaving)]
        return w
