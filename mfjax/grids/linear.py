"""The linear systems of implicit steps: (I + tau G) x = b, G x what leaves each cell.

Columns of G sum to zero and only its diagonal is positive: the matrix is the transpose of a diagonally
dominant M-matrix, and its inverse is non-negative and conserves sums, for every tau. So are
solutions while tau times the rates stays below the inverse of the precision; beyond, rounding loses the 1.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import bicgstab
from jaxtyping import Array, Float

from mfjax._numerics.arrays import known
from mfjax.grids.elimination import Halving, Ring, halved
from mfjax.grids.faces import below
from mfjax.grids.rates import Pairs, through

ITERATIONS = 2000
# Below this number of cells LAPACK is as fast as halving, which costs compilation.
DIRECT = 256


class ShiftedFluxes(eqx.Module):
    """The matrix of an implicit step with linear fluxes, made ready for several solves.

    A = I + tau G for the linear fluxes `pairs` through the faces, made ready for several solves.

    One axis: every second cell is eliminated while more than `DIRECT` are left, in vector operations; then
    tridiagonal elimination, O(K), with one more right-hand side for the periodic corner (Sherman, Morrison
    1950). Several axes: BiCGStab, preconditioned by the diagonal, to a relative residual
    of `tolerance`; about sqrt(condition number) iterations of cost O(K).

    The sum of what `solve` returns is that of the right-hand side; what the solver misses of it is spread
    in proportion to |x|.
    """

    pairs: Pairs
    tau: Float[Array, ""]
    halvings: tuple[Halving, ...]
    bands: tuple[Array, Array, Array] | None
    corner: tuple[Array, Array] | None
    periodic: tuple[bool, ...] = eqx.field(static=True)

    def __init__(self, pairs, tau, periodic):
        self.pairs, self.tau, self.periodic = pairs, tau, periodic
        self.halvings, self.bands, self.corner = (), None, None
        if self.banded:
            ((forward, backward),) = pairs
            ring = Ring(jnp.ones_like(forward), tau * forward, tau * jnp.roll(backward, 1))
            while ring.excess.shape[0] > DIRECT:
                halving, ring = halved(ring)
                self.halvings = (*self.halvings, halving)
            self.bands, self.corner = self._banded_form(ring)

    @property
    def banded(self) -> bool:
        """Whether the grid has one axis, so that systems are solved directly."""
        return len(self.periodic) == 1

    @property
    def tolerance(self) -> float:
        """Relative residual of the iterative solve on grids of several axes."""
        return 1e-10 if self.pairs[0][0].dtype == jnp.float64 else 1e-5

    def __call__(self, x: Float[Array, " K"]) -> Float[Array, " K"]:
        """A x."""
        return x + self.tau * through(self.pairs, x)

    def solve(self, b: Float[Array, " K"]) -> Float[Array, " K"]:
        """A^{-1} b, with the sum of b exactly."""
        return with_sum_of(self.inverse(b), b)

    def inverse(self, b: Float[Array, " K"]) -> Float[Array, " K"]:
        """A^{-1} b as the solver leaves it, for callers that correct the sum themselves."""
        return self._banded(b) if self.banded else self._iterative(b)

    def failed(self, x: Float[Array, " K"], b: Float[Array, " K"]) -> Array:
        """Whether an iterative solve stopped far from its tolerance; a direct one does not fail."""
        if self.banded:
            return jnp.asarray(False)
        misfit = jnp.sum(jnp.abs(b - self(x)))
        # Of all that is subtracted, which rounding is a share of.
        size = jnp.sum(jnp.abs(b)) + jnp.sum(self._diagonal() * jnp.abs(x))
        return ~(misfit <= 1000 * self.tolerance * size)

    def _banded_form(self, ring: Ring):
        """The bands of T and, where A = T + u v^T is periodic, T^{-1} u with the last entry of v."""
        # Entry 0 of the lower and the last of the upper diagonal couple the first and the last cell.
        lower, upper = -jnp.roll(ring.right, 1), -jnp.roll(ring.left, -1)
        diagonal = ring.diagonal
        inside = lambda main: (lower.at[0].set(0), main, upper.at[-1].set(0))
        if not self.periodic[0]:
            return inside(diagonal), None
        u = jnp.zeros_like(diagonal).at[0].set(-diagonal[0]).at[-1].set(upper[-1])
        v_last = -lower[0] / diagonal[0]
        bands = inside((diagonal.at[0].multiply(2)).at[-1].add(-upper[-1] * v_last))
        return bands, (_tridiagonal(*bands, u), v_last)

    def _banded(self, b: Array) -> Array:
        eliminated = []
        for halving in self.halvings:
            b, gone = halving.forward(b)
            eliminated.append(gone)
        x = _tridiagonal(*known(self.bands), b)
        if self.corner is not None:
            y, v_last = self.corner
            x = x - y * (x[0] + v_last * x[-1]) / (1 + y[0] + v_last * y[-1])
        for halving, gone in zip(reversed(self.halvings), reversed(eliminated), strict=True):
            x = halving.backward(x, gone)
        return x

    def _diagonal(self) -> Array:
        leaving = sum(forward + below(backward, axis) for axis, (forward, backward) in enumerate(self.pairs))
        return 1 + self.tau * jnp.ravel(leaving)

    def _iterative(self, b: Array) -> Array:
        inverse = 1 / self._diagonal()
        options = {"tol": self.tolerance, "maxiter": ITERATIONS, "M": partial(jnp.multiply, inverse)}
        return bicgstab(self, b, **options)[0]


def with_sum_of(x: Float[Array, " K"], b: Float[Array, " K"] | float) -> Float[Array, " K"]:
    """`x` with the sum of `b`, the difference spread in proportion to |x|, so that zeros stay zero."""
    share = jnp.abs(x)
    total = jnp.sum(share)
    return x + share * (jnp.sum(b - x) / jnp.where(total > 0, total, 1))


def _tridiagonal(lower: Array, diagonal: Array, upper: Array, b: Array) -> Array:
    return jax.lax.linalg.tridiagonal_solve(lower, diagonal, upper, b[:, None])[:, 0]
