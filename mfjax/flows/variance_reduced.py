"""Batches of data whose noise a gradient of all data, now and then, takes away."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from mfjax._numerics.arrays import count, is_traced, known
from mfjax.energies.batches import Stream
from mfjax.flows.base import Flow, State
from mfjax.flows.wrapper import WrapperFlow, require_flow


class VarianceReduced(WrapperFlow):
    """Stochastic gradient descent of reduced variance: the gradient of a batch, corrected (SVRG).

    x' = b_B(x) - b_B(z) + b(z), b the rate of all data, b_B that of the batch of a step, z a snapshot of the
    points, which is renewed every m steps.

    Where the batch is unbiased so is the rate, and its noise vanishes as x and z come near to one another: on
    a strongly convex risk steps of a fixed size converge linearly, where those of plain batches end in noise.
    On a curved domain what z gives is projected to the tangent space at x. A `ReducedRisk`, the gradient of
    whose batch is biased, loses most of its bias, too.

    - `flow`: one that moves the points of particles, whose energy has `batches=`, drawn independently or in
      epochs, for all particles or for each.
    - `every` m, in steps. **Good values**: once or twice N / B.

    The marks "snapshot" z and "snapshot_rate" b(z), both (M, d), start at the first points. A step evaluates
    the batch twice, and every m-th one all data; in a batch of runs (`jax.vmap`, sweeps by "vmap") each step
    computes what the m-th needs.

    **Raises** `ValueError` for flows without batches, or of a `Stream`, that depend on time, or move more
    than points, for grids, for `steppers.NormalizedEuler`, and for m < 1.

    Source: R. Johnson, T. Zhang (NeurIPS 2013), the snapshot being the last point of a pass.

    >>> import jax.numpy as jnp, jax.random as jr, mfjax as mf
    >>> linear = mf.features.Function(lambda w, x: w @ x)
    >>> risk = mf.energies.Risk(linear, jnp.eye(2), jnp.ones(2), batches=mf.energies.Batches(1, replace=True))
    >>> flow = VarianceReduced(mf.flows.Wasserstein(risk, mf.domains.Euclidean(2)), every=4)
    >>> mu = mf.measures.Particles(jnp.zeros((1, 2)))
    >>> run = mf.simulate(flow, mu, stepper=mf.steppers.Euler(0.2), steps=400, key=jr.key(0))
    >>> run.final.points.round(3).tolist()
    [[1.0, 1.0]]
    """

    flow: Flow
    every: Int[Array, ""]
    monotone: ClassVar[bool] = False

    def __init__(self, flow: Flow, every: int | Int[Array, ""]):
        self.flow = require_flow(flow, "VarianceReduced")
        self.every = jnp.asarray(every if is_traced(every) else count(every, "every"), jnp.int32)

    def __check_init__(self):
        if not self.flow.random:
            raise ValueError(
                "VarianceReduced needs a flow that sees batches of data: give batches= to its energy"
            )
        terms = self.flow.energy.parts() if self.flow.energy is not None else ()
        if any(isinstance(getattr(term, "batches", None), Stream) for _, term in terms):
            raise ValueError(
                "VarianceReduced corrects batches by a gradient of all data, and a Stream has none: take "
                "energies.Batches"
            )
        if self.flow.timed:
            raise ValueError(
                f"VarianceReduced keeps rates at a snapshot, and {type(self.flow).__name__} depends on time"
            )

    def init(self, mu):
        state = super().init(mu)
        rate = known(self.flow.rate(state).points)
        return state.with_measure(state.measure.with_marks(snapshot=mu.points, snapshot_rate=rate))

    def draw(self, key, step):
        return _Corrected(self.flow.draw(key, step), self.flow, (jnp.asarray(step) + 1) % self.every == 0)


class _Corrected(WrapperFlow):
    """The rate of one step: that of the batch in `flow`, corrected; `renew` at its end."""

    flow: Flow
    whole: Flow
    renew: Bool[Array, ""]
    monotone: ClassVar[bool] = False

    def __init__(self, flow: Flow, whole: Flow, renew: Bool[Array, ""]):
        self.flow, self.whole, self.renew = flow, whole, renew

    def on(self, domain):
        raise ValueError(
            f"VarianceReduced keeps rates of its own domain, {self.domain!r}, and this stepper asks for "
            "those in the space around it: take steppers.Euler"
        )

    def evaluate(self, state):
        now, marks = self.flow.evaluate(state), state.measure.marks
        mu = eqx.tree_at(lambda mu: mu.points, state.measure, marks["snapshot"])
        lacking = marks["snapshot_rate"] - known(self.flow.rate(state.with_measure(mu)).points)
        rate = jax.vmap(self.domain.velocity)(state.measure.points, known(now.tangent.points) + lacking)
        return eqx.tree_at(lambda e: e.tangent.points, now, rate)

    def end_step(self, state: State, dt) -> State:
        state = self.flow.end_step(state, dt)
        mu = state.measure
        new = lambda: (mu.points, known(self.whole.rate(state).points))
        old = lambda: (mu.marks["snapshot"], mu.marks["snapshot_rate"])
        snapshot, rate = jax.lax.cond(self.renew, new, old)
        return state.with_measure(mu.with_marks(snapshot=snapshot, snapshot_rate=rate))
