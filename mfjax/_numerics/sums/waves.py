"""Waves on a torus, and their sums over scattered points: direct, or by FFT."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from mfjax._numerics.arrays import inner
from mfjax._numerics.sums import nonuniform
from mfjax._numerics.sums.rows import over_rows


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

    def transform(self, turns: Float[Array, "K d"], weights: Float[Array, " K"]) -> Complex[Array, " n"]:
        """sum_j w_j e^{-2 pi i k . t_j}: time O(n K) or, where that is large, by FFT as described in
        `sums.nonuniform`; memory O(n + K).
        """
        waves = jnp.asarray(self.k, turns.dtype)
        if nonuniform.pays(turns.shape[0], turns.shape[1], len(self.k), turns.dtype):
            return nonuniform.transform(turns, weights, waves, self.modes)

        def at_wave(k):
            phases = 2 * np.pi * inner(turns, k)
            return inner(weights, jnp.cos(phases)), -inner(weights, jnp.sin(phases))

        return jax.lax.complex(*over_rows(at_wave, waves, len(turns)))

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


def series(
    turns: Float[Array, "M d"], coefficients: Complex[Array, " n"], waves: Float[Array, "n d"], modes: int
) -> Float[Array, " M"]:
    """sum_k Re(c_k e^{2 pi i k . t_i}) at each of `turns`, over whole `waves` k, |k_a| <= modes.

    Direct sums, O(n M), or where these are many by FFT, as described in `sums.nonuniform`.
    """
    if nonuniform.pays(turns.shape[0], turns.shape[1], len(waves), turns.dtype):
        return nonuniform.evaluate(turns, coefficients, waves, modes)
    cosine, sine = coefficients.real, -coefficients.imag

    def at(turn):
        phases = 2 * np.pi * inner(waves, turn)
        return inner(cosine, jnp.cos(phases)) + inner(sine, jnp.sin(phases))

    return over_rows(at, turns, len(waves))
