"""The (rho, H) system that moves rho and H separately: a height that is a fixed field of space."""

from collections.abc import Callable
from typing import Any, ClassVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp

from mfjax._numerics.arrays import inner, known
from mfjax.domains import Domain
from mfjax.energies.base import Energy
from mfjax.energies.internal import DensityEstimate, InternalEnergy
from mfjax.energies.risk import Risk
from mfjax.features import Weighted
from mfjax.flows.base import Evaluation, State
from mfjax.flows.heights import HeightFlow
from mfjax.measures import Measure, Particles, Tangent


class SeparatedVariables(HeightFlow):
    """The (rho, H) system in which the height H is a field of space that no particle carries.

    d_t rho = div(rho grad[V(H(.), .)]), d_t H = -d_H V at every point of space (survey (3.19)).

    V as in `PropagationOfChaos`; for the risk the velocity is -grad(H N) - lam (H grad H + theta) and
    d_t H = -(N + lam H). Balance, with the whole gradient of the first variation:

        dG/dt = -int |grad[V(H(.), .)]|^2 drho - int (d_H V)^2 drho.

    On a `Grid` with the mark "H" the height stands in the cells. On `Particles` the field is known in closed
    form, since N is a sum of features over the data:

        H_t(theta) = e^{-lam t} H_0(theta) + sum_q phi(theta, x_q) b_q,  b_q' = -lam b_q - p_q (F(x_q) - y_q),

    b_q(0) = 0. The state carries b, as "duals" (N,), and e^{-lam t}, as "decay"; the mark "H" of the
    particles is H_t at their points, whatever a measure brings.

    - `energy`: on a grid any energy of (H, theta) with internal energies; on particles one
      `Risk(Weighted(phi), ...)`, and entropies, which are noise under which H stays a field.
    - `height`: H_0, a differentiable function of one point; on a grid it may be the mark "H" instead.

    **Raises** `ValueError` on particles without `height` or with other energies.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> neuron = mf.features.Weighted(mf.features.Ridge(jnp.tanh))
    >>> risk = mf.energies.Risk(neuron, jnp.array([[1.0]]), jnp.array([1.0]), lam=0.1)
    >>> flow = SeparatedVariables(risk, mf.domains.Euclidean(1), lambda theta: 0.5 * theta[0])
    >>> run = mf.simulate(flow, mf.measures.Particles(jnp.array([[1.0]])), t1=1.0)
    >>> bool(run.observables["energy"][-1] < run.observables["energy"][0])
    True
    """

    energy: Energy
    domain: Domain
    height: Callable | None = None
    held: ClassVar[bool] = False
    rides: ClassVar[bool] = False

    def validate(self, mu: Measure) -> None:
        super().validate(self._started(mu))
        if isinstance(mu, Particles) and self._risk()[1].random:
            raise ValueError(
                "SeparatedVariables on particles has a closed form in the duals of all data, not of batches: "
                "take flows.Transported, or a Grid"
            )

    def init(self, mu: Measure) -> State:
        self.validate(mu)
        mu = self._started(mu)
        state = super().init(mu)
        if not isinstance(mu, Particles):
            return state
        data = self._risk()[1].data
        fields = {"duals": jnp.zeros_like(data.y, dtype=mu.dtype), "decay": jnp.ones((), mu.dtype)}
        return State(mu, state.carry, fields, state.time)

    def _started(self, mu: Any) -> Measure:
        """The measure with the mark "H" at the start."""
        if self.height is None:
            if isinstance(mu, Particles):
                raise ValueError(
                    "SeparatedVariables on particles needs height=, the function H_0 of one point: its "
                    "gradient moves them, and marks say nothing between the points"
                )
            return mu
        if not isinstance(mu, Measure) or (not isinstance(mu, Particles) and "H" in mu.marks):
            return mu
        return mu.with_marks(H=jax.vmap(self.height)(mu.points).astype(mu.dtype))

    def _risk(self) -> tuple[Any, Risk]:
        """(coefficient, risk), the one term beside internal energies, which the closed form is for."""
        apart = (InternalEnergy, DensityEstimate)
        rest = [part for part in self.energy.parts() if not isinstance(part[1], apart)]
        if len(rest) == 1 and isinstance(rest[0][1], Risk) and isinstance(rest[0][1].features, Weighted):
            return rest[0][0], rest[0][1]
        names = ", ".join(type(term).__name__ for _, term in rest)
        raise ValueError(
            "SeparatedVariables on particles has a closed form for one Risk(Weighted(phi), ...), and "
            f"entropies; got {names}: use a Grid"
        )

    def field(self, state: State) -> Callable:
        """H_t, a function of one point, of a state of particles."""
        risk = self._risk()[1]
        features, x, start = cast(Weighted, risk.features).features, risk.data.x, known(self.height)

        def height(point):
            row = jax.vmap(features, in_axes=(None, 0))(point, x.astype(point.dtype))
            learned = inner(row, state.fields["duals"])
            return state.fields["decay"] * jnp.asarray(start(point), point.dtype) + learned

        return height

    def evaluate(self, state: State) -> Evaluation:
        now = super().evaluate(state)
        if not isinstance(state.measure, Particles):
            return now
        factor, risk = self._risk()
        factor = jnp.asarray(factor).astype(state.measure.dtype)
        potential = risk.solve(self.lift(state.measure)).potential
        duals, decay = state.fields["duals"], state.fields["decay"]
        rates = {
            "duals": -factor * (potential.lam * duals + potential.dual),
            "decay": -factor * potential.lam * decay,
        }
        return eqx.tree_at(lambda e: e.tangent.fields, now, rates, is_leaf=lambda leaf: leaf is None)

    def move(self, state: State, tangent: Tangent, time: Any, noise: Tangent | None = None) -> State:
        moved = super().move(state, tangent, time, noise)
        if not isinstance(state.measure, Particles):
            return moved
        height = jax.vmap(self.field(moved))(moved.measure.points)
        return moved.with_measure(moved.measure.with_marks(H=height))

    def slope_of_height(self, state):
        return jax.vmap(jax.grad(self.field(state)))(state.measure.points)
