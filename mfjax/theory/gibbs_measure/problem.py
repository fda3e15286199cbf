"""The Gibbs equation m = e^{-V_m / T} / Z on the cells of a grid, and how far a measure is from it."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax._numerics.arrays import known
from mfjax.energies.base import Energy
from mfjax.energies.entropy import Entropy
from mfjax.grids import internal_parts, transport_part
from mfjax.measures import Grid


class EntropicProblem(eqx.Module):
    """min over masses (K,) of F(m) + T sum_i m_i log(m_i / volume), F smooth, on the cells of `grid`."""

    smooth: Energy
    temperature: Float[Array, ""]
    grid: Grid

    def masses(self, potential: Float[Array, " K"]) -> Float[Array, " K"]:
        """e^{-V/T} / Z in the volumes of the cells, scaled to the mass of the grid.

        Where axes are frozen to that of each place along them, Z being one of many.
        """
        free, held = self._free, self._held
        law = jax.nn.softmax(self._logarithm(potential).reshape(self.grid.shape), axis=free)
        return (held * law).ravel()

    @property
    def _free(self) -> tuple[int, ...]:
        """The axes along which mass moves."""
        return tuple(axis for axis in range(len(self.grid.shape)) if axis not in self.grid.frozen)

    @property
    def _held(self) -> Float[Array, "..."]:
        """The mass that stays together, of the grid or of each place along its frozen axes."""
        return jnp.sum(self.grid.weights.reshape(self.grid.shape), axis=self._free, keepdims=True)

    def _logarithm(self, potential: Float[Array, " K"]) -> Float[Array, " K"]:
        return jnp.log(self.grid.relative_volume) - potential / self.temperature

    def log_partition(self, potential: Float[Array, " K"]) -> Float[Array, ""]:
        """T M log sum_i e^{-V_i / T} volume_i, to a constant, M the mass; of frozen places the sum."""
        scaled = self._logarithm(potential).reshape(self.grid.shape)
        partitions = jax.nn.logsumexp(scaled, axis=self._free, keepdims=True)
        return self.temperature * jnp.sum(self._held * partitions)

    def centered(self, values: Float[Array, " K"], weights: Float[Array, " K"]) -> Float[Array, " K"]:
        """Values less their mean, that over the mass which stays together."""
        mean = jnp.sum((weights * values).reshape(self.grid.shape), axis=self._free, keepdims=True)
        mean = jnp.where(self._held > 0, mean / jnp.where(self._held > 0, self._held, 1), 0)
        return (values.reshape(self.grid.shape) - mean).ravel()

    def potential(self, weights: Float[Array, " K"]) -> Float[Array, " K"]:
        """V_m, the first variation of F."""
        mu = self.grid.with_weights(weights)
        solution = self.smooth.solve(mu, self.smooth.init(mu))
        return self.smooth.first_variation(mu, solution)

    def value(self, weights: Float[Array, " K"]) -> Float[Array, ""]:
        """F(m)."""
        mu = self.grid.with_weights(weights)
        return known(self.smooth.solve(mu, self.smooth.init(mu)).value)

    def free_energy(self, weights: Float[Array, " K"]) -> Float[Array, ""]:
        """F(m) + T int log m dm."""
        mu = self.grid.with_weights(weights)
        return self.value(weights) + self.temperature * known(Entropy().solve(mu).value)

    def residual(self, weights: Float[Array, " K"]) -> Float[Array, ""]:
        """sum_i |m_i - e^{-V_m(x_i)/T} volume_i / Z|, relative to the mass."""
        return jnp.sum(jnp.abs(weights - self.masses(self.potential(weights)))) / self.grid.mass

    def gap(self, weights: Float[Array, " K"]) -> Float[Array, ""]:
        """T KL(m | e^{-V_m/T} / Z), a bound of the excess free energy for convex F."""
        there = self.masses(self.potential(weights))
        both = (weights > 0) & (there > 0)
        ratio = jnp.where(both, weights, 1) / jnp.where(both, there, 1)
        # Cells that underflow on one side only cost their mass in the other.
        excess = jnp.where(both, weights * jnp.log(ratio), 0) - weights + there
        # Never negative but for rounding.
        return self.temperature * jnp.maximum(jnp.sum(excess), 0)


def problem(energy: Energy, grid: Grid) -> EntropicProblem:
    """The problem of `energy`, split into its smooth part and its entropies.

    **Raises** `ValueError` without an entropy, for other internal energies, where noise does not
    reach, and where the value of the energy is not known.
    """
    if grid.noiseless:
        raise ValueError(
            "noise does not reach all axes of this grid, and no equilibrium is known: run its flow to its "
            "end instead"
        )
    for _, term in internal_parts(energy):
        if not isinstance(term, Entropy):
            raise ValueError(
                f"{type(term).__name__} has no Gibbs measure: run its flow on a grid to its end instead"
            )
    smooth = transport_part(energy)
    if eqx.filter_eval_shape(lambda e: e.solve(grid, e.init(grid)).value, smooth) is None:
        raise ValueError(
            "the value of this energy is not known, and the search for a Gibbs measure lowers it: run the "
            "flow on a grid to its end instead"
        )
    return EntropicProblem(smooth, jnp.asarray(energy.temperature).astype(grid.dtype), grid)
