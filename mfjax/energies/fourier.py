"""Fourier modes of measures on a torus: of cells by FFT, of scattered points by direct sums or by FFT."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from mfjax._arrays import inner
from mfjax.energies.field import Field
from mfjax.measures import Grid, Measure
from mfjax.sums import nonuniform
from mfjax.sums.rows import over_rows


class Waves(NamedTuple):
    """Wave vectors `k` (n, d), whole numbers, and how often each counts in a sum over all of Z^d.

    The coefficients of a real function at k and -k are conjugate: one of the two is kept and counts twice.
    """

    k: np.ndarray
    times: np.ndarray

    @property
    def modes(self) -> int:
        """The largest |k_i|."""
        return int(np.max(np.abs(self.k), initial=0))

    def symbol(self, period: Float[Array, ""], order: Float[Array, ""]) -> Float[Array, " n"]:
        """|2 pi k / L|^{-2s}, zero at k = 0."""
        square = jnp.asarray(np.sum((2 * np.pi * self.k) ** 2, axis=-1), period.dtype) / period**2
        moving = square > 0
        return jnp.where(moving, jnp.where(moving, square, 1.0) ** -order, 0.0)

    def transform(
        self, mu: Measure, period: Float[Array, ""], origin: Float[Array, " d"] | float = 0.0
    ) -> Complex[Array, " n"]:
        """int e^{-2 pi i k . (x - origin) / L} dmu: time O(n K) or, where that is large, by FFT as described
        in `sums.nonuniform`; memory O(n + K).
        """
        turns, waves = (mu.points - origin) / period, jnp.asarray(self.k, mu.dtype)
        if nonuniform.pays(*turns.shape, len(self.k), mu.dtype):
            return nonuniform.transform(turns, mu.weights, waves, self.modes)

        def at_wave(k):
            phases = 2 * np.pi * inner(turns, k)
            return inner(mu.weights, jnp.cos(phases)), -inner(mu.weights, jnp.sin(phases))

        return jax.lax.complex(*over_rows(at_wave, waves, mu.size))

    def energy(self, coefficients: Complex[Array, " n"], symbol: Float[Array, " n"]) -> Float[Array, ""]:
        """sum_k symbol_k |c_k|^2 over all of Z^d."""
        square = coefficients.real**2 + coefficients.imag**2
        return jnp.sum(jnp.asarray(self.times, symbol.dtype) * symbol * square)


def half_space(modes: int, dim: int) -> Waves:
    """The waves with |k_i| <= modes, k != 0, one of each pair k and -k."""
    k = np.stack(np.meshgrid(*[np.arange(-modes, modes + 1)] * dim, indexing="ij"), axis=-1).reshape(-1, dim)
    # In this order the second half is minus the first, and 0 lies between.
    k = k[len(k) // 2 + 1 :]
    return Waves(k, np.full(len(k), 2))


def grid_waves(shape: tuple[int, ...]) -> Waves:
    """The waves of the real FFT of an array, in its order."""
    *others, last = shape
    axes = [np.fft.fftfreq(n, 1 / n) for n in others] + [np.fft.rfftfreq(last, 1 / last)]
    k = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(shape))
    unpaired = (k[:, -1] == 0) | (2 * k[:, -1] == last)
    return Waves(k, np.where(unpaired, 1, 2))


def cell_transform(mu: Grid, weights: Float[Array, " K"]) -> Complex[Array, " n"]:
    """The coefficients at `grid_waves` of masses in the cells of `mu`, phases counted from the first cell."""
    return jnp.fft.rfftn(weights.reshape(mu.shape)).ravel()


def cell_values(mu: Grid, coefficients: Complex[Array, " n"]) -> Float[Array, " K"]:
    """sum_k c_k e^{2 pi i k . (x - first cell) / L} at the cells of `mu`, c_k at `grid_waves`."""
    shape = (*mu.shape[:-1], mu.shape[-1] // 2 + 1)
    values = jnp.fft.irfftn(coefficients.reshape(shape), mu.shape)
    return mu.size * values.ravel()


class Series(Field):
    """x -> sum_k c_k e^{2 pi i k . (x - origin) / L} over all of Z^d, real."""

    cosine: Float[Array, " n"]
    sine: Float[Array, " n"]
    k: Float[Array, "n d"]
    period: Float[Array, ""]
    origin: Float[Array, " d"]
    modes: int = eqx.field(static=True)

    def __init__(self, waves: Waves, coefficients: Complex[Array, " n"], period, origin):
        times = jnp.asarray(waves.times, period.dtype)
        self.cosine, self.sine = times * coefficients.real, -times * coefficients.imag
        self.k, self.period, self.origin = jnp.asarray(waves.k, period.dtype), period, origin
        self.modes = waves.modes

    def __call__(self, point: Float[Array, " d"]) -> Float[Array, ""]:
        phases = 2 * np.pi * inner(self.k, (point - self.origin) / self.period)
        return inner(self.cosine, jnp.cos(phases)) + inner(self.sine, jnp.sin(phases))

    def at(self, points):
        if not self._by_transform(points):
            return over_rows(self, points, len(self.k))
        coefficients = jax.lax.complex(self.cosine, -self.sine)
        return nonuniform.evaluate((points - self.origin) / self.period, coefficients, self.k, self.modes)

    def slopes(self, points):
        if not self._by_transform(points):
            return over_rows(jax.grad(self), points, len(self.k))
        # Each value depends on its own point only.
        return jax.grad(lambda p: jnp.sum(self.at(p)))(points)

    def _by_transform(self, points):
        return nonuniform.pays(*points.shape, len(self.k), points.dtype)
