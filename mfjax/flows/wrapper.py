"""What the flows share that are made of another one."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx

from mfjax._numerics.arrays import kind
from mfjax.domains import Domain
from mfjax.energies.base import Energy
from mfjax.flows.base import Evaluation, Flow, State, require_measure
from mfjax.measures import Measure, Particles, Tangent


def require_flow(flow: Any, name: str) -> Flow:
    """`flow`. **Raises** `ValueError` unless it is one."""
    if not isinstance(flow, Flow):
        raise ValueError(f"{name} is of another flow, such as flows.Wasserstein(...), got {kind(flow)}")
    return flow


class WrapperFlow(Flow):
    """A flow of points made of another one, `flow`, which answers for all that is not overridden here.

    **Raises** `ValueError` for measures other than particles, and where more than their points moves.
    """

    flow: eqx.AbstractVar[Flow]

    @property
    def energy(self) -> Energy | None:
        """The energy of the inner flow."""
        return self.flow.energy

    @property
    def domain(self) -> Domain:
        """The domain of the inner flow."""
        return self.flow.domain

    @property
    def falls(self) -> bool:
        return self.monotone and self.flow.falls

    @property
    def timed(self) -> bool:
        return not self.autonomous or self.flow.timed

    @property
    def temperature(self) -> Any:
        return self.flow.temperature

    @property
    def mark_temperatures(self) -> Mapping[str, Any]:
        return self.flow.mark_temperatures

    @property
    def random(self) -> bool:
        return self.flow.random

    def _with(self, flow: Flow) -> "WrapperFlow":
        return eqx.tree_at(lambda wrapper: wrapper.flow, self, flow)

    def at(self, state: State | None = None) -> Flow:
        return self._with(self.flow.at(state))

    def on(self, domain: Domain) -> Flow:
        return self._with(self.flow.on(domain))

    def draw(self, key, step) -> Flow:
        return self._with(self.flow.draw(key, step))

    def lift(self, mu: Measure) -> Measure:
        return self.flow.lift(mu)

    def outer_weights(self, mu: Measure):
        return self.flow.outer_weights(mu)

    def validate(self, mu: Measure) -> None:
        require_measure(mu)
        name = type(self).__name__
        if not isinstance(mu, Particles):
            raise ValueError(f"{name} is of the points of Particles, got a {type(mu).__name__}")
        self.flow.validate(mu)
        tangent = eqx.filter_eval_shape(lambda nu: self.flow.rate(self.flow.init(nu)), mu)
        more = [n for n in ("weights", "growth", "marks", "fields") if getattr(tangent, n) is not None]
        if more:
            raise ValueError(
                f"{name} is of flows of points alone, and {type(self.flow).__name__} moves {more[0]}, too"
            )

    def init(self, mu: Measure) -> State:
        self.validate(mu)
        return self.flow.init(mu)

    def evaluate(self, state: State) -> Evaluation:
        return self.flow.evaluate(state)

    def move(self, state: State, tangent: Tangent, time: Any, noise: Tangent | None = None) -> State:
        return self.flow.move(state, tangent, time, noise)

    def end_step(self, state: State, dt: Any) -> State:
        return self.flow.end_step(state, dt)
