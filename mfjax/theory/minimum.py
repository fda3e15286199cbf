"""The least reduced risk over all measures, by a convex program that shares nothing with the flow."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfjax._numerics.arrays import count, is_traced, kind, scalar
from mfjax.energies.reduced import ReducedPotential
from mfjax.energies.reduced_risk import ReducedRisk, require_reduced_risk
from mfjax.measures import Grid
from mfjax.regularizers import Power, Quadratic, Regularizer


class Minimum(eqx.Module):
    """What `minimize_reduced_risk` found, in float64 and on the host.

    - `value`: inf L over the measures on the grid, and `gap` >= value - inf L, its duality gap.
    - `measure`: the minimizer mu = |nu| / |nu|_TV, a `Grid`; `signed` (K,), or (K, c) for c outputs: the
      masses of nu.
    - `variation`: |nu|_TV, by the lengths of the rows of nu. At the optimum all its neurons have outer
      weights of the length |u| = |nu|_TV.
    - `weights` (K,) or (K, c): (f*)'(Phi^T alpha), the outer weights that a neuron in each cell would have;
      the dual certificate is |weights| <= variation, with equality on the support. For f = t^2 / 2 it reads
      |Phi^T alpha| <= |nu|_TV.
    - `potential`: the first variation of L at mu, minus f*(Phi^T alpha), as a function of any point.
    """

    value: Float[np.ndarray, ""]
    gap: Float[np.ndarray, ""]
    variation: Float[np.ndarray, ""]
    measure: Grid
    signed: Float[np.ndarray, "K *c"]
    weights: Float[np.ndarray, "K *c"]
    potential: ReducedPotential

    @property
    def atoms(self) -> Any:
        """The indices of the cells that carry mass."""
        return np.flatnonzero(lengths(self.signed))

    @property
    def violation(self) -> float:
        """max |weights| / variation - 1: zero to rounding at the optimum."""
        return float(np.max(lengths(self.weights)) / self.variation - 1)

    def gap_over(self, points: Float[Array | np.ndarray, "M d"]) -> float:
        """The duality gap where mu may charge `points` too: how far the grid is from the continuum."""
        least = lambda support: float(jnp.min(jax.vmap(self.potential)(support)))
        return float(self.gap) + max(0.0, least(self.measure.points) - least(points))


def lengths(rows: Float[np.ndarray, "K *c"]) -> Float[np.ndarray, " K"]:
    """|nu| of each cell: of a number, or of the row of several outputs."""
    return np.abs(rows) if rows.ndim == 1 else np.linalg.norm(rows, axis=1)


def minimize_reduced_risk(
    energy: ReducedRisk, grid: Grid, *, tolerance: float = 1e-10, max_atoms: int | None = None
) -> Minimum:
    """The least reduced risk over all probability measures on a grid, with a certificate.

    inf of the reduced risk L(mu) over probability measures mu on the cells of `grid`, with certificate.

    Minimizing over mu first leaves a convex problem for the signed measure nu = u mu: by Jensen's
    inequality int f(dnu/dmu) dmu >= f(|nu|_TV) for even f, with equality at mu = |nu| / |nu|_TV, so

    inf L = min over nu of f(|nu|_TV) + |int phi dnu - y|^2 / (2 lam),

    and for f = (t - a)^2 / 2 the first term becomes |nu|_TV^2 / 2 - a nu(1) + a^2 / 2. This is multiple
    kernel learning; with f = t^2 / 2 it is the Beurling lasso with a squared norm, and for several outputs,
    where |nu|_TV is made of lengths of rows, the group lasso. The dual is
    max over alpha of <alpha, y> - lam |alpha|^2 / 2 - max over omega of f*(Phi^T alpha (omega)), with
    alpha = (y - F) / lam at the optimum.

    Solved by an active set in the manner of Lawson and Hanson: the cell with the steepest descent joins,
    Newton's method on the support, and atoms that reach zero leave; on nu = p - q, p, q >= 0, or, for several
    outputs, on the masses mu. Solutions have at most N + 1 atoms for one output; where many measures are
    optimal (f_u and a smooth teacher) it is one of them.

    - `grid`: the cells that mu may charge; its masses do not matter.
    - `tolerance`: of the duality gap, relative to the greater of L and |nu|_TV^2.
    - `max_atoms`: 4 N + 100 additions unless given.

    Runs on the host: over several lam or data call it in a Python loop, not in `jit` or `mf.sweep`.

    **Raises** `ValueError` where traced, for lam = 0, a tolerance that is not positive, what is no `Grid`,
    and for f other than `Quadratic` and, for one output, `Power`; `RuntimeError` if the gap stays above 1e4
    times the tolerance. The optimum between cells is lower by O(spacing^2).

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
    if not isinstance(grid, Grid):
        raise ValueError(
            f"minimize_reduced_risk is over the masses of cells, got {kind(grid)}: give a measures.Grid, "
            "such as Grid.uniform(domain, 64)"
        )
    tolerance = float(scalar(tolerance, "tolerance", above=0))
    if max_atoms is not None:
        max_atoms = count(max_atoms, "max_atoms")
    task = _SeveralOutputs(energy, grid) if energy.outputs else _OneOutput(energy, grid)
    signed = task.solve(tolerance, max_atoms)
    alpha, weights, gap = task.certificate(signed)
    value = task.value(signed)
    variation = float(np.sum(lengths(signed)))
    if not gap <= 1e4 * tolerance * max(value, variation**2):
        raise RuntimeError(
            f"the minimization stopped at a duality gap of {gap:.1e} (value {value:.3e}): take a larger lam, "
            "a coarser grid or a larger max_atoms"
        )
    if variation == 0:
        raise RuntimeError("the optimal network is zero: every measure is a minimizer")
    dtype = grid.dtype
    measure = grid.with_weights(jnp.asarray(lengths(signed) / variation, dtype))
    potential = energy.potential_of(jnp.asarray(alpha, dtype))
    value, gap, variation = (np.asarray(number, float) for number in (value, gap, variation))
    return Minimum(value, gap, variation, measure, signed, weights, potential)


class _Program(ABC):
    """min over nu of h(|nu|_TV) - a nu(1) + |A nu - b|^2 / (2 lam)."""

    # Regularizers for which it is known that minimizing over mu leaves |nu|_TV.
    reducible: ClassVar[tuple[type[Regularizer], ...]]

    def __init__(self, energy: ReducedRisk, grid: Grid):
        energy.validate(grid)
        self.lam = float(energy.lam)
        if not self.lam > 0:
            raise ValueError(f"lam must be positive, got {self.lam:g}: the dual variable is (y - F) / lam")
        f = energy.regularizer
        if not isinstance(f, self.reducible):
            names = " and ".join(kind.__name__ for kind in self.reducible)
            outputs = f"{energy.outputs[0]} outputs" if energy.outputs else "one output"
            raise ValueError(
                f"the reduction to total variation of {outputs} is known for {names}, got {type(f).__name__}"
            )
        self.center = float(f.center) if isinstance(f, Quadratic) else 0.0
        self.order = float(f.order) if isinstance(f, Power) else 2.0
        self.scale = 1 / (self.order - 1) if isinstance(f, Power) else 0.5
        root = np.sqrt(np.asarray(energy.data.weights, float))
        self.a = root[:, None] * np.asarray(energy.features.matrix(grid.points, energy.data.x), float)
        y = np.asarray(energy.data.y, float)
        self.b = (root * y.T).T
        self.constant = 0.5 * self.center**2 * (y.shape[1] if y.ndim == 2 else 1)

    @abstractmethod
    def start(self) -> np.ndarray:
        """Masses >= 0 to begin with, the unknowns of the program."""

    @abstractmethod
    def signed(self, w: np.ndarray) -> np.ndarray:
        """The masses of nu."""

    @abstractmethod
    def descent(self, signed: np.ndarray) -> np.ndarray:
        """How the objective falls in each unknown: nowhere at the optimum."""

    @abstractmethod
    def on_support(self, w: np.ndarray, entering: int) -> np.ndarray:
        """The minimizer with the support of `w` and one more unknown; those that reach zero leave."""

    def solve(self, tolerance: float, max_atoms: int | None) -> np.ndarray:
        """The masses of nu."""
        w = self.start()
        blocked = np.zeros(w.size, bool)
        for _ in range(4 * self.a.shape[0] + 100 if max_atoms is None else max_atoms):
            signed = self.signed(w)
            if self.good(signed, tolerance):
                break
            free = np.where((w > 0) | blocked, -np.inf, self.descent(signed))
            entering = int(np.argmax(free))
            if not free[entering] > 0:
                break
            trial = self.on_support(w, entering)
            if trial[entering] > 0 and self.value(self.signed(trial)) < self.value(signed):
                w, blocked = trial, np.zeros(w.size, bool)
            else:
                # A column that depends on the support, to rounding.
                blocked[entering] = True
        return self.signed(w)

    def penalty(self, t: float) -> tuple[float, float, float]:
        """h(t) = f(t) minus its linear part, h'(t), h''(t), for t >= 0."""
        r, s = self.order, self.scale
        t = max(t, 1e-300)
        return s * t**r + self.constant, s * r * t ** (r - 1), s * r * (r - 1) * t ** (r - 2)

    def _outer_weight(self, score: np.ndarray) -> np.ndarray:
        """(f*)'(s), in closed form."""
        if self.order == 2:
            return self.center + score / (2 * self.scale)
        size = (np.abs(score) / (self.scale * self.order)) ** (1 / (self.order - 1))
        return np.sign(score) * size

    def score(self, signed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The weighted dual variable (b - A nu) / lam, and Phi^T alpha in each cell."""
        dual = (self.b - self.a @ signed) / self.lam
        return dual, self.a.T @ dual

    def value(self, signed: np.ndarray) -> float:
        """The objective."""
        size = self.penalty(float(np.sum(lengths(signed))))[0]
        misfit = float(np.sum((self.a @ signed - self.b) ** 2))
        return size - self.center * float(np.sum(signed)) + misfit / (2 * self.lam)

    def certificate(self, signed: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """(sqrt(weights) alpha, outer weights, duality gap) of nu and its own dual variable.

        Without cancellation.
        """
        dual, score = self.score(signed)
        weights, variation = self._outer_weight(score), float(np.sum(lengths(signed)))
        largest = float(np.max(lengths(weights)))
        # f*(s) = int_0^s (f*)' is s u - f(u), which grows with |u|.
        conjugate = (self.order - 1) * self.scale * largest**self.order - self.constant
        gap = self.penalty(variation)[0] - float(np.sum((score + self.center) * signed)) + conjugate
        return dual, weights, gap

    def good(self, signed: np.ndarray, tolerance: float) -> bool:
        """Whether the gap is within the tolerance."""
        total = float(np.sum(lengths(signed)))
        return total > 0 and self.certificate(signed)[2] <= tolerance * max(self.value(signed), total**2)


class _OneOutput(_Program):
    """The program over w = (p, q) >= 0, nu = p - q."""

    reducible = (Quadratic, Power)

    def start(self):
        return np.zeros(2 * self.a.shape[1])

    def signed(self, w):
        return w[: w.size // 2] - w[w.size // 2 :]

    def descent(self, signed):
        _, score = self.score(signed)
        total = float(np.sum(np.abs(signed)))
        level = self.penalty(total)[1] if total > 0 else 0.0
        return np.concatenate([score + self.center, -score - self.center]) - level

    def on_support(self, w, entering):
        k, w = self.a.shape[1], w.copy()
        support = np.append(np.flatnonzero(w), entering)
        for _ in range(20 * support.size + 100):
            sign = np.where(support < k, 1.0, -1.0)
            columns = sign * self.a[:, support % k] / np.sqrt(self.lam)
            total = max(float(np.sum(w)), 1e-12 if self.order == 2 else 1e-3)
            _, slope, curvature = self.penalty(total)
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


class _SeveralOutputs(_Program):
    """The program over mu: L is convex, with slopes -f*(s) and second derivatives (u_k . u_l) a_k^T G^-1 a_l.

    G = A diag(mu) A^T + lam. Where nu has rows, |nu_k| has curvature; in mu it is eliminated.
    """

    reducible = (Quadratic,)

    def start(self):
        mu = np.zeros(self.a.shape[1])
        mu[np.argmax(lengths(self.a.T @ self.b + self.center))] = 1
        return mu

    def signed(self, w):
        return w[:, None] * self._at(w, np.arange(w.size))[1]

    def descent(self, signed):
        squares = lengths(self.center + self.score(signed)[1]) ** 2
        masses = lengths(signed)
        return squares - masses @ squares / np.sum(masses)

    def _at(self, mu: np.ndarray, cells: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """L, and u and A^T G^-1 A in some cells, which hold the support."""
        a, b = self.a[:, cells], self.b - self.center * (self.a @ mu)[:, None]
        left, sizes, _ = np.linalg.svd(self.a[:, mu > 0] * np.sqrt(mu[mu > 0]), full_matrices=False)
        # Apart inside and outside of what the support spans, so that no digits of lam are lost.
        known, across = left.T @ b, left.T @ a
        beyond, outside = b - left @ known, a - left @ across
        inside = across.T / (self.lam + sizes**2)
        value = 0.5 * float(np.sum(known.T**2 / (self.lam + sizes**2)) + np.sum(beyond**2) / self.lam)
        weights = self.center + inside @ known + outside.T @ beyond / self.lam
        return value, weights, inside @ across + outside.T @ outside / self.lam

    def on_support(self, w, entering):
        mu, support = w, np.append(np.flatnonzero(w), entering)
        value, weights, curvature = self._at(mu, support)
        for _ in range(100):
            descent, count = 0.5 * lengths(weights) ** 2, support.size
            # Newton's equation on the simplex.
            second = (weights @ weights.T) * curvature
            size = np.max(np.abs(second))
            matrix = np.ones((count + 1, count + 1))
            matrix[:-1, :-1], matrix[-1, -1] = second / size, 0
            step = np.linalg.lstsq(matrix, np.append(descent / size, 0), rcond=1e-14)[0][:-1]
            if mu[entering] == 0 and entering in support and not step[support == entering] > 0:
                return mu
            room = np.where(step < 0, mu[support] / np.where(step < 0, -step, 1), np.inf)
            length = longest = min(1.0, np.min(room))
            # Relative to the first: an atom of little mass may be in the way.
            while length > 1e-6 * longest:
                trial = mu.copy()
                trial[support] = np.where(room <= length, 0, np.maximum(mu[support] + length * step, 0))
                trial /= np.sum(trial)
                found = self._at(trial, support)
                # Where values agree to rounding, slopes still tell, and an atom that left has said all.
                rounding, kept = 1e-13 * abs(value), trial[support] > 0
                leveled = np.ptp(lengths(found[1])[kept]) < 0.5 * np.ptp(lengths(weights))
                as_good = leveled or not kept.all()
                if found[0] < value - rounding or (found[0] <= value + rounding and as_good):
                    break
                length *= 0.5
            else:
                return mu
            mu, support = trial, support[kept]
            value, weights, curvature = self._at(mu, support)
        return mu
