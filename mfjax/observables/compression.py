"""What compressed data may change of the reduced risk."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax._numerics.arrays import known
from mfjax.energies.compression import Compressed
from mfjax.energies.reduced_risk import ReducedRisk
from mfjax.features import Interpolated
from mfjax.flows.base import Flow
from mfjax.measures import Measure
from mfjax.observables.base import Observable
from mfjax.observables.network import risk_of
from mfjax.regularizers import Quadratic


class CompressionError(Observable):
    """An upper bound of |L~(mu) - L(mu)|, the reduced risk of compressed data against that of all data.

    With alpha and u the optimum of L~ and eps the largest error of a feature,

        |L~ - L| <= eps |alpha| int |u| dmu + eps^2 max((int |u| dmu)^2 / lam, |alpha|^2 mu(Omega)) / 2:

    u is admissible for L, and alpha for its dual; for c outputs products are sums over them. Given
    `compressed`, what `mfjax.compress` returned, eps is the largest of its `errors` at the particles, which
    costs N M features; else its `error`, the largest at the points that it was given: then this is no bound
    for particles elsewhere, and between those points as good as they are dense. One outer solve.

    **Raises** `ValueError` for a flow without a `ReducedRisk` of `Interpolated` features and `Quadratic`, and
    for a `compressed` whose features have another structure than those of the flow.
    """

    compressed: Compressed | None = None

    def __check_init__(self):
        if self.compressed is not None and not isinstance(self.compressed, Compressed):
            raise ValueError(
                f"compressed must be what mfjax.compress returned, got {type(self.compressed).__name__}"
            )

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, ""]:
        energy = risk_of(flow, (ReducedRisk,), self)
        if not isinstance(energy.features, Interpolated) or not isinstance(energy.regularizer, Quadratic):
            raise ValueError(
                "CompressionError needs the regularizer Quadratic and the features of mfjax.compress, got "
                f"{type(energy.regularizer).__name__} and {type(energy.features).__name__}"
            )
        if self.compressed is not None and not _alike(self.compressed.features, energy.features):
            raise ValueError(
                f"CompressionError was given the compression of {self.compressed.features.features!r}, and "
                f"the flow has features of another, of {energy.features.features!r}: give it that of the flow"
            )
        # The system of the flow, which may ride on other particles.
        mu = known(flow).lift(mu)
        given = self.compressed
        eps = energy.features.error if given is None else jnp.max(given.errors(mu.points))
        eps = eps.astype(mu.dtype)
        solved = energy.solve(mu)
        alpha = solved.potential.score.alpha
        # Each a number, or one for each output.
        spent, sizes = mu.integrate(jnp.abs(known(solved.outer_weights))), jnp.sum(alpha * alpha, axis=0)
        first, squares = jnp.sum(jnp.sqrt(sizes) * spent), jnp.sum(spent**2)
        second = jnp.maximum(squares / energy.lam.astype(mu.dtype), jnp.sum(sizes) * jnp.sum(mu.weights))
        return eps * first + 0.5 * eps**2 * second


def _alike(one: Interpolated, other: Interpolated) -> bool:
    """Whether two features have one structure: their numbers may be traced."""
    shapes = lambda features: [jnp.shape(leaf) for leaf in jax.tree.leaves(features)]
    return jax.tree.structure(one) == jax.tree.structure(other) and shapes(one) == shapes(other)
