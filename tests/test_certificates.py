"""Certificates of runs that are good, tampered with, or broken; identifiability against closed forms."""

import csv
import io
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mfjax as mf
import mfjax.status
from mfjax import problems
from mfjax._engine.loop import trajectory
from mfjax.theory.certificates import certify, format_table, identifiability

CIRCLE = mf.domains.Sphere(1)


def recorded(dt, steps):
    angle = jnp.array([0.3, 1.0, 2.0, 4.0])
    start = mf.measures.Particles(jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1))
    flow = mf.flows.Wasserstein(mf.energies.Potential(lambda x: x[0] + 0.3 * x[1] ** 2), CIRCLE)
    sim = mf.Simulation(flow, start, stepper=mf.steppers.Euler(dt), steps=steps, save_every=steps // 10)
    return eqx.filter_jit(trajectory)(sim)[1][1]


@pytest.fixture(scope="module")
def run():
    return recorded(0.01, 100)


def test_a_good_run(run):
    table = certify(run)
    assert table["balance_defect"] < 2e-2 and table["largest_increase"] == 0
    assert table["mass_drift"] == 0 and table["min_weight"] == 0.25
    assert table["status"] == 0 and table["saves"] == 11
    assert all(type(v) is float for v in table.values())


def test_the_balance_defect_has_the_order_of_the_scheme(run):
    """Euler keeps the balance to first order in the step."""
    ratio = certify(run)["balance_defect"] / certify(recorded(0.005, 200))["balance_defect"]
    assert 1.7 < ratio < 2.3


def test_tampering_shows(run):
    """Each certificate answers to the fault it is there for, and to its exact size."""
    good = {k: np.asarray(v).copy() for k, v in run.items()}
    drop = good["energy"][0] - good["energy"][-1]
    flipped = certify(good | {"dissipated": -good["dissipated"]})
    assert flipped["balance_defect"] > 1.9
    bump = good["energy"].copy()
    bump[5] += drop
    expected = bump[5] - bump[4]
    assert certify(good | {"energy": bump})["largest_increase"] == pytest.approx(expected)
    mass = good["mass"].copy()
    mass[3] *= 1 + 1e-3
    assert certify(good | {"mass": mass})["mass_drift"] == pytest.approx(1e-3)
    least = good["min_weight"].copy()
    least[2] = -1e-5
    assert certify(good | {"min_weight": least})["min_weight"] == -1e-5
    residual = good["residual"].copy()
    residual[7] = 0.5
    assert certify(good | {"residual": residual})["residual"] == 0.5


def test_a_broken_run_is_certified_up_to_its_fault(run):
    broken = {k: np.asarray(v).copy() for k, v in run.items()}
    for key in ("energy", "dissipated", "residual", "mass", "min_weight"):
        broken[key][6:] = np.nan
    broken["status"][6:] = mf.status.NON_FINITE
    table = certify(broken)
    assert table["saves"] == 6 and table["status"] == mf.status.NON_FINITE
    assert np.isfinite(table["balance_defect"])
    for key in ("energy", "dissipated", "residual", "mass", "min_weight"):
        broken[key][:] = np.nan
    table = certify(broken)
    assert table["saves"] == 0 and np.isnan(table["balance_defect"])


@pytest.mark.parametrize("kind", ["brownian", "births", "no noise"])
def test_noise_leaves_no_balance_to_certify(kind):
    """NaN rather than a number that says nothing; mass, sign and residual are certified as ever."""
    line, well = mf.domains.Euclidean(1), mf.energies.Potential(lambda x: 0.5 * x[0] ** 2)
    mu = mf.measures.Particles(jnp.array([[1.0], [2.0], [-1.0], [0.5]]), jnp.array([0.5, 0.25, 0.25, 0.0]))
    flow = mf.flows.WassersteinFisherRao(well, line) if kind == "births" else mf.flows.Wasserstein(well, line)
    if kind == "brownian":
        flow = mf.flows.Wasserstein(well + 0.1 * mf.energies.Entropy(), line)
    stepper = mf.steppers.BirthDeath(0.01) if kind == "births" else mf.steppers.EulerMaruyama(0.01)
    run = mf.simulate(flow, mu, stepper=stepper, steps=4, save_every=2, key=jax.random.key(0))
    table = run.certificates
    noisy = kind != "no noise"
    assert np.isnan(table["balance_defect"]) == noisy and np.isnan(table["largest_increase"]) == noisy
    assert table["status"] == 0 and table["saves"] == 3 and table["residual"] == 0
    assert np.all(np.isfinite(run.observables["dissipation"]))


def test_a_run_at_rest_has_no_defect(run):
    rest = {k: np.asarray(v).copy() for k, v in run.items()}
    rest["energy"][:], rest["dissipated"][:] = 1.0, 0.0
    assert certify(rest)["balance_defect"] == 0


def test_the_table_reads_back(run):
    rows = {"one": certify(run), "two, bad": certify(run) | {"status": 3.0}}
    back = list(csv.DictReader(io.StringIO(format_table(rows, "csv"))))
    assert [row["run"] for row in back] == ["one", "two, bad"]
    for row, values in zip(back, rows.values(), strict=True):
        for key in ("balance_defect", "largest_increase", "mass_drift", "min_weight", "residual"):
            assert float(row[key]) == values[key]
    assert back[0]["status"] == "completed" and "negative" in back[1]["status"]
    text = format_table(rows).splitlines()
    assert len(text) == 3
    assert text[0].index("status") == text[1].index("completed") == text[2].index("a step made")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda v: {k: a for k, a in v.items() if k != "mass"}, "lack mass"),
        (lambda v: v | {"energy": np.zeros((3, 4))}, r"energy must have shape \(S,\)"),
        (lambda v: v | {"residual": np.zeros(3)}, r"residual must have shape \(S,\)"),
    ],
)
def test_wrong_records_are_named(run, change, message):
    with pytest.raises(ValueError, match=message):
        certify(change(dict(run)))
    with pytest.raises(ValueError, match="style must be"):
        format_table({}, "html")


def gaussian(features, **options):
    x, p = problems.gaussian_quadrature(48, 256)
    return identifiability(features, x, CIRCLE, data_weights=p, **options)


def test_bias_free_relu_cannot_see_odd_modes():
    teacher = problems.CircleTeacher(10.0)
    found = gaussian(mf.features.ReLU(), teacher=teacher)
    assert found.invisible == tuple(range(3, 33, 2))
    # Odd k >= 3 below n / 2 twice (cos, sin): 3, ..., 63.
    assert found.null_dimension == 2 * len(range(3, 64, 2)) and not found.injective
    assert found.symmetry == "identity"
    c = np.asarray(problems.relu_coefficients(0.0, 32))
    # Kinks on a grid of n cells: aliasing of size n^-4 in the amplitudes' squares.
    np.testing.assert_allclose(found.modes, c, atol=2e-4)
    fourier = np.abs(np.asarray(teacher.fourier(200))) ** 2
    k = np.arange(201)
    hidden = (k >= 3) & (k % 2 == 1)
    # -2 |sin(s / 2)| has the coefficients 4 / (pi (4 k^2 - 1)).
    floor = 2 * np.sum((4 / (np.pi * (4 * k**2 - 1)) * fourier)[hidden])
    coarse = gaussian(mf.features.ReLU(), teacher=teacher, n=64).floor
    # The kernel has a kink: second order in the cell size, 0.2 % on 128 cells.
    assert found.floor == pytest.approx(floor, rel=3e-3)
    assert 3.5 < (coarse - floor) / (found.floor - floor) < 4.5
    assert found.hidden_mass == pytest.approx(
        2 * fourier[hidden].sum() / (1 + 2 * fourier[1:].sum()), rel=1e-6
    )
    # The specification: the floor is about 4e-4 at gamma = 10.
    assert 3e-4 < found.floor < 5e-4
    text = found.report()
    assert "3, 5, 7" in text and "4e-04" in text and "do not test convergence" in text


def test_relu_with_a_bias_sees_everything():
    found = gaussian(mf.features.ReLU(bias=0.5), teacher=problems.CircleTeacher(10.0))
    assert found.invisible == () and found.injective and found.symmetry == "none"
    assert found.hidden_mass == 0 and found.floor == 0
    np.testing.assert_allclose(found.modes, problems.relu_coefficients(0.5, 32), atol=2e-4)
    assert "no floor" in found.report()


def test_odd_activations_lose_half_the_spectrum():
    found = gaussian(mf.features.Ridge(jnp.tanh), degree=16, n=64)
    assert found.invisible == tuple(range(0, 17, 2)) and found.symmetry == "odd"
    # Even modes 0, 2, ..., 32 of 64 cells: 1 + 2 * 15 + 1.
    assert found.null_dimension == 32


@pytest.mark.parametrize("sigma", [jax.nn.softplus, jax.nn.gelu, jax.nn.silu, jax.nn.relu])
def test_the_family_of_activations_with_linear_odd_part(sigma):
    found = gaussian(mf.features.Ridge(sigma), degree=9, n=64)
    assert found.symmetry == "identity" and found.invisible == (3, 5, 7, 9)


@pytest.mark.parametrize(
    ("sigma", "symmetry", "hidden"),
    [
        (jax.nn.sigmoid, "even part of degree 0", (2, 4, 6, 8)),
        (lambda t: jnp.maximum(t, 0) ** 2, "even part of degree 2", (4, 6, 8)),
        (lambda t: jnp.maximum(t, 0) ** 3, "odd part of degree 3", (5, 7, 9)),
        (lambda t: jnp.tanh(t) + t * t, "even part of degree 2", (4, 6, 8)),
    ],
)
def test_a_polynomial_part_hides_the_modes_above_its_degree(sigma, symmetry, hidden):
    found = gaussian(mf.features.Ridge(sigma), degree=9, n=64)
    assert found.symmetry == symmetry and found.invisible == hidden
    assert f"of degree {symmetry[-1]}" in found.report()


def test_the_floor_of_odd_features_is_that_of_probability_measures():
    teacher = problems.CircleTeacher(10.0)
    found = gaussian(mf.features.Ridge(jnp.tanh), degree=9, n=64, teacher=teacher)
    k = np.arange(2, 200, 2)
    moments = np.abs(np.asarray(teacher.fourier(200)))[k]
    assert found.floor == pytest.approx(8 / np.pi * np.sum(moments**2 / (4 * k**2 - 1)), rel=0.02)


def test_even_activations_and_shifted_ones():
    found = gaussian(mf.features.Ridge(jnp.cosh), degree=6, n=32)
    assert found.symmetry == "even" and found.invisible == (1, 3, 5)
    assert gaussian(mf.features.Ridge(jnp.tanh, bias=0.3), degree=6, n=32).symmetry == "none"


@pytest.mark.parametrize("seed", [0, 1])
def test_the_blindness_holds_for_any_data_law(seed):
    """Odd modes k >= 3 are invisible to bias-free ReLU also with a few anisotropic inputs."""
    x = jax.random.normal(jax.random.key(seed), (500, 2)) * jnp.array([3.0, 0.2]) + 1.0
    found = identifiability(mf.features.ReLU(), x, CIRCLE, n=64)
    assert set(range(3, 17, 2)) <= set(found.invisible)


def test_few_data_and_truncated_kernels_have_the_null_space_they_must():
    few = problems.gaussian_inputs(jax.random.key(2), 10)
    assert identifiability(mf.features.ReLU(0.5), few, CIRCLE, n=64).null_dimension == 64 - 10
    modes = mf.features.CircleModes(problems.relu_coefficients(0.5, 5))
    found = identifiability(modes, modes.inputs(), CIRCLE, n=64)
    assert found.null_dimension == 64 - 11 and found.invisible == tuple(range(6, 17))
    np.testing.assert_allclose(found.modes[:6], modes.coefficients, rtol=1e-10)


def test_half_circle_like_domains_are_not_symmetric():
    line = mf.domains.Interval(0.1, 1.0)
    x = jnp.linspace(-2, 2, 50)[:, None]
    found = identifiability(mf.features.Ridge(jnp.tanh), x, line, n=16)
    assert found.symmetry == "unknown" and found.modes is None
    symmetric = mf.domains.Interval(-1.0, 1.0)
    assert identifiability(mf.features.Ridge(jnp.tanh), x, symmetric, n=16).symmetry == "odd"


@pytest.mark.slow
def test_rbf_on_the_torus_sees_everything():
    torus = mf.domains.Torus(2, 4.0)
    features = mf.features.RBF(torus, scale=2.0)
    x = mf.measures.Grid(torus, 24).points
    found = identifiability(features, x, torus, n=12, teacher=problems.TorusTeacher(5.0))
    assert found.injective and found.floor == 0 and found.symmetry == "unknown"


def test_precision_changes_the_threshold_not_the_verdict(dtype):
    x, p = problems.gaussian_quadrature(24, 64, dtype=dtype)
    found = identifiability(mf.features.ReLU(), x, CIRCLE, data_weights=p, n=32)
    assert found.invisible == (3, 5, 7) and found.symmetry == "identity"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"n": 33}, "n must be even"),
        ({"degree": 64}, "degree must be below"),
        ({"data_weights": [1.0]}, "data_weights must be"),
    ],
)
def test_wrong_questions_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        identifiability(mf.features.ReLU(), jnp.ones((5, 2)), CIRCLE, **options)
    with pytest.raises(ValueError, match="has no grid of cells"):
        identifiability(mf.features.ReLU(), jnp.ones((5, 3)), mf.domains.Euclidean(3))


@pytest.mark.parametrize(("dt", "rises"), [(0.19, False), (0.21, True)])
def test_a_rising_energy_is_warned_of(dt, rises):
    """Euler on x' = -10 x: |1 - 10 dt| beyond 1 climbs, below it oscillates and falls."""
    energy = mf.energies.Potential(lambda x: 5.0 * jnp.sum(x * x))
    flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(1))
    mu = mf.measures.Particles(jnp.ones((1, 1)))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        run = mf.simulate(flow, mu, stepper=mf.steppers.Euler(dt), steps=8)
    messages = [str(w.message) for w in seen if w.category is RuntimeWarning]
    assert len(messages) == rises
    if rises:
        assert "its energy rose from 5 to" in messages[0] and "smaller dt" in messages[0]
        assert "in steps of 0.21" in messages[0]
    assert int(run.status) == 0


@pytest.mark.parametrize("make", [lambda: optax.sgd(0.21), lambda: optax.adam(0.5)])
def test_what_may_climb_is_not_warned_of(make):
    """An optimizer follows another flow than its energy's, and so does one whose energy changes in time."""
    energy = mf.energies.Potential(lambda x: 5.0 * jnp.sum(x * x))
    flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(1))
    mu = mf.measures.Particles(jnp.ones((1, 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = mf.simulate(flow, mu, stepper=mf.steppers.Optax(make(), dt=0.2), steps=8)
        assert run.certificates["largest_increase"] > 0
        growing = mf.flows.Scheduled(lambda t: mf.flows.Wasserstein((1 + t) * energy, flow.domain))
        mf.simulate(growing, mu, stepper=mf.steppers.Euler(0.01), steps=8)
