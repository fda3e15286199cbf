"""Fourier collocation for the Wasserstein gradient flow of an energy on a periodic grid."""

from math import ceil
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex

from mfjax._numerics.arrays import added, inner
from mfjax.energies.base import Energy
from mfjax.energies.entropy import Entropy
from mfjax.grids.base import Discretization, internal_energy, internal_parts, transport_part
from mfjax.grids.evaluation import Evaluation, evaluation
from mfjax.measures import Grid, Tangent


class Spectral(Discretization):
    """Derivatives by FFT, for smooth densities on periodic grids.

    d_t rho = div(rho grad V) with derivatives by FFT, for smooth densities on periodic grids.

    V is taken at the cell centers; rho and grad V are interpolated to n / `dealias` points per axis,
    multiplied there, and the product brought back to the modes of the n cells. At 2/3 (the "3/2 rule") it
    is free of aliasing: the modes kept are those of the Galerkin method. 1 multiplies in the cells. An
    entropy is the Laplacian.

    Mass is conserved to rounding. The recorded dissipation is exactly minus the rate of the recorded energy:
    int rho |grad V|^2 of the interpolants, non-negative where their density is (always at `dealias=1`).
    Errors fall faster than any power of n for smooth data. `max_step` is 1/2 of a cell per axis at the
    largest speed, which keeps explicit schemes of order 3 and 4 stable.

    **Fails** by oscillation at fronts and kinks, where masses turn negative and the step is rejected: use
    `FiniteVolume`, which is positive always. There are no implicit steps with it.

    **Raises** `ValueError` for axes with walls, curvilinear cells, and internal energies other than the
    entropy.

    Source: S. Orszag, J. Atmos. Sci. 28 (1971), 1074; C. Canuto et al., Spectral Methods (2006), 3.4.

    >>> from mfjax.domains import Torus
    >>> from mfjax.energies import Potential
    >>> mu = Grid.from_density(Torus(1), 8, lambda x: 1 + 0.5 * jnp.cos(2 * jnp.pi * x[0]))
    >>> now = Spectral().evaluate(Potential(lambda x: jnp.sin(2 * jnp.pi * x[0])), mu)
    >>> bool(jnp.abs(jnp.sum(now.tangent.weights)) < 1e-5)
    True
    """

    dealias: float = eqx.field(static=True, default=2 / 3)

    def __check_init__(self):
        if not 0 < self.dealias <= 1:
            raise ValueError(f"dealias must lie in (0, 1], got {self.dealias!r}: 2/3 removes all aliasing")

    def validate(self, energy, mu, domain):
        super().validate(energy, mu, domain)
        mu = cast(Grid, mu)
        if mu.metric is not None:
            raise ValueError(
                f"Spectral needs cells of one size, and those of {domain!r} differ: use grids.FiniteVolume()"
            )
        if mu.frozen or mu.noiseless or not all(mu.periodic):
            alike = not (mu.frozen or mu.noiseless)
            why = "has walls" if alike else "lets mass move in another way along some axes"
            raise ValueError(
                f"Spectral needs a periodic grid, and {domain!r} {why}: use grids.FiniteVolume()"
            )
        for _, term in internal_parts(energy):
            if not isinstance(term, Entropy):
                raise ValueError(
                    f"Spectral has no form of {type(term).__name__} here: use grids.FiniteVolume()"
                )

    def evaluate(self, energy: Energy, mu: Grid, carry: Any = None) -> Evaluation:
        parts, rest = internal_parts(energy), transport_part(energy)
        solution = rest.solve(mu, carry)
        value, variation = internal_energy(parts, mu)
        potential = None
        fine = tuple(ceil(n / self.dealias - 1e-9) for n in mu.shape)
        waves = _wave_numbers(mu)
        density = jnp.fft.rfftn(mu.density.reshape(mu.shape))
        rate, turnover = jnp.zeros_like(density), jnp.zeros((), mu.dtype)
        if rest.parts():
            potential = rest.first_variation(mu, solution)
            variation, modes = variation + potential, jnp.fft.rfftn(potential.reshape(mu.shape))
            carried = _resampled(density, mu.shape, fine)
            for axis, k in enumerate(waves):
                slope = jax.lax.complex(jnp.zeros_like(k), k)
                gradient = _resampled(slope * modes, mu.shape, fine)
                rate = rate + slope * _modes(carried * gradient, mu.shape)
                turnover = turnover + jnp.max(jnp.abs(gradient)) / (0.5 * mu.spacing[axis])
        for coefficient, _ in parts:
            coefficient = jnp.asarray(coefficient).astype(mu.dtype)
            rate = rate - (coefficient * _squares(mu)).astype(density.dtype) * density
            turnover = turnover + 0.5 * coefficient * jnp.sum((np.pi / mu.spacing) ** 2)
        rate = mu.volume * jnp.fft.irfftn(rate, mu.shape).ravel()
        moving = turnover > 0
        return evaluation(
            Tangent(weights=rate),
            added(solution.value, value),
            -inner(variation, rate),
            mu.dtype,
            residual=solution.residual,
            status=solution.status,
            max_step=jnp.where(moving, 1 / jnp.where(moving, turnover, 1), jnp.inf),
            carry=solution.carry,
            potential=potential,
        )


def _squares(mu: Grid) -> Array:
    """Minus the Laplacian of each mode: that of alternating signs has one, though no first derivative."""
    return sum((k * k for k in _wave_numbers(mu, alternating=True)), jnp.zeros((), mu.dtype))


def _wave_numbers(mu: Grid, alternating: bool = False) -> list[Array]:
    """2 pi k / L along each axis, shaped to multiply the real FFT.

    0 for the mode of `alternating` signs, which is zero between the cells, unless that is asked for.
    """
    waves = []
    for axis, n in enumerate(mu.shape):
        k = np.fft.rfftfreq(n, 1 / n) if axis == len(mu.shape) - 1 else np.fft.fftfreq(n, 1 / n)
        shape = [1] * len(mu.shape)
        shape[axis] = k.size
        if not alternating:
            k = np.where(2 * np.abs(k) == n, 0, k)
        k = k.reshape(shape)
        waves.append(jnp.asarray(2 * np.pi * k, mu.dtype) / (n * mu.spacing[axis]))
    return waves


def _resized(modes: Array, shape: tuple[int, ...], other: tuple[int, ...]) -> Array:
    """The real FFT on `other` points of the modes |k| < n / 2 that both hold, n the fewer points."""
    last = len(shape) - 1
    for axis, (n, m) in enumerate(zip(shape, other, strict=True)):
        if n == m:
            continue
        half = (min(n, m) + 1) // 2
        low = jnp.take(modes, jnp.arange(half), axis)
        # The real FFT keeps no negative waves along the last axis.
        high = jnp.take(modes, jnp.arange(n, n) if axis == last else jnp.arange(n - half + 1, n), axis)
        missing = m // 2 + 1 - half if axis == last else m - 2 * half + 1
        zeros = jnp.zeros((*low.shape[:axis], missing, *low.shape[axis + 1 :]), modes.dtype)
        modes = jnp.concatenate([low, zeros, high], axis)
    return modes


def _resampled(modes: Complex[Array, "..."], shape: tuple[int, ...], fine: tuple[int, ...]) -> Array:
    """The values on `fine` points of the interpolant with these modes on `shape` points."""
    scale = float(np.prod(fine) / np.prod(shape))
    return jnp.fft.irfftn(_resized(modes, shape, fine), fine) * scale


def _modes(values: Array, shape: tuple[int, ...]) -> Complex[Array, "..."]:
    """The modes on `shape` points of a function given on at least as many."""
    scale = float(np.prod(shape) / values.size)
    return _resized(jnp.fft.rfftn(values), values.shape, shape) * scale
