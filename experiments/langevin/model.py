"""The two networks, their data, and the measures that runs start from."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr

import mfjax as mf
from mfjax.energies import Entropy, Risk

# Width of the normal laws that runs start from.
SPREAD = 0.6


class TanhNeuron(mf.features.FeatureMap):
    """Phi(theta, x) = gain tanh(theta x): one number per neuron, and a bounded output.

    At gain 0 the particles do not see the data: independent Ornstein-Uhlenbeck processes.
    """

    gain: jax.Array

    def __call__(self, omega, x):
        return self.gain.astype(omega.dtype) * jnp.tanh(omega[0] * x[0])


class Network(NamedTuple):
    """A network with its data, on the box that holds its parameters."""

    features: Any
    x: Any
    y: Any
    lam: float
    domain: mf.domains.Domain

    def smooth(self) -> mf.energies.Energy:
        """F of V^sigma = F + sigma^2 / 2 Entropy."""
        return Risk(self.features, self.x, self.y, self.lam)

    def energy(self, sigma) -> mf.energies.Energy:
        """V^sigma."""
        return with_noise(self.smooth(), sigma)

    def flow(self, sigma) -> mf.flows.Flow:
        """Mean-field Langevin dynamics with noise sigma dW."""
        return mf.flows.Wasserstein(self.energy(sigma), self.domain)

    def density(self, center, cells: int, dtype) -> mf.measures.Grid:
        """The normal law around `center` in every coordinate, on the grid."""
        bump = lambda z: jnp.exp(-jnp.sum((z - center) ** 2) / (2 * SPREAD**2))
        return mf.measures.Grid.from_density(self.domain, cells, bump, dtype=dtype)

    def particles(self, center, width: int, key, dtype) -> mf.measures.Particles:
        """Independent draws of the same law; the draws of two centers differ by a shift."""
        draw = lambda i: jr.normal(jr.fold_in(key, i), (self.domain.dim,), dtype)
        return mf.measures.Particles(center + SPREAD * jax.vmap(draw)(jnp.arange(width)))


def with_noise(smooth: mf.energies.Energy, sigma) -> mf.energies.Energy:
    """F + sigma^2 / 2 Entropy."""
    return smooth + 0.5 * sigma**2 * Entropy()


def inputs(dtype) -> Any:
    """The N = 24 inputs (N, 1), evenly spaced on [-2, 2]."""
    return jnp.linspace(-2, 2, 24, dtype=dtype)[:, None]


def one_neuron(gain, lam: float, dtype) -> Network:
    """Neurons gain tanh(theta x), taught by equal masses at theta = 2 and -1/2 of gain 2."""
    x = inputs(dtype)
    y = jnp.tanh(2 * x[:, 0]) - jnp.tanh(0.5 * x[:, 0])
    return Network(TanhNeuron(jnp.asarray(gain)), x, y, lam, mf.domains.Interval(-6.0, 6.0))


# Neurons (w, theta) of the teacher of the two-layer network.
TEACHER = ((2.0, 2.0), (-1.5, 0.7))


def two_layer(lam: float, dtype) -> Network:
    """Neurons w tanh(theta x), taught by the mean of two such neurons."""
    x = inputs(dtype)
    y = sum(w * jnp.tanh(theta * x[:, 0]) for w, theta in TEACHER) / len(TEACHER)
    features = mf.features.Weighted(mf.features.Ridge(jnp.tanh))
    return Network(features, x, y, lam, mf.domains.Box([-4.0, -4.0], [4.0, 4.0]))
