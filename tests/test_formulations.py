"""The mu-formulation and the (rho, H) systems: against each other, gradient descent and exact balances."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment, linprog

import mfjax as mf
from mfjax._engine.loop import trajectory
from mfjax.energies import Entropy, PorousMedium, Potential, Risk
from mfjax.features import Function, Ridge, Weighted
from mfjax.flows import PropagationOfChaos, SeparatedVariables, Transported, Wasserstein
from mfjax.flows.base import State
from mfjax.measures import Grid, Particles, Tangent
from mfjax.observables import HeightDistance, Prediction
from mfjax.steppers import RK4, Euler, EulerMaruyama
from mfjax.steppers.explicit import scaled_error
from mfjax.testing import check_flow
from mfjax.theory import optimal_coupling

CIRCLE, PLANE = mf.domains.Sphere(1), mf.domains.Euclidean(2)
INTERVAL, TORUS = mf.domains.Interval(-2.0, 2.0), mf.domains.Torus(2)
NEURON = Function(lambda theta, x: jnp.tanh(2 * theta[0] * x[0] + x[1]))


def data(dtype="float64"):
    x = jnp.stack([jnp.linspace(-1, 1, 8), jnp.cos(3 * jnp.arange(8.0))], axis=-1)
    return x.astype(dtype), jnp.sin(3 * x[:, 0] + 0.5).astype(dtype)


def risk(lam=0.1, features=NEURON, dtype="float64"):
    return Risk(Weighted(features), *data(dtype), lam=lam)


def start(theta):
    """H_0, a smooth function of one point of any dimension."""
    return 1.0 + jnp.sin(2 * theta[0]) + 0.3 * jnp.cos(theta[-1])


def bump(theta):
    """A density whose support ends inside INTERVAL."""
    return jnp.maximum(1 - theta[0] ** 2, 0) ** 3


def carrying(mu, height=start):
    return mu.with_marks(H=jax.vmap(height)(mu.points).astype(mu.dtype))


def on_grid(n, domain=INTERVAL, density=bump, dtype="float64"):
    return carrying(Grid.from_density(domain, n, density, dtype=jnp.dtype(dtype)))


def on_labels(n, dtype="float64"):
    """Particles at the midpoints of a uniform grid of labels, with the masses of `bump`."""
    points = ((jnp.arange(n) + 0.5) * (2 / n) - 1)[:, None].astype(dtype)
    masses = jax.vmap(bump)(points)
    return carrying(Particles(points, masses / jnp.sum(masses)))


def on_quantiles(n):
    """n equal masses at the levels (i + 1/2) / n of `bump`, by Newton iteration on its cumulative."""
    level = (jnp.arange(n) + 0.5) / n
    cumulative = lambda t: 0.5 + (35 / 32) * (t - t**3 + 0.6 * t**5 - t**7 / 7)
    low, high = -jnp.ones(n), jnp.ones(n)
    for _ in range(60):
        middle = 0.5 * (low + high)
        below = cumulative(middle) < level
        low, high = jnp.where(below, middle, low), jnp.where(below, high, middle)
    return carrying(Particles(low[:, None]))


def systems(energy, domain=INTERVAL, **options):
    return {
        "separated": SeparatedVariables(energy, domain, start),
        "transported": Transported(energy, domain, **options),
        "chaos": PropagationOfChaos(energy, domain),
    }


@eqx.filter_jit
def end(flow, mu, dt, t1):
    carry, (_, values) = trajectory(mf.Simulation(flow, mu, stepper=RK4(dt), t1=t1, save_measures=False))
    return carry.state.measure, values


def moments(mu):
    """Means of smooth functions of theta under rho and under H rho."""
    theta = mu.points[:, 0]
    waves = jnp.stack([jnp.sin(theta), jnp.cos(theta), theta**2], axis=-1)
    return jnp.concatenate([mu.integrate(waves), mu.integrate(mu.marks["H"][:, None] * waves)])


# --- Particles


@pytest.mark.slow
def test_propagation_of_chaos_is_plain_gradient_descent():
    """H_i, theta_i <- minus gradient of the finite-width loss over the mass: 200 steps, by jax.grad alone."""
    x, y = data()
    masses = jnp.array([0.1, 0.3, 0.2, 0.15, 0.25])
    points, height = jr.normal(jr.key(1), (5, 1)), jr.normal(jr.key(2), (5,))
    lam, dt = 0.1, 0.05

    def loss(parameters):
        outer, theta = parameters
        hidden = jnp.tanh(2 * x[:, :1] * theta[:, 0] + x[:, 1:])
        error = hidden @ (masses * outer) - y
        return 0.5 * jnp.mean(error**2) + 0.5 * lam * masses @ (outer**2 + jnp.sum(theta**2, axis=1))

    @jax.jit
    def descend(_, parameters):
        gradient = jax.grad(loss)(parameters)
        scaled = gradient[0] / masses, gradient[1] / masses[:, None]
        return jax.tree.map(lambda p, g: p - dt * g, parameters, scaled)

    outer, theta = jax.lax.fori_loop(0, 200, descend, (height, points))
    mu = Particles(points, masses, marks={"H": height})
    flow = PropagationOfChaos(risk(lam), mf.domains.Euclidean(1))
    run = mf.simulate(flow, mu, stepper=Euler(dt), steps=200, save_every=200)
    errors = [np.max(np.abs(run.final.points - theta)), np.max(np.abs(run.final.marks["H"] - outer))]
    print(f"(3.23) against gradient descent, 200 steps: theta {errors[0]:.1e}, H {errors[1]:.1e}")
    assert max(errors) < 1e-10
    np.testing.assert_allclose(run.observables["energy"][-1], loss((outer, theta)), rtol=1e-12)
    # And the mu-formulation, whose particles are (H_i, theta_i).
    lifted = Particles(jnp.column_stack([height, points]), masses)
    other = mf.simulate(Wasserstein(risk(lam), PLANE), lifted, stepper=Euler(dt), steps=200, save_every=200)
    np.testing.assert_allclose(run.final.points[:, 0], other.final.points[:, 1], rtol=0, atol=1e-12)
    np.testing.assert_allclose(run.observables["dissipation"], other.observables["dissipation"], rtol=1e-10)


def test_predictions_read_the_height():
    mu, x = on_labels(6), data()[0]
    by_hand = np.tanh(2 * np.outer(x[:, 0], mu.points[:, 0]) + np.asarray(x[:, 1:])) @ (
        mu.weights * mu.marks["H"]
    )
    np.testing.assert_allclose(Prediction(x)(mu, PropagationOfChaos(risk(), INTERVAL)), by_hand, rtol=1e-12)


def test_separated_variables_keep_the_field_in_closed_form():
    """At fixed points the closed form solves H' = -(N + lam H), a matrix equation of its own."""
    lam, t1 = 0.1, 1.0
    mu = on_labels(6)
    far = jnp.linspace(-1.5, 1.5, 5)[:, None]
    both = Particles(jnp.concatenate([mu.points, far]), jnp.concatenate([mu.weights, jnp.zeros(5)]))
    x, y = data()
    # Two copies of every feature of opposite gradients would be needed to stop the points; stop the clock.
    flow = SeparatedVariables(risk(lam), INTERVAL, start)
    state = flow.init(both)

    def still(_, state):
        now = flow.evaluate(state)
        frozen = eqx.tree_at(lambda t: t.points, now.tangent, jnp.zeros_like(both.points))
        return flow.move(state, frozen, t1 / 20000)

    state = eqx.filter_jit(lambda s: jax.lax.fori_loop(0, 20000, still, s))(state)
    phi = jnp.tanh(2 * x[:, :1] * both.points[:, 0] + x[:, 1:])
    matrix = phi.T @ (phi * both.weights) / len(y) + lam * jnp.eye(11)
    rest = jnp.linalg.solve(matrix, phi.T @ y / len(y))
    exact = rest + jax.scipy.linalg.expm(-t1 * matrix) @ (jax.vmap(start)(both.points) - rest)
    np.testing.assert_allclose(state.measure.marks["H"], exact, rtol=0, atol=2e-5)
    assert float(state.fields["decay"]) == pytest.approx(np.exp(-lam * t1), rel=1e-5)


@pytest.mark.slow_cases("chaos-float32")
@pytest.mark.parametrize(("name", "dtype"), [("separated", "float64"), ("chaos", "float32")])
def test_generic_checks_on_particles(name, dtype):
    features = Ridge(jnp.tanh)
    mu = carrying(
        Particles(CIRCLE.sample(jr.key(1), 5, dtype), jnp.array([0.1, 0.3, 0.2, 0.15, 0.25], dtype))
    )
    check_flow(systems(risk(0.1, features, dtype), CIRCLE)[name], mu)


@pytest.mark.slow_cases(
    "none-float64-chaos",
    "none-float64-separated",
    "heat-float32-separated",
    "none-float64-transported",
    "heat-float32-chaos",
    "heat-float32-transported",
)
@pytest.mark.parametrize("name", ["separated", "transported", "chaos"])
@pytest.mark.parametrize(
    ("extra", "dtype"), [("none", "float64"), ("heat", "float64"), ("porous", "float64"), ("heat", "float32")]
)
def test_generic_checks_on_grids(name, extra, dtype):
    """The recorded dissipation is the derivative of the energy of the cells, regularized ones included."""
    energy = risk(0.1, dtype=dtype)
    energy = {"none": energy, "heat": energy + 0.1 * Entropy(), "porous": energy + 0.1 * PorousMedium()}[
        extra
    ]
    density = lambda theta: 1.2 + jnp.sin(theta[0])
    check_flow(
        systems(energy)[name],
        on_grid(16, density=density, dtype=dtype),
        rtol=3e-2 if dtype == "float32" else 1e-5,
    )


@pytest.mark.slow
def test_dissipation_on_labels():
    flow, mu = Transported(risk(), INTERVAL, labels=(8,)), on_labels(8)
    now, h = flow.evaluate(flow.init(mu)), 1e-5
    ahead, behind = (flow.value(flow.move(flow.init(mu), now.tangent, s)) for s in (h, -h))
    np.testing.assert_allclose((behind - ahead) / (2 * h), now.dissipation, rtol=1e-7)
    # (dX/da)^{-T} dH/da is exact for quadratic H and affine X, at the ends too.
    quadratic = mu.with_marks(H=mu.points[:, 0] ** 2)
    np.testing.assert_allclose(flow.slope_of_height(mf.flows.State(quadratic)), 2 * mu.points, atol=1e-13)


@pytest.mark.slow
def test_labels_in_two_dimensions():
    """A rotated and stretched label grid on the plane of a box, and one that closes on the torus."""
    a = jnp.stack(jnp.meshgrid(jnp.arange(6.0), jnp.arange(5.0), indexing="ij"), axis=-1).reshape(-1, 2)
    points = a @ jnp.array([[0.1, 0.05], [-0.02, 0.2]])
    height = points @ jnp.array([3.0, -1.0]) + points[:, 0] * points[:, 1]
    box = mf.domains.Box([-1.0, -1.0], [2.0, 2.0])
    state = mf.flows.State(Particles(points, marks={"H": height}))
    slope_of = eqx.filter_jit(lambda flow, state: flow.slope_of_height(state))
    slope = slope_of(Transported(risk(), box, (6, 5)), state)
    np.testing.assert_allclose(slope, jnp.array([3.0, -1.0]) + points[:, ::-1], atol=1e-12)
    errors = []
    for n in (16, 32):
        cells = Grid.uniform(TORUS, n)
        bent = cells.points + 0.05 * jnp.sin(2 * jnp.pi * cells.points[:, ::-1])
        points = jax.vmap(TORUS.retract)(bent, jnp.zeros_like(bent))
        wave = lambda p: jnp.sin(2 * jnp.pi * p[0]) * jnp.cos(2 * jnp.pi * p[1])
        state = mf.flows.State(carrying(Particles(points), wave))
        exact = jax.vmap(jax.grad(wave))(points)
        errors.append(
            float(jnp.max(jnp.abs(Transported(risk(), TORUS, (n, n)).slope_of_height(state) - exact)))
        )
    assert errors[0] / errors[1] > 3.6, errors


# --- Densities


def observed_order(name, flow, exact, sizes, grid, dt, t1):
    """The slope of the error of `moments` against the mesh; masses are kept, never negative."""
    errors = []
    for n in sizes:
        mu, values = end(flow, grid(n), dt, t1)
        assert int(values["status"][-1]) == 0 and float(values["min_weight"].min()) >= 0
        np.testing.assert_allclose(values["mass"], 1, rtol=1e-12)
        errors.append(float(jnp.max(jnp.abs(moments(mu) - moments(exact)))))
    order = -np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    print(f"{name}: errors {errors}, order {order:.2f}")
    return order, errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "labels", "sizes", "dt", "t1"),
    # Labels fold at t = 0.3, where H has a kink.
    [("separated", 200, (60, 120), 1 / 50, 1.0), ("transported", 400, (80, 160), 1 / 250, 0.2)],
)
def test_grids_meet_labels_at_second_order(name, labels, sizes, dt, t1):
    """(3.19) in closed form and (3.21) on labels against grids that carry H, with empty cells around."""
    start = on_labels(labels)
    exact, _ = end(systems(risk(), labels=(labels,))[name], start, dt, t1)
    assert float(jnp.max(jnp.abs(moments(exact) - moments(start)))) > 0.05, "nothing moves"
    order, errors = observed_order(name, systems(risk())[name], exact, sizes, on_grid, dt, t1)
    assert order > 1.7 and errors[-1] < 5e-4, (order, errors)


@pytest.mark.slow
def test_grids_meet_quantile_particles_at_second_order():
    """(3.23) on the circle: particles at the quantiles of the density of the grids."""
    levels = (np.arange(4000) + 0.5) / 4000
    angle = np.linspace(0, 2 * np.pi, 200001)
    angle = np.interp(levels, (angle + 0.5 * np.sin(angle)) / (2 * np.pi), angle)
    particles = carrying(Particles(jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)))
    flow = PropagationOfChaos(risk(0.1, Ridge(jnp.tanh)), CIRCLE)
    exact, _ = end(flow, particles, 1 / 50, 1.0)
    assert float(jnp.max(jnp.abs(moments(exact) - moments(particles)))) > 0.05, "nothing moves"
    grid = lambda n: on_grid(n, CIRCLE, lambda theta: 1 + 0.5 * theta[0])
    order, errors = observed_order("chaos", flow, exact, (32, 64, 128), grid, 1 / 50, 1.0)
    assert order > 1.8 and errors[-1] < 5e-5, (order, errors)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["separated", "transported", "chaos"])
def test_balance_holds_along_runs(name):
    """Energy against the integral of the recorded dissipation, of second order in the step."""
    defects = []
    for dt in (1 / 50, 1 / 100):
        run = mf.simulate(
            systems(risk())[name], on_grid(40), stepper=RK4(dt), t1=1.0, save_at=[0.25, 0.5, 1.0]
        )
        defects.append(run.certificates["balance_defect"])
    print(f"{name}: balance defects {defects}")
    assert defects[1] < 1e-4 and defects[0] / defects[1] > 3.5, defects


@pytest.mark.slow
def test_dissipation_tends_to_that_of_the_density():
    """int |grad_theta V|^2 drho + int (d_H V)^2 drho for the declared densities, by quadrature."""
    flows, fine = systems(risk()), on_labels(4000)
    lifted = flows["chaos"].lift(fine)
    gradient = risk().gradient_field(lifted)
    s, g = gradient[:, 0], gradient[:, 1]
    slope = jax.vmap(jax.grad(start))(fine.points)[:, 0]
    whole = g + s * slope
    exact = {
        "separated": fine.integrate(whole**2 + s**2),
        "transported": fine.integrate(whole**2 - s * whole * slope + s**2),
        "chaos": fine.integrate(g**2 + s**2),
    }
    for name, flow in flows.items():
        evaluate = eqx.filter_jit(lambda n, flow=flow: flow.evaluate(flow.init(on_grid(n))).dissipation)
        errors = [float(evaluate(n) / exact[name] - 1) for n in (160, 640)]
        print(f"{name}: dissipation of 160 and 640 cells against the density's: {errors}")
        # Second order, once the edges of the bump are resolved.
        assert abs(errors[1]) < 1e-4 and errors[0] / errors[1] > 14, (name, errors)


@pytest.mark.slow
def test_two_dimensions():
    """Propagation of chaos on the torus: a grid against particles that start at its cells."""
    features = Function(
        lambda theta, x: jnp.cos(2 * jnp.pi * (theta[0] + x[0])) * jnp.sin(2 * jnp.pi * theta[1] + x[1])
    )
    energy = risk(0.0, features) + 0.1 * Potential(lambda xi: 0.5 * xi[0] ** 2)
    wave = lambda theta: 1 + 0.5 * jnp.cos(2 * jnp.pi * theta[0])
    height = lambda theta: 1 + 0.5 * jnp.sin(2 * jnp.pi * (theta[0] + theta[1]))
    flow = PropagationOfChaos(energy, TORUS)
    seen = Prediction(data()[0])
    cells = lambda n: carrying(Grid.from_density(TORUS, n, wave), height)
    exact = end(flow, Particles((c := cells(24)).points, c.weights, c.marks), 1 / 50, 0.2)[0]
    before, errors = seen(exact, flow) - seen(c, flow), []
    for n in (12, 24):
        mu, values = end(flow, cells(n), 1 / 50, 0.2)
        errors.append(float(jnp.max(jnp.abs(seen(mu, flow) - seen(exact, flow)))))
        assert int(values["status"][-1]) == 0
    assert errors[1] < 0.02 * float(jnp.max(jnp.abs(before))) and errors[0] / errors[1] > 3, (errors, before)


def test_errors_of_heights_in_empty_cells_are_seen():
    """An error of a height where no mass is counts a little: it would run off, and mass enter it later."""
    grid = Grid(INTERVAL, 8, [0, 0, 1, 1, 1, 1, 0, 0], marks={"H": jnp.ones(8)})
    moved = lambda cell: Tangent(marks={"H": jnp.zeros(8).at[cell].set(1.0)})
    error = lambda cell: float(scaled_error(State(grid), State(grid), moved(cell), 1.0, None, None))
    np.testing.assert_allclose(error(0) / error(3), (0.5e-4 / (1 + 0.5e-4)) ** 0.5, rtol=1e-12)


@pytest.mark.slow
def test_heights_stay_between_their_bounds_in_empty_cells():
    """The steep start of the experiment, on few cells: they had run off to 1e12, and the run with them."""
    x = jnp.linspace(-2, 2, 32)[:, None]
    energy = Risk(Weighted(Ridge(jnp.tanh, 0.5)), x, jnp.sin(2 * x[:, 0]), lam=0.01)
    line = mf.domains.Interval(-3.0, 3.0)
    mu = Grid.from_density(line, 24, lambda theta: jnp.maximum(1 - (theta[0] + 1) ** 2, 0) ** 3)
    mu = mu.with_marks(H=2 + 3 * jnp.tanh(4 * (mu.points[:, 0] + 1)))
    run = mf.simulate(Transported(energy, line), mu, save_at=[0.5, 1.7, 4.0])
    assert float(jnp.max(jnp.abs(run.measures.marks["H"]))) < 6


@pytest.mark.slow
def test_the_transported_energy_may_increase():
    """H is large and steep where |N| is small: N = 2 + cos, H ~ N^{-2}."""
    torus = mf.domains.Torus(1)
    features = Function(lambda theta, x: x[0] + x[1] * jnp.cos(2 * jnp.pi * theta[0]))
    height = lambda theta: 4 / (2 + jnp.cos(2 * jnp.pi * theta[0])) ** 2
    mu = carrying(Grid.uniform(torus, 64), height)
    x = jnp.array([[2.0, 1.0]])
    output = mu.integrate(mu.marks["H"] * features.matrix(mu.points, x)[0])
    energy = Risk(Weighted(features), x, output[None] - 0.1)
    reports = {}
    for flow in (Transported(energy, torus), PropagationOfChaos(energy, torus)):
        run = mf.simulate(flow, mu, t1=2e-3, save_at=jnp.linspace(0, 2e-3, 5))
        reports[type(flow).__name__] = run.certificates | {
            "dissipation": float(run.observables["dissipation"][0])
        }
        assert run.certificates["balance_defect"] < 1e-2
    rise = reports.pop("Transported")
    assert rise["dissipation"] < 0 and rise["largest_increase"] > 1e-4, rise
    assert not Transported.monotone and PropagationOfChaos.monotone
    for report in reports.values():
        assert report["largest_increase"] == 0 and report["dissipation"] > 0
    # Never while |grad H| <= 2.
    steep = float(jnp.max(jnp.abs(jax.vmap(jax.grad(height))(mu.points))))
    calm = mu.with_marks(H=mu.marks["H"] * (2 / steep))
    flow = Transported(energy, torus)
    assert float(flow.evaluate(flow.init(calm)).dissipation) > 0


@pytest.mark.slow
def test_labels_stop_where_they_fold():
    flow = Transported(risk(), INTERVAL, labels=(60,))
    run = mf.simulate(flow, on_labels(60), stepper=RK4(1 / 100), t1=1.0, save_at=[0.2, 1.0], throw=False)
    assert run.status == mf.status.NON_FINITE and np.isfinite(run.observables["energy"][1])


# --- Regularized


@pytest.mark.slow
@pytest.mark.parametrize("name", ["separated", "chaos"])
@pytest.mark.parametrize("kind", ["heat", "porous"])
def test_stationary_densities(name, kind):
    """First variation + tau U' constant on the support and not below it elsewhere, and H = -N / lam."""
    tau, lam = 0.1, 1.0
    extra = Entropy() if kind == "heat" else PorousMedium()
    smooth = risk(lam)
    flow, mu = systems(smooth + tau * extra)[name], on_grid(32)
    last, values = end(flow, mu, 1 / 50, 40.0)
    assert int(values["status"][-1]) == 0 and float(values["min_weight"][-1]) >= 0
    lifted = flow.lift(last)
    potential = smooth.first_variation(lifted)
    by_height = smooth.gradient_field(lifted)[:, 0]
    level = np.asarray(potential + tau * extra.first_variation(last))
    support = np.asarray(last.weights) > 1e-9
    # A height that rides goes on moving through empty space.
    settled = support if name == "chaos" else slice(None)
    np.testing.assert_allclose(by_height[settled], 0, atol=1e-8)
    constant = level[support].mean()
    np.testing.assert_allclose(level[support], constant, atol=1e-7)
    if kind == "heat":
        assert support.all()
        density = np.exp(-np.asarray(potential) / tau)
        np.testing.assert_allclose(last.weights, density / density.sum(), rtol=1e-6)
    else:
        assert 0 < support.sum() < 32
        assert level[settled].min() > constant - 1e-7
        density = np.maximum(constant - np.asarray(potential), 0) / tau
        np.testing.assert_allclose(last.density[settled], density[settled], atol=1e-6)


@pytest.mark.slow
def test_noise_on_particles_is_diffusion_on_the_grid():
    """(3.19), whose height is a field under noise too: 4000 particles within four standard errors."""
    flow = SeparatedVariables(risk() + 0.1 * Entropy(), INTERVAL, start)
    with pytest.raises(ValueError, match="noise"):
        mf.simulate(flow, on_labels(10), t1=0.1)
    mu = on_quantiles(4000)
    run = mf.simulate(flow, mu, stepper=EulerMaruyama(1 / 50), t1=0.5, key=jr.key(7))
    density, _ = end(flow, on_grid(64), 1 / 500, 0.5)
    theta = run.final.points[:, 0]
    for f in (jnp.sin, jnp.cos, jnp.square):
        error = float(jnp.mean(f(theta)) - density.integrate(f(density.points[:, 0])))
        # The bias of the step and of the grid beside the noise of the mean.
        assert abs(error) < 4 * float(jnp.std(f(theta))) / np.sqrt(4000) + 5e-3, (f, error)
    np.testing.assert_allclose(run.final.marks["H"].mean(), density.integrate(density.marks["H"]), atol=0.05)


# --- Sweeps and precision


@pytest.mark.slow
def test_single_precision():
    single, double = (
        end(systems(risk(dtype=d))["chaos"], on_grid(40, dtype=d), 1 / 50, 0.2)[0]
        for d in ("float32", "float64")
    )
    assert single.weights.dtype == single.marks["H"].dtype == jnp.float32
    np.testing.assert_allclose(moments(single), moments(double), rtol=1e-4, atol=1e-5)


# --- The mu-formulation


@pytest.mark.slow
def test_the_mu_formulation_in_a_box_against_particles():
    """d_t mu = div(mu grad V) on (w, theta), V = lam/2 |xi|^2 and another potential."""
    box = mf.domains.Box([-2.0, -2.0], [2.0, 2.0])
    energy = risk(0.2) + 0.3 * Potential(lambda xi: jnp.cos(xi[0] + xi[1]))
    density = lambda xi: jnp.maximum(1 - jnp.sum(xi**2) / 1.5, 0) ** 3
    flow, seen = Wasserstein(energy, box), Prediction(data()[0])
    cells = Grid.from_density(box, 40, density)
    exact, _ = end(flow, Particles(cells.points, cells.weights), 1 / 20, 0.5)
    moved = float(jnp.max(jnp.abs(seen(exact, flow) - seen(cells, flow))))
    errors = []
    for n in (20, 40):
        mu, values = end(flow, Grid.from_density(box, n, density), 1 / 50, 0.5)
        errors.append(float(jnp.max(jnp.abs(seen(mu, flow) - seen(exact, flow)))))
        assert int(values["status"][-1]) == 0
        np.testing.assert_allclose(values["mass"], 1, rtol=1e-12)
    assert errors[1] < 0.03 * moved and errors[0] / errors[1] > 3, (errors, moved)


@pytest.mark.slow
def test_the_mu_formulation_in_a_box():
    """Its balance on a grid in (w, theta)."""
    box = mf.domains.Box([-2.0, -2.0], [2.0, 2.0])
    check_flow(
        Wasserstein(risk(0.2), box), Grid.from_density(box, 8, lambda xi: 2 + jnp.sin(xi[0])), rtol=1e-5
    )


# --- The distance of Remark 3.4


def test_couplings_are_optimal():
    """Against an independent assignment and an independent linear program, in both precisions."""
    compiled, random = jax.jit(optimal_coupling), np.random.default_rng(0)
    for dtype, bar in (("float64", 1e-13), ("float32", 1e-5)):
        cost = random.random((30, 30)).astype(dtype)
        plan = compiled(cost, *(jnp.full(30, 1 / 30, dtype) for _ in "ab"))
        assert plan.dtype == dtype
        rows, columns = linear_sum_assignment(cost)
        np.testing.assert_allclose(jnp.sum(plan * cost), cost[rows, columns].sum() / 30, rtol=bar)
    m, k = 12, 9
    cost, a, b = random.random((m, k)), random.random(m), random.random(k)
    a[3] = 0
    a, b = a / a.sum(), b / b.sum()
    plan = compiled(cost, a, b)
    margins = np.concatenate([np.kron(np.eye(m), np.ones(k)), np.kron(np.ones(m), np.eye(k))])
    best = linprog(cost.ravel(), A_eq=margins, b_eq=np.concatenate([a, b]), method="highs")
    np.testing.assert_allclose(jnp.sum(plan * cost), best.fun, rtol=1e-12)
    np.testing.assert_allclose(jnp.sum(plan, axis=1), a, atol=1e-15)
    np.testing.assert_allclose(jnp.sum(plan, axis=0), b, atol=1e-15)
    assert float(plan.min()) >= 0
    assert bool(jnp.all(jnp.isnan(compiled(jnp.asarray(cost).at[0, 0].set(jnp.nan), a, b))))


@pytest.mark.slow
def test_height_distance():
    """A metric, invariant under labels, differentiable; the speed of its gradient flow."""
    mu, nu = on_labels(12), carrying(on_labels(12), lambda theta: 2 - theta[0])
    distance = jax.jit(lambda a, b: HeightDistance(b, INTERVAL)(a))
    assert float(distance(mu, mu)) == 0
    order = jr.permutation(jr.key(0), 12)
    shuffled = jax.tree.map(lambda leaf: leaf[order], nu)
    np.testing.assert_allclose(distance(mu, shuffled), distance(nu, mu), rtol=1e-12)
    shift = carrying(on_labels(12), lambda theta: start(theta) + 3.0)
    assert float(distance(mu, shift)) == pytest.approx(3.0)
    assert float(distance(mu, nu)) <= float(distance(mu, shift) + distance(shift, nu))
    grid = on_grid(12)
    assert 0 < float(distance(grid, mu)) < 0.3
    # Derivative in the heights, against a difference; a batch; the speed of the gradient flow of Remark 3.4.
    value = lambda h: distance(mu.with_marks(H=h), nu)
    height, direction = mu.marks["H"], jr.normal(jr.key(1), (12,))
    slope = jnp.vdot(jax.grad(value)(height), direction)
    np.testing.assert_allclose(
        (value(height + 1e-5 * direction) - value(height - 1e-5 * direction)) / 2e-5, slope, rtol=1e-6
    )
    batch = jax.vmap(value)(jnp.stack([height, height + 1.0]))
    np.testing.assert_allclose(batch[1], value(height + 1.0), rtol=1e-12)
    flow = PropagationOfChaos(risk(), INTERVAL)
    state, h = flow.init(mu), 1e-4
    now = flow.evaluate(state)
    moved = flow.move(state, now.tangent, h).measure
    np.testing.assert_allclose(distance(mu, moved) / h, jnp.sqrt(now.dissipation), rtol=1e-8)


@pytest.mark.parametrize("domain", [mf.domains.Torus(2), mf.domains.Sphere(2)], ids=["torus", "sphere"])
def test_the_height_distance_is_that_of_the_laws_of_features_and_heights(domain):
    """A Wasserstein distance on the product of the domain and a line."""
    pair = lambda key: Particles(
        domain.sample(jr.key(key), 7), marks={"H": jr.normal(jr.key(key + 1), (7,), float)}
    )
    law = lambda mu: Particles(jnp.concatenate([mu.points, mu.marks["H"][:, None]], axis=1), mu.weights)
    mu, nu = pair(0), pair(2)
    product = mf.domains.Product(domain, mf.domains.Euclidean(1))
    there = mf.observables.WassersteinDistance(law(nu), 2, product)(law(mu))
    np.testing.assert_allclose(HeightDistance(nu, domain)(mu), there, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("domain", [INTERVAL, mf.domains.Torus(1, 4.0)], ids=["interval", "torus"])
def test_geodesics_of_the_height_distance(domain):
    """D(mu, mu_s) = s D and D(mu_s, nu) = (1 - s) D; ends; a midpoint with two heights over one place."""
    mu, nu = on_labels(9), carrying(on_labels(7), lambda theta: 2 - theta[0])
    mu, nu = (
        Particles(m.points % 4.0 if domain.closed[0] else m.points, m.weights, m.marks) for m in (mu, nu)
    )
    toward, whole = HeightDistance(nu, domain), float(HeightDistance(nu, domain)(mu))
    for share in (0.0, 0.3, 1.0):
        part = toward.geodesic(mu, share)
        assert float(part.mass) == pytest.approx(1, rel=1e-12)
        assert float(HeightDistance(mu, domain)(part)) == pytest.approx(share * whole, rel=1e-9, abs=1e-9)
        assert float(toward(part)) == pytest.approx((1 - share) * whole, rel=1e-9, abs=1e-9)
    left, right = (
        Particles(jnp.array([[x], [1 - x]]), marks={"H": jnp.array([0.0, 9.0])}) for x in (0.0, 1.0)
    )
    middle = HeightDistance(right, domain).geodesic(left, 0.5)
    held = np.asarray(middle.weights) > 0
    np.testing.assert_allclose(middle.points[held], 0.5)
    np.testing.assert_allclose(np.sort(middle.marks["H"][held]), [0, 9])
    with pytest.raises(ValueError, match="are chords"):
        circle = Particles(jnp.array([[1.0, 0.0]]), marks={"H": jnp.zeros(1)})
        HeightDistance(circle, CIRCLE).geodesic(circle, 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["network", "crossing"])
def test_minimizing_movements_for_the_distance(name):
    """Remark 3.4 as a scheme: argmin of G + D^2 / (2 dt) tends to (3.23) at order one, past crossings too.

    D is the Wasserstein distance of the laws of (H, theta), so a step is `Proximal` on pairs. Each obeys
    G(k + 1) + D^2 / (2 dt) <= G(k), D by the optimal coupling of the two measures.
    """
    line, mu, t1 = mf.domains.Euclidean(1), on_labels(12), 0.8
    energy = risk()
    if name == "crossing":
        # theta' = H, H' = theta: labels fold where tanh t = 1 / pi.
        energy = Potential(lambda xi: -xi[0] * xi[1])
        mu = carrying(mu, lambda theta: -jnp.sin(jnp.pi * theta[0]))
    exact = end(PropagationOfChaos(energy, line), mu, 0.02, t1)[0]
    assert bool(jnp.all(jnp.diff(exact.points[:, 0]) > 0)) == (name == "network")
    pairs = Particles(jnp.stack([mu.marks["H"], mu.points[:, 0]], axis=1), mu.weights)
    flow, errors = Wasserstein(energy, PLANE), []
    for steps in (8, 16, 32):
        stepper = mf.steppers.Proximal(t1 / steps)
        run = mf.simulate(flow, pairs, stepper=stepper, steps=steps, save_every=1)
        last = Particles(run.final.points[:, 1:], mu.weights, marks={"H": run.final.points[:, 0]})
        errors.append(float(HeightDistance(exact, line)(last)))
        if steps == 8:
            at = lambda k, run=run: Particles(
                run.measures.points[k][:, 1:], mu.weights, marks={"H": run.measures.points[k][:, 0]}
            )
            moved = [float(HeightDistance(at(k), line)(at(k + 1))) for k in range(steps)]
            value = np.asarray(run.observables["energy"])
            assert np.all(value[1:] + np.square(moved) / (2 * t1 / steps) <= value[:-1] + 1e-12)
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    print(f"{name}: D to the flow {errors}, orders {orders}")
    assert abs(orders[-1] - 1) < 0.1


@eqx.filter_jit
def moved(flow, mu, dt, steps):
    sim = mf.Simulation(flow, mu, stepper=mf.steppers.Proximal(dt), steps=steps, save_every=steps)
    return trajectory(sim)[0].state.measure


@pytest.mark.slow
def test_minimizing_movements_against_the_density():
    """Remark 3.4: moments of (rho, H) on a grid are those of minimizing movements, to order one in dt."""
    mu, t1 = on_labels(64), 0.8
    exact = moments(end(PropagationOfChaos(risk(), INTERVAL), on_grid(128), t1 / 128, t1)[0])
    pairs, errors = Particles(jnp.stack([mu.marks["H"], mu.points[:, 0]], axis=1), mu.weights), []
    for steps in (4, 8, 16):
        last = moved(Wasserstein(risk(), PLANE), pairs, jnp.asarray(t1 / steps), steps)
        pair = Particles(last.points[:, 1:], last.weights, marks={"H": last.points[:, 0]})
        errors.append(float(jnp.max(jnp.abs(moments(pair) - exact))))
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    print(f"minimizing movements to the density: {errors}, orders {orders}")
    assert abs(orders[-1] - 1) < 0.1


@pytest.mark.slow
def test_the_density_is_lost_where_paths_cross():
    """theta' = H, H' = theta, labels fold at tanh t = 1/pi: until then D falls with the cells."""
    energy, line = Potential(lambda xi: -xi[0] * xi[1]), mf.domains.Euclidean(1)
    height, gaps = lambda theta: -jnp.sin(jnp.pi * theta[0]), {}
    for t1 in (0.2, 0.6):
        law = end(PropagationOfChaos(energy, line), carrying(on_labels(200), height), t1 / 20, t1)[0]
        gaps[t1] = []
        for n in (50, 100, 200):
            mu = carrying(Grid.from_density(INTERVAL, n, bump), height)
            mu = end(PropagationOfChaos(energy, INTERVAL), mu, t1 / n, t1)[0]
            gaps[t1].append(float(HeightDistance(law, INTERVAL)(mu)))
    print(f"D between grid and particles, 50, 100, 200 cells: {gaps}")
    assert gaps[0.2][-1] < 0.3 * gaps[0.2][0]
    assert gaps[0.6][-1] > 5 * gaps[0.2][-1]


def test_pairs_are_dense_in_the_laws_of_features_and_heights():
    """Two sheets over a line, at the heights 1 and -1, are the limit of one that oscillates.

    Past a crossing minimizing movements have therefore no minimizer among pairs.
    """
    unit = mf.domains.Interval(-1.0, 1.0)
    place = jnp.tile(Grid.uniform(unit, 64).points, (2, 1))
    sheets = Particles(place, marks={"H": jnp.repeat(jnp.array([1.0, -1.0]), 64)})
    distance = HeightDistance(sheets, unit)
    gaps = [
        float(distance(Grid.uniform(unit, n).with_marks(H=jnp.resize(jnp.array([1.0, -1.0]), n))))
        for n in (8, 16, 32)
    ]
    np.testing.assert_allclose(np.log2(np.divide(gaps[:-1], gaps[1:])), 1, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("domain", [INTERVAL, CIRCLE, TORUS], ids=["interval", "circle", "torus"])
def test_a_penalty_of_heights_may_be_a_potential(domain):
    """Without a network to learn H' = -lam H, in place: |theta|^2, no potential on a torus, is not needed."""
    mu = carrying(Grid.from_density(domain, 8, lambda theta: 1 + 0.5 * jnp.sin(jnp.sum(theta))))
    energy = risk(0.0, Function(lambda theta, x: 0.0 * theta[0])) + Potential(lambda xi: 0.4 * xi[0] ** 2)
    run = mf.simulate(SeparatedVariables(energy, domain), mu, stepper=RK4(1 / 500), steps=4)
    np.testing.assert_allclose(run.final.marks["H"], mu.marks["H"] * np.exp(-0.8 * 4 / 500), rtol=1e-12)
    assert run.observables["energy"][-1] < run.observables["energy"][0]


# --- Wrong calls


@pytest.mark.wrong_calls
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Transported(risk(), INTERVAL).init(on_labels(8)), "free particles do not close.*labels"),
        (lambda: Transported(risk(), INTERVAL, (8,)).init(on_grid(8)), "need 8 Particles, got Grid"),
        (lambda: Transported(risk(), INTERVAL, (9,)).init(on_labels(8)), "need 9 Particles"),
        (lambda: Transported(risk(), CIRCLE, (8,)), "flat domain"),
        (lambda: Transported(risk(), INTERVAL, (3,)), "at least 4"),
        (lambda: SeparatedVariables(risk(), INTERVAL).init(on_labels(8)), "needs height="),
        (
            lambda: SeparatedVariables(risk() + Potential(jnp.sum), INTERVAL, start).init(on_labels(8)),
            "got Risk, Potential: use a Grid",
        ),
        (lambda: PropagationOfChaos(risk(), INTERVAL).init(Grid.uniform(INTERVAL, 8)), "mark 'H'"),
        (
            lambda: PropagationOfChaos(risk() + PorousMedium(), INTERVAL).init(on_labels(8)),
            "PorousMedium is a function",
        ),
        (lambda: PropagationOfChaos(1.0, INTERVAL), "energy must be an Energy"),
        (lambda: PropagationOfChaos(risk(), "line"), "domain must be a Domain"),
        (lambda: HeightDistance(Grid.uniform(INTERVAL, 8), INTERVAL), "mark 'H'"),
        (lambda: HeightDistance(jnp.ones((3, 1)), INTERVAL), "must be a measure"),
        (lambda: HeightDistance(on_labels(8), INTERVAL)(Grid.uniform(INTERVAL, 8)), "mark 'H'"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.slow
def test_linearized_rates_are_those_of_the_run():
    """Masses and heights together: late decay of the distance to rest, at the slowest rate."""
    flow, mu = PropagationOfChaos(risk(1.0) + 0.1 * Entropy(), INTERVAL), on_grid(32)
    rest, _ = end(flow, mu, 1 / 50, 40.0)
    spectrum = mf.linearize(flow, rest)
    assert spectrum.rates.shape == (31 + 32,) and spectrum.modes.marks["H"].shape == (63, 32)
    gaps = []
    for t1 in (16.0, 18.0):
        now, _ = end(flow, mu, 1 / 50, t1)
        gaps.append(float(jnp.linalg.norm(now.marks["H"] - rest.marks["H"])))
    np.testing.assert_allclose(np.log(gaps[0] / gaps[1]) / 2, spectrum.gap(), rtol=0.02)
    with pytest.raises(ValueError, match="also holds duals, decay"):
        mf.linearize(SeparatedVariables(risk(), INTERVAL, start), on_labels(8))


@pytest.mark.slow_cases("SeparatedVariables")
@pytest.mark.parametrize("system", [SeparatedVariables, PropagationOfChaos])
def test_double_data_on_single_particles_are_single(system):
    height = (start,) if system is SeparatedVariables else ()
    mu = on_labels(4, "float32")
    flow = system(risk(), mf.domains.Euclidean(1), *height)
    now = jax.eval_shape(lambda nu: flow.evaluate(flow.init(nu)), mu)
    floats = [leaf for leaf in jax.tree.leaves(now) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert {leaf.dtype for leaf in floats} == {jnp.dtype("float32")}
    if system is SeparatedVariables:
        run = mf.simulate(flow, mu, stepper=Euler(0.1), steps=2)
        assert {leaf.dtype for leaf in (run.final.points, run.final.marks["H"])} == {jnp.dtype("float32")}
