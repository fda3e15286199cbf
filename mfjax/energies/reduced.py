"""The abstract energy of a network whose outer weights are optimized away, and what it is at given ones."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax._numerics.arrays import over_outputs
from mfjax.energies.base import Energy
from mfjax.energies.field import Field
from mfjax.measures import Measure
from mfjax.regularizers import Regularizer


class Score(eqx.Module):
    """What the error of a network asks of an outer weight at ONE point, s(omega), a number or c of them.

    At the optimal outer weights u(omega) = (f*)'(s(omega)) for every omega.
    """

    @abstractmethod
    def __call__(self, point: Float[Array, " d"]) -> Float[Array, "*c"]:
        """s at one point."""

    @abstractmethod
    def at(self, points: Float[Array, "M d"]) -> Float[Array, "M *c"]:
        """s at many points."""


class ReducedPotential(Field):
    """omega -> -f*(s(omega)), summed over outputs: the first variation of a reduced risk."""

    score: Score
    regularizer: Regularizer

    def __call__(self, point):
        return -jnp.sum(self.regularizer.conjugate(self.score(point)))

    def at(self, points):
        return -over_outputs(self.regularizer.conjugate(self.score.at(points)))


class Reduced(Energy):
    """A risk whose outer weights are the best ones at every measure. A new one has `solve` and `at_weights`.

    L(mu) = min over u of E(mu, u), E(mu, u) = |F - y|^2 / (2 lam) + int f(u) dmu, with F = int u phi dmu. The
    slopes of E are dE/du_i = m_i (f'(u_i) - s(omega_i)) and dE/domega_i = -m_i u_i grad s(omega_i), s at
    these u.
    """

    lam: eqx.AbstractVar[Float[Array, ""]]
    regularizer: eqx.AbstractVar[Any]

    @property
    @abstractmethod
    def outputs(self) -> tuple[int, ...]:
        """The shape of the outer weights of one particle: (), or (c,) for c outputs."""

    @abstractmethod
    def at_weights(
        self, mu: Measure, outer_weights: Float[Array, "K *c"], prepared: Any = None
    ) -> tuple[Float[Array, ""], Score]:
        """E(mu, u) at given outer weights, and s there; `prepared` is that of `prepare`, if it is known."""

    def prepare(self, mu: Measure) -> Any:
        """What is known before any particles, in the dtype of a run from `mu`."""
        return None
