"""Fourier sums over scattered points by FFT: the non-uniform transform of a measure, and its adjoint.

Points are spread to a grid twice as fine as the waves need, by a window of `WIDTH` cells per axis, and the
FFT is divided by the transform of the window; evaluation is the same backwards. The cost is
O(M WIDTH^d + n log n) for n waves instead of O(M n). The window is exp(b sqrt(1 - z^2)), whose error falls
by about ten for each cell of width: the largest over the waves is 1e-6 of the total mass in single and
1e-11 in double precision (1e-6 and 1e-10 are tested, beside direct sums at the same points).

Source: A. Barnett, J. Magland, L. af Klinteberg, SIAM J. Sci. Comput. 41 (2019), C479.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

WIDTH = {"float32": 7, "float64": 12}
# Shape of the window for grids that are twice too fine.
SHAPE = 2.30


def pays(size: int, dim: int, waves: int, dtype) -> bool:
    """Whether the transform of `size` points is faster than direct sums over `waves`."""
    return size * waves >= 2**13 and 4 * waves > WIDTH[jnp.dtype(dtype).name] ** dim


def transform(
    turns: Float[Array, "M d"], weights: Float[Array, " M"], waves: Float[Array, "n d"], modes: int
) -> Complex[Array, " n"]:
    """sum_i w_i e^{-2 pi i k . t_i} at the whole `waves` k, |k_a| <= modes, of real weights."""

    @jax.custom_jvp
    def at(turns, weights):
        window = _Window(turns, modes)
        table = jnp.fft.fftn(window.spread(weights))
        index, scale = window.entries(waves)
        return table.ravel()[index] / scale

    # By the waves, not by the slope of the window, which is less accurate.
    @partial(at.defjvp, symbolic_zeros=True)
    def _(primals, tangents):
        turns, weights = primals
        motion, change = tangents
        value = at(turns, weights)
        rate = jnp.zeros_like(value)
        if not _is_nil(change):
            rate = rate + at(turns, change)
        if not _is_nil(motion):
            for axis in range(turns.shape[1]):
                rate = rate - 2j * np.pi * waves[:, axis] * at(turns, weights * motion[:, axis])
        return value, rate

    return at(turns, weights)


def evaluate(
    turns: Float[Array, "M d"], coefficients: Complex[Array, " n"], waves: Float[Array, "n d"], modes: int
) -> Float[Array, " M"]:
    """sum_k Re(c_k e^{2 pi i k . t_i}) at each of `turns`, over the whole `waves` k, |k_a| <= modes."""

    @jax.custom_jvp
    def at(turns, coefficients):
        window = _Window(turns, modes)
        index, scale = window.entries(waves)
        table = jnp.zeros(int(np.prod(window.shape)), coefficients.dtype)
        table = table.at[index].add(coefficients / scale)
        return window.gather(table.size * jnp.fft.ifftn(table.reshape(window.shape)).real)

    @partial(at.defjvp, symbolic_zeros=True)
    def _(primals, tangents):
        turns, coefficients = primals
        motion, change = tangents
        value = at(turns, coefficients)
        rate = jnp.zeros_like(value)
        if not _is_nil(change):
            rate = rate + at(turns, change)
        if not _is_nil(motion):
            for axis in range(turns.shape[1]):
                rate = rate + motion[:, axis] * at(turns, 2j * np.pi * waves[:, axis] * coefficients)
        return value, rate

    return at(turns, coefficients)


def _is_nil(tangent) -> bool:
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


class _Window:
    """The cells that each point touches, and how much."""

    def __init__(self, turns, modes):
        self.dim, self.dtype = turns.shape[1], turns.dtype
        self.width = WIDTH[self.dtype.name]
        self.pad = self.width // 2 + 1
        # A power of two, by which multiplication is exact: phases are as accurate as the points.
        self.cells = 2 ** int(np.ceil(np.log2(max(4 * modes, 2 * self.width))))
        self.modes, self.shape = modes, (self.cells,) * self.dim
        at = (turns - jnp.floor(turns)) * self.cells
        first = jnp.ceil(at - self.width / 2)
        steps = jnp.arange(self.width, dtype=self.dtype)[:, None]
        z = [(first[:, axis] + steps - at[:, axis]) / (self.width / 2) for axis in range(self.dim)]
        # The slope at the ends is infinite, of nothing: derivatives are of the waves, but second ones are in
        # part of the window, which is then taken as constant where it is below its own accuracy.
        inside = [jnp.maximum(1 - u * u, 0) for u in z]
        least = 1e-3 if self.dtype == jnp.float64 else 1e-2
        inside = [jnp.where(u > least, u, jax.lax.stop_gradient(u)) for u in inside]
        root = [jnp.where(u > 0, jnp.sqrt(jnp.where(u > 0, u, 1)), 0) for u in inside]
        self.values = [jnp.exp(SHAPE * self.width * (u - 1)) for u in root]
        self.strides = (self.cells + 2 * self.pad) ** np.arange(self.dim)[::-1]
        # A sum, not a product of matrices: those of whole numbers are slow.
        self.corner = jnp.sum((first.astype(jnp.int32) + self.pad) * self.strides.astype(np.int32), axis=1)
        each = np.indices((self.width,) * self.dim).reshape(self.dim, -1).T
        self.steps = jnp.asarray(each, jnp.int32), jnp.asarray(each @ self.strides, jnp.int32)

    def _weight(self, step):
        values = self.values[0][step[0]]
        for axis in range(1, self.dim):
            values = values * self.values[axis][step[axis]]
        return values

    # One cell of the window at a time, for all points: on CPU scattering a number for each point is ten times
    # faster than scattering a block, and memory is O(M). Again in reverse mode instead of being stored.
    def spread(self, weights):
        @partial(jax.checkpoint, prevent_cse=False)
        def add(grid, step):
            values = weights * self._weight(step[0])
            return grid.at[self.corner + step[1]].add(values, mode="promise_in_bounds"), None

        empty = jnp.zeros((self.cells + 2 * self.pad) ** self.dim, self.dtype)
        grid, _ = jax.lax.scan(add, empty, self.steps)
        grid = grid.reshape((self.cells + 2 * self.pad,) * self.dim)
        for axis in range(self.dim):
            grid = jnp.moveaxis(grid, axis, 0)
            inner = grid[self.pad : -self.pad].at[-self.pad :].add(grid[: self.pad])
            grid = jnp.moveaxis(inner.at[: self.pad].add(grid[-self.pad :]), 0, axis)
        return grid

    def gather(self, grid):
        flat = jnp.pad(grid, self.pad, mode="wrap").ravel()

        @partial(jax.checkpoint, prevent_cse=False)
        def add(total, step):
            read = flat.at[self.corner + step[1]].get(mode="promise_in_bounds")
            return total + self._weight(step[0]) * read, None

        return jax.lax.scan(add, jnp.zeros(len(self.corner), self.dtype), self.steps)[0]

    def entries(self, waves):
        """Where each wave is in the table of the FFT, and the transform of the window there."""
        node, mass = np.polynomial.legendre.leggauss(64)
        phase = np.pi * self.width / self.cells * np.outer(np.arange(self.modes + 1), node)
        shape = np.exp(SHAPE * self.width * (np.sqrt(1 - node**2) - 1))
        transform = jnp.asarray(self.width / 2 * np.cos(phase) @ (mass * shape), self.dtype)
        whole = waves.astype(jnp.int32)
        powers = self.cells ** np.arange(self.dim)[::-1]
        index = jnp.sum(jnp.mod(whole, self.cells) * powers.astype(np.int32), axis=1)
        return index, jnp.prod(transform[jnp.abs(whole)], axis=1)
