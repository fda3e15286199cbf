"""Fourier modes of measures on a torus: of cells by FFT, of scattered points by direct sums or by FFT."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from mfjax._numerics.arrays import inner
from mfjax._numerics.sums import nonuniform
from mfjax._numerics.sums.rows import over_rows
from mfjax._numerics.sums.waves import Waves, series
from mfjax.energies.field import Field
from mfjax.measures import Grid


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
        coefficients = jax.lax.complex(self.cosine, -self.sine)
        return series((points - self.origin) / self.period, coefficients, self.k, self.modes)

    def slopes(self, points):
        if not self._by_transform(points):
            return over_rows(jax.grad(self), points, len(self.k))
        # Each value depends on its own point only.
        return jax.grad(lambda p: jnp.sum(self.at(p)))(points)

    def _by_transform(self, points):
        return nonuniform.pays(points.shape[0], points.shape[1], len(self.k), points.dtype)
