"""Products of domains, and factors of them along which nothing moves, or no noise."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import mfjax as mf
from mfjax import grids
from mfjax.domains import Box, Euclidean, Frozen, Interval, Noiseless, Product, Sphere, Torus, Zonal
from mfjax.domains.product import Factored
from mfjax.energies import Entropy, Potential, PowerDivergence, Risk
from mfjax.features import Function, ReLU, Weighted
from mfjax.flows import Wasserstein, WassersteinFisherRao
from mfjax.measures import Grid, Particles
from mfjax.steppers import RK4, Euler, EulerMaruyama, ImplicitEuler

X = jr.normal(jr.key(4), (9, 2))
Y = jnp.sin(X[:, 0]) + 0.3
LAYERS = Product(Frozen(Interval(0.0, 1.0)), Torus(1))
SAME = {
    "torus": (Torus(2, 3.0), Product(Torus(1, 3.0), Torus(1, 3.0)), (6, 8)),
    "box": (Box([-1.0, 0.0], [1.0, 3.0]), Product(Interval(-1.0, 1.0), Interval(0.0, 3.0)), (6, 5)),
    "space": (Euclidean(2), Product(Euclidean(1), Euclidean(1)), None),
}


def wave(x):
    return jnp.sin(2 * x[0]) + 0.5 * jnp.cos(x[0] - 2 * x[-1])


# What every domain makes of its axes and of one point.
DERIVED = {"closed", "lengths", "agrees", "sample", "euclidean"}


@pytest.mark.parametrize("kind", [mf.domains.Wrapped, Factored])
def test_a_domain_made_of_others_has_its_own_answer_to_every_question(kind):
    """A method that `Domain` gets is not answered by its default, that of flat space, by mistake."""
    questions = {name for name in vars(mf.domains.Domain) if not name.startswith("_")}
    assert questions - vars(kind).keys() == DERIVED


@pytest.mark.slow_cases("space", "box")
@pytest.mark.parametrize("name", SAME)
def test_a_product_of_alike_factors_is_the_domain_of_more_dimensions(name):
    """Every answer about points, to 1e-14: `embed` may order its coordinates otherwise."""
    whole, product, _ = SAME[name]
    x, y = (whole.sample(jr.key(k), 8, jnp.float64) for k in (0, 1))
    v = 2 * jr.normal(jr.key(2), x.shape)

    @eqx.filter_jit
    def answers(domain):
        over = lambda function, *arguments: jax.vmap(function)(*arguments)
        length = lambda vectors: jnp.linalg.norm(vectors, axis=-1)
        return {
            "contains": over(domain.contains, x + v),
            "displacement": over(domain.displacement, x, y),
            "distance": over(domain.distance, x, y),
            "project": over(domain.project, x, v),
            "velocity": over(domain.velocity, x, v),
            "noise": over(domain.noise, x, v),
            "basis": over(domain.tangent_basis, x),
            "retract": over(domain.retract, x, v),
            "diffuse": over(domain.diffuse, x, v),
            "chord": length(over(domain.chord, x, y)),
            "embed": length(over(domain.embed, x) - over(domain.embed, y)),
            "coordinates": over(domain.coordinates, x),
            "point": over(domain.point, x),
            "drawn": over(domain.drawn, x),
            "gaussian": over(lambda x, y: domain.gaussian(x, y, jnp.asarray(0.4)), x, y),
            "lengths": domain.lengths,
            "log_sobolev": domain.log_sobolev,
        }

    one, other = answers(whole), answers(product)
    for key, value in one.items():
        np.testing.assert_allclose(other[key], value, rtol=1e-14, atol=1e-14, err_msg=key)
    facts = ("dim", "ambient", "tangent_dim", "closed", "walls", "isometric", "volume_powers", "flat")
    for fact in (*facts, "product_of_circles", "noiseless", "orbits", "euclidean"):
        assert getattr(whole, fact) == getattr(product, fact), fact


@eqx.filter_jit
def rates(energy, mu):
    """(mass rates, energy, dissipation, longest explicit step) of a density."""
    now = grids.FiniteVolume().evaluate(energy, mu)
    return now.tangent.weights, now.energy, now.dissipation, now.max_step


@pytest.mark.slow_cases("box")
@pytest.mark.parametrize("name", ["torus", "box"])
def test_cells_and_rates_of_such_a_product_are_those_of_the_domain(name):
    """Cells bit for bit, and what densities do in them, by fluxes of all kinds."""
    whole, product, n = SAME[name]
    for one, other in zip(jax.tree.leaves(whole.cells(n)), jax.tree.leaves(product.cells(n)), strict=True):
        np.testing.assert_array_equal(one, other)
    density = lambda x: 1.7 + wave(x)
    energy = Potential(wave) + 0.3 * Entropy() + 0.1 * PowerDivergence(density)
    both = [rates(energy, Grid.from_density(domain, n, density)) for domain in (whole, product)]
    for one, other in zip(*both, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-14, atol=1e-15)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torus", "box"])
def test_runs_on_such_a_product_are_those_on_the_domain(name):
    whole, product, n = SAME[name]
    energy = Potential(wave) + 0.3 * Entropy()
    runs = []
    for domain in (whole, product):
        mu = Grid.from_density(domain, n, lambda x: 1.7 + wave(x))
        run = mf.simulate(Wasserstein(energy, domain), mu, stepper=ImplicitEuler(0.1), steps=2)
        runs.append((mu.density, run.final.weights, run.observables["energy"]))
    for one, other in zip(*runs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-15)


# --- curvilinear factors ----------------------------------------------------------------------------------


def test_sizes_of_curvilinear_cells_in_products():
    """Faces have the volumes of the other factors, whichever comes first; sums are areas of the surface."""
    sphere, side = Sphere(2).cells((6, 5)), Interval(0.0, 2.0).cells(4)
    first, last = (
        Product(*pair).cells(n)
        for pair, n in (
            ((Sphere(2), Interval(0.0, 2.0)), (6, 5, 4)),
            ((Interval(0.0, 2.0), Sphere(2)), (4, 6, 5)),
        )
    )
    grid = lambda cells, sizes: np.broadcast_to(sizes, cells.shape)
    for name in ("areas", "distances"):
        for axis in range(3):
            one = grid(first, getattr(first.metric, name)[axis])
            other = grid(last, getattr(last.metric, name)[(axis + 1) % 3])
            np.testing.assert_allclose(one, np.moveaxis(other, 0, 2), rtol=1e-14)
    np.testing.assert_allclose(first.volume.reshape(30, 4), last.volume.reshape(4, 30).T, rtol=1e-14)
    volumes = np.outer(sphere.volume, np.full(4, side.volume))
    np.testing.assert_allclose(first.volume.reshape(30, 4), volumes, rtol=1e-14)
    # Caps of the cylinder are spheres, and its side has the area of its meridians.
    np.testing.assert_allclose(np.sum(grid(first, first.metric.areas[2]), axis=(0, 1)), 4 * np.pi, rtol=1e-14)
    equator = np.sum(grid(last, last.metric.areas[1]), axis=(0, 2))
    np.testing.assert_allclose(equator, 2.0 * np.pi, rtol=1e-14)


HEAT = {
    "circle x interval": (
        Product(Sphere(1), Interval(0.0, 2.0)),
        lambda x: (x[0] ** 2 - x[1] ** 2) * jnp.cos(jnp.pi * x[2] / 2),
        4 + (np.pi / 2) ** 2,
        lambda n: (n, n // 2),
    ),
    "sphere x interval": (
        Product(Sphere(2), Interval(0.0, 2.0)),
        lambda x: x[0] * x[2] * jnp.cos(jnp.pi * x[3] / 2),
        6 + (np.pi / 2) ** 2,
        lambda n: (n, n // 2, n // 2),
    ),
    "zones x circle": (
        Product(Zonal(3), Torus(1, 2.0)),
        lambda x: (4 * jnp.cos(x[0]) ** 2 - 1) * jnp.cos(jnp.pi * x[1]),
        8 + np.pi**2,
        lambda n: (n, n // 2),
    ),
}


@pytest.mark.slow_cases("sphere x interval")
@pytest.mark.parametrize("name", HEAT)
def test_eigenfunctions_of_products(name):
    """The Laplacian in the cells has the sum of the eigenvalues, in the mean, to second order."""
    domain, mode, exact, shape = HEAT[name]
    errors = []
    for n in (12, 24):
        mu = Grid.uniform(domain, shape(n))
        values = jax.vmap(mode)(mu.points)
        mu = mu.with_weights(values * mu.volume)
        moved = eqx.filter_jit(grids.diffusion_rate)(((1.0, Entropy()),), mu)
        assert abs(float(jnp.sum(moved))) < 1e-13 * float(jnp.sum(jnp.abs(moved)))
        errors.append(float(-jnp.sum(values * moved) / mu.integral(values**2) / exact - 1))
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert abs(orders[-1] - 2) < 0.2 and abs(errors[-1]) < 0.02, (orders, errors)


@pytest.mark.slow
@pytest.mark.parametrize("name", HEAT)
def test_heat_on_products(name):
    """A product of eigenfunctions decays at the sum of its rates to second order; mass to 1e-13, positive."""
    domain, mode, exact, shape = HEAT[name]
    errors, dt, steps = [], 0.02, 3
    for n in (12, 24):
        mu = Grid.uniform(domain, shape(n))
        values = np.asarray(jax.vmap(mode)(mu.points))
        share = np.asarray(mu.relative_volume) / mu.size
        values = values - np.sum(share * values)
        start = mu.with_weights(jnp.asarray(share * (1 + 0.5 * values / np.abs(values).max())))
        run = mf.simulate(Wasserstein(Entropy(), domain), start, stepper=ImplicitEuler(dt), steps=steps)
        assert abs(float(run.final.mass) - float(start.mass)) < 1e-13
        assert float(jnp.min(run.final.weights)) > 0
        left = np.sum(values * run.final.weights) / np.sum(values * start.weights)
        errors.append(abs(((left ** (-1 / steps) - 1) / dt) / exact - 1))
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    print(f"heat on {name}: errors of the rate {errors}, orders {orders}")
    assert abs(orders[-1] - 2) < 0.2 and errors[-1] < 0.02, (orders, errors)


# --- frozen factors ---------------------------------------------------------------------------------------


def slabs(n, seed=0):
    """Unequal masses at each of some depths."""
    weights = jr.uniform(jr.key(seed), (n[0] * n[1],), minval=0.5, maxval=1.5)
    return Grid(LAYERS, n, weights / jnp.sum(weights))


def coupled(x):
    return jnp.cos(2 * jnp.pi * (x[1] - x[0])) + 2.0 * x[0]


@pytest.mark.slow_cases("0.3")
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_particles_keep_frozen_coordinates_bit_for_bit(noise):
    """By deterministic, noisy and published steps; the rest moves as it does without the factor."""
    mu = Particles.sample(LAYERS, jr.key(0), 7)
    energy = Potential(coupled) + noise * Entropy() if noise else Potential(coupled)
    stepper = EulerMaruyama(0.01) if noise else Euler(0.01)
    run = mf.simulate(Wasserstein(energy, LAYERS), mu, stepper=stepper, steps=20, key=jr.key(1))
    np.testing.assert_array_equal(run.final.points[:, 0], mu.points[:, 0])
    assert float(jnp.min(jnp.abs(run.final.points[:, 1] - mu.points[:, 1]))) > 0
    if not noise:
        normalized = mf.simulate(
            Wasserstein(energy, LAYERS), mu, stepper=mf.steppers.NormalizedEuler(0.01), steps=20
        )
        np.testing.assert_array_equal(normalized.final.points, run.final.points)
        one = Potential(lambda x: coupled(jnp.append(mu.points[2, 0], x)))
        start = Particles(mu.points[2:3, 1:])
        by_itself = mf.simulate(Wasserstein(one, Torus(1)), start, stepper=stepper, steps=20)
        np.testing.assert_allclose(by_itself.final.points[0], run.final.points[2, 1:], rtol=1e-13)


def alone(mu, k):
    """The law of one slab and its mass."""
    n = mu.shape
    mass = float(jnp.sum(mu.weights.reshape(n)[k]))
    return Grid(Torus(1), n[1], mu.weights.reshape(n)[k] / mass), mass


def within(k, mu):
    """The potential in one slab."""
    depth = mu.points[k * mu.shape[1], 0]
    return Potential(lambda x: coupled(jnp.append(depth, x)))


def test_slabs_of_a_density_have_rates_of_their_own():
    """Without an interaction each slab has those of the free factor, and none gives mass to another."""
    mu = slabs((4, 12))
    for noise in (0.0, 0.3):
        add = lambda energy, noise=noise: energy + noise * Entropy() if noise else energy
        rate = rates(add(Potential(coupled)), mu)[0].reshape(mu.shape)
        np.testing.assert_allclose(jnp.sum(rate, axis=1), 0, atol=1e-14)
        one, mass = alone(mu, 2)
        np.testing.assert_allclose(rate[2] / mass, rates(add(within(2, mu)), one)[0], rtol=1e-11, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "count"),
    [("explicit", 4), ("explicit", 1), ("implicit", 4), ("implicit", 2), ("Sinkhorn", 4), ("Sinkhorn", 3)],
)
def test_slabs_of_a_density_move_each_on_its_own(how, count):
    """Each slab is a run on the free factor: to 1e-10, or to the tolerance of steps shared by all of them."""
    stepper, temperature = {
        "explicit": (RK4(1e-3), 0.0),
        "implicit": (None, 0.2),
        "Sinkhorn": (mf.steppers.EntropicProximal(0.05, blur=0.2), 0.2),
    }[how]
    mu = slabs((count, 12))
    energy = lambda potential: potential + temperature * Entropy() if temperature else potential
    arguments = {"stepper": stepper} | ({"t1": 0.05} if stepper is None else {"steps": 2})
    end = mf.simulate(Wasserstein(energy(Potential(coupled)), LAYERS), mu, **arguments).final
    end = end.weights.reshape(mu.shape)
    masses = jnp.sum(mu.weights.reshape(mu.shape), axis=1)
    np.testing.assert_allclose(jnp.sum(end, axis=1), masses, rtol=1e-9 if how == "Sinkhorn" else 1e-13)
    for k in range(min(2, count)):
        one, mass = alone(mu, k)
        run = mf.simulate(Wasserstein(energy(within(k, mu)), Torus(1)), one, **arguments)
        rtol = 1e-10 if how == "explicit" else 1e-5
        np.testing.assert_allclose(end[k] / mass, run.final.weights, rtol=rtol)


@pytest.mark.slow_cases("fixed point")
@pytest.mark.parametrize("method", ["newton", "fixed point"])
def test_the_gibbs_measure_of_layers_is_one_for_each(method):
    """e^(-V(s, .)/T) of the mass of each slab, at rest under the flow."""
    mu, energy = slabs((4, 8)), Potential(coupled) + 0.4 * Entropy()
    law = np.exp(-np.asarray(jax.vmap(coupled)(mu.points)) / 0.4).reshape(4, 8)
    exact = np.sum(mu.weights.reshape(4, 8), axis=1)[:, None] * law / np.sum(law, axis=1)[:, None]
    found = mf.gibbs(energy, mu, method=method).measure
    np.testing.assert_allclose(found.weights, exact.ravel(), rtol=1e-8)
    assert float(jnp.max(jnp.abs(rates(energy, found)[0]))) < 1e-9


def test_particles_of_layers_have_rates_of_what_moves():
    """`linearize` knows one tangent direction for each particle, not two."""
    well = Potential(lambda x: (1 + x[0]) * (1 - jnp.cos(2 * jnp.pi * x[1])) / (2 * jnp.pi) ** 2)
    depths = jnp.array([0.2, 0.7])
    mu = Particles(jnp.stack([depths, jnp.zeros(2)], axis=1))
    spectrum = mf.linearize(Wasserstein(well, LAYERS), mu)
    np.testing.assert_allclose(spectrum.rates, 1 + depths, rtol=1e-12)


@pytest.mark.slow
def test_features_that_do_not_see_the_layer_have_the_semiconvexity_of_the_rest():
    bump = lambda omega, x: jnp.exp(jnp.cos(2 * jnp.pi * (omega[-1] - x[0])))
    risk = mf.energies.ReducedRisk(Function(bump), X, Y, lam=0.5)
    one, other = (mf.bounds.semiconvexity(risk, domain, 0.5, n=16) for domain in (Torus(1), LAYERS))
    np.testing.assert_allclose(other, one, rtol=1e-12)


@pytest.mark.slow
def test_masses_may_grow_where_nothing_moves():
    """Of a domain all of which is frozen nothing is left of growth and transport but the growth."""
    line = Frozen(Interval(0.0, 1.0))
    mu, energy = Grid.uniform(line, 8), Potential(lambda x: x[0])
    flow = WassersteinFisherRao(energy, line, 1.0, 1.0)
    end = mf.simulate(flow, mu, stepper=RK4(0.1), steps=2).final
    np.testing.assert_allclose(end.weights, mu.weights * jnp.exp(-0.2 * mu.points[:, 0]), rtol=1e-6)


# --- noise along some factors -----------------------------------------------------------------------------


PARTLY = Product(Torus(1), Noiseless(Interval(-1.0, 1.0)))


def test_noise_along_one_factor_alone():
    """Of theta and u without a force theta alone moves."""
    mu = Particles.sample(PARTLY, jr.key(0), 64)
    flow = Wasserstein(0.2 * Entropy(), PARTLY)
    run = mf.simulate(flow, mu, stepper=EulerMaruyama(0.1), steps=3, key=jr.key(1))
    np.testing.assert_array_equal(run.final.points[:, 1], mu.points[:, 1])
    assert float(jnp.min(jnp.abs(run.final.points[:, 0] - mu.points[:, 0]))) > 0


@pytest.mark.slow
def test_heat_along_one_factor_alone():
    """The masses at each u diffuse along theta as on the circle."""
    n = (12, 6)
    cells = Grid.from_density(PARTLY, n, lambda x: 1 + 0.5 * jnp.sin(2 * jnp.pi * x[0] + x[1]) + 0.3 * x[1])
    step = {"stepper": ImplicitEuler(0.05), "steps": 2}
    end = mf.simulate(Wasserstein(0.2 * Entropy(), PARTLY), cells, **step).final
    for k in (0, 3):
        start = Grid(Torus(1), 12, cells.weights.reshape(n)[:, k])
        one = mf.simulate(Wasserstein(0.2 * Entropy(), Torus(1)), start, **step).final
        np.testing.assert_allclose(end.weights.reshape(n)[:, k], one.weights, rtol=1e-9)


def test_rates_along_a_factor_without_noise_are_those_of_transport():
    """Diffusion along one axis and limited transport along the other add up, and set its step."""
    n = (10, 8)
    mu = Grid.from_density(PARTLY, n, lambda x: 1 + 0.5 * jnp.sin(2 * jnp.pi * x[0] + x[1]))
    drift = grids.face_slopes(jax.vmap(wave)(mu.points), mu)
    none = jnp.zeros_like(drift[0])
    both, longest = grids.mass_rate(mu, drift, ((0.3, Entropy()),))
    plain = Grid.from_density(Product(Torus(1), Interval(-1.0, 1.0)), n, mu.density)
    along = grids.transport_rate(plain, (none, drift[1]))
    # A potential that is constant along an axis, whose diffusion is taken off.
    across = grids.mass_rate(plain, (drift[0], none), ((0.3, Entropy()),))[0]
    of_second = grids.mass_rate(plain, None, ((0.3, Entropy()),))[0] - _heat_of_first(plain)
    np.testing.assert_allclose(both, along[0] + across - of_second, rtol=1e-10, atol=1e-14)
    assert float(longest) == float(along[1])
    # The velocity of what rides along is that of both fluxes.
    velocities = grids.face_velocities(mu, drift, ((0.3, Entropy()),))
    np.testing.assert_array_equal(velocities[1], -drift[1])


def _heat_of_first(mu):
    density = mu.density.reshape(mu.shape)
    second = jnp.roll(density, 1, 0) - 2 * density + jnp.roll(density, -1, 0)
    return (0.3 * second / mu.spacing[0] ** 2 * mu.volume).ravel()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["implicit", "adaptive", "explicit"])
def test_degenerate_diffusion_conserves_mass_and_the_energy_may_rise(how):
    """d_t rho = div(rho grad V) + T d_theta^2 rho: mass gathers along u, where no noise undoes it."""
    pull = Potential(lambda x: 2.0 * x[1] ** 2 + 0.1 * jnp.cos(2 * jnp.pi * x[0]))
    flow = Wasserstein(pull + 2.0 * Entropy(), PARTLY)
    assert not flow.falls and Wasserstein(pull, PARTLY).falls
    stepper = {"implicit": ImplicitEuler(2e-3), "adaptive": None, "explicit": RK4(2e-4)}[how]
    steps = {} if stepper is None else {"steps": round(0.1 / float(stepper.dt))}
    mu = Grid.from_density(PARTLY, (8, 48), lambda x: jnp.exp(-6 * x[1] ** 2))
    run = mf.simulate(flow, mu, stepper=stepper, **(steps or {"t1": 0.1}))
    assert int(run.status) == 0 and abs(float(run.final.mass) - 1) < 1e-13
    assert float(jnp.min(run.final.weights)) >= 0
    assert run.observables["energy"][-1] > run.observables["energy"][0]
    # u' = -4 u, whatever theta does: E u^2 falls by e^{-8 t}.
    square = lambda nu: float(nu.integrate(nu.points[:, 1] ** 2))
    np.testing.assert_allclose(square(run.final) / square(mu), np.exp(-0.8), rtol=0.03)
    # Theta is near its Gibbs law, of mean cosine -V / (2 T).
    mean = float(run.final.integrate(jnp.cos(2 * jnp.pi * run.final.points[:, 0])))
    np.testing.assert_allclose(mean, -0.025, atol=2e-3)


# --- where they are used ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_network_whose_features_live_on_a_sphere():
    """w omega with w in R and omega on S^1: particles, and beside them the density of bounded weights."""
    bounded, free = Product(Interval(-2.0, 2.0), Sphere(1)), Product(Euclidean(1), Sphere(1))
    risk = Risk(Weighted(ReLU()), X, Y)
    mf.testing.check_flow(Wasserstein(risk, free), Particles.sample(free, jr.key(0), 8))
    density = lambda x: jnp.exp(-4 * (x[0] - 0.5) ** 2) * (1 + 0.5 * x[1])

    def moments(mu):
        run = mf.simulate(Wasserstein(risk, bounded), mu, stepper=RK4(0.025), steps=40, save_every=40)
        w, omega = run.final.points[:, :1], run.final.points[:, 1:]
        return run.final.weights @ jnp.concatenate([w, omega, w * w, w * omega], axis=1)

    fine = Grid.from_density(bounded, 128, density)
    exact = moments(Particles(fine.points, fine.weights))
    errors = [
        float(jnp.linalg.norm(moments(Grid.from_density(bounded, n, density)) - exact)) for n in (16, 32)
    ]
    print(f"w omega on a sphere: moments of the density are off by {errors}, of {exact}")
    assert errors[1] < 1e-3 and np.log2(errors[0] / errors[1]) > 1.8


@pytest.mark.slow
def test_files_figures_and_sweeps_of_products(tmp_path):
    """A run in cells of a frozen, a curvilinear and a noiseless factor is read back, bit for bit."""
    domain = Product(Frozen(Interval(0.0, 1.0)), Zonal(2), Noiseless(Torus(1)))
    mu, energy = Grid.uniform(domain, (4, 5, 6)), Potential(lambda x: jnp.sum(jnp.sin(x))) + 0.1 * Entropy()
    run = mf.simulate(Wasserstein(energy, domain), mu, stepper=ImplicitEuler(1e-3), steps=2)
    back = mf.load(run.save(tmp_path / "run.nc"))
    assert repr(back.domain) == repr(domain)
    for one, other in zip(jax.tree.leaves(back.final), jax.tree.leaves(run.final), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (back.final.frozen, back.final.noiseless) == ((0,), (2,))
    data = run.to_xarray()
    assert data["density"].attrs["units"] == "mass / (length^2 rad^2)"
    again = mf.simulate(Wasserstein(energy, back.domain), back.final, stepper=ImplicitEuler(1e-3), steps=2)
    assert int(again.status) == 0

    def cell(temperature):
        flow = Wasserstein(Potential(coupled) + temperature * Entropy(), LAYERS)
        return mf.Simulation(flow, slabs((4, 8)), stepper=ImplicitEuler(0.05), steps=4)

    table = mf.sweep(cell, temperature=[0.1, 0.2])
    assert np.all(np.diff(table["energy"], axis=-1) < 0)
    _, axes = mf.plot.figure()
    ax = mf.plot.density(axes[0, 0], slabs((4, 8)), LAYERS)
    assert ax.get_xlabel() == "x₁" and len(ax.collections) == 1
