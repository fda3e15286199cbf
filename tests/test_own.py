"""Energies, flows and optimizers that users write: what they may leave out, and what they are told."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mfjax as mf
from mfjax import status as codes

E, S = mf.energies, mf.steppers
LINE, TORUS = mf.domains.Euclidean(1), mf.domains.Torus(1)
MU = mf.measures.Particles(jnp.array([[1.0], [-0.5]]))
WELL = E.Potential(lambda x: 0.5 * jnp.sum(x * x))


class Score(E.Energy):
    """Known by its slope alone, with a status of its own where a point is far away."""

    value: float | None = None

    def solve(self, mu, carry=None):
        far = jnp.any(jnp.abs(mu.points) > 2)
        value = None if self.value is None else jnp.asarray(self.value)
        return E.Solution(
            value, lambda x: 0.5 * jnp.sum(x * x), status=jnp.where(far, codes.OWN + 4, codes.OK)
        )


class Periodic(Score):
    """The same on a torus."""

    def solve(self, mu, carry=None):
        value = None if self.value is None else jnp.asarray(self.value)
        return E.Solution(value, lambda x: jnp.cos(2 * jnp.pi * x[0] / 3))


class Drift(mf.flows.Flow):
    """A flow that decreases no energy."""

    domain: mf.domains.Domain
    energy: None = None
    monotone: ClassVar[bool] = False

    def init(self, mu):
        self.validate(mu)
        return mf.flows.State(mu)

    def evaluate(self, state):
        tangent = mf.measures.Tangent(points=-state.measure.points)
        return mf.flows.evaluation(tangent, None, None, state.measure.dtype)


FLOWS = {
    "energy without value": mf.flows.Wasserstein(Score(), LINE),
    "sum with one": mf.flows.Wasserstein(0.5 * Score() + 0.5 * WELL, LINE),
    "scheduled": mf.flows.Scheduled(lambda t: mf.flows.Wasserstein(Score(), LINE)),
    "flow without energy": Drift(LINE),
}


@pytest.mark.parametrize("kind", FLOWS)
def test_what_is_not_known_is_nan_and_no_fault(kind):
    run = mf.simulate(FLOWS[kind], MU, stepper=S.RK4(0.1), steps=10, save_every=5)
    np.testing.assert_allclose(run.final.points, MU.points * np.exp(-1), rtol=1e-5)
    for name in ("energy", "dissipation", "dissipated"):
        assert np.isnan(run.observables[name]).all() and run.observables[name].shape == (3,)


WALLS = mf.domains.Interval(-1.5, 1.5)
DENSITIES = {
    "wasserstein": (mf.flows.Wasserstein(Score(), WALLS), None),
    "entropy": (mf.flows.Wasserstein(Score() + 0.2 * E.Entropy(), WALLS), S.RosenbrockW()),
    "implicit": (mf.flows.Wasserstein(Score() + 0.2 * E.Entropy(), WALLS), S.ImplicitEuler(0.1)),
    "sinkhorn": (
        mf.flows.Wasserstein(Score() + 0.2 * E.Entropy(), WALLS),
        S.EntropicProximal(0.1, blur=0.1),
    ),
    "growth": (mf.flows.WassersteinFisherRao(Score() + 0.2 * E.Entropy(), WALLS), None),
    "heights": (mf.flows.PropagationOfChaos(Score(), WALLS), None),
    "spectral": (
        mf.flows.Wasserstein(
            Periodic() + 0.2 * E.Entropy(), mf.domains.Torus(1, 3.0), space=mf.grids.Spectral()
        ),
        None,
    ),
}


@pytest.mark.filterwarnings("ignore:the run completed.* its energy rose")
@pytest.mark.slow_cases("implicit", "sinkhorn", "growth", "spectral", "heights")
@pytest.mark.parametrize("kind", DENSITIES)
def test_a_density_moves_by_an_energy_without_value(kind):
    """As by one with the same potential and a value, bit for bit."""
    flow, stepper = DENSITIES[kind]
    mu = mf.measures.Grid.from_density(flow.domain, 16, lambda x: 1 + 0.3 * jnp.cos(2 * jnp.pi * x[0] / 3))
    if kind == "heights":
        mu = mu.with_marks(H=mu.points[:, 0])
    of_value = lambda node: isinstance(node, Score)
    named = jax.tree.map(lambda n: type(n)(1.0) if of_value(n) else n, flow.energy, is_leaf=of_value)
    other = eqx.tree_at(lambda f: f.energy, flow, named)
    run, same = (mf.simulate(f, mu, stepper=stepper, save_at=[0.2, 0.3]) for f in (flow, other))
    np.testing.assert_array_equal(run.final.weights, same.final.weights)
    assert np.isnan(run.observables["energy"]).all() and np.isfinite(same.observables["energy"]).all()


def test_what_needs_the_value_says_so():
    mu = mf.measures.Grid.uniform(WALLS, 16)
    with pytest.raises(ValueError, match="the value of this energy is not known, and the search"):
        mf.gibbs(Score() + 0.2 * E.Entropy(), mu)
    for measure in (mu, MU):
        with pytest.raises(ValueError, match="is not known, and so is its free energy"):
            mf.observables.FreeEnergy(Score())(measure)


def test_a_flow_without_energy_has_rates_and_no_outer_weights():
    still = mf.measures.Particles(jnp.zeros((2, 1)))
    spectrum = mf.linearize(Drift(LINE), still)
    np.testing.assert_allclose(spectrum.rates, 1, rtol=1e-12)
    assert "Drift flow at 2 particles" in spectrum.note
    assert Drift(LINE).outer_weights(MU) is None


class LateValue(E.Energy):
    """A force that is right and a value that is not, once the particles are near zero."""

    def solve(self, mu, carry=None):
        spread = mu.integrate(jnp.sum(mu.points**2, axis=-1))
        return E.Solution(jnp.where(spread < 0.2, jnp.nan, spread), lambda x: 0.5 * jnp.sum(x * x))


def test_a_value_that_fails_is_told_from_a_rate_that_fails():
    with pytest.raises(mf.SimulationError, match=r"value of the energy became NaN .* its rate is finite"):
        mf.simulate(mf.flows.Wasserstein(LateValue(), LINE), MU, stepper=S.Euler(0.1), steps=20)


def test_an_own_status_is_named_and_so_is_the_energy():
    far = mf.measures.Particles(jnp.array([[3.0]]))
    with pytest.raises(mf.SimulationError, match=r"reported its status 104 \(energy: Score \+ Potential\)"):
        mf.simulate(mf.flows.Wasserstein(Score(1.0) + WELL, LINE), far, stepper=S.Euler(0.1), steps=1)
    with pytest.raises(ValueError, match="Score has no value, only a potential"):
        Score()(MU)


def test_a_start_that_is_not_finite_is_no_step_too_large():
    singular = E.Potential(lambda x: jnp.log(jnp.sum(x * x)))
    with pytest.raises(
        mf.SimulationError, match=r"could not start: .*NaN or infinite at the initial measure"
    ):
        mf.simulate(mf.flows.Wasserstein(singular, LINE), mf.measures.Particles(jnp.zeros((1, 1))), t1=1.0)


@pytest.mark.slow_cases("grid")
@pytest.mark.parametrize("kind", ["particles", "grid", "slow diffusion", "potential"])
def test_a_negative_temperature_or_factor_is_named_at_once(kind):
    energy = {"slow diffusion": E.PorousMedium(2.0), "potential": WELL}.get(kind, E.Entropy())
    if kind == "particles":
        domain, mu = LINE, MU
        options = {"stepper": S.EulerMaruyama(0.125), "steps": 8, "key": jax.random.key(0)}
    elif kind == "potential":
        domain, mu, options = LINE, MU, {"stepper": S.Euler(0.125), "steps": 8}
    else:
        domain, mu, options = TORUS, mf.measures.Grid.uniform(TORUS, 8), {"t1": 1.0, "max_steps": 2000}
    flow = mf.flows.Scheduled(lambda t: mf.flows.Wasserstein((0.5 - t) * energy, domain))
    with pytest.raises(mf.SimulationError, match=r"temperature of the flow, or .* became negative") as caught:
        mf.simulate(flow, mu, **options)
    assert int(caught.value.run.failed_at) < 200


SEARCHES = {
    "lbfgs": lambda: optax.lbfgs(),
    "polyak": lambda: optax.polyak_sgd(max_learning_rate=1.0),
    "backtracking": lambda: optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(10)),
}


@pytest.mark.slow_cases("lbfgs", "polyak")
@pytest.mark.parametrize("kind", SEARCHES)
def test_optimizers_that_need_the_value(kind):
    scales = jnp.array([1.0, 5.0])
    plane = mf.flows.Wasserstein(E.Potential(lambda x: 0.5 * x @ (scales * x)), mf.domains.Euclidean(2))
    mu = mf.measures.Particles(jnp.array([[1.0, 1.0], [-1.0, 0.5]]))
    run = mf.simulate(plane, mu, stepper=S.Optax(SEARCHES[kind](), dt=1.0), steps=12)
    energy = np.asarray(run.observables["energy"])
    assert energy[-1] < 1e-2 * energy[0]
    # The same as optax alone on M F, of which the slope of the flow is the gradient.
    value = lambda x: mu.size * plane.energy(mf.measures.Particles(x))
    tx, x = optax.with_extra_args_support(SEARCHES[kind]()), mu.points
    memory = tx.init(x)
    for _ in range(3):
        updates, memory = tx.update(
            jax.grad(value)(x), memory, x, value=value(x), grad=jax.grad(value)(x), value_fn=value
        )
        x = x + updates
    np.testing.assert_allclose(run.measures.points[3], x, rtol=1e-6, atol=1e-9)


def test_an_optimizer_on_a_flow_that_depends_on_time():
    flow = mf.flows.Scheduled(lambda t: mf.flows.Wasserstein((1 + t) * WELL, LINE))
    run = mf.simulate(flow, MU, stepper=S.Optax(optax.sgd(0.1), dt=0.1), steps=3)
    euler = mf.simulate(flow, MU, stepper=S.Euler(0.1), steps=3)
    np.testing.assert_allclose(run.final.points, euler.final.points, rtol=1e-12)


def test_an_optimizer_with_parameters_of_its_own_is_refused():
    ahead = optax.lookahead(optax.sgd(0.1), sync_period=5, slow_step_size=0.5)
    with pytest.raises(ValueError, match="optax transformation cannot be applied to points"):
        mf.Simulation(mf.flows.Wasserstein(WELL, LINE), MU, stepper=S.Optax(ahead, dt=0.1), steps=1)


class Inner(E.Energy):
    """int V_u dmu at the u that solves u + u^3 = int x dmu, whose derivative may be hidden."""

    hidden: bool = eqx.field(static=True)

    def solve(self, mu, carry=None):
        mean = mu.integrate(mu.points[:, 0])
        u = jax.lax.custom_root(
            lambda u: u + u**3 - mean,
            jnp.zeros_like(mean),
            lambda f, u: jax.lax.fori_loop(0, 60, lambda _, u: u - f(u) / (1 + 3 * u**2), u),
            lambda g, y: y / g(jnp.ones_like(y)),
        )
        # The least over u of u^4/4 + u^2/2 - u mean, whose slope in mean is -u.
        u = jax.lax.stop_gradient(u) if self.hidden else u
        return E.Solution(u**4 / 4 + u**2 / 2 - u * mean, lambda x: -u * x[0])


@pytest.mark.slow
def test_a_hidden_stop_gradient_is_noticed():
    errors = mf.testing.check_energy(Inner(False), MU)
    assert errors["d grad V/dx, difference"] < 1e-6
    with pytest.raises(AssertionError, match="d grad V/dx, difference"):
        mf.testing.check_energy(Inner(True), MU)


# --- What is returned in the wrong form


class Returning(E.Energy):
    """What `solve` returns."""

    what: Callable = eqx.field(static=True)

    def solve(self, mu, carry=None):
        return self.what(mu)


@pytest.mark.wrong_calls
@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            lambda mu: (1.0, jnp.sum),
            r"Returning.solve must return an energies.Solution\(value, potential\), got tuple",
        ),
        (lambda mu: None, "got NoneType"),
        (
            lambda mu: E.Solution(jnp.ones(()), mu.points),
            "the potential of a Solution is a function of one point",
        ),
        (lambda mu: E.Solution(mu.weights, jnp.sum), r"value of a Solution is one number, got shape \(2,\)"),
    ],
)
def test_what_an_energy_returns_is_a_solution(what, message):
    with pytest.raises(ValueError, match=message):
        mf.simulate(mf.flows.Wasserstein(Returning(what), LINE), MU, stepper=S.Euler(0.1), steps=1)
    with pytest.raises(ValueError, match=message):
        (0.5 * Returning(what) + WELL)(MU)


class Noisy(S.Stepper):
    """Euler-Maruyama in three lines."""

    dt: jax.Array
    order: ClassVar[int] = 1
    noisy: ClassVar[bool] = True

    def step(self, flow, state, evaluation, dt, key, memory):
        moved = flow.move(state, evaluation.tangent, dt, S.brownian(flow, state, evaluation, dt, key))
        return S.settle(flow, moved, memory)


def test_a_noisy_stepper_takes_a_flow_without_noise():
    run = mf.simulate(mf.flows.Wasserstein(WELL, LINE), MU, stepper=Noisy(S.step_size(0.1)), steps=3)
    np.testing.assert_allclose(run.final.points, 0.9**3 * MU.points, rtol=1e-12)


def test_a_memory_that_is_not_declared():
    class Remembering(Noisy):
        def step(self, flow, state, evaluation, dt, key, memory):
            return S.settle(flow, flow.move(state, evaluation.tangent, dt), dt)

    with pytest.raises(ValueError, match=r"Remembering.step returned another memory than Remembering.init"):
        mf.simulate(mf.flows.Wasserstein(WELL, LINE), MU, stepper=Remembering(S.step_size(0.1)), steps=2)


def test_evaluations_are_a_pair():
    class Counting(Noisy):
        evaluations: ClassVar[int] = 1

    with pytest.raises(ValueError, match=r"evaluations of Counting are a pair.*got 1"):
        Counting(S.step_size(0.1))


def test_certificates_without_an_energy():
    run = mf.simulate(Drift(LINE), MU, stepper=S.Euler(0.1), steps=5)
    found = run.certificates
    assert found["saves"] == 6 and found["mass_drift"] == 0 and found["min_weight"] == 0.5
    assert np.isnan(found["balance_defect"]) and np.isnan(found["largest_increase"])
    mf.testing.check_flow(Drift(LINE), MU)
