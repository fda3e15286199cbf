"""What the flows share whose outer weights move by themselves, a mark of each particle or cell."""

from abc import abstractmethod
from typing import Any, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mfjax import grids
from mfjax import status as codes
from mfjax._numerics.arrays import Prepared, inner, known, over_outputs, scalar
from mfjax.domains import Domain
from mfjax.energies.base import Energy, Solution, Sum, one_term
from mfjax.energies.reduced import Reduced, Score
from mfjax.flows.base import Evaluation, Flow, State, evaluation, require_measure
from mfjax.flows.wasserstein import smooth_part
from mfjax.measures import Grid, Measure, Tangent


class FirstSolve(eqx.Module):
    """The residual and status of the solve for the first outer weights, and what the features `prepared`."""

    prepared: Prepared
    residual: Float[Array, ""]
    status: Int[Array, ""]


class WeightsCarry(eqx.Module):
    """What an evaluation hands to the next: the first solve, that of the outer weights, the other terms."""

    first: FirstSolve
    outer: Any
    rest: Any


def prepared_in(carry: WeightsCarry | None) -> Any:
    """What the features prepared, if that is known."""
    return None if carry is None else carry.first.prepared.value


class Drive(NamedTuple):
    """What moves a network at one state: the outer weights `used` (K, *c) by the features, the `score` there.

    `rising` (K, *c) is the rate of the mark "u"; `solution` that of an outer problem, if one was solved.
    """

    used: Float[Array, "K *c"]
    score: Score
    rising: Float[Array, "K *c"]
    solution: Solution | None = None


class OuterWeightFlow(Flow):
    """A flow of features omega and of outer weights u, the mark "u", (K,) or (K, c) for c outputs.

    omega' = u_used grad s(omega), u' = rising. A new flow is `drive`, which says which weights move the
    features, and how the mark moves. The recorded energy is E(mu, u) of `energies.Reduced` at the mark.

    - `energy`: one `ReducedRisk` or `PopulationReducedRisk` with lam > 0, scaled, and other terms that are
      functions of the features alone. On `Particles` an `Entropy` is noise that moves features, and they
      carry their outer weights along.

    On a `Grid` each cell has one outer weight, which rides with the mass: trajectories of particles must not
    cross. With noise u is no function of omega, and its density lives on pairs (u, omega): refused.

    The mark starts at the exact minimizer for the initial features unless the measure brings one.
    """

    energy: Energy
    domain: Domain

    def __check_init__(self):
        scalar(self._terms()[1].lam, f"the lam of a {type(self).__name__} flow", above=0)

    @abstractmethod
    def drive(
        self, risk: Reduced, mu: Measure, score: Score, outer_slope: Array, carry: WeightsCarry | None
    ) -> Drive:
        """What moves the network whose mark "u" has this `score`, and this slope of the energy in u."""

    def _terms(self) -> tuple[Any, Reduced]:
        """(coefficient, risk), the term whose outer weights move."""
        needed = f"{type(self).__name__} needs a ReducedRisk or PopulationReducedRisk, one alone"
        return one_term(self.energy, lambda term: isinstance(term, Reduced), needed)

    def _rest(self) -> Energy:
        """The other terms that have a potential."""
        smooth = smooth_part(self.energy)
        return Sum(tuple(part for part in smooth.parts() if not isinstance(part[1], Reduced)))

    def validate(self, mu: Measure) -> None:
        require_measure(mu)
        self.domain.validate(mu.points)
        if isinstance(mu, Grid):
            grids.require_grid(mu, self.domain)
            if grids.internal_parts(self.energy) or self.mark_temperatures:
                raise ValueError(
                    f"{type(self).__name__} on a Grid has one outer weight in each cell, and noise would "
                    "spread them: use Particles, which carry theirs along, or the density of pairs of "
                    "TwoTimescale.of_pairs"
                )
        risk = self._terms()[1]
        risk.validate(mu, self.domain)
        expected = (mu.size, *risk.outputs)
        if "u" in mu.marks and mu.marks["u"].shape != expected:
            raise ValueError(
                f"the mark 'u' has shape {expected}, a number for each particle and output, got "
                f"{mu.marks['u'].shape}; without it a run starts from the best outer weights"
            )
        self._rest().validate(mu, self.domain)

    def init(self, mu: Measure) -> State:
        self.validate(mu)
        risk = self._terms()[1]
        prepared, rest = Prepared(None if self.random else risk.prepare(mu)), self._rest().init(mu)
        zero, fine = jnp.zeros((), mu.dtype), jnp.asarray(codes.OK, jnp.int32)
        if "u" in mu.marks:
            return State(mu, WeightsCarry(FirstSolve(prepared, zero, fine), self._memory(mu), rest))
        solution = risk.solve(mu)
        first = FirstSolve(
            prepared,
            jnp.asarray(solution.residual, mu.dtype),
            jnp.asarray(solution.status, jnp.int32),
        )
        start = mu.with_marks(u=known(solution.outer_weights).astype(mu.dtype))
        return State(start, WeightsCarry(first, self._memory(mu), rest))

    def _memory(self, mu: Measure) -> Any:
        """What the first outer solve of a run starts from."""
        return None

    def outer_weights(self, mu):
        """The mark "u". **Raises** `ValueError` for a measure without it."""
        if "u" not in mu.marks:
            raise ValueError(
                f"a {type(self).__name__} network has its outer weights in the mark 'u': none is there"
            )
        return mu.marks["u"]

    def evaluate(self, state: State) -> Evaluation:
        mu, carry = state.measure, cast(WeightsCarry | None, state.carry)
        u, rest = self.outer_weights(mu), self._rest()
        factor, risk = self._terms()
        factor = jnp.asarray(factor).astype(mu.dtype)
        first, before = (None, None) if carry is None else (carry.first, carry.rest)
        value, score = risk.at_weights(mu, u, prepared_in(carry))
        at, pull = jax.vjp(score.at, mu.points)
        other = rest.solve(mu, before)
        # dE/du over the mass of a particle.
        outer_slope = factor * (risk.regularizer.derivative(u) - at).astype(mu.dtype)
        drive = self.drive(risk, mu, score, outer_slope, carry)
        if isinstance(mu, Grid):
            field = rest.first_variation(mu, other)
            variation = over_outputs(factor * (risk.regularizer(u) - u * at)) + field
            tangent, moved, limit = self._on_grid(mu, drive, factor, field, variation)
        else:
            by_rest = rest.gradient_field(mu, other)
            slope_at = lambda pull, u: by_rest - factor * pull(u.astype(at.dtype))[0]
            force = slope = slope_at(pull, u)
            if drive.score is not score or drive.used is not u:
                force = slope_at(jax.vjp(drive.score.at, mu.points)[1], drive.used)
            tangent, moved, limit = self._on_particles(mu, drive, force, slope)
        if carry is not None:
            outer = carry.outer if drive.solution is None else drive.solution.carry
            carry = WeightsCarry(carry.first, outer, other.carry)
        residual, status = self._health(first, drive.solution)
        return evaluation(
            tangent,
            None if other.value is None else factor * value + other.value,
            moved - jnp.sum(mu.integrate(outer_slope * known(tangent.marks)["u"])),
            mu.dtype,
            residual=residual,
            status=codes.first(status, jnp.asarray(other.status, jnp.int32)),
            max_step=limit,
            carry=carry,
        )

    def _on_particles(
        self, mu: Measure, drive: Drive, force: Array, slope: Array
    ) -> tuple[Tangent, Any, Any]:
        """The rates, what the features dissipate where the `slope` of the energy is felt, no longest step."""
        velocity = jax.vmap(self.domain.velocity)(mu.points, -force)
        felt = jax.vmap(self.domain.project)(mu.points, slope)
        moved = mu.integrate(-jnp.sum(felt * velocity, axis=-1))
        return Tangent(points=velocity, marks={"u": drive.rising.astype(mu.dtype)}), moved, jnp.inf

    def _on_grid(
        self, mu: Grid, drive: Drive, factor: Array, field: Array, variation: Array
    ) -> tuple[Tangent, Any, Any]:
        """The rates: mass moves by -u_used grad s + grad of the other terms, and takes the mark along."""
        score, used = drive.score.at(mu.points).astype(mu.dtype), drive.used.astype(mu.dtype)
        drift = grids.face_slopes(field, mu)
        for s, weight in zip(columns_of(score), columns_of(used), strict=True):
            held = grids.partial_slopes(-factor * weight * s, -factor * s, weight, mu)
            drift = tuple(a + b for a, b in zip(drift, held, strict=True))
        rate, longest = grids.mass_rate(mu, drift)
        u, velocities = self.outer_weights(mu), tuple(-d for d in drift)
        carried, limit = grids.riding_rate(u, velocities, mu)
        tangent = Tangent(weights=rate, marks={"u": drive.rising.astype(mu.dtype) + carried})
        return tangent, -inner(variation, rate), jnp.minimum(longest, limit)

    def _health(self, first: FirstSolve | None, solution: Solution | None) -> tuple[Any, Any]:
        """Residual and status of the solve that the outer weights come from."""
        solved = first if solution is None else solution
        if solved is None:
            return 0.0, jnp.asarray(codes.OK, jnp.int32)
        return solved.residual, jnp.asarray(solved.status, jnp.int32)


def columns_of(values: Float[Array, "K *c"]) -> list[Float[Array, " K"]]:
    """The values of each output."""
    return [values] if values.ndim == 1 else list(values.T)
