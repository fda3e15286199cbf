"""The linear systems of implicit steps: (I + tau sum_k L_k diag(s_k)) x = b.

L_k is the stiffness of an internal energy and s_k > 0 the slope of its pressure. The matrix is the
transpose of a diagonally dominant M-matrix: its inverse is non-negative and conserves sums, for every tau.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import bicgstab, cg
from jaxtyping import Array, Float

from mfjax.grids.diffusion import Conductance, stiffness

ITERATIONS = 2000


class ShiftedStiffness(eqx.Module):
    """A = I + tau sum_k L_k diag(s_k), made ready for several solves.

    One axis: tridiagonal elimination, O(K), with one more right-hand side for the periodic corner
    (Sherman, Morrison 1950). Several axes: conjugate gradients on the symmetrised matrix (one internal
    energy) or BiCGStab (several), preconditioned by the diagonal, to a relative residual of `tolerance`;
    about sqrt(condition number) iterations of cost O(K).

    The sum of a solution is that of the right-hand side; what the solver misses of it is spread
    in proportion to |x|.
    """

    conductances: tuple[Conductance, ...]
    slopes: tuple[Float[Array, " K"], ...]
    tau: Float[Array, ""]
    bands: tuple[Array, Array, Array] | None
    corner: tuple[Array, Array] | None
    periodic: tuple[bool, ...] = eqx.field(static=True)

    def __init__(self, conductances, slopes, tau, periodic):
        self.conductances = tuple(conductances)
        self.slopes = tuple(slopes)
        self.tau = tau
        self.periodic = periodic
        self.bands = self.corner = None
        if self.banded:
            self.bands, self.corner = self._banded_form()

    @property
    def banded(self) -> bool:
        """Whether the grid has one axis, so that systems are solved directly."""
        return len(self.periodic) == 1

    @property
    def tolerance(self) -> float:
        """Relative residual of the iterative solve on grids of several axes."""
        return 1e-10 if self.slopes[0].dtype == jnp.float64 else 1e-5

    def __call__(self, x: Float[Array, " K"]) -> Float[Array, " K"]:
        """A x."""
        pairs = zip(self.conductances, self.slopes, strict=True)
        return x + self.tau * sum(stiffness(through, s * x) for through, s in pairs)

    def solve(self, b: Float[Array, " K"]) -> Float[Array, " K"]:
        """A^{-1} b."""
        x = self._banded(b) if self.banded else self._iterative(b)
        return with_sum_of(x, b)

    def failed(self, x: Float[Array, " K"], b: Float[Array, " K"]) -> Array:
        """Whether an iterative solve stopped far from its tolerance; a direct one does not fail."""
        if self.banded:
            return jnp.asarray(False)
        misfit, size = jnp.sum(jnp.abs(b - self(x))), jnp.sum(jnp.abs(b))
        return misfit > 1000 * self.tolerance * size

    def _bands(self) -> tuple[Array, Array, Array]:
        """Lower, main and upper diagonal; entry 0 of the lower one couples cells 0 and K - 1."""
        lower = diagonal = upper = 0
        for (through,), s in zip(self.conductances, self.slopes, strict=True):
            before = jnp.roll(through, 1)
            diagonal = diagonal + (through + before) * s
            lower = lower - before * jnp.roll(s, 1)
            upper = upper - through * jnp.roll(s, -1)
        return self.tau * lower, 1 + self.tau * diagonal, self.tau * upper

    def _banded_form(self):
        """The bands of T and, where A = T + u v^T is periodic, T^{-1} u with the last entry of v."""
        lower, diagonal, upper = self._bands()
        inside = lambda main: (lower.at[0].set(0), main, upper.at[-1].set(0))
        if not self.periodic[0]:
            return inside(diagonal), None
        u = jnp.zeros_like(diagonal).at[0].set(-diagonal[0]).at[-1].set(upper[-1])
        v_last = -lower[0] / diagonal[0]
        bands = inside((diagonal.at[0].multiply(2)).at[-1].add(-upper[-1] * v_last))
        return bands, (_tridiagonal(*bands, u), v_last)

    def _banded(self, b: Array) -> Array:
        x = _tridiagonal(*self.bands, b)
        if self.corner is None:
            return x
        y, v_last = self.corner
        return x - y * (x[0] + v_last * x[-1]) / (1 + y[0] + v_last * y[-1])

    def _diagonal(self) -> Array:
        total = 0
        for through, s in zip(self.conductances, self.slopes, strict=True):
            both = sum(c + jnp.roll(c, 1, axis) for axis, c in enumerate(through))
            total = total + both.ravel() * s
        return 1 + self.tau * total

    def _iterative(self, b: Array) -> Array:
        inverse = 1 / self._diagonal()
        options = {"tol": self.tolerance, "maxiter": ITERATIONS, "M": partial(jnp.multiply, inverse)}
        if len(self.slopes) > 1:
            return bicgstab(self, b, **options)[0]
        # x = y / root, with (I + tau root L root) y = root b symmetric.
        root = jnp.sqrt(self.slopes[0])
        symmetric = lambda y: y + self.tau * root * stiffness(self.conductances[0], root * y)
        y, _ = cg(symmetric, root * b, **options)
        return b - self.tau * stiffness(self.conductances[0], root * y)


def with_sum_of(x: Float[Array, " K"], b: Float[Array, " K"] | float) -> Float[Array, " K"]:
    """`x` with the sum of `b`, the difference spread in proportion to |x|, so that zeros stay zero."""
    share = jnp.abs(x)
    total = jnp.sum(share)
    return x + share * (jnp.sum(b - x) / jnp.where(total > 0, total, 1))


def _tridiagonal(lower: Array, diagonal: Array, upper: Array, b: Array) -> Array:
    return jax.lax.linalg.tridiagonal_solve(lower, diagonal, upper, b[:, None])[:, 0]
