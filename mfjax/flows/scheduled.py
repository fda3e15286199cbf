"""A flow whose numbers depend on time: annealed noise, a schedule of the regularization."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from mfjax._numerics.arrays import Prepared, shown
from mfjax._numerics.compiled import reached
from mfjax.domains import Domain
from mfjax.energies.base import Energy
from mfjax.energies.data import Data
from mfjax.features import FeatureMap
from mfjax.flows.base import Evaluation, Flow, State
from mfjax.measures import Measure, Tangent


class Scheduled(Flow):
    """A flow of one structure whose numbers depend on time: annealing, schedules of lam.

    d_t mu = the rate of `make(t)` at mu: a flow of one structure whose numbers depend on flow time t.

    `make(t) = Wasserstein(F + T(t) * Entropy(), domain)` is Langevin dynamics annealed by T(t), on particles
    and as a density; `make(t) = Wasserstein(ReducedRisk(..., lam=lam(t)), domain)` a schedule of lam. The
    state carries t as its `time`, counted from the start and the number of steps.

    - `make`: from a number t () to a `Flow`. It is traced: schedules are written with `jnp` (`jnp.log`,
      `jnp.where`; not `math.log`, nor `if t > 1`), and what
      `make` builds may differ in numbers alone. An `equinox.Module` may carry swept numbers as leaves.

    The recorded energy is that of `make(t)` at time t and changes with the schedule as well as along the
    flow, dE/dt = d_t E_t(mu) - int |grad V|^2 dmu: the recorded `dissipation` is -dE/dt, and the energy may
    rise. Observables are given the flow of their time.

    Explicit steppers keep their order, `StochasticHeun` its weak order, `RosenbrockW` its order 3; schemes
    of order 1 take the drift at the beginning of a step, and the temperature of noise in its middle.
    **Fails** where make(t) does, and where a temperature or the factor of an energy is negative.

    **Raises** `ValueError` unless `make` is a function that returns a flow.

    Source: annealing of mean-field Langevin dynamics, L. Chizat, TMLR 2022, with T(t) = c / log t.

    >>> import mfjax as mf
    >>> line = mf.domains.Euclidean(1)
    >>> well = mf.energies.Potential(lambda x: 0.5 * jnp.sum(x**2))
    >>> flow = Scheduled(lambda t: mf.flows.Wasserstein((1 + t) * well, line))
    >>> run = mf.simulate(flow, mf.measures.Particles(jnp.array([[1.0]])), t1=1.0)
    >>> bool(abs(run.final.points[0, 0] - jnp.exp(-1.5)) < 1e-3)
    True
    """

    make: Callable[[Any], Flow]
    monotone: ClassVar[bool] = False
    autonomous: ClassVar[bool] = False

    def __init__(self, make: Callable[[Any], Flow]):
        self.make = make

    def __check_init__(self):
        if not callable(self.make):
            raise ValueError(f"make must be a function from time to a flow, got {shown(self.make)}")
        flow = self.make(jnp.zeros(()))
        if not isinstance(flow, Flow):
            raise ValueError(f"make must return a Flow, got {type(flow).__name__}")

    def at(self, state: State | None = None) -> Flow:
        return self.make(jnp.zeros(()) if state is None else state.time).at(state)

    @property
    def energy(self) -> Energy | None:
        """The energy at t = 0; that of a state, as a stepper meets it, is `flow.at(state).energy`."""
        return self.at().energy

    @property
    def domain(self) -> Domain:
        """The domain, the same at all times."""
        return self.at().domain

    def on(self, domain: Domain) -> "Scheduled":
        return Scheduled(_Elsewhere(self.make, domain))

    def draw(self, key, step):
        return Scheduled(_Drawn(self.make, key, step)) if self.random else self

    def validate(self, mu: Measure) -> None:
        self.at().validate(mu)

    def init(self, mu: Measure) -> State:
        return self.at().init(mu).at_time(0)

    def evaluate(self, state: State) -> Evaluation:
        time = state.time
        if self._data_vary(time):
            # What features prepare of the data is that of t = 0.
            stale = lambda node: isinstance(node, Prepared)
            fresh = jax.tree.map(lambda n: Prepared(None) if stale(n) else n, state.carry, is_leaf=stale)
            state = state.with_carry(fresh)
        now = self.at(state).evaluate(state)
        one = jnp.ones_like(time)
        where = lambda e: (e.tangent.time, e.dissipation)
        drift = 0
        if now.energy is not None:
            _, drift = jax.jvp(lambda t: self.make(t).evaluate(state).energy, (time,), (one,))
        return eqx.tree_at(where, now, (one, now.dissipation - drift), is_leaf=lambda leaf: leaf is None)

    def _data_vary(self, time: Any) -> bool:
        """Whether the inputs, their masses or the features of a risk follow from the time."""
        learns = lambda node: isinstance(node, (Data, FeatureMap))
        parts = lambda t: [n for n in jax.tree.leaves(self.make(t), is_leaf=learns) if learns(n)]
        targets = lambda n: n.y if isinstance(n, Data) else None
        without = lambda n: n if targets(n) is None else eqx.tree_at(lambda data: data.y, n, None)
        numbers = lambda t: jax.tree.leaves(eqx.filter([without(n) for n in parts(t)], eqx.is_array))
        return any(reached(jax.make_jaxpr(numbers)(time).jaxpr))

    @property
    def temperature(self):
        return self.at().temperature

    @property
    def mark_temperatures(self):
        return self.at().mark_temperatures

    @property
    def random(self):
        return self.at().random

    def lift(self, mu: Measure) -> Measure:
        return self.at().lift(mu)

    def outer_weights(self, mu: Measure):
        return self.at().outer_weights(mu)

    def move(self, state: State, tangent: Tangent, time: Any, noise: Tangent | None = None) -> State:
        return self.at(state).move(state, tangent, time, noise)

    def end_step(self, state: State, dt: Any) -> State:
        return self.at(state).end_step(state, dt)


class _Drawn(eqx.Module):
    """A schedule whose flows are drawn for one step."""

    make: Callable[[Any], Flow]
    key: Key[Array, ""]
    step: Int[Array, ""]

    def __call__(self, time: Any) -> Flow:
        return self.make(time).draw(self.key, self.step)


class _Elsewhere(eqx.Module):
    """A schedule whose flows have another domain."""

    make: Callable[[Any], Flow]
    domain: Domain

    def __call__(self, time: Any) -> Flow:
        return self.make(time).on(self.domain)
