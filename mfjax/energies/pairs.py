"""Energies of a network whose particles are pairs of outer weights and features."""

from collections.abc import Callable
from math import prod

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import Prepared, over_outputs, scalar
from mfjax.energies.base import Energy, Solution, solved
from mfjax.energies.field import Field, values_at
from mfjax.energies.reduced import Reduced, Score
from mfjax.measures import Measure
from mfjax.regularizers import Regularizer


class _OfPairs(Energy):
    """An energy of pairs (v, omega), written with one of features omega."""

    energy: eqx.AbstractVar[Energy]
    # How many coordinates are those of v.
    columns: eqx.AbstractVar[int]

    def features(self, mu: Measure) -> Measure:
        """The law of the features."""
        return eqx.tree_at(lambda nu: nu.points, mu, mu.points[:, self.columns :])

    def validate(self, mu, domain=None):
        # On which domain omega lies is not known from that of (v, omega).
        self.energy.validate(self.features(mu))

    @property
    def random(self):
        return self.energy.random

    @property
    def divisible(self):
        return self.energy.divisible

    def draw(self, key, step):
        return eqx.tree_at(lambda own: own.energy, self, self.energy.draw(key, step))


class Unreduced(_OfPairs):
    """A reduced risk before its reduction: an energy of pairs of outer weights and features.

    E(mu) = |F - y|^2 / (2 lam) + int f(u) dmu, F = int u phi(omega, .) dmu, of particles (v, omega) whose
    outer weights are u = `unit` v, a number or c of them for c outputs. First variation f(u) - u . s(omega),
    s as in `Reduced`.

    - `energy`: a `ReducedRisk` or `PopulationReducedRisk` with lam > 0; `unit` > 0: sqrt(gamma) gives the
      outer weights the rate gamma in a Wasserstein flow.

    >>> import mfjax as mf
    >>> bump = mf.features.Function(lambda omega, x: jnp.exp(-(omega[0] - x[0]) ** 2))
    >>> risk = mf.energies.ReducedRisk(bump, [[0.0]], [1.0], lam=0.5)
    >>> float(Unreduced(risk, 2.0)(mf.measures.Particles(jnp.array([[0.5, 0.0]]))))
    0.5
    """

    energy: Reduced
    unit: Float[Array, ""]

    def __init__(self, energy: Reduced, unit: ScalarLike):
        self.energy, self.unit = energy, scalar(unit, "unit", above=0)

    @property
    def columns(self) -> int:
        return prod(self.energy.outputs)

    def init(self, mu):
        return None if self.random else Prepared(self.energy.prepare(self.features(mu)))

    def solve(self, mu, carry=None):
        unit, shape = self.unit.astype(mu.dtype), self.energy.outputs
        u = unit * mu.points[:, : self.columns].reshape(mu.size, *shape)
        prepared = None if carry is None else carry.value
        value, score = self.energy.at_weights(self.features(mu), u, prepared)
        potential = _PairPotential(score, self.energy.regularizer, unit, shape)
        return Solution(value, potential, carry=carry)


class _PairPotential(Field):
    """(v, omega) -> f(u) - u . s(omega), u = unit v."""

    score: Score
    regularizer: Regularizer
    unit: Float[Array, ""]
    shape: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, point):
        columns = prod(self.shape)
        return jnp.sum(self._of(point[:columns].reshape(self.shape), self.score(point[columns:])))

    def at(self, points):
        columns = prod(self.shape)
        v = points[:, :columns].reshape(len(points), *self.shape)
        return over_outputs(self._of(v, self.score.at(points[:, columns:]).astype(points.dtype)))

    def _of(self, v: Array, score: Array) -> Array:
        u = self.unit.astype(v.dtype) * v
        return self.regularizer(u) - u * score


class Marginal(_OfPairs):
    """An energy of the features alone, of pairs of outer weights and features.

    F(mu) = `energy`(law of omega) of particles (v, omega); the first `columns` coordinates are v.

    >>> import mfjax as mf
    >>> square = Marginal(mf.energies.Potential(lambda omega: omega[0] ** 2), 1)
    >>> float(square(mf.measures.Particles(jnp.array([[5.0, 3.0]]))))
    9.0
    """

    energy: Energy
    columns: int = eqx.field(static=True)

    def init(self, mu):
        return self.energy.init(self.features(mu))

    def solve(self, mu, carry=None):
        own = solved(self.energy, self.features(mu), carry)
        potential = _MarginalPotential(own.potential, self.columns, mu.size)
        return Solution(own.value, potential, None, own.residual, own.status, own.carry)


class _MarginalPotential(Field):
    potential: Callable[[Array], Array]
    columns: int = eqx.field(static=True)
    width: int = eqx.field(static=True)

    def __call__(self, point):
        return self.potential(point[self.columns :])

    def at(self, points):
        return values_at(self.potential, points[:, self.columns :], self.width)
