"""The convex program against closed forms, its certificate, a general optimizer and the flow's limit."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import mfjax as mf
from mfjax import problems
from mfjax._engine.loop import trajectory
from mfjax.measures import Grid, Particles
from mfjax.observables import FourierModes
from mfjax.regularizers import ConvexRegularizer, Power, Quadratic
from mfjax.testing import check_traces
from mfjax.theory.minimum import _SeveralOutputs, minimize_reduced_risk

CIRCLE = mf.domains.Sphere(1)
TEACHER = problems.CircleTeacher(1.0)
GRID = Grid.uniform(CIRCLE, 64)
ANGLES = jnp.arctan2(GRID.points[:, 1], GRID.points[:, 0])
DEGREE = 10
# For problems on data.
INPUTS = problems.gaussian_inputs(jax.random.key(0), 40)
SIGNAL = jnp.sin(2 * INPUTS[:, 0]) - jnp.abs(INPUTS[:, 1])


def population(lam, regularizer=None, degree=DEGREE):
    return problems.circle_population(teacher=TEACHER, bias=0.5, degree=degree).risk(lam, regularizer)


@eqx.filter_jit
def end(sim):
    carry, _ = trajectory(sim)
    return carry.status, carry.state.measure, carry.evaluation.energy


def check(found, energy):
    """What every minimum satisfies: gap, certificate, and the value of the energy at the measure."""
    assert -1e-14 <= found.gap <= 1e-8 and found.violation <= 1e-8
    assert float(energy(found.measure)) == pytest.approx(found.value, rel=1e-8, abs=1e-12)
    assert float(found.measure.mass) == pytest.approx(1, rel=1e-12)
    # Equality on the support, with the sign of nu; complementary slackness.
    on_support = found.weights[found.atoms]
    np.testing.assert_allclose(
        on_support, found.variation * np.sign(found.signed[found.atoms]), rtol=1e-6 * found.variation
    )
    assert len(found.atoms) <= energy.data.x.shape[0] + 1


@pytest.mark.slow_cases("0.1")
@pytest.mark.parametrize("lam", [0.1, 1e-3])
def test_a_positive_teacher_in_closed_form(lam):
    """f_b: Phi^T alpha is constant, so nu = teacher - lam |nu| / c_0 uniform: |nu|_TV = c_0 / (c_0 + lam)."""
    energy = population(lam)
    found = minimize_reduced_risk(energy, GRID)
    check(found, energy)
    c0 = float(problems.relu_coefficients(0.5, 4)[0])
    assert found.variation == pytest.approx(c0 / (c0 + lam), rel=1e-10)
    assert found.value == pytest.approx(0.5 * c0 / (c0 + lam), rel=1e-10)
    nu = np.asarray(FourierModes(DEGREE, CIRCLE)(GRID)) * 0
    modes = FourierModes(DEGREE, CIRCLE)(found.measure) * found.variation
    teacher = np.asarray(TEACHER.fourier(DEGREE))
    nu[1:, 0], nu[1:, 1] = teacher.real[1:], teacher.imag[1:]
    np.testing.assert_allclose(np.asarray(modes)[1:], nu[1:], atol=1e-8)


def test_the_unbiased_risk_vanishes_at_the_teacher():
    found = minimize_reduced_risk(population(1e-2, Quadratic(1.0)), GRID)
    assert abs(found.value) < 1e-14 and found.gap < 1e-12
    assert found.variation == pytest.approx(1, rel=1e-9)


def by_general_optimizer(energy):
    """The same problem for nu, by L-BFGS-B on its positive and negative part."""
    features = np.asarray(energy.features.matrix(GRID.points, INPUTS))
    f, y, lam = energy.regularizer, np.asarray(SIGNAL), float(energy.lam)
    center = float(f.center) if isinstance(f, Quadratic) else 0.0

    def objective(w):
        nu, total = w[:64] - w[64:], max(np.sum(w), 1e-12)
        error = features @ nu - y
        if isinstance(f, Quadratic):
            size, slope = 0.5 * total**2 + 0.5 * center**2, total
        else:
            r = float(f.order)
            size, slope = total**r / (r - 1), r / (r - 1) * total ** (r - 1)
        value = size - center * np.sum(nu) + np.mean(error**2) / (2 * lam)
        gradient = features.T @ error / (len(y) * lam) - center
        return value, slope + np.concatenate([gradient, -gradient])

    options = {"maxiter": 5000, "maxfun": 20000, "ftol": 1e-15, "gtol": 1e-10}
    start = np.full(128, 1e-3)
    done = scipy.optimize.minimize(
        objective, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * 128, options=options
    )
    return float(done.fun)


@pytest.mark.slow_cases("1.0--0.3", "1.0-r=2", "1.0-0", "1.0-r=1.4", "1.0-0.5")
@pytest.mark.parametrize(
    "regularizer",
    [Quadratic(0.0), Quadratic(0.5), Quadratic(-0.3), Power(1.4), Power(2.0), Power(3.0)],
    ids=["0", "0.5", "-0.3", "r=1.4", "r=2", "r=3"],
)
@pytest.mark.parametrize("lam", [1.0, 1e-2])
def test_signed_data_against_an_optimizer_over_the_measure(regularizer, lam):
    """A quasi-Newton method on the two parts of nu comes near, never below; L rises from the minimizer."""
    energy = mf.energies.ReducedRisk(mf.features.ReLU(0.5), INPUTS, SIGNAL, lam, regularizer)
    found = minimize_reduced_risk(energy, GRID)
    check(found, energy)
    if lam < 1:
        assert (found.signed > 0).any() and (found.signed < 0).any()
    general = by_general_optimizer(energy)
    assert general == pytest.approx(found.value, rel=1e-3) and general >= found.value - 1e-9
    # Perturbing the minimizer towards any cell raises the energy to first order.
    slope = jax.vmap(found.potential)(GRID.points)
    assert float(jnp.min(slope) - found.measure.integrate(slope)) >= -1e-8
    for seed in range(3):
        weights = jax.random.dirichlet(jax.random.key(seed), jnp.full((64,), 0.1))
        mixed = GRID.with_weights(0.98 * found.measure.weights + 0.02 * weights)
        assert float(energy(mixed)) >= found.value


def test_power_two_is_the_quadratic_of_twice_the_strength():
    """f = t^2 at lam is f = t^2 / 2 at 2 lam, with twice the value."""
    make = lambda lam, f: mf.energies.ReducedRisk(mf.features.ReLU(0.5), INPUTS, SIGNAL, lam, f)
    one = minimize_reduced_risk(make(0.05, Power(2.0)), GRID)
    two = minimize_reduced_risk(make(0.1, Quadratic(0.0)), GRID)
    assert one.value == pytest.approx(2 * two.value, rel=1e-9)
    np.testing.assert_allclose(one.signed, two.signed, atol=1e-9)


def test_metamorphic_relations():
    """Scaling the signal scales nu; data weights equal repeated data; the sign of y is that of nu."""
    make = lambda x, y, **options: mf.energies.ReducedRisk(mf.features.ReLU(0.5), x, y, 0.05, **options)
    base = minimize_reduced_risk(make(INPUTS, SIGNAL), GRID)
    scaled = minimize_reduced_risk(make(INPUTS, -3 * SIGNAL), GRID)
    assert scaled.value == pytest.approx(9 * base.value, rel=1e-9)
    np.testing.assert_allclose(scaled.signed, -3 * base.signed, atol=1e-8)
    weights = jnp.arange(40) % 3 / jnp.sum(jnp.arange(40) % 3)
    repeated = np.repeat(np.arange(40), np.arange(40) % 3)
    a = minimize_reduced_risk(make(INPUTS, SIGNAL, data_weights=weights), GRID)
    b = minimize_reduced_risk(make(INPUTS[repeated], SIGNAL[repeated]), GRID)
    assert a.value == pytest.approx(b.value, rel=1e-10)
    check(a, make(INPUTS, SIGNAL, data_weights=weights))


def of_outputs(y, lam=1e-2, center=0.0):
    return mf.energies.ReducedRisk(mf.features.ReLU(0.5), INPUTS, y, lam, Quadratic(center))


@pytest.mark.parametrize("center", [0.0, 0.5])
def test_outputs_that_are_one(center):
    """One column is a vector; equal columns have the same neurons and as many times the value."""
    one = minimize_reduced_risk(of_outputs(SIGNAL, center=center), GRID)
    column = minimize_reduced_risk(of_outputs(SIGNAL[:, None], center=center), GRID)
    assert column.value == pytest.approx(one.value, rel=1e-8)
    np.testing.assert_allclose(column.signed[:, 0], one.signed, atol=1e-5)
    equal = minimize_reduced_risk(of_outputs(jnp.stack([SIGNAL] * 3, axis=1), center=center), GRID)
    assert equal.value == pytest.approx(3 * one.value, rel=1e-8)
    np.testing.assert_allclose(equal.signed, np.stack([one.signed] * 3, axis=1), atol=1e-5)


@pytest.mark.slow_cases("0.01-0.0", "1e-05-0.0", "1.0-0.5")
@pytest.mark.parametrize(("lam", "center"), [(1.0, 0.5), (1e-2, 0.0), (1e-4, -0.3), (1e-5, 0.0)])
def test_several_outputs(lam, center):
    """Certificate, value, no slope downwards, and, where f has no center, rotation of the outputs."""
    y = jnp.stack([SIGNAL, jnp.cos(INPUTS[:, 1]), INPUTS[:, 0] * INPUTS[:, 1]], axis=1)
    energy = of_outputs(y, lam, center)
    found = minimize_reduced_risk(energy, GRID)
    size = max(found.value, found.variation**2)
    assert -1e-14 * size <= found.gap <= 1e-8 * size and found.violation <= 1e-8
    assert float(energy(found.measure)) == pytest.approx(found.value, rel=1e-8)
    rows, atoms = found.signed[found.atoms], found.atoms
    directions = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(
        found.weights[atoms], found.variation * directions, atol=1e-5 * found.variation
    )
    slope = jax.vmap(found.potential)(GRID.points)
    assert float(jnp.min(slope) - found.measure.integrate(slope)) >= -1e-7 * size
    for seed in range(3):
        weights = jax.random.dirichlet(jax.random.key(seed), jnp.full((64,), 0.1))
        mixed = GRID.with_weights(0.98 * found.measure.weights + 0.02 * weights)
        assert float(energy(mixed)) >= found.value
    if center == 0:
        turn = jnp.linalg.qr(jax.random.normal(jax.random.key(1), (3, 3)))[0]
        turned = minimize_reduced_risk(of_outputs(y @ turn, lam), GRID)
        assert turned.value == pytest.approx(found.value, rel=1e-8)
        np.testing.assert_allclose(
            turned.signed, found.signed @ np.asarray(turn), atol=1e-4 * found.variation
        )


@pytest.mark.parametrize("mass", [1e-3, 1e-9, 1e-16])
def test_a_light_atom_blocks_no_step(mass):
    """An atom that has to leave shortens the first step to its mass, whose fall no number may show."""
    task = _SeveralOutputs(of_outputs(jnp.stack([SIGNAL, jnp.cos(INPUTS[:, 1])], axis=1)), GRID)
    for cell in (28, 35, 42):
        start = task.start()
        start[cell] = mass
        start /= np.sum(start)
        signed = task.signed(start)
        entering = int(np.argmax(np.where(start > 0, -np.inf, task.descent(signed))))
        found = task.on_support(start, entering)
        assert found[entering] > 0.1 and found[cell] == 0
        assert task.value(task.signed(found)) < 0.8 * task.value(signed)


@pytest.mark.slow
def test_classes_whose_minimum_a_flow_approaches():
    """One-hot rows: variable projection of many particles comes near the least risk, and not below it."""
    y = jax.nn.one_hot((INPUTS[:, 0] > 0) + 2 * (INPUTS[:, 1] > 0), 4)
    energy = of_outputs(y, 0.1)
    fine = Grid.uniform(CIRCLE, 512)
    found = minimize_reduced_risk(energy, fine)
    angle = 2 * jnp.pi * jnp.arange(64) / 64
    start = Particles(jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1))
    run = mf.simulate(
        mf.flows.Wasserstein(energy, CIRCLE),
        start,
        stepper=mf.steppers.Euler(0.1),
        steps=5000,
        save_every=500,
    )
    end = float(run.observables["energy"][-1])
    print(f"flow {end:.6f}, convex program {found.value:.6f}")
    # Masses of 1/64, and steps across the kinks of 40 data.
    assert found.value * (1 - 1e-6) <= end <= found.value * (1 + 5e-3)


@pytest.mark.slow_cases("1.5", "3.0")
@pytest.mark.parametrize("order", [1.5, 2.0, 3.0])
def test_minimizers_are_not_unique_where_the_features_are_not_injective(order):
    """Lemma 3.2 fails for bias-free ReLU: a uniform teacher, and one with the invisible mode 3, for every r.

    Any measure of the visible modes of the uniform one has constant outer weights t, and L is the least of
    f(t) + c_0 (1 - t)^2 / (2 lam). V is constant on the circle: as L is convex, each is a minimizer.
    """
    lam, c0 = 0.05, 2 / np.pi**2
    energy = problems.circle_population(teacher=problems.CircleTeacher(0.0), degree=DEGREE).risk(
        lam, Power(order)
    )
    least = scipy.optimize.minimize_scalar(
        lambda t: t**order / (order - 1) + c0 * (1 - t) ** 2 / (2 * lam),
        bounds=(0, 1),
        options={"xatol": 1e-9},
    ).fun
    wave = lambda k: GRID.with_weights(GRID.weights * (1 + 0.9 * jnp.cos(k * ANGLES)))
    for mu in (GRID, wave(3)):
        assert float(energy(mu)) == pytest.approx(least, abs=1e-12)
        potential = energy.first_variation(mu)
        np.testing.assert_allclose(potential, potential[0], atol=1e-12)
    assert minimize_reduced_risk(energy, GRID).value == pytest.approx(least, abs=1e-9)
    # An even mode is seen.
    assert float(energy(wave(2))) > least + 1e-3
    if order == 2:
        assert least == pytest.approx(0.669576996448959, abs=1e-12)


@pytest.mark.slow
def test_minimizers_are_not_unique_on_data():
    """The same with neurons on equispaced data, where f is t^2 / 2, and in the closed form of the kernel."""
    angle = 2 * jnp.pi * (jnp.arange(GRID.size) + 0.5) / GRID.size
    x = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    features, wave = mf.features.ReLU(), GRID.with_weights(GRID.weights * (1 + 0.9 * jnp.cos(3 * ANGLES)))
    y = features.matrix(GRID.points, x) @ GRID.weights
    energy = mf.energies.ReducedRisk(features, x, y, 0.05)
    assert float(energy(wave)) == pytest.approx(float(energy(GRID)), abs=1e-14)
    np.testing.assert_allclose(energy.outer_weights(wave), energy.outer_weights(GRID)[0], atol=1e-12)
    population = mf.energies.PopulationReducedRisk(mf.kernels.ArcCosine(), GRID, 0.05)
    assert float(population(wave)) == pytest.approx(float(population(GRID)), abs=1e-12)
    exact = problems.circle_population(teacher=problems.CircleTeacher(0.0), degree=DEGREE).risk(0.05)
    for mu in (GRID, wave):
        assert float(exact(mu)) == pytest.approx(0.401045892386568, abs=1e-12)


@pytest.mark.slow_cases("1.5", "3.0")
@pytest.mark.parametrize("order", [1.5, 2.0, 3.0])
def test_minimizers_tend_to_a_positive_teacher_at_the_rate_lam(order):
    """Proposition 3.1 with its rate. Phi^T alpha = f'(V) is constant, V = |nu|_TV, so nu is the teacher minus
    lam f'(V) / c_0: V = 1 - lam f'(V) / c_0, and modes k >= 1 of the minimizer are 1 / V times the teacher's.
    """
    c0, f = float(problems.relu_coefficients(0.5, 4)[0]), Power(order)
    modes = FourierModes(DEGREE, CIRCLE)
    teacher, gaps = modes(Grid.from_density(CIRCLE, 64, TEACHER)), []
    for lam in (1e-2, 1e-3, 1e-4):
        found = minimize_reduced_risk(population(lam, f), GRID)
        balance = lambda v, lam=lam: v - 1 + lam * float(f.derivative(jnp.asarray(v))) / c0
        exact = scipy.optimize.brentq(balance, 0, 1, xtol=1e-15)
        assert found.variation == pytest.approx(exact, rel=1e-7)
        np.testing.assert_allclose(modes(found.measure)[1:], teacher[1:] / exact, atol=1e-8)
        gaps.append(float(jnp.max(jnp.abs(modes(found.measure) - teacher))))
    assert np.log10(gaps[0] / gaps[1]) == pytest.approx(1, abs=0.05)
    assert np.log10(gaps[1] / gaps[2]) == pytest.approx(1, abs=0.005)


@pytest.mark.slow
def test_minimizers_tend_to_a_signed_teacher_more_slowly():
    """MMD^2 between |nu| and |teacher| falls like lam^(4/5) for ReLU on the circle.

    h = Phi^T alpha is V where nu > 0 and -V where nu < 0, and takes a gap of width w to go from one to the
    other; lam h = K (teacher - nu), K^-1 like d^4 (c_k like k^-4), so lam V / w^4 is the teacher there, like
    w: w^5 is of the order lam. Masses moved are of the order w^2, and a mass in dot-H^-1 counts squared.
    """
    teacher, degree, n = problems.CircleTeacher(3.0, masses=(1.0, -0.5)), 48, 512
    problem = problems.circle_population(teacher=teacher, bias=0.5, degree=degree)
    modes, cells = FourierModes(degree, CIRCLE), Grid.uniform(CIRCLE, n)
    exact = modes(Grid.from_density(CIRCLE, 4096, lambda p: jnp.abs(teacher(p))))
    k = np.arange(1, degree + 1)
    squares = []
    for lam in (1e-4, 1e-5, 1e-6):
        found = minimize_reduced_risk(problem.risk(lam), cells)
        gap = np.sum((np.asarray(modes(found.measure)) - np.asarray(exact))[1:] ** 2, axis=1)
        squares.append(8 / np.pi * np.sum(gap / (4.0 * k**2 - 1)))
    rates = -np.diff(np.log10(squares))
    print(f"MMD^2 of the minimizer to |teacher| at lam = 1e-4, 1e-5, 1e-6: {squares}, rates {rates}")
    np.testing.assert_allclose(rates, 0.8, atol=0.03)


@pytest.mark.slow
def test_the_flow_tends_to_the_minimum():
    """Long VarPro of particles: same value, same visible modes; the grid's own optimum is not below."""
    lam, m = 0.1, 32
    energy = population(lam, degree=4)
    found = minimize_reduced_risk(energy, GRID)
    angle = 2 * jnp.pi * jnp.arange(m) / m
    start = Particles(jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1))
    flow = mf.flows.Wasserstein(energy, CIRCLE)
    sim = mf.Simulation(flow, start, stepper=mf.steppers.RK4(0.5), steps=400, save_every=400)
    status, measure, value = end(sim)
    assert int(status) == 0
    print(f"flow {float(value):.12f}, convex program {found.value:.12f}")
    assert float(value) == pytest.approx(found.value, rel=1e-8)
    modes = FourierModes(4, CIRCLE)
    np.testing.assert_allclose(modes(measure), modes(found.measure), atol=1e-4)


def deconvolution(n, lam=1e-3):
    torus = mf.domains.Torus(2, 4.0)
    features = mf.features.RBF(torus, scale=0.5, profile="gaussian")
    neurons = Particles(
        jnp.array([[1.0, 1.25], [2.5, 3.0]]), jnp.array([0.5, 0.5]), marks={"u": jnp.array([2.0, -1.0])}
    )
    x = Grid.uniform(torus, 12).points
    energy = mf.energies.ReducedRisk(features, x, problems.network_output(features, neurons, x), lam)
    return energy, neurons, minimize_reduced_risk(energy, Grid.uniform(torus, n)), torus


@pytest.mark.slow
def test_sparse_deconvolution_on_the_torus():
    """Two Gaussian spikes of opposite sign: atoms sit in the cells around them, and carry their masses."""
    energy, neurons, found, torus = deconvolution(28)
    check(found, energy)
    points = np.asarray(found.measure.points)[found.atoms]
    distance = np.linalg.norm(
        jax.vmap(lambda p: jax.vmap(lambda q: torus.displacement(p, q))(neurons.points))(points), axis=-1
    )
    # Corners of the cell that holds a spike, whose side is 1/7.
    assert distance.min(axis=1).max() < 1.01 * np.sqrt(2) / 7
    owner = distance.argmin(axis=1)
    masses = [found.signed[found.atoms][owner == k].sum() for k in range(2)]
    # Far apart each spike loses lam |nu|_TV / kappa(0), kappa(0) the mean of the squared Gaussian.
    lost = 1e-3 / (np.pi * 0.25 / 16)
    variation = 1.5 / (1 + 2 * lost)
    expected = [1 - lost * variation, -0.5 + lost * variation]
    np.testing.assert_allclose(masses, expected, rtol=0.01)
    assert found.variation == pytest.approx(variation, rel=0.01)
    # Between the cells the optimum is lower, by less than the gap over a finer grid.
    finer = minimize_reduced_risk(energy, Grid.uniform(torus, 56))
    beyond = found.gap_over(finer.measure.points)
    assert found.gap < 1e-8 < beyond and found.value - beyond <= finer.value <= found.value


@pytest.mark.slow
def test_the_flow_of_particles_deconvolves_too():
    """From one neuron near each spike: a value between the optimum and that of the grid."""
    energy, neurons, found, torus = deconvolution(28)
    start = Particles(jnp.mod(neurons.points + 0.1, 4.0), jnp.array([0.6, 0.4]))
    sim = mf.Simulation(
        mf.flows.Wasserstein(energy, torus), start, stepper=mf.steppers.RK4(0.01), steps=400, save_every=400
    )
    status, measure, value = end(sim)
    assert int(status) == 0
    # The masses of particles stay; those of the optimum are 2/3 and 1/3.
    optimum = energy(Particles(measure.points, jnp.array([2 / 3, 1 / 3])))
    fine = found.gap_over(measure.points)
    assert found.value - fine <= float(optimum) <= float(value)
    # On the continuum the value is |nu_0|^2 / (2 + 4 lam / kappa(0)) for well separated spikes.
    assert float(optimum) == pytest.approx(1.5**2 / (2 + 4e-3 / (np.pi * 0.25 / 16)), rel=1e-4)


@pytest.mark.wrong_calls
def test_faults_are_named():
    risk = lambda lam, f=None: mf.energies.ReducedRisk(mf.features.ReLU(), INPUTS, SIGNAL, lam, f)
    with pytest.raises(ValueError, match="lam must be positive, got 0"):
        minimize_reduced_risk(risk(0.0), GRID)
    with pytest.raises(ValueError, match="of one output is known for Quadratic and Power, got Convex"):
        minimize_reduced_risk(risk(0.1, ConvexRegularizer(jnp.cosh)), GRID)
    with pytest.raises(RuntimeError, match="stopped at a duality gap"):
        minimize_reduced_risk(risk(1e-3), GRID, max_atoms=2)
    silent = mf.energies.ReducedRisk(mf.features.ReLU(), INPUTS, 0 * SIGNAL, 0.1)
    with pytest.raises(RuntimeError, match="optimal network is zero"):
        minimize_reduced_risk(silent, GRID)


def test_data_in_single_precision():
    energy = mf.energies.ReducedRisk(
        mf.features.ReLU(0.5), INPUTS.astype("float32"), SIGNAL.astype("float32"), 0.1
    )
    grid = Grid.uniform(CIRCLE, 64, dtype="float32")
    found = minimize_reduced_risk(energy, grid)
    assert found.measure.dtype == jnp.float32 and found.gap <= 1e-8
    exact = minimize_reduced_risk(mf.energies.ReducedRisk(mf.features.ReLU(0.5), INPUTS, SIGNAL, 0.1), GRID)
    assert found.value == pytest.approx(exact.value, rel=1e-5)


def test_another_value_compiles_nothing_anew():
    """value, gap and variation are leaves: a function of a minimum is compiled once for all lam."""
    found = [minimize_reduced_risk(population(lam), GRID) for lam in (0.1, 0.2)]
    assert found[0].value > found[1].value and found[0].value.shape == ()
    total = lambda minimum: minimum.value + minimum.gap + minimum.variation * minimum.measure.mass
    check_traces(total, [(minimum,) for minimum in found])


@pytest.mark.wrong_calls
@pytest.mark.parametrize("transform", [jax.jit, jax.grad, lambda fn: lambda lam: jax.vmap(fn)(lam[None])])
def test_traced_calls_are_named(transform):
    least = lambda lam: jnp.asarray(minimize_reduced_risk(population(lam), GRID).value)
    with pytest.raises(ValueError, match=r"minimize_reduced_risk runs on the host.*outside jit"):
        transform(least)(jnp.asarray(0.1))
    with pytest.raises(ValueError, match=r"outside jit, vmap and mf\.sweep"):
        mf.sweep(lambda lam: {"value": least(lam)}, lam=[0.1, 0.2])
