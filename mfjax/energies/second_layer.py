"""The second of two hidden layers."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfjax._numerics.arrays import along, as_floats, as_part, finite, inner, is_traced, shown


class SecondLayer(eqx.Module):
    """The second hidden layer of a network, with the weights that make outputs of it.

    F = sum_j q_j w_j sigma(z_j), z_j = Z_j / sqrt(q_j), of what the first layer hands over, Z (N_2,).

    With `features.Weighted(phi, outputs=N_2)`, whose neuron i hands H_ij phi(theta_i, x) to neuron j of the
    second layer, Z_j = sum_i p_i H_ij phi(theta_i, x), a `Risk` with this `layer` is that of the network with
    two hidden layers

        F(x) = sum_j q_j w_j sigma( sum_i p_i b_ij phi(theta_i, x) ),  H_ij = sqrt(q_j) b_ij,

    (5.1) of the survey with the masses p, q of the neurons of each layer, 1 / N_1 and 1 / N_2 unless given.
    In the coordinates H the length of the weights of a neuron is their mean square, |H_i|^2 =
    sum_j q_j b_ij^2, whatever N_2: the gradient flow of the risk in them is that of plain gradients over the
    masses of both layers, b_ij' = -(1 / (p_i q_j)) dR/db_ij, and its `lam` stands before half of
    sum_ij p_i q_j b_ij^2. `flows.TwoHiddenLayers` trains w too.

    - `sigma`: the activation, a function of one number.
    - `weights` w (N_2,), or (N_2, c) for c outputs.
    - `masses` q (N_2,) > 0, 1 / N_2 unless given.

    **Raises** `ValueError` for a `sigma` that is no function, weights and masses that do not go together or
    are not finite, masses that are not positive; with a risk, for a first layer of another number of outputs.

    >>> layer = SecondLayer(jnp.tanh, [1.0, -2.0], [0.25, 0.75])
    >>> first = layer.heights(jnp.array([0.5, 1.0]))
    >>> bool(jnp.isclose(layer.output(first), 0.25 * jnp.tanh(0.5) - 1.5 * jnp.tanh(1.0)))
    True
    """

    sigma: Callable
    weights: Float[Array, "N2 *c"]
    masses: Float[Array, " N2"]

    def __init__(self, sigma: Callable, weights: Any, masses: Any = None):
        if not callable(sigma):
            raise ValueError(f"sigma must be a function of one number, got {shown(sigma)}")
        self.sigma = as_part(sigma)
        self.weights = finite(as_floats(weights, "weights"), "weights")
        if self.weights.ndim not in (1, 2) or 0 in self.weights.shape:
            raise ValueError(f"weights must be (N_2,), or (N_2, c) for c outputs, got {self.weights.shape}")
        size = len(self.weights)
        masses = jnp.full((size,), 1 / size, self.weights.dtype) if masses is None else masses
        self.masses = finite(as_floats(masses, "masses"), "masses")
        if self.masses.shape != (size,):
            raise ValueError(f"masses must be ({size},), one of each neuron, got {self.masses.shape}")
        if not is_traced(self.masses) and not np.all(np.asarray(self.masses) > 0):
            least = float(np.min(np.asarray(self.masses)))
            raise ValueError(f"masses of the second layer must be positive, got {least:g}: leave neurons out")

    def heights(self, connections: Float[Array, "*K N2"]) -> Float[Array, "*K N2"]:
        """H_ij = sqrt(q_j) b_ij for the weights b (..., N_2) between the layers."""
        return connections * self._roots(connections)

    def connections(self, heights: Float[Array, "*K N2"]) -> Float[Array, "*K N2"]:
        """b_ij = H_ij / sqrt(q_j), and likewise z of Z."""
        return heights / self._roots(heights)

    def _roots(self, values: Array) -> Array:
        """sqrt(q_j) for the last axis of some values."""
        return jnp.sqrt(self.masses).astype(values.dtype).reshape(*[1] * (values.ndim - 1), -1)

    def signals(self, handed: Float[Array, "*N N2"]) -> Float[Array, "*N N2"]:
        """sigma(z_j), what the neurons of the second layer say where the first hands over Z (..., N_2)."""
        return self.sigma(self.connections(handed))

    def output(self, handed: Float[Array, "*N N2"]) -> Float[Array, "*Nc"]:
        """F, what the network says where the first layer hands over Z (..., N_2)."""
        q, w = (part.astype(handed.dtype) for part in (self.masses, self.weights))
        return inner(self.signals(handed), along(q, w) * w)

    def pulled_back(self, handed: Float[Array, "N N2"], slopes: Float[Array, "N *c"]) -> Float[Array, "N N2"]:
        """The slopes by what the first layer hands over, for those by F."""
        return jax.vjp(self.output, handed)[1](slopes)[0]

    def require_before(self, outputs: tuple[int, ...]) -> None:
        """**Raises** `ValueError` for a first layer of another number of `outputs` than N_2."""
        if outputs != self.masses.shape:
            have = f"{outputs[0]} outputs" if outputs else "one output"
            raise ValueError(
                f"a second layer of {len(self.masses)} neurons follows a first one of as many outputs, "
                f"features.Weighted(phi, outputs={len(self.masses)}), got {have}"
            )
