"""The points of a flow averaged along a run."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import scalar
from mfjax.flows.base import Flow, State
from mfjax.flows.wrapper import WrapperFlow, require_flow


class Averaged(WrapperFlow):
    """A flow with the average of its points along a run (Polyak and Ruppert), or an exponential one.

    a <- a + w (x - a) after each step, in the mark "average" (M, d), x the new point of the particle; a step
    h that ends at flow time t has the weight

        w = min(1, h / (t - t0))      (the mean over time since t0),
        w = 1 - exp(-h / memory)      (exponential, of that memory; from the first point after t0 on).

    The motion of the points is that of `flow`. With steps of one size the first is the mean of the points
    after each step, x_1, ..., x_n; the second is the average of momentum exp(-h / memory). On a curved domain
    a moves along the shortest path to x. `observables.AtAverage(observable)` is what an observable sees of
    the measure of averages.

    - `flow`: one that moves the points of particles, by any stepper.
    - `since` t0 >= 0, in flow time: where averages begin, 0 unless given. **Good values**: half the run.
    - `memory` > 0, in flow time, for an exponential average; unless given the mean.

    **Raises** `ValueError` for grids, for flows that move more than points, and numbers out of range.

    Source: B. Polyak, A. Juditsky, SIAM J. Control Optim. 30 (1992).

    >>> import mfjax as mf
    >>> well = mf.flows.Wasserstein(mf.energies.Potential(lambda x: x @ x / 2), mf.domains.Euclidean(1))
    >>> mu = mf.measures.Particles(jnp.array([[1.0]]))
    >>> run = mf.simulate(Averaged(well), mu, stepper=mf.steppers.Euler(0.5), steps=2)
    >>> run.final.points.tolist(), run.final.marks["average"].tolist()  # 0.5 and 0.25 were seen
    ([[0.25]], [[0.375]])
    """

    flow: Flow
    since: Float[Array, ""]
    memory: Float[Array, ""] | None

    def __init__(self, flow: Flow, *, since: ScalarLike = 0.0, memory: ScalarLike | None = None):
        self.flow, self.since = require_flow(flow, "Averaged"), scalar(since, "since", minimum=0)
        self.memory = None if memory is None else scalar(memory, "memory", above=0)

    def init(self, mu):
        state = super().init(mu)
        return state.with_measure(state.measure.with_marks(average=mu.points))

    def end_step(self, state: State, dt) -> State:
        state = self.flow.end_step(state, dt)
        mu = state.measure
        weight = self._weight(dt, jnp.asarray(state.time, mu.dtype) - self.since.astype(mu.dtype))
        toward = lambda a, x: self.domain.retract(a, weight * self.domain.displacement(x, a))
        average = jax.vmap(toward)(mu.marks["average"], mu.points)
        return state.with_measure(mu.with_marks(average=average))

    def _weight(self, step: Any, age: Any) -> Any:
        """The weight of a point at the end of a step, averages being of this age."""
        if self.memory is None:
            # A step of no length, as cells of a batch take while others go on, has no weight.
            span = jnp.maximum(age, step)
            return step / jnp.where(span > 0, span, 1)
        # The first step that ends after `since` is the one that began no later, up to rounding of the clock.
        return jnp.where(age <= 1.01 * step, 1, -jnp.expm1(-step / self.memory.astype(step.dtype)))
