"""The abstract flow: from a state to its rate of change, with everything a run records."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from mfjax._numerics.arrays import kind, known
from mfjax.domains import Domain, require_domain
from mfjax.energies.base import Energy
from mfjax.grids.base import internal_parts
from mfjax.grids.diffusion import Part
from mfjax.grids.evaluation import Evaluation as Evaluation
from mfjax.grids.evaluation import evaluation as evaluation
from mfjax.grids.rates import Pairs
from mfjax.measures import Measure, Tangent


class State(eqx.Module):
    """What a flow moves: a measure (with marks), and `fields`, arrays that belong to no particle or cell.

    `carry` is where the next inner solve starts, `time` the flow time, which the loop sets at every step.
    """

    measure: Measure
    carry: Any = None
    fields: Mapping[str, Float[Array, "..."]] = eqx.field(default_factory=dict)
    time: Float[Array, ""] | float = 0.0

    def with_carry(self, carry: Any) -> "State":
        """The same state with another carry."""
        return State(self.measure, carry, self.fields, self.time)

    def with_measure(self, measure: Measure) -> "State":
        """The same state with another measure."""
        return State(measure, self.carry, self.fields, self.time)

    def at_time(self, time: Any) -> "State":
        """The same state at another flow time."""
        return State(self.measure, self.carry, self.fields, jnp.asarray(time, self.measure.dtype))


def require_measure(mu: Any) -> None:
    """**Raises** `ValueError` unless `mu` is a measure."""
    if not isinstance(mu, Measure):
        inside = "; pass its .measure" if isinstance(getattr(mu, "measure", None), Measure) else ""
        raise ValueError(f"the measure must be Particles or Grid, got {kind(mu)}{inside}")


class Flow(eqx.Module):
    """A rate of change of a state. A new flow is one subclass with `init` and `evaluate`.

    One that decreases no energy, such as Stein variational gradient descent, has the field
    `energy: None = None` and evaluates to `flows.evaluation(tangent, None, None, dtype)`: a run records NaN
    for what is not there.
    """

    energy: eqx.AbstractVar[Energy | None]
    domain: eqx.AbstractVar[Domain]
    # Whether the energy never increases; where it may, the certificate `largest_increase` says by how much.
    monotone: ClassVar[bool] = True
    # Whether the rate is a function of the measure alone, and not of the time too.
    autonomous: ClassVar[bool] = True

    def __check_init__(self):
        if not isinstance(self.energy, Energy | None):
            raise ValueError(f"energy must be an Energy, got {kind(self.energy)}")
        require_domain(self.domain)

    @property
    def falls(self) -> bool:
        """Whether the energy of this flow, one that is `monotone`, never increases on its domain.

        It may where mass diffuses along some axes alone: the entropy of what moves along the others can rise.
        """
        # First, for the energy of a flow that varies in time is not known where its numbers are shapes alone.
        if not self.monotone:
            return False
        return self.energy is None or not (self.domain.noiseless and internal_parts(self.energy))

    @property
    def timed(self) -> bool:
        """Whether the rate depends on the time, too: of a flow that is not `autonomous`, or made of one."""
        return not self.autonomous

    def at(self, state: State | None = None) -> "Flow":
        """The flow with its numbers as they are at the time of `state`, at the start unless given."""
        return self

    def on(self, domain: Domain) -> "Flow":
        """The same flow with another domain, on which its points lie as well."""
        return eqx.tree_at(lambda flow: flow.domain, self, domain)

    def lift(self, mu: Measure) -> Measure:
        """The measure that the energy is a function of: `mu`, unless marks are coordinates of its points."""
        return mu

    def validate(self, mu: Measure) -> None:
        """**Raises** `ValueError` if this flow cannot move measures like `mu`. Solves nothing."""
        self.domain.validate(mu.points)
        if self.energy is not None:
            self.energy.validate(mu, self.domain)

    @abstractmethod
    def init(self, mu: Measure) -> State:
        """The state that starts from the measure `mu`.

        **Raises** `ValueError` as `validate` does.
        """

    @abstractmethod
    def evaluate(self, state: State) -> Evaluation:
        """The rate of the whole state, with energy, dissipation and solve diagnostics."""

    def diffusion(self, mu: Measure) -> tuple[Part, ...]:
        """The internal energies (coefficient, energy) whose fluxes `linearize` holds; none on particles."""
        return ()

    def linearize(self, state: State, now: Evaluation) -> Pairs:
        """The stiff fluxes of mass at `state`, where the flow is `now`, linear in the masses of the cells."""
        raise NotImplementedError(f"{type(self).__name__} has no implicit steps")

    def rate(self, state: State) -> Tangent:
        """The rate of the whole state."""
        return self.evaluate(state).tangent

    def value(self, state: State) -> Float[Array, ""] | None:
        """The energy that this flow dissipates, at `state`; `None` where it is not known."""
        return self.evaluate(state).energy

    def outer_weights(self, mu: Measure) -> Float[Array, "K *c"] | None:
        """The outer weights of the network at the support of `mu`: the optimal ones of the energy, if any."""
        return None if self.energy is None else self.energy.solve(mu).outer_weights

    @property
    def temperature(self) -> Any:
        """T of the noise sqrt(2 T) dW on particles; the Python number 0.0 for a deterministic flow."""
        return 0.0 if self.energy is None else self.energy.temperature

    @property
    def mark_temperatures(self) -> Mapping[str, Any]:
        """T of the noise sqrt(2 T) dB on marks of particles, by their names."""
        return {}

    @property
    def stochastic(self) -> bool:
        """Whether particles of this flow, or their marks, are driven by noise."""
        temperature = self.temperature
        return bool(self.mark_temperatures) or not (
            isinstance(temperature, (int, float)) and temperature == 0
        )

    @property
    def random(self) -> bool:
        """Whether each step of a run sees another flow, drawn by `draw`."""
        return self.energy is not None and self.energy.random

    def draw(self, key: Key[Array, ""], step: Int[Array, ""]) -> "Flow":
        """The flow that one step of a run sees, of an energy drawn for it."""
        if not self.random:
            return self
        return eqx.tree_at(lambda flow: flow.energy, self, known(self.energy).draw(key, step))

    def move(self, state: State, tangent: Tangent, time: Any, noise: Tangent | None = None) -> State:
        """The state after `time` along `tangent`, and the increment `noise`, retracted to the domain."""
        measure, fields = state.measure.move(self.domain, tangent, time, noise), dict(state.fields)
        for name, rate in (tangent.fields or {}).items():
            fields[name] = fields[name] + time * rate
        now = state.time if tangent.time is None else state.time + time * tangent.time
        return State(measure, state.carry, fields, now)

    def end_step(self, state: State, dt: Float[Array, ""]) -> State:
        """The state at the end of a step of length `dt`, with what the flow keeps of it, in marks or fields.

        A run calls it once a step, whatever the stepper. The flow has been evaluated there already: unless it
        is `random`, so that the next draw is evaluated, neither rate nor energy may depend on what changes.
        """
        return state
