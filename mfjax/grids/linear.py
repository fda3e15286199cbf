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
from mfjax.measures import Grid

ITERATIONS = 2000
# Below this number of cells LAPACK is as fast as halving, which costs compilation.
DIRECT = 256


class Line(eqx.Module):
    """The cells of one axis, each passing mass to its neighbors, made ready for several solves.

    Every second cell is eliminated while more than `DIRECT` are left, in vector operations; then tridiagonal
    elimination, O(K), with one more right-hand side for the periodic corner (Sherman, Morrison 1950).
    """

    halvings: tuple[Halving, ...]
    bands: tuple[Array, Array, Array]
    corner: tuple[Array, Array] | None

    def __init__(self, ring: Ring, closed: bool):
        self.halvings = ()
        while ring.excess.shape[0] > DIRECT:
            halving, ring = halved(ring)
            self.halvings = (*self.halvings, halving)
        # Entry 0 of the lower and the last of the upper diagonal couple the first and the last cell.
        lower, upper = -jnp.roll(ring.right, 1), -jnp.roll(ring.left, -1)
        diagonal = ring.diagonal
        inside = lambda main: (lower.at[0].set(0), main, upper.at[-1].set(0))
        if not closed:
            self.bands, self.corner = inside(diagonal), None
            return
        # T^{-1} u with the last entry of v, where the matrix is T + u v^T.
        u = jnp.zeros_like(diagonal).at[0].set(-diagonal[0]).at[-1].set(upper[-1])
        v_last = -lower[0] / diagonal[0]
        self.bands = inside((diagonal.at[0].multiply(2)).at[-1].add(-upper[-1] * v_last))
        self.corner = _tridiagonal(*self.bands, u), v_last

    def solve(self, b: Float[Array, " K"]) -> Float[Array, " K"]:
        """The solution for one right-hand side."""
        eliminated = []
        for halving in self.halvings:
            b, gone = halving.forward(b)
            eliminated.append(gone)
        x = _tridiagonal(*self.bands, b)
        if self.corner is not None:
            y, v_last = self.corner
            x = x - y * (x[0] + v_last * x[-1]) / (1 + y[0] + v_last * y[-1])
        for halving, gone in zip(reversed(self.halvings), reversed(eliminated), strict=True):
            x = halving.backward(x, gone)
        return x


def by_lines(mu: Grid) -> bool:
    """Whether lines of cells make ready better than the diagonal: for cells of unlike sizes, and where mass
    diffuses along some axes alone, for of a single one the solve is then direct."""
    return mu.metric is not None or bool(mu.frozen or mu.noiseless)


class ShiftedFluxes(eqx.Module):
    """The matrix of an implicit step with linear fluxes, made ready for several solves.

    A = I + tau G for the linear fluxes `pairs` through the faces, made ready for several solves.

    One axis: direct, O(K) (`Line`). Several axes: BiCGStab to a relative residual of `tolerance`, about
    sqrt(condition number) iterations of cost O(K). It is preconditioned by the diagonal, or `lined`
    (`by_lines`) by the lines of one axis after the other: at a pole a cell has a hundred times more to do
    with its neighbors on one side than on the other.

    The sum of what `solve` returns is that of the right-hand side; what the solver misses of it is spread
    in proportion to |x|.
    """

    pairs: Pairs
    tau: Float[Array, ""]
    # Of the one axis; of each of several, batched over the others.
    lines: tuple[Line | None, ...]
    periodic: tuple[bool, ...] = eqx.field(static=True)

    def __init__(self, pairs, tau, periodic, lined=False):
        self.pairs, self.tau, self.periodic = pairs, tau, periodic
        self.lines = ()
        if self.banded:
            ((forward, backward),) = pairs
            ring = Ring(jnp.ones_like(forward), tau * forward, tau * jnp.roll(backward, 1))
            self.lines = (Line(ring, periodic[0]),)
        elif lined:
            self.lines = tuple(self._lines(axis) for axis in range(len(periodic)))

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
        return known(self.lines[0]).solve(b) if self.banded else self._iterative(b)

    def failed(self, x: Float[Array, " K"], b: Float[Array, " K"]) -> Array:
        """Whether an iterative solve stopped far from its tolerance; a direct one does not fail."""
        if self.banded:
            return jnp.asarray(False)
        misfit = jnp.sum(jnp.abs(b - self(x)))
        # Of all that is subtracted, which rounding is a share of.
        size = jnp.sum(jnp.abs(b)) + jnp.sum(self._diagonal() * jnp.abs(x))
        return ~(misfit <= 1000 * self.tolerance * size)

    def _diagonal(self, without: int | None = None) -> Array:
        """The diagonal of the matrix, `without` the faces of one axis."""
        pairs = [(axis, pair) for axis, pair in enumerate(self.pairs) if axis != without]
        leaving = sum(forward + below(backward, axis) for axis, (forward, backward) in pairs)
        return 1 + self.tau * jnp.ravel(leaving)

    def _iterative(self, b: Array) -> Array:
        inverse = 1 / self._diagonal()
        nearly = self._along_lines if self.lines else partial(jnp.multiply, inverse)
        options = {"tol": self.tolerance, "maxiter": ITERATIONS, "M": nearly}
        return bicgstab(self, b, **options)[0]

    def _lines(self, axis: int) -> Line | None:
        """The lines of cells along `axis`, what passes to the sides being lost; none between two species."""
        if self.pairs[axis][0].shape[axis] < 3:
            return None
        forward, backward = (self.tau * rate for rate in self.pairs[axis])
        arriving = below(backward, axis)
        lost = self._diagonal(without=axis).reshape(forward.shape)
        rows = (_rows(values, axis) for values in (lost, forward, arriving))
        return jax.vmap(lambda *ring: Line(Ring(*ring), self.periodic[axis]))(*rows)

    def _along_lines(self, b: Array) -> Array:
        """Nearly A^{-1} b: the lines of each axis solved for what those before have left."""
        x, left, shape = jnp.zeros_like(b), b, self.pairs[0][0].shape
        for axis, lines in enumerate(self.lines):
            if lines is None:
                continue
            if axis > 0:
                left = b - self(x)
            solved = jax.vmap(lambda line, right: line.solve(right))(lines, _rows(left.reshape(shape), axis))
            moved = [n for i, n in enumerate(shape) if i != axis] + [shape[axis]]
            x = x + jnp.moveaxis(solved.reshape(moved), -1, axis).ravel()
        return x


def with_sum_of(x: Float[Array, " K"], b: Float[Array, " K"] | float) -> Float[Array, " K"]:
    """`x` with the sum of `b`, the difference spread in proportion to |x|, so that zeros stay zero."""
    share = jnp.abs(x)
    total = jnp.sum(share)
    return x + share * (jnp.sum(b - x) / jnp.where(total > 0, total, 1))


def _rows(values: Array, axis: int) -> Array:
    """The lines along `axis`, as rows."""
    return jnp.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])


def _tridiagonal(lower: Array, diagonal: Array, upper: Array, b: Array) -> Array:
    return jax.lax.linalg.tridiagonal_solve(lower, diagonal, upper, b[:, None])[:, 0]
