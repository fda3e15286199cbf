"""Masses that grow, realized by particles that are born and die."""

from typing import ClassVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, Key, ScalarLike

from mfjax import status as codes
from mfjax._numerics.arrays import known
from mfjax.measures import Particles
from mfjax.steppers.base import Step, Stepper, settle, step_size
from mfjax.steppers.noise import brownian


class BirthDeath(Stepper):
    """Particle i leaves floor(exp(dt growth_i) + U_i) copies of itself, U_i uniform in (0, 1).

    growth_i = -beta V(x_i) in `flows.WassersteinFisherRao`, the relative rate of mass i. A copy keeps the
    mass of its parent, so that particles of equal mass stay so; the mean of the new measure is exactly that
    of the exponential step m_i exp(dt growth_i). U_i depends on (key, step, slot i) only. Points move by the
    step of `EulerMaruyama`, with the noise of the flow if it has one. Weak order 1; for M particles of mass
    1/M, fluctuations of order sqrt(dt |growth| / M) a step.

    A copy takes the first slots of zero mass: start from more slots than particles,
    `Particles.sample(domain, key, width, capacity=...)`. Where the slots run out the run stops with the
    status `OVERFLOW`. The number of copies is random: `balanced=True` keeps the mass in the mean only, and
    the energy balance of the run has the noise of the resampling.

    **Good values**: dt |growth| < 0.1; twice the slots of the largest mass expected.

    **Raises** `ValueError` for a `Grid`, and for a flow whose masses do not grow.

    Source: Rotskoff, Jelassi, Bruna, Vanden-Eijnden, arXiv 1902.01843, there with exponential clocks.

    >>> import mfjax as mf
    >>> flow = mf.flows.WassersteinFisherRao(mf.energies.Potential(lambda x: x[0]), mf.domains.Euclidean(1))
    >>> mu = Particles(jnp.array([[-0.6931471805599453], [1.0]]), jnp.array([1.0, 0.0]))
    >>> run = mf.simulate(flow, mu, stepper=BirthDeath(1.0), steps=1, key=jr.key(0))
    >>> run.final.weights.tolist()
    [1.0, 1.0]
    """

    order: ClassVar[int] = 1
    noisy: ClassVar[bool] = True
    dt: Float[Array, ""]

    def __init__(self, dt: ScalarLike):
        self.dt = step_size(dt)

    def needs_key(self, flow):
        return True

    def validate(self, flow, mu):
        super().validate(flow, mu)
        if not isinstance(mu, Particles):
            raise ValueError(f"BirthDeath moves particles, got a {type(mu).__name__}: use stepper=None")
        tangent = eqx.filter_eval_shape(lambda nu: flow.rate(flow.init(nu)), mu)
        if tangent.growth is None:
            raise ValueError(
                f"BirthDeath realizes the growth of masses, and {type(flow).__name__} has none: use "
                "flows.WassersteinFisherRao, or another stepper"
            )

    def step(self, flow, state, evaluation, dt, key, memory) -> Step:
        tangent = evaluation.tangent
        noise = brownian(flow, state, evaluation, dt, apart(known(key))) if flow.stochastic else None
        moved = flow.move(state, eqx.tree_at(lambda t: t.growth, tangent, None), dt, noise)
        growth, mu = known(tangent.growth), cast(Particles, moved.measure)
        slots = jnp.arange(state.measure.size)
        uniform = jax.vmap(lambda i: jr.uniform(jr.fold_in(known(key), i), (), growth.dtype))(slots)
        copies = copies_of(jnp.exp(dt * growth), uniform, mu.weights)
        measure, full = resampled(mu, copies)
        moved = eqx.tree_at(lambda s: s.measure, moved, measure)
        return settle(flow, moved, status=jnp.where(full, codes.OVERFLOW, codes.OK))


def apart(key: Key[Array, ""]) -> Key[Array, ""]:
    """A key that no slot has."""
    return jr.fold_in(key, 2**32 - 1)


def copies_of(
    expected: Float[Array, " K"], uniform: Float[Array, " K"], weights: Float[Array, " K"]
) -> Array:
    """Whole numbers of mean `expected`, at most K; 0 for particles without mass."""
    copies = jnp.floor(jnp.minimum(expected, expected.shape[0]) + uniform).astype(jnp.int32)
    return jnp.where(weights > 0, copies, 0)


def resampled(mu: Particles, copies: Int[Array, " K"]) -> tuple[Particles, Bool[Array, ""]]:
    """(`copies` of every particle, whether the slots were too few for them).

    The first copy stays in its slot, further ones fill the free slots in order of their parents.

    >>> mu = Particles(jnp.array([[1.0], [2.0], [3.0]]), jnp.array([0.5, 0.5, 0.0]))
    >>> new, full = resampled(mu, jnp.array([2, 0, 0]))
    >>> new.points[:, 0].tolist(), new.weights.tolist(), bool(full)
    ([1.0, 1.0, 3.0], [0.5, 0.5, 0.0], False)
    """
    born = jnp.cumsum(jnp.maximum(copies - 1, 0))
    free = copies == 0
    # The number of the child that a free slot takes, from 0.
    child = jnp.cumsum(free, dtype=born.dtype) - 1
    parent = jnp.searchsorted(born, child, side="right")
    taken = free & (child < born[-1])
    source = jnp.where(taken, parent, jnp.arange(mu.size, dtype=parent.dtype))
    new = jax.tree.map(lambda leaf: leaf[source], mu)
    weights = jnp.where(free & ~taken, 0, new.weights)
    return eqx.tree_at(lambda nu: nu.weights, new, weights), born[-1] > jnp.sum(free, dtype=born.dtype)
