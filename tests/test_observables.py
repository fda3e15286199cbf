"""Observables against closed forms, brute force, optimal transport solvers and finite differences.

Every sorted or blocked sum is compared with the plain double sum over all pairs, in NumPy and float64.
"""

from pathlib import Path

import equinox as eqx
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import ot
import pytest
from hypothesis import given

import mfjax as mf
import mfjax.observables as obs
from mfjax.measures import Grid, Particles

CIRCLE, LINE = mf.domains.Sphere(1), mf.domains.Euclidean(1)
RING = mf.domains.Torus(1, 2.5)
REFERENCE = Path(__file__).parent / "reference"


def unit(angles):
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def chord(x, y):
    return np.linalg.norm(x[:, None] - y[None], axis=-1)


def torus_chord(x, y, period=2.5):
    return np.linalg.norm(period / np.pi * np.sin(np.pi * (x[:, None] - y[None]) / period), axis=-1)


def brute(distance, x, a, y, b):
    """MMD^2 from all pairs."""
    return 2 * a @ distance(x, y) @ b - a @ distance(x, x) @ a - b @ distance(y, y) @ b


def draw(domain, n, seed, padded=False):
    """`n` random points of `domain` with random masses; every third is padding if `padded`."""
    rng = np.random.default_rng(seed)
    if isinstance(domain, mf.domains.Torus):
        points = domain.period.item() * rng.random((n, domain.dim))
    else:
        points = rng.normal(size=(n, domain.ambient))
        if isinstance(domain, mf.domains.Sphere):
            points /= np.linalg.norm(points, axis=1, keepdims=True)
    masses = rng.random(n) + 0.1
    if padded:
        masses[1::3] = 0
    return points, masses / masses.sum()


# One compiled program per shape is several times cheaper than running operation by operation.
call = eqx.filter_jit(lambda observe, mu, flow=None: observe(mu, flow))
compare = eqx.filter_jit(lambda make, nu, mu: make(nu)(mu))


def pad(points, masses, size, seed=99):
    """`size` slots, the new ones being points of no mass in front."""
    extra = np.random.default_rng(seed).permutation(points)[np.arange(size - len(points)) % len(points)]
    return np.concatenate([extra, points]), np.concatenate([np.zeros(len(extra)), masses])


def measure(points, masses=None, dtype=None):
    return Particles(jnp.asarray(points, dtype), None if masses is None else jnp.asarray(masses, dtype))


DISTANCES = {
    "line": (LINE, chord),
    "circle": (CIRCLE, chord),
    "ring": (RING, torus_chord),
    "sphere": (mf.domains.Sphere(2), chord),
    "plane": (mf.domains.Euclidean(2), chord),
    "torus": (mf.domains.Torus(2, 2.5), torus_chord),
}


# ---------------------------------------------------------------- energy distance


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("sizes", [(3, 70), (150, 64)])
def test_energy_distance_is_the_double_sum(name, sizes):
    domain, distance = DISTANCES[name]
    x, a = draw(domain, sizes[0], 0, padded=True)
    y, b = draw(domain, sizes[1], 1, padded=True)
    value = compare(lambda nu: obs.EnergyDistance(nu, domain), measure(y, b), measure(x, a))
    assert float(value) == pytest.approx(brute(distance, x, a, y, b), abs=1e-14, rel=1e-13)


@pytest.mark.slow
def test_reference_distance_to_the_teacher():
    with np.load(REFERENCE / "setup_1d.npz") as setup, np.load(REFERENCE / "varpro_fu.npz") as run:
        teacher, students, expected = unit(setup["teacher_theta"]), run["W"], run["mmd2"]
    for domain in (None, CIRCLE):
        observe = obs.EnergyDistance(jnp.asarray(teacher), domain)
        values = jax.vmap(lambda p, o=observe: o(Particles(p)))(jnp.asarray(students))
        np.testing.assert_allclose(values, expected, rtol=1e-12)


@pytest.mark.slow
def test_all_forms_agree_on_the_circle():
    flow = mf.flows.Wasserstein(mf.energies.Potential(lambda p: p[0]), CIRCLE)
    x, a = draw(CIRCLE, 50, 0)
    y, b = draw(CIRCLE, 40, 1)
    mu, nu = measure(x, a), measure(y, b)
    angle = lambda p: jnp.arctan2(p[:, 1], p[:, 0])[:, None] % (2 * jnp.pi)
    ring = mf.domains.Torus(1, 2 * jnp.pi)
    plain = obs.EnergyDistance(nu)
    turned = [Particles(angle(m.points), m.weights) for m in (mu, nu)]
    values = [
        call(plain, mu),
        call(plain, mu, flow),
        call(obs.EnergyDistance(nu, CIRCLE), mu),
        call(obs.EnergyDistance(turned[1], ring), turned[0]),
        2 * mf.energies.MMD(mf.kernels.Distance(), nu).solve(mu).value,
    ]
    np.testing.assert_allclose(values, float(values[0]), rtol=1e-13)


def test_energy_distance_closed_forms():
    point = lambda angle: measure(unit(np.array([angle])))
    assert float(obs.EnergyDistance(point(0.3), CIRCLE)(point(1.1))) == pytest.approx(4 * np.sin(0.4))
    # Across the cut of the angle.
    assert float(obs.EnergyDistance(point(3.1), CIRCLE)(point(-3.1))) == pytest.approx(
        4 * np.sin(np.pi - 3.1), rel=1e-12
    )
    assert float(obs.EnergyDistance(jnp.array([[3.0]]))(measure([[-1.0]]))) == 8.0
    # A point against the uniform law, E|A - B| = 4 / pi; the rule of n points overestimates E|B - B'|.
    uniform = obs.EnergyDistance(lambda p: 1.0, CIRCLE)
    assert float(call(uniform, point(1.0))) == pytest.approx(4 / np.pi, rel=1e-6)
    assert float(call(uniform, Grid.uniform(CIRCLE, 4096))) == 0.0


@pytest.mark.parametrize("k", [1, 2, 7])
def test_energy_distance_of_one_fourier_mode(k):
    # 2 |sin(s/2)| = 4/pi - (8/pi) sum_f cos(f s) / (4 f^2 - 1), and a grid of n cells aliases k to k + j n.
    n, size = 64, 1e-3
    grid = Grid.uniform(CIRCLE, n)
    angle = jnp.arctan2(grid.points[:, 1], grid.points[:, 0])
    mu = grid.with_weights(grid.weights * (1 + size * jnp.cos(k * angle)))
    f = k + n * np.arange(-200_000, 200_001.0)
    tail = 2 / (4 * n**2 * 200_000)
    expected = 2 * size**2 / np.pi * (np.sum(1 / (4 * f**2 - 1)) + tail)
    assert float(obs.EnergyDistance(grid, CIRCLE)(mu)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.slow
def test_discretized_density_adds_a_sixth_of_h_squared():
    density = lambda x: 1 + 0.5 * jnp.cos(2 * jnp.pi * x[0])
    fine = Grid.from_density(mf.domains.Interval(0, 1), 8192, density)
    for n in (32, 64):
        observe = obs.EnergyDistance(density, mf.domains.Interval(0, 1), cells=n)
        assert float(observe(fine)) == pytest.approx(1.125 / n**2 / 6, rel=2e-2)


@pytest.mark.parametrize("name", ["line", "circle", "ring"])
def test_small_distances_keep_their_digits_in_float32(name):
    domain, _ = DISTANCES[name]
    y, _ = draw(domain, 512, 0)
    rng = np.random.default_rng(1)
    moved = jax.vmap(domain.retract)(jnp.asarray(y), jnp.asarray(1e-3 * rng.normal(size=y.shape)))
    x = moved[rng.permutation(512)]
    nu, mu = measure(y, dtype="float32"), Particles(x.astype("float32"))
    value = call(obs.EnergyDistance(nu, domain), mu)
    assert value.dtype == jnp.float32
    exact = float(call(obs.EnergyDistance(jnp.asarray(y), domain), Particles(x)))
    print(f"{name}: MMD^2 = {exact:.3e}, float32 off by {float(value) / exact - 1:.1e} (relative)")
    # Coordinates are rounded to 1e-7 and moved by 1e-3: relative errors of 1e-4 are the data's own.
    assert abs(float(value) / exact - 1) < 1e-4


def test_blocked_sums_in_float32():
    domain = mf.domains.Sphere(2)
    x, a = draw(domain, 1500, 0)
    y, b = draw(domain, 1500, 1)
    value = call(obs.EnergyDistance(measure(y, b, "float32")), measure(x, a, "float32"))
    error = float(value) - brute(chord, x, a, y, b)
    print(f"absolute error of the blocked MMD^2 in float32: {error:.1e}")
    assert value.dtype == jnp.float32 and abs(error) < 1e-6


@pytest.mark.parametrize("name", ["line", "circle", "torus"])
def test_zero_at_the_target_only(name, dtype):
    domain, _ = DISTANCES[name]
    x, a = draw(domain, 33, 4)
    order = np.random.default_rng(0).permutation(33)
    observe = obs.EnergyDistance(measure(x, a, dtype), domain)
    same = float(call(observe, measure(x[order], a[order], dtype)))
    assert 0 <= same <= {"float32": 1e-6, "float64": 1e-15}[dtype]
    b = a.copy()
    b[:2] = b[1::-1]
    assert float(call(observe, measure(x, b, dtype))) > 1e-4


OBSERVABLES = {
    "line": lambda nu: obs.EnergyDistance(nu, LINE),
    "circle": lambda nu: obs.EnergyDistance(nu, CIRCLE),
    "ring": lambda nu: obs.EnergyDistance(nu, RING),
    "torus": lambda nu: obs.EnergyDistance(nu, DISTANCES["torus"][0]),
    "w1-line": lambda nu: obs.Wasserstein1D(nu, 1, LINE),
    "w2-line": lambda nu: obs.Wasserstein1D(nu, 2, LINE),
    "w1-circle": lambda nu: obs.Wasserstein1D(nu, 1, CIRCLE),
    "w2-ring": lambda nu: obs.Wasserstein1D(nu, 2, RING),
    "w1-sphere": lambda nu: obs.WassersteinDistance(nu, 1, DISTANCES["sphere"][0]),
    "w2-torus": lambda nu: obs.WassersteinDistance(nu, 2, DISTANCES["torus"][0]),
    "w2-plane": lambda nu: obs.WassersteinDistance(nu, 2),
    "sn-ring": lambda nu: obs.SobolevNorm(nu, -1.0, RING, 16),
    "sn-torus": lambda nu: obs.SobolevNorm(nu, 0.5, DISTANCES["torus"][0], 4),
    "sn-sphere": lambda nu: obs.SobolevNorm(nu, -1.5, DISTANCES["sphere"][0], 8),
    "sk-torus": lambda nu: obs.SinkhornDivergence(nu, 0.6, DISTANCES["torus"][0]),
}


def home(name):
    return {"line": LINE, "circle": CIRCLE, "ring": RING}.get(name[3:] or name) or DISTANCES.get(
        name, DISTANCES.get(name[3:])
    )[0]


@pytest.mark.slow_cases("w2-plane", "sn-torus", "sk-torus")
@pytest.mark.parametrize("name", OBSERVABLES)
def test_distances_do_not_depend_on_the_representation(name):
    domain = home(name)
    x, a = draw(domain, 12, 0)
    y, b = draw(domain, 9, 1)
    make = OBSERVABLES[name]
    # Every form of both measures in 24 slots, so that all share one program.
    value_of = lambda p, m, q, n: float(compare(make, measure(*pad(q, n, 24)), measure(*pad(p, m, 24))))
    value = float(compare(make, measure(y, b), measure(x, a)))
    order = np.random.default_rng(2).permutation(12)
    forms = {
        "padded": value_of(x, a, y, b),
        "exchanged": value_of(y, b, x, a),
        "permuted": value_of(x[order], a[order], y[::-1], b[::-1]),
        "split": value_of(np.repeat(x, 2, axis=0), np.repeat(a / 2, 2), y, b),
    }
    assert value > 1e-3
    for form, other in forms.items():
        assert other == pytest.approx(value, rel=1e-12), form


@pytest.mark.slow_cases("circle", "w2-line", "w2-ring", "w2-torus", "w2-plane", "sn-torus", "sk-torus")
@pytest.mark.parametrize("name", OBSERVABLES)
def test_distances_under_jit_vmap_and_grad(name):
    domain = home(name)
    points = np.stack([draw(domain, 8, seed)[0] for seed in range(3)])
    y, b = draw(domain, 6, 9)
    _, a = draw(domain, 8, 5)
    observe = OBSERVABLES[name](measure(y, b))
    masses = jnp.asarray(a)
    function = lambda points, masses: observe(Particles(points, masses))
    value = jax.jit(function)

    loop = [float(value(jnp.asarray(p), masses)) for p in points]
    batched = jax.jit(jax.vmap(function, in_axes=(0, None)))(jnp.asarray(points), masses)
    np.testing.assert_allclose(batched, loop, rtol=1e-12)
    if name in ("circle", "w2-line"):
        assert float(function(jnp.asarray(points[0]), masses)) == pytest.approx(loop[0], rel=1e-13)

    p = jnp.asarray(points[0])
    gradient, slope = jax.jit(jax.grad(function, argnums=(0, 1)))(p, masses)
    rng = np.random.default_rng(0)
    v = jnp.asarray(rng.normal(size=p.shape))
    if domain.dim < domain.ambient:
        v = jax.vmap(domain.project)(p, v)
    w = jnp.asarray(rng.normal(size=8))
    w = w - jnp.mean(w)
    h = 1e-6
    for along, difference in (
        (jnp.sum(gradient * v), value(p + h * v, masses) - value(p - h * v, masses)),
        (jnp.sum(slope * w), value(p, masses + h * w) - value(p, masses - h * w)),
    ):
        assert float(along) == pytest.approx(float(difference) / (2 * h), rel=1e-6, abs=1e-8)


@pytest.mark.slow_cases("w1-sphere", "w2-plane", "sn-torus", "sn-sphere", "sk-torus")
@pytest.mark.parametrize("name", OBSERVABLES)
def test_no_nan_gradient_at_coincident_points(name):
    x, a = draw(home(name), 6, 0)
    x = np.concatenate([x, x[:3]])
    mu = measure(x, np.append(a, a[:3]) / (1 + a[:3].sum()), "float32")
    nearly = measure(np.concatenate([x[:5], x[:4]]), np.append(a[:5], a[2:]), "float32")
    slopes = jax.jit(jax.grad(lambda p, m, nu: OBSERVABLES[name](nu)(Particles(p, m)), (0, 1)))
    for target in (mu, nearly):
        gradient, slope = slopes(mu.points, mu.weights, target)
        assert gradient.dtype == jnp.float32
        assert np.all(np.isfinite(gradient)) and np.all(np.isfinite(slope))


@pytest.mark.parametrize("name", ["line", "circle", "ring"])
def test_coincident_points_do_not_push_each_other(name):
    domain, _ = DISTANCES[name]
    x, a = draw(domain, 8, 0)
    x[5] = x[2]
    y, b = draw(domain, 8, 1)
    y[3] = x[2]
    mu, nu = measure(x, a), measure(y, b)
    sorted_form = jax.jit(jax.grad(lambda p, nu: obs.EnergyDistance(nu, domain)(Particles(p, mu.weights))))(
        mu.points, nu
    )
    everything, masses = np.concatenate([x, y]), np.append(a, -b)
    if name == "ring":
        # The derivative of the chord |2 r sin((x - y) / 2 r)|.
        half = np.pi * (x - everything.T) / 2.5
        pull = (np.cos(half) * np.sign(np.sin(half)))[..., None]
    else:
        gap = x[:, None] - everything
        length = np.linalg.norm(gap, axis=-1, keepdims=True)
        pull = np.divide(gap, length, out=np.zeros_like(gap), where=length > 0)
    double_sum = jnp.asarray(-2 * a[:, None] * np.einsum("ijk,j->ik", pull, masses))
    if domain is CIRCLE:
        double_sum = jax.vmap(domain.project)(mu.points, double_sum)
    np.testing.assert_allclose(sorted_form, double_sum, atol=1e-13)


@pytest.mark.slow_cases("circle")
@pytest.mark.parametrize("name", ["line", "circle"])
def test_second_derivatives_of_the_sorted_energy(name):
    # Away from coincidences the Hessian of the sorted form is that of the double sum.
    domain, _ = DISTANCES[name]
    x, a = draw(domain, 4, 0)
    y, b = draw(domain, 3, 1)
    angles = jnp.arctan2(x[:, 1], x[:, 0]) if name == "circle" else jnp.asarray(x[:, 0])
    if name == "circle":
        place = lambda t: jnp.stack([jnp.cos(t), jnp.sin(t)], -1)
    else:
        place = lambda t: t[:, None]
    weights = jnp.asarray(a)
    kernel, nu = mf.kernels.Distance(), measure(y, b)
    observe = obs.EnergyDistance(nu, domain)
    fast = lambda t, m: observe(Particles(place(t), m))
    slow = lambda t, m: 2 * mf.energies.MMD(kernel, nu)(Particles(place(t), m / jnp.sum(m)))
    for argument in (0, 1):
        hessian = lambda f, i=argument: jax.jit(jax.hessian(f, i))(angles, weights)
        np.testing.assert_allclose(hessian(fast), hessian(slow), atol=1e-12)


def test_energy_distance_compares_probabilities():
    for name in ("line", "circle", "ring", "torus"):
        domain, distance = DISTANCES[name]
        x, a = draw(domain, 5, 0)
        y, b = draw(domain, 4, 1)
        expected = brute(distance, x, a, y, b)
        a = 0.8 * a
        assert expected > 0
        value = compare(lambda nu, d=domain: obs.EnergyDistance(nu, d), measure(y, b), measure(x, a))
        assert float(value) == pytest.approx(expected, abs=1e-14), name


def test_wrapped_metric_on_the_torus():
    domain = mf.domains.Torus(2, 2.5)
    x, a = draw(domain, 30, 0)
    y, b = draw(domain, 20, 1)

    def wrapped(x, y):
        d = np.abs(x[:, None] - y[None])
        return np.linalg.norm(np.minimum(d, 2.5 - d), axis=-1)

    value = call(obs.EnergyDistance(measure(y, b), domain, metric="wrapped"), measure(x, a))
    assert float(value) == pytest.approx(brute(wrapped, x, a, y, b), rel=1e-12)


MAKE = {name: OBSERVABLES[name] for name in ("line", "circle", "ring")}


@given(
    sizes=st.sampled_from([(1, 1), (2, 5), (7, 3)]),
    data=st.data(),
    name=st.sampled_from(["line", "circle", "ring"]),
)
def test_energy_distance_of_arbitrary_measures(sizes, data, name):
    _, distance = DISTANCES[name]
    # Integers make ties; masses may vanish.
    draws = []
    for n in sizes:
        places = data.draw(st.lists(st.integers(0, 24), min_size=n, max_size=n))
        masses = data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n).filter(any))
        t = np.array(places) / 10.0
        points = unit(2 * np.pi * t / 2.5) if name == "circle" else t[:, None]
        draws.append((points, np.array(masses) / sum(masses)))
    (x, a), (y, b) = draws
    value = float(compare(MAKE[name], measure(y, b), measure(x, a)))
    assert value == pytest.approx(max(brute(distance, x, a, y, b), 0), abs=1e-13)


@pytest.mark.slow
@pytest.mark.optimized
def test_energy_distance_in_reverse_mode_keeps_no_matrix():
    domain = mf.domains.Sphere(2)
    x, _ = draw(domain, 2048, 0)
    observe = obs.EnergyDistance(jnp.asarray(x[::-1].copy(), "float32"))
    gradient = jax.jit(jax.grad(lambda p: observe(Particles(p))))
    memory = gradient.lower(jnp.asarray(x, "float32")).compile().memory_analysis().temp_size_in_bytes
    matrix = 2048 * 2048 * 4
    print(f"temporary memory of a gradient: {memory / matrix:.2f} of one 2048 x 2048 matrix")
    assert memory < matrix


# ---------------------------------------------------------------- Wasserstein


# On the line, on the ring and on the circle; one object each, so that equal shapes share a program.
TRANSPORT = {
    order: [
        lambda nu, domain=domain, order=order: obs.Wasserstein1D(nu, order, domain)
        for domain in (LINE, RING, CIRCLE)
    ]
    for order in (1, 2)
}


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("sizes", [(6, 6), (9, 31)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_wasserstein_against_a_linear_program(order, sizes, seed):
    x, a = draw(RING, sizes[0], 2 * seed, padded=True)
    y, b = draw(RING, sizes[1], 2 * seed + 1, padded=True)
    line = np.abs(x - y.T)
    arc = np.minimum(line, 2.5 - line)
    turn = lambda t: measure(unit(2 * np.pi * t[:, 0] / 2.5), a if t is x else b)
    mu, nu = measure(x, a), measure(y, b)
    plan = lambda cost: ot.emd2(a, b, cost**order) ** (1 / order)
    values = [float(compare(make, nu, mu)) for make in TRANSPORT[order][:2]]
    assert values[0] == pytest.approx(plan(line), rel=1e-11)
    assert values[0] == pytest.approx(
        ot.emd2_1d(x[:, 0], y[:, 0], a, b, metric="minkowski", p=order) ** (1 / order), rel=1e-11
    )
    assert values[1] == pytest.approx(plan(arc), rel=1e-11)
    circle = float(compare(TRANSPORT[order][2], turn(y), turn(x)))
    assert circle * 2.5 / (2 * np.pi) == pytest.approx(plan(arc), rel=1e-11)
    other = ot.wasserstein_circle(x[:, 0] / 2.5, y[:, 0] / 2.5, a, b, p=order)[0]
    assert circle / (2 * np.pi) == pytest.approx(other ** (1 / order), rel=1e-6)


@pytest.mark.slow_cases("float32")
def test_wasserstein_closed_forms(dtype):
    rel = {"float32": 1e-5, "float64": 1e-12}[dtype]
    x, a = draw(LINE, 40, 0)
    for order in (1, 2):
        shifted = compare(TRANSPORT[order][0], measure(x + 0.7, a, dtype), measure(x, a, dtype))
        assert shifted.dtype == dtype
        assert float(shifted) == pytest.approx(0.7, rel=rel)
        # n equal atoms on the circle, turned by less than half their spacing, move by that much.
        n, turn = 50, 0.05
        ring = 2 * np.pi * np.arange(n) / n
        still = measure(unit(ring), dtype=dtype)
        turned = compare(TRANSPORT[order][2], measure(unit(ring + turn), dtype=dtype), still)
        assert float(turned) == pytest.approx(turn, rel=20 * rel)
        # Turned by one whole spacing they are the same measure.
        whole = compare(TRANSPORT[order][2], measure(unit(ring + 2 * np.pi / n), dtype=dtype), still)
        assert float(whole) <= {"float32": 2e-3, "float64": 1e-7}[dtype]
    # A point against the uniform law: mean arc pi/2, mean square pi^2/3 (n cells subtract O(1/n^2)).
    uniform = Grid.uniform(CIRCLE, 512, dtype=dtype)
    point = measure(unit(np.array([0.2])), dtype=dtype)
    assert float(compare(TRANSPORT[1][2], uniform, point)) == pytest.approx(np.pi / 2, rel=1e-4)
    assert float(compare(TRANSPORT[2][2], uniform, point)) == pytest.approx(np.pi / 3**0.5, rel=1e-4)


def test_wasserstein_orders_and_turns():
    x, a = draw(CIRCLE, 30, 0)
    y, b = draw(CIRCLE, 20, 1)
    distance = lambda p, y, b, x, a: float(compare(TRANSPORT[p][2], measure(y, b), measure(x, a)))
    w1, w2 = (distance(p, y, b, x, a) for p in (1, 2))
    assert w1 <= w2 <= np.pi
    c, s = np.cos(2.2), np.sin(2.2)
    rotation = np.array([[c, s], [-s, c]])
    for p, value in ((1, w1), (2, w2)):
        assert distance(p, y @ rotation, b, x @ rotation, a) == pytest.approx(value, rel=1e-12)
    # Masses are compared after scaling to one.
    assert distance(1, y, 3 * b, x, a) == pytest.approx(w1, rel=1e-12)


# ---------------------------------------------------------------- divergences


def pair(n=64, dtype=None):
    density = lambda x: jnp.exp(jnp.cos(2 * jnp.pi * x[0]))
    other = lambda x: 1 + 0.5 * jnp.sin(2 * jnp.pi * x[0])
    ring = mf.domains.Torus(1)
    mu, nu = (Grid.from_density(ring, n, f, dtype=dtype) for f in (density, other))
    return mu, nu, other


@pytest.mark.slow_cases("float32")
def test_divergences_are_the_textbook_sums(dtype):
    mu, nu, density = pair(dtype=dtype)
    m, t = (np.asarray(g.weights, np.float64) for g in (mu, nu))
    expected = {
        obs.ChiSquare: np.sum(t**2 / m) - 1,
        obs.KL: np.sum(m * np.log(m / t)),
        obs.MaxRatio: np.max(t / m),
        obs.MaxLogRatio: np.max(np.abs(np.log(t / m))),
    }
    rel = {"float32": 2e-6, "float64": 1e-13}[dtype]
    for kind, value in expected.items():
        for target in (nu, density):
            result = call(kind(target), mu)
            assert result.dtype == dtype
            assert float(result) == pytest.approx(value, rel=rel)
    reverse = np.sum(t * np.log(t / m))
    assert float(obs.KL(nu, reverse=True)(mu)) == pytest.approx(reverse, rel=rel)
    assert float(obs.MaxLogRatio(mu)(nu)) == pytest.approx(expected[obs.MaxLogRatio], rel=rel)
    # chi^2 is the power divergence of order 2 up to its minimum.
    energy = mf.energies.PowerDivergence(nu, order=2)
    assert float(energy(mu)) - 1 == pytest.approx(expected[obs.ChiSquare], rel=100 * rel)


def test_divergence_closed_form():
    # chi^2(uniform | mu) = int 1/rho - 1 = 1/sqrt(1 - e^2) - 1 for rho = 1 + e sin.
    mu = Grid.from_density(mf.domains.Torus(1), 64, lambda x: 1 + 0.6 * jnp.sin(2 * jnp.pi * x[0]))
    uniform = lambda x: 1.0
    assert float(obs.ChiSquare(uniform)(mu)) == pytest.approx(0.25, rel=1e-12)
    # KL(uniform | mu) = -int log rho = -log((1 + sqrt(1 - e^2)) / 2).
    assert float(obs.KL(uniform, reverse=True)(mu)) == pytest.approx(-np.log(0.9), rel=1e-10)
    assert float(obs.MaxRatio(uniform)(mu)) == pytest.approx(1 / float(jnp.min(mu.density)), rel=1e-12)


@pytest.mark.parametrize("size", [1e-1, 2.9e-2, 3.1e-2, 1e-4, 1e-8])
def test_divergences_keep_their_digits_near_the_target(size):
    uniform = Grid.uniform(mf.domains.Torus(1), 64)
    mu = uniform.with_weights(uniform.weights * (1 + size * jnp.cos(2 * jnp.pi * uniform.points[:, 0])))
    # Means over z = size cos of 1/(1 + z) - 1, -log(1 + z) and (1 + z) log(1 + z) - z.
    root = np.sqrt(1 - size**2)
    small = size**2 / (1 + root)
    # The masses themselves are rounded, to 1e-16 of a deviation `size`.
    rel = max(1e-12, 4e-16 / size)
    assert float(obs.ChiSquare(uniform)(mu)) == pytest.approx(small / root, rel=rel, abs=0)
    assert float(obs.KL(uniform, reverse=True)(mu)) == pytest.approx(-np.log1p(-small / 2), rel=rel, abs=0)
    forward = small + np.log1p(-small / 2)
    assert float(obs.KL(uniform)(mu)) == pytest.approx(forward, rel=rel, abs=0)


def test_divergences_with_empty_cells():
    uniform = Grid.uniform(mf.domains.Torus(1), 4)
    half = uniform.with_weights(jnp.array([0.5, 0.5, 0.0, 0.0]))
    assert np.isinf(obs.ChiSquare(uniform)(half)) and np.isinf(obs.MaxRatio(uniform)(half))
    assert np.isinf(obs.MaxLogRatio(uniform)(half)) and np.isinf(obs.MaxLogRatio(half)(uniform))
    assert np.isinf(obs.KL(half)(uniform)) and np.isinf(obs.KL(uniform, reverse=True)(half))
    assert float(obs.ChiSquare(half)(uniform)) == 1.0
    assert float(obs.KL(uniform)(half)) == pytest.approx(np.log(2))
    for kind in (obs.ChiSquare, obs.KL, obs.MaxRatio, obs.MaxLogRatio):
        assert float(kind(half)(half)) == {obs.MaxRatio: 1.0}.get(kind, 0.0)
        gradient = jax.grad(lambda w, k=kind: k(half)(uniform.with_weights(w)))(half.weights)
        assert np.all(np.isfinite(gradient))


def test_divergence_gradients():
    mu, nu, _ = pair(16)
    w = jnp.asarray(np.random.default_rng(0).normal(size=16)) / 16
    of_target = (obs.ChiSquare, obs.KL, obs.MaxRatio, obs.MaxLogRatio)
    for observe in (obs.KL(nu, reverse=True), *(kind(nu) for kind in of_target)):
        value = jax.jit(lambda h, o=observe: o(mu.with_weights(mu.weights + h * w)))
        assert float(jax.jit(jax.grad(value))(0.0)) == pytest.approx(
            float(value(1e-6) - value(-1e-6)) / 2e-6, rel=1e-7
        )


# ---------------------------------------------------------------- moments, modes, densities


def test_moments(dtype):
    x, a = draw(mf.domains.Euclidean(3), 200, 0, padded=True)
    mu = measure(x, a, dtype)
    close = lambda v, e: np.testing.assert_allclose(v, e, atol={"float32": 3e-6, "float64": 1e-13}[dtype])
    close(obs.Moments()(mu), a @ x)
    close(obs.Moments(2)(mu), np.einsum("n,ni,nj->ij", a, x, x))
    close(obs.Moments(3)(mu), np.einsum("n,ni,nj,nk->ijk", a, x, x, x))
    close(obs.Moments(2, central=True)(mu), np.cov(x.T, aweights=a, ddof=0))
    far = measure(x + 100.0, 2 * a, dtype)
    assert obs.Moments(2, central=True)(far).dtype == dtype
    tolerance = {"float32": 1e-4, "float64": 1e-11}[dtype]
    np.testing.assert_allclose(
        obs.Moments(2, central=True)(far), np.cov(x.T, aweights=a, ddof=0), atol=tolerance
    )


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_histograms_are_those_of_numpy(dtype):
    """Bins of unequal width, points on edges and outside, padding; `jit` and batches too."""
    rng = np.random.default_rng(3)
    x, a = rng.normal(size=(40, 2)).astype(dtype), rng.uniform(size=40).astype(dtype)
    edges = np.array([-1.0, -0.5, 0.25, 0.5, 1.5], dtype)
    x[:7, 1] = [*edges, -3.0, 3.0]
    a[7] = 0
    observe = obs.Histogram(edges, coordinate=1)
    expected = np.histogram(x[:, 1], edges, weights=a)[0]
    found = call(observe, Particles(x, a))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=1e-12 if dtype == "float64" else 1e-5)
    batch = jax.vmap(lambda points: observe(Particles(points, a)))(jnp.stack([x, x[::-1]]))
    np.testing.assert_allclose(batch[1], np.histogram(x[::-1, 1], edges, weights=a)[0], rtol=1e-5)
    line = Grid.uniform(mf.domains.Interval(0.0, 1.0), 8)
    np.testing.assert_allclose(obs.Histogram([0.0, 0.25, 1.0])(line), [0.25, 0.75], rtol=1e-12)


def test_fourier_modes():
    # Wrapped Poisson law: c_k = q^k e^{-ik a}; the midpoint rule is spectral.
    q, a = 0.5, 0.8
    density = lambda p: (1 - q**2) / (1 - 2 * q * (p[0] * np.cos(a) + p[1] * np.sin(a)) + q**2)
    grid = Grid.from_density(CIRCLE, 128, density)
    k = np.arange(9)
    expected = q**k * np.exp(-1j * k * a)
    flow = mf.flows.Wasserstein(mf.energies.Potential(lambda p: p[0]), CIRCLE)
    for modes in (obs.FourierModes(8, CIRCLE)(grid), obs.FourierModes(8)(grid, flow)):
        np.testing.assert_allclose(modes[:, 0] - 1j * modes[:, 1], expected, atol=1e-14)
    x, b = draw(RING, 7, 0)
    modes = obs.FourierModes(3, RING)(measure(x, b))
    np.testing.assert_allclose(
        modes[:, 0] - 1j * modes[:, 1],
        b @ np.exp(-2j * np.pi * x * np.arange(4) / 2.5),
        atol=1e-14,
    )


DENSITY_DOMAINS = {
    "circle": (CIRCLE, 400),
    "ring": (RING, 400),
    "interval": (mf.domains.Interval(-1.0, 1.5), 400),
    "torus": (mf.domains.Torus(2, 2.5), 40),
}


@pytest.mark.parametrize("name", DENSITY_DOMAINS)
def test_kernel_density_keeps_the_mass(name):
    domain, n = DENSITY_DOMAINS[name]
    grid = Grid.uniform(domain, n)
    _, a = draw(LINE, 20, 1, padded=True)
    mu = Particles(domain.sample(jax.random.key(0), 20), jnp.asarray(a))
    for bandwidth in (0.2, 0.6, 0.7, 3.0):
        density = call(obs.KernelDensity(grid, bandwidth, domain), mu)
        assert np.all(np.asarray(density) > 0)
        # The midpoint rule is spectral on periodic domains and for even reflections.
        assert float(jnp.sum(density) * grid.volume) == pytest.approx(1, abs=1e-12)


def test_kernel_density_is_the_heat_flow():
    # Modes decay by exp(-(k sigma)^2 / 2), whatever the branch of the kernel.
    x, a = draw(CIRCLE, 15, 0)
    mu = measure(x, a)
    before = obs.FourierModes(4, CIRCLE)(mu)
    grid = Grid.uniform(CIRCLE, 512)
    for sigma in (0.1, 1.62, 1.65):
        density = call(obs.KernelDensity(grid, sigma, CIRCLE), mu)
        after = obs.FourierModes(4, CIRCLE)(grid.with_weights(density * grid.volume))
        decay = np.exp(-0.5 * (np.arange(5) * sigma) ** 2)
        np.testing.assert_allclose(after, decay[:, None] * before, atol=1e-13)


def test_kernel_density_on_the_line_and_its_derivative():
    x, a = draw(LINE, 9, 0)
    z = np.linspace(-2, 2, 7)[:, None]
    gaussian = np.exp(-0.5 * ((z - x.T) / 0.3) ** 2) / (0.3 * np.sqrt(2 * np.pi))
    observe = obs.KernelDensity(jnp.asarray(z), 0.3, LINE)
    np.testing.assert_allclose(observe(measure(x, a)), gaussian @ a, rtol=1e-12)
    # The bandwidth is a leaf; both branches of the wrapped kernel have a derivative.
    mu = measure(unit(x[:, 0]), a)
    observe = obs.KernelDensity(jnp.asarray(unit(z[:, 0])), 1.0, CIRCLE)
    for sigma in (1e-3, 0.3, 1.7):
        value = jax.jit(lambda s: jnp.sum(eqx.tree_at(lambda o: o.bandwidth, observe, s)(mu)))
        h = 1e-6 * sigma
        assert float(jax.jit(jax.grad(value))(sigma)) == pytest.approx(
            float(value(sigma + h) - value(sigma - h)) / (2 * h), rel=1e-5, abs=1e-7
        )


# ---------------------------------------------------------------- networks


@pytest.fixture
def network():
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(30, 2))), jnp.asarray(rng.normal(size=30))
    energy = mf.energies.ReducedRisk(mf.features.ReLU(), x, y, lam=1e-2)
    points, masses = draw(CIRCLE, 7, 0, padded=True)
    return energy, measure(points, masses), jnp.asarray(rng.normal(size=(11, 2)))


def test_prediction_with_optimal_weights(network):
    energy, mu, inputs = network
    flow = mf.flows.Wasserstein(energy + 0.1 * mf.energies.Entropy(), CIRCLE)
    # Normal equations (G diag(m) + lam) u = Phi^T y / N, solved apart.
    phi = np.maximum(np.asarray(energy.data.x) @ np.asarray(mu.points).T, 0)
    m = np.asarray(mu.weights)
    gram = phi.T @ phi / 30
    u = np.linalg.solve(gram * m + 1e-2 * np.eye(7), phi.T @ np.asarray(energy.data.y) / 30)
    expected = np.maximum(np.asarray(inputs) @ np.asarray(mu.points).T, 0) @ (m * u)
    np.testing.assert_allclose(obs.Prediction(inputs)(mu, flow), expected, rtol=1e-10, atol=1e-13)
    y = jnp.sin(inputs[:, 0])
    risk = 0.5 * np.mean((expected - np.asarray(y)) ** 2)
    assert float(obs.HeldOutRisk(inputs, y)(mu, flow)) == pytest.approx(risk, rel=1e-10)
    # On the training data the risk and the regularizer make up the reduced risk.
    train = obs.HeldOutRisk(energy.data.x, energy.data.y)(mu, flow)
    assert float(train / 1e-2 + 0.5 * mu.integrate(jnp.asarray(u) ** 2)) == pytest.approx(
        float(energy(mu)), rel=1e-10
    )


# l(F, y) by hand at F = 3 and y = 1, and at F = -1 and y = 1.
LOSSES = {
    "square": (None, lambda f, y: 0.5 * (f - y) ** 2),
    "logistic": (mf.losses.Logistic(), lambda f, y: np.log(1 + np.exp(-y * f))),
    "huber": (mf.losses.Huber(0.5), lambda f, y: 0.5 * (abs(f - y) - 0.25)),
    "absolute": (lambda f, y: jnp.abs(f - y), lambda f, y: abs(f - y)),
}
HELD_OUT = (jnp.array([[1.0], [-1.0]]), jnp.array([1.0, 1.0]))
LINEAR = mf.features.Function(lambda xi, x: xi[0] * x[0])


def held_out_by_hand(loss, scale=3.0):
    """0.25 l(F, 1) + 0.75 l(-F, 1) for a network x -> F x."""
    return 0.25 * loss(scale, 1.0) + 0.75 * loss(-scale, 1.0)


@pytest.mark.parametrize("name", LOSSES)
def test_the_held_out_risk_has_the_loss_of_the_flow(name):
    loss, by_hand = LOSSES[name]
    energy = mf.energies.Risk(LINEAR, *HELD_OUT, lam=0.1, loss=loss)
    mu = mf.measures.Particles(jnp.array([[2.0], [4.0]]))
    observe = obs.HeldOutRisk(*HELD_OUT, data_weights=jnp.array([0.25, 0.75]))
    expected = held_out_by_hand(by_hand)
    plain = mf.flows.Wasserstein(energy + 0.1 * mf.energies.Entropy(), LINE)
    assert float(observe(mu, plain)) == pytest.approx(expected, rel=1e-12)
    scheduled = mf.flows.Scheduled(lambda t: mf.flows.Wasserstein((1 + t) * energy, LINE))
    assert float(observe(mu, scheduled)) == pytest.approx(expected, rel=1e-12)
    # Half the features, each of height two.
    pairs = mf.energies.Risk(mf.features.Weighted(LINEAR), *HELD_OUT, loss=loss)
    heights = mf.flows.PropagationOfChaos(pairs, LINE)
    halved = mf.measures.Particles(mu.points / 2).with_marks(H=jnp.full(2, 2.0))
    assert float(observe(halved, heights)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_of_the_held_out_risk_may_be_another(name):
    loss, by_hand = LOSSES[name]
    mu = mf.measures.Particles(jnp.array([[2.0], [4.0]]))
    observe = obs.HeldOutRisk(
        *HELD_OUT, data_weights=jnp.array([0.25, 0.75]), loss=loss or mf.losses.Square()
    )
    flow = mf.flows.Wasserstein(mf.energies.Risk(LINEAR, *HELD_OUT, loss=mf.losses.Huber(9.0)), LINE)
    assert float(observe(mu, flow)) == pytest.approx(held_out_by_hand(by_hand), rel=1e-12)
    reduced = mf.flows.TwoTimescale(mf.energies.ReducedRisk(LINEAR, *HELD_OUT, lam=0.1), LINE, rate=1.0)
    moved = mu.with_marks(u=jnp.array([3.0, 0.0]))
    assert float(observe(moved, reduced)) == pytest.approx(held_out_by_hand(by_hand), rel=1e-12)


@pytest.mark.slow
def test_the_held_out_risk_of_compressed_data_is_that_of_all():
    """Of the squared loss, which is the only one of compressed data."""
    x = jnp.linspace(0, 1, 400)[:, None]
    y, inputs = jnp.cos(6 * x[:, 0]), jnp.linspace(0.1, 0.8, 5)[:, None]
    torus = mf.domains.Torus(1)
    phi = mf.features.RBF(torus, scale=0.1, profile="gaussian")
    small = mf.compress(phi, x, y, torus, tolerance=1e-5)
    mu = mf.measures.Particles.sample(torus, jr.key(0), 6)
    whole = mf.flows.Wasserstein(mf.energies.ReducedRisk(phi, x, y, 1e-2), torus)
    data = (small.features, small.x, small.y)
    part = mf.energies.ReducedRisk(*data, 1e-2, data_weights=small.data_weights)
    expected = float(obs.HeldOutRisk(inputs, jnp.sin(inputs[:, 0]))(mu, whole))
    observe = obs.HeldOutRisk(small.inputs(inputs), jnp.sin(inputs[:, 0]))
    assert float(observe(mu, mf.flows.Wasserstein(part, torus))) == pytest.approx(expected, rel=1e-4)


def test_the_held_out_risk_of_a_classifier_falls_in_a_run():
    energy = mf.energies.Risk(LINEAR, jnp.ones((1, 1)), jnp.ones(1), loss=mf.losses.Logistic())
    run = mf.simulate(
        mf.flows.Wasserstein(energy, LINE),
        mf.measures.Particles(jnp.array([[0.0]])),
        stepper=mf.steppers.Euler(0.5),
        steps=4,
        observables={"held out": obs.HeldOutRisk(2 * jnp.ones((1, 1)), jnp.ones(1))},
    )
    weight = np.asarray(run.final.points)[0, 0]
    values = run.observables["held out"]
    assert values[0] == pytest.approx(np.log(2), rel=1e-6)
    assert values[-1] == pytest.approx(np.log1p(np.exp(-2 * weight)), rel=1e-6) and values[-1] < values[0]


def test_prediction_of_the_current_weights(network):
    energy, mu, inputs = network
    flow = mf.flows.TwoTimescale(energy, CIRCLE, rate=1.0)
    u = jnp.arange(7.0)
    moved = mu.with_marks(u=u)
    phi = np.maximum(np.asarray(inputs) @ np.asarray(mu.points).T, 0)
    np.testing.assert_allclose(
        obs.Prediction(inputs)(moved, flow), phi @ (np.asarray(mu.weights) * np.arange(7.0)), rtol=1e-12
    )
    # The first state of that flow carries the optimal weights.
    start = flow.init(mu).measure
    vanilla = mf.flows.Wasserstein(energy, CIRCLE)
    np.testing.assert_allclose(
        obs.Prediction(inputs)(start, flow), obs.Prediction(inputs)(mu, vanilla), rtol=1e-10, atol=1e-13
    )


@pytest.mark.parametrize("width", [5, 60])
def test_kernel_spectrum(network, width):
    energy, _, _ = network
    points, masses = draw(CIRCLE, width, 3, padded=True)
    mu = measure(points, masses)
    flow = mf.flows.Wasserstein(energy, CIRCLE)
    phi = np.maximum(np.asarray(energy.data.x) @ points.T, 0)
    kernel = phi @ np.diag(masses) @ phi.T / 30
    expected = np.sort(np.linalg.eigvalsh(kernel))[::-1]
    np.testing.assert_allclose(obs.KernelSpectrum(8)(mu, flow), expected[:8], atol=1e-14)
    values = obs.KernelSpectrum(40)(mu, flow)
    assert values.shape == (40,)
    assert float(jnp.sum(values)) == pytest.approx(np.trace(kernel), rel=1e-12)
    # Two padded particles give a double eigenvalue zero; the derivative of the others is finite.
    top = lambda p: obs.KernelSpectrum(1)(Particles(p, mu.weights), flow)[0]
    gradient = jax.jit(jax.grad(top))(mu.points)
    v = jnp.asarray(np.random.default_rng(1).normal(size=points.shape))
    difference = (top(mu.points + 1e-6 * v) - top(mu.points - 1e-6 * v)) / 2e-6
    assert float(jnp.sum(gradient * v)) == pytest.approx(float(difference), rel=1e-6)


def population(lam, size=0.5, k=2, center=0.0):
    """The teacher (1 + size cos k theta) / (2 pi), its risk, exact, and c_0, ..., c_8 of the kernel."""
    with jax.ensure_compile_time_eval():
        c = mf.problems.relu_coefficients(0.5, 8)
        features = mf.features.CircleModes(c)
        y = features.image(jnp.zeros(9, complex).at[0].set(1).at[k].set(size / 2))
    teacher = lambda p: (1 + size * jnp.cos(k * jnp.arctan2(p[1], p[0]))) / (2 * jnp.pi)
    f = mf.regularizers.Quadratic(center)
    return teacher, mf.energies.ReducedRisk(features, features.inputs(), y, lam, f), np.asarray(c)


def test_the_dual_variable_is_bounded_by_its_source_condition(dtype):
    """At the uniform measure: h_k = c_k nu_k / (c_k + lam), |h|^2 = sum |h_k|^2 / c_k over k in Z."""
    size, k, grid = 0.5, 2, Grid.uniform(CIRCLE, 32, dtype=dtype)
    rtol = {"float32": 1e-4, "float64": 1e-11}[dtype]

    @jax.jit
    def norms(lam, center):
        teacher, energy, _ = population(lam, size, k, center)
        flow = mf.flows.Wasserstein(energy, CIRCLE)
        return obs.DualNorm()(grid, flow), obs.SourceNorm(teacher)(grid, flow)

    c = population(1.0)[2]
    for center in (0.0, 1.0):
        limit = np.sqrt((1 - center) ** 2 / c[0] + size**2 / (2 * c[k]))
        for lam in (1e-1, 1e-3, *([1e-9] if dtype == "float64" else [])):
            dual, source = norms(lam, center)
            modes = c[0] * (1 - center) ** 2 / (c[0] + lam) ** 2 + size**2 / 2 * c[k] / (c[k] + lam) ** 2
            assert float(dual) == pytest.approx(np.sqrt(modes), rel=rtol)
            assert float(source) == pytest.approx(limit, rel=rtol)
            assert dual.dtype == source.dtype == dtype and dual < source
    # As lam falls, the one becomes the other.
    if dtype == "float64":
        assert float(dual) == pytest.approx(limit, rel=1e-6)


def test_the_dual_norm_on_data(network):
    """(17): L = lam |alpha|^2 / 2 + int f(u) dmu; order and splitting of particles change nothing."""
    energy, mu, _ = network
    flow = mf.flows.Wasserstein(energy + 0.1 * mf.energies.Entropy(), CIRCLE)
    value, u = call(obs.DualNorm(), mu, flow), energy.outer_weights(mu)
    risk = energy.lam / 2 * value**2 + mu.integrate(energy.regularizer(u))
    assert float(risk) == pytest.approx(float(energy(mu)), rel=1e-11)
    parts = np.array([0, 0, 2, 3, 6, 6, 5])
    split = measure(np.asarray(mu.points)[parts], np.asarray(mu.weights)[parts] / np.bincount(parts)[parts])
    assert float(call(obs.DualNorm(), split, flow)) == pytest.approx(float(value), rel=1e-10)
    slope = jax.grad(lambda p: obs.DualNorm()(Particles(p, mu.weights), flow))(mu.points)
    v = jnp.asarray(np.random.default_rng(1).normal(size=mu.points.shape))
    moved = lambda h: float(call(obs.DualNorm(), Particles(mu.points + h * v, mu.weights), flow))
    assert float(jnp.sum(slope * v)) == pytest.approx((moved(1e-6) - moved(-1e-6)) / 2e-6, rel=1e-6)


@pytest.mark.slow
def test_the_source_norm_against_the_bound_of_lemma_5_1():
    """For f = |t|^3 / 2: |alpha^lam| rises with 1 / lam to the norm, and stays below it."""
    problem = mf.problems.circle_population(3.0, bias=0.5, degree=8)
    grid = Grid.from_density(CIRCLE, 24, lambda p: 1 + 0.3 * p[0] + 0.2 * p[0] * p[1])
    matrix = np.asarray(problem.features.matrix(grid.points, problem.x)) / np.sqrt(17)
    # A signal that f'(u) = 3/2 u^2 in the span of the features stands for: u = dnu/dmu on the grid.
    alpha = np.random.default_rng(0).normal(size=17) * 0.02
    alpha[0] = 3.0
    u = np.sqrt(alpha @ matrix / 1.5)
    taught = grid.with_weights(grid.weights * u)
    y = matrix @ np.asarray(taught.weights) * np.sqrt(17)
    norms = []
    for lam in (1e-2, 1e-4, 1e-6):
        energy = mf.energies.ReducedRisk(problem.features, problem.x, y, lam, mf.regularizers.Power(3.0))
        flow = mf.flows.Wasserstein(energy, CIRCLE)
        norms.append(float(call(obs.DualNorm(), grid, flow)))
    source = float(call(obs.SourceNorm(taught), grid, flow))
    assert source == pytest.approx(np.linalg.norm(alpha), rel=1e-9)
    assert norms == sorted(norms) and norms[-1] < source and norms[-1] == pytest.approx(source, rel=1e-3)
    empty = grid.with_weights(grid.weights.at[0].set(0))
    assert float(obs.SourceNorm(taught)(empty, flow)) == np.inf


@pytest.mark.slow
def test_observables_inside_a_run(network):
    energy, mu, inputs = network
    teacher, _ = draw(CIRCLE, 9, 8)
    watch = {
        "mmd": obs.EnergyDistance(jnp.asarray(teacher)),
        "w2": obs.Wasserstein1D(jnp.asarray(teacher), 2),
        "modes": obs.FourierModes(3),
        "output": obs.Prediction(inputs),
        "spectrum": obs.KernelSpectrum(3),
        "dual": obs.DualNorm(),
        "density": obs.KernelDensity(16, 0.3, CIRCLE),
        "mean": obs.Moments(1),
    }
    flow = mf.flows.Wasserstein(energy, CIRCLE)
    sim = mf.Simulation(flow, mu, stepper=mf.steppers.Euler(0.05), steps=4, save_every=2, observables=watch)
    from mfjax._engine.loop import trajectory

    _, (measures, values) = eqx.filter_jit(trajectory)(sim)
    for i in range(3):
        then = jax.tree.map(lambda leaf, i=i: leaf[i], measures)
        for name, observe in watch.items():
            np.testing.assert_allclose(values[name][i], call(observe, then, flow), rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------- sheets of heights


def tent(n, dtype=None):
    """w = a over theta = |2 a - 1|, a even in [0, 1]: two sheets (1 +- theta) / 2, each of density 1/2."""
    label = jnp.linspace(0, 1, n, dtype=dtype)
    mass = jnp.full(n, 1 / (n - 1), dtype).at[jnp.array([0, -1])].multiply(0.5)
    return Particles(jnp.abs(2 * label - 1)[:, None], mass, marks={"H": label})


@pytest.mark.slow_cases("float32")
def test_the_closure_defect_of_a_tent(dtype):
    """Var(w | theta) = theta^2 / 4, and moments of the two sheets over quarters, in closed form."""
    line, tol = mf.domains.Interval(0.0, 1.0), {"float32": 1e-6, "float64": 1e-14}[dtype]
    mu = tent(9, dtype)
    defect, moments = obs.ClosureDefect(line)(mu), obs.HeightMoments(3, 4, line)(mu)
    assert defect.dtype == moments.dtype == dtype
    assert float(defect) == pytest.approx(1 / 12, rel=tol)
    edges = np.linspace(0, 1, 5)
    for i in range(4):
        # int over theta of (((1 + theta) / 2)^i + ((1 - theta) / 2)^i) / 2.
        power = lambda x, i=i: (((1 + x) / 2) ** (i + 1) - ((1 - x) / 2) ** (i + 1)) / (i + 1)
        np.testing.assert_allclose(moments[i], np.diff(power(edges)), rtol=10 * tol)
    # In the coordinates of the mu-formulation, and in the other direction.
    points = jnp.stack([mu.marks["H"], mu.points[:, 0]], axis=1)
    assert float(obs.ClosureDefect(line)(measure(points, mu.weights))) == pytest.approx(1 / 12, rel=tol)
    turned = measure(points[::-1], mu.weights[::-1])
    assert float(obs.ClosureDefect(line)(turned)) == pytest.approx(1 / 12, rel=tol)
    np.testing.assert_allclose(obs.HeightMoments(3, 4, line)(turned), moments, rtol=10 * tol)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("domain", ["line", "circle"])
def test_segments_that_stand_upright(domain, turned):
    """Half of the mass moves, three eighths have all heights in (0, 1), then (1, 3), of one place."""
    height, mass = jnp.array([0.0, 0.0, 1.0, 3.0]), jnp.array([0.25, 0.375, 0.125, 0.25])
    # Masses of the segments: 7/16, 1/4 and 5/16; those upright have means 1/2 and 2.
    first, second = 1 / 4, 5 / 16
    mean = (0.5 * first + 2 * second) / (first + second)
    expected = first * ((0.5 - mean) ** 2 + 1 / 12) + second * ((2 - mean) ** 2 + 4 / 12)
    place = jnp.array([0.0, 1.0, 1.0, 1.0])
    space = mf.domains.Interval(0.0, 1.0)
    points = place[:, None]
    if domain == "circle":
        space, angle = CIRCLE, 0.3 + 0.5 * place
        points = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    order = slice(None, None, -1 if turned else 1)
    mu = Particles(points[order], mass[order], marks={"H": height[order]})
    assert float(obs.ClosureDefect(space)(mu)) == pytest.approx(expected, rel=1e-12)
    # No mass is lost at the wall, and the moments over all places are those of the heights.
    total = np.sum(obs.HeightMoments(2, 4, space)(mu), axis=1)
    moments = [1.0, 0.5 * first + 2 * second, first / 3 + second * 13 / 3]
    np.testing.assert_allclose(total, moments, rtol=1e-12)
    if domain == "line":
        np.testing.assert_allclose(obs.HeightMoments(2, 4, space)(mu)[0, 0], 7 / 64, rtol=1e-12)


@pytest.mark.parametrize("domain", ["line", "circle"])
def test_labels_without_mass_are_no_labels(domain):
    """Padding at the end, at the beginning and in between, traced as well, changes no sheet."""
    label = jnp.linspace(0.0, 2.0, 7)
    mass = jnp.array([1.0, 2.0, 2.0, 1.5, 0.5, 2.0, 1.0]) / 10
    space, points = mf.domains.Interval(0.0, 1.0), jnp.abs(label - 1)[:, None]
    if domain == "circle":
        space, points = CIRCLE, jnp.stack([jnp.cos(5 * label), jnp.sin(5 * label)], axis=1)
    mu = Particles(points, mass, marks={"H": label})
    places = jnp.array([3, 0, 1, 2, 6, 3, 4, 5, 6, 1, 0])
    real = jnp.array([0, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0])
    padded = jax.tree.map(lambda leaf: leaf[places], mu)
    padded = eqx.tree_at(lambda m: m.weights, padded, padded.weights * real)
    for observable in (obs.ClosureDefect(space), obs.HeightMoments(2, 4, space)):
        np.testing.assert_allclose(observable(padded), observable(mu), rtol=1e-13)
        traced = jax.jit(lambda m, ask=observable: ask(m))(padded)
        np.testing.assert_allclose(traced, observable(mu), rtol=1e-13)
    alone = eqx.tree_at(lambda m: m.weights, padded, padded.weights.at[2:].set(0))
    assert np.isnan(obs.ClosureDefect(space)(alone))


def test_the_closure_defect_on_a_circle():
    """A map that winds once is one sheet; twice, two whose heights differ by pi: defect pi^2 / 4."""
    label = 2 * jnp.pi * jnp.arange(65) / 64 + 0.1
    mass = jnp.full(65, 1 / 64).at[jnp.array([0, -1])].multiply(0.5)
    for turns, expected in ((1, 0.0), (-1, 0.0), (2, np.pi**2 / 4), (3, 2 * (2 * np.pi / 3) ** 2 / 3)):
        points = jnp.stack([jnp.cos(turns * label), jnp.sin(turns * label)], axis=1)
        mu = Particles(points, mass, marks={"H": label})
        assert float(obs.ClosureDefect(CIRCLE)(mu)) == pytest.approx(expected, rel=1e-12, abs=1e-25)
        moments = obs.HeightMoments(1, 8, CIRCLE)(mu)
        np.testing.assert_allclose(moments[0], 1 / 8, rtol=1e-12)
        assert float(jnp.sum(moments[1])) == pytest.approx(np.pi + 0.1, rel=1e-12)


@pytest.mark.slow
def test_the_closure_defect_appears_where_labels_fold():
    """theta' = H, H' = theta from H = -sin(pi theta): one sheet until tanh t = 1 / pi, then three."""
    energy = mf.energies.Potential(lambda xi: -xi[0] * xi[1])
    flow = mf.flows.PropagationOfChaos(energy, LINE)

    def at(times, n):
        label = (jnp.arange(n) + 0.5) / n * 2 - 1
        mu = Particles(label[:, None], marks={"H": -jnp.sin(jnp.pi * label)})
        run = mf.simulate(
            flow, mu, stepper=mf.steppers.RK4(0.01), save_at=jnp.asarray(times),
            observables={"defect": obs.ClosureDefect(LINE)}, save_measures=False,
        )  # fmt: skip
        return np.asarray(run.observables["defect"])

    times = np.array([0.1, 0.2, 0.32, 0.4, 0.5, 0.6])
    assert 0.32 < np.arctanh(1 / np.pi) < 0.4
    coarse, fine = at(times, 400), at(times, 800)
    print(f"closure defect at t = {times}: {fine[1:]}, half the labels {coarse[1:]}")
    assert np.all(fine[:4] < 1e-28) and np.all(np.diff(fine[4:]) > 0) and fine[4] > 1e-6
    # By bins of a million labels of the exact map: means of variances within narrow bins.
    label = (np.arange(10**6) + 0.5) / 10**6 * 2 - 1
    for t, value, rough in zip(times[3:], fine[4:], coarse[4:], strict=True):
        start = -np.sin(np.pi * label)
        place = label * np.cosh(t) + start * np.sinh(t)
        height = start * np.cosh(t) + label * np.sinh(t)
        _, bins = np.unique(np.floor(place / 1e-4), return_inverse=True)
        count = np.bincount(bins)
        mean = np.bincount(bins, height) / count
        expected = np.mean((height - mean[bins]) ** 2)
        assert value == pytest.approx(expected, rel=5e-3)
        assert value == pytest.approx(rough, rel=5e-4)


# ---------------------------------------------------------------- bad input

POINTS = jnp.array([[1.0, 0.0], [0.0, 1.0]])
PLANE_FLOW = mf.flows.Wasserstein(mf.energies.Potential(lambda p: p[0]), mf.domains.Euclidean(2))
CLASSIFIER = mf.flows.Wasserstein(
    mf.energies.Risk(mf.features.ReLU(), POINTS, jnp.ones(2), loss=mf.losses.Logistic()), PLANE_FLOW.domain
)
REDUCED = mf.flows.Wasserstein(mf.energies.ReducedRisk(mf.features.ReLU(), POINTS, jnp.ones(2), 1.0), CIRCLE)
TORUS_FLOW = mf.flows.Wasserstein(mf.energies.Potential(lambda p: p[0]), mf.domains.Torus(2))
BAD = [
    (lambda: obs.EnergyDistance(lambda p: 1.0), "needs domain="),
    (lambda: obs.EnergyDistance(POINTS, "circle"), "domain must be a Domain, got str"),
    (lambda: obs.EnergyDistance(POINTS, metric="geodesic"), "metric must be 'chordal' or 'wrapped'"),
    (lambda: obs.EnergyDistance(POINTS, CIRCLE, metric="wrapped"), "is a distance on a Torus"),
    (lambda: obs.EnergyDistance(2 * POINTS, CIRCLE), "does not lie on"),
    (lambda: obs.EnergyDistance(POINTS * jnp.nan), "target must be finite"),
    (lambda: obs.EnergyDistance("teacher"), "target must be numeric"),
    (lambda: obs.EnergyDistance(lambda p: 1.0, mf.domains.Euclidean(2)), "has no grid of cells"),
    (lambda: obs.EnergyDistance(lambda p: 1.0, CIRCLE, cells=0), "cells must be at least 4"),
    (lambda: obs.EnergyDistance(POINTS)(measure([[1.0]])), "target has points of dimension 2"),
    (lambda: obs.EnergyDistance(POINTS)(measure(POINTS), TORUS_FLOW), "pass domain="),
    (lambda: obs.Wasserstein1D(POINTS, order=3), "order must be 1 or 2, got 3"),
    (lambda: obs.Wasserstein1D(POINTS, domain=mf.domains.Euclidean(2)), "needs a line or a circle"),
    (lambda: obs.Wasserstein1D(2 * POINTS), "neither on a line nor on the unit circle"),
    (lambda: obs.Wasserstein1D(POINTS)(measure([[1.0]])), "target has points of dimension 2"),
    (lambda: obs.WassersteinDistance(POINTS, order=3), "order must be 1 or 2, got 3"),
    (lambda: obs.WassersteinDistance(POINTS)(measure([[1.0]])), "target has points of dimension 2"),
    (
        lambda: obs.WassersteinDistance(POINTS)(measure(POINTS), TORUS_FLOW),
        "Torus, whose shortest paths .* pass domain=",
    ),
    (lambda: obs.SinkhornDivergence(POINTS, 0.0), "blur must be greater than 0, got 0"),
    (lambda: obs.SinkhornDivergence(POINTS, 0.1, rtol=0.0), "rtol must be greater than 0, got 0"),
    (lambda: obs.SinkhornDivergence(POINTS, 0.1)(measure(POINTS), TORUS_FLOW), "pass domain="),
    (lambda: obs.ChiSquare(POINTS), "target must be a Grid or a density"),
    (lambda: obs.KL(measure(POINTS)), "got Particles: KL compares densities"),
    (lambda: obs.ChiSquare(lambda p: 1.0)(measure(POINTS)), "has no value on Particles"),
    (lambda: obs.MaxRatio(Grid.uniform(CIRCLE, 8))(Grid.uniform(CIRCLE, 16)), r"\(8,\) cells"),
    (lambda: obs.KL(lambda p: p)(Grid.uniform(CIRCLE, 8)), "one number per point"),
    (lambda: obs.Moments(0), "order must be at least 1"),
    (lambda: obs.Moments(1, central=True), "start at order 2"),
    (lambda: obs.FourierModes(-1, CIRCLE), "n must be at least 0"),
    (lambda: obs.FourierModes(2, LINE), "need a circle"),
    (lambda: obs.FourierModes(2)(measure(POINTS)), "need a circle"),
    (lambda: obs.KernelDensity(POINTS, 0.0, CIRCLE), "bandwidth must be greater than 0"),
    (lambda: obs.KernelDensity(jnp.eye(4), 0.1, mf.domains.Sphere(3)), "no Gaussian is known on Sphere"),
    (lambda: obs.KernelDensity(16, 0.1, LINE), "has no grid of cells"),
    (lambda: obs.KernelDensity(POINTS, 0.1, CIRCLE)(measure([[1.0]])), "points of dimension 2"),
    (lambda: obs.Prediction(POINTS[0]), r"x must have shape \(B, k\)"),
    (lambda: obs.Prediction(POINTS)(measure(POINTS)), "needs a flow"),
    (lambda: obs.Prediction(POINTS)(measure(POINTS), PLANE_FLOW), "got Potential"),
    (lambda: obs.HeldOutRisk(POINTS, jnp.ones(3)), r"y must have shape \(2,\)"),
    (
        lambda: obs.HeldOutRisk(POINTS, jnp.arange(2.0), loss=mf.losses.Logistic()),
        "labels of the log",
    ),
    (
        lambda: obs.HeldOutRisk(POINTS, jnp.arange(2.0))(measure(POINTS), CLASSIFIER),
        "labels of the log",
    ),
    (lambda: obs.HeldOutRisk(POINTS, jnp.ones(2), loss=mf.losses.Square), r"call Square\(\)"),
    (lambda: obs.KernelSpectrum(0), "n must be at least 1"),
    (lambda: obs.KernelSpectrum(2)(measure(POINTS), PLANE_FLOW), "holds one ReducedRisk"),
    (lambda: obs.DualNorm()(measure(POINTS), PLANE_FLOW), "holds one ReducedRisk"),
    (lambda: obs.SourceNorm(POINTS), "teacher must be a Grid or a density"),
    (lambda: obs.SourceNorm(lambda p: 1.0, rank_tolerance=-1.0), "rank_tolerance must be at least 0"),
    (
        lambda: obs.SourceNorm(lambda p: 1.0)(measure(POINTS), REDUCED),
        "of a density, and Particles have none",
    ),
    (lambda: obs.SourceNorm(Grid.uniform(CIRCLE, 8))(Grid.uniform(CIRCLE, 16), REDUCED), r"\(8,\) cells"),
    (lambda: obs.SourceNorm(lambda p: p)(Grid.uniform(CIRCLE, 8), REDUCED), "one number per point"),
    (lambda: obs.MaxLogRatio(lambda p: 1.0)(measure(POINTS)), "has no value on Particles"),
    (lambda: obs.KL(lambda p: jnp.sqrt(p[0]))(Grid.uniform(CIRCLE, 8)), "it is negative or NaN in a cell"),
    (
        lambda: mf.simulate(
            mf.flows.Wasserstein(mf.energies.Entropy(), CIRCLE),
            Grid.uniform(CIRCLE, 8),
            t1=0.1,
            observables={"a": obs.ChiSquare(lambda p: p[0] + 0.1)},
        ),
        "it is negative or NaN in a cell",
    ),
    (
        lambda: obs.Wasserstein1D(jnp.array([[1.0, 0.0]]))(measure(jnp.array([[5.0, 0.0]])), PLANE_FLOW),
        "this flow is on Euclidean",
    ),
    (lambda: obs.ClosureDefect(mf.domains.Torus(2)), "a line or a closed curve"),
    (lambda: obs.ClosureDefect(Grid.uniform(CIRCLE, 8)), "domain must be a Domain, got Grid"),
    (lambda: obs.ClosureDefect(CIRCLE)(Grid.uniform(CIRCLE, 8)), "in the order of their labels, got Grid"),
    (lambda: obs.ClosureDefect(CIRCLE)(measure(POINTS)), "have 2 coordinates, got 1"),
    (
        lambda: obs.ClosureDefect(LINE)(Particles(jnp.ones((1, 1)), marks={"H": jnp.ones(1)})),
        "needs two, got",
    ),
    (lambda: obs.HeightMoments(0, 8, CIRCLE), "order must be at least 1"),
    (lambda: obs.HeightMoments(1, 8, LINE), "has no grid of cells"),
]


@pytest.mark.parametrize(
    "kind", [obs.KL, obs.ChiSquare, obs.MaxRatio, obs.MaxLogRatio, obs.FisherInformation]
)
def test_targets_that_are_no_densities_are_no_number(kind):
    mu = Grid.uniform(CIRCLE, 8)
    value = jax.jit(lambda a: kind(lambda p: 1 + a * p[0])(mu))
    assert np.isfinite(value(0.5)) and np.isnan(value(2.0)) and np.isnan(value(jnp.nan))


@pytest.mark.parametrize("name", ["line", "circle", "plane"])
def test_targets_in_single_precision_are_at_no_distance_from_themselves(name):
    """In double precision: what single precision rounds is in the points and masses alone."""
    x = jax.random.normal(jax.random.key(0), (50, 1 if name == "line" else 2))
    x = x / jnp.linalg.norm(x, axis=1, keepdims=True) if name == "circle" else x
    mass = jax.random.dirichlet(jax.random.key(1), jnp.ones(50))
    domain = CIRCLE if name == "circle" else None
    low = Particles(x.astype("float32"), mass.astype("float32"))
    high = Particles(low.points.astype(float), low.weights.astype(float))
    assert float(obs.EnergyDistance(low, domain)(high)) < 1e-14


@pytest.mark.wrong_calls
@pytest.mark.parametrize("number", range(len(BAD)))
def test_wrong_calls_say_what_is_wrong(number):
    call, message = BAD[number]
    with pytest.raises(ValueError, match=message):
        call()


def test_prediction_checks_the_shape_of_its_inputs(network):
    energy, mu, _ = network
    with pytest.raises(ValueError, match="as the training inputs have"):
        obs.Prediction(jnp.ones((4, 3)))(mu, mf.flows.Wasserstein(energy, CIRCLE))
    with pytest.raises(ValueError, match="mark 'u'"):
        obs.Prediction(jnp.ones((4, 2)))(mu, mf.flows.TwoTimescale(energy, CIRCLE, rate=1.0))


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 2])
def test_cells_spread_evenly_have_exact_distances(order, dtype):
    """Uniform laws on unions of cells, of other meshes and against atoms, in closed form."""
    box = mf.domains.Interval(0.0, 4.0)
    law = lambda n, lo, hi: mf.measures.Grid.from_density(
        box, n, lambda x: jnp.where((x[0] > lo) & (x[0] < hi), 1.0, 0.0), dtype=dtype
    )
    distance = lambda mu, nu: float(mf.observables.Wasserstein1D(nu, order, box, spread=True)(mu))
    rtol = 1e-5 if dtype == "float32" else 1e-12
    # Uniform on (0, 1) and on (1, 3): quantiles s and 1 + 2 s, a gap of 1 + s.
    expected = {1: 1.5, 2: np.sqrt(7 / 3)}[order]
    for n, m in ((4, 4), (8, 4), (16, 64)):
        assert distance(law(n, 0, 1), law(m, 1, 3)) == pytest.approx(expected, rel=rtol)
        assert distance(law(n, 0, 1), law(m, 0, 1)) == pytest.approx(0, abs=3 * rtol)
    # Uniform on (0, 4) and on (1, 3): the gap 4 s - 1 - 2 s changes sign at s = 1/2.
    expected = {1: 0.5, 2: np.sqrt(1 / 3)}[order]
    assert distance(law(8, 0, 4), law(4, 1, 3)) == pytest.approx(expected, rel=rtol)
    # Uniform on (0, 2) and an atom at 1.
    atom = mf.measures.Particles(jnp.ones((1, 1), dtype))
    expected = {1: 0.5, 2: np.sqrt(1 / 3)}[order]
    assert distance(law(8, 0, 2), atom) == pytest.approx(expected, rel=rtol)
    assert distance(atom, law(8, 0, 2)) == pytest.approx(expected, rel=rtol)
    with pytest.raises(ValueError, match="spread is for a line"):
        mf.observables.Wasserstein1D(mf.measures.Grid.uniform(mf.domains.Sphere(1), 8), spread=True)


@pytest.mark.slow
def test_spread_cells_meet_gaussians_to_second_order():
    """W_2 of N(0, 1) and N(1, 1.5^2) is (1 + 0.25)^(1/2); a shift below a cell costs itself."""
    box = mf.domains.Interval(-9.0, 11.0)
    normal = lambda n, mean, sd: mf.measures.Grid.from_density(
        box, n, lambda x: jnp.exp(-0.5 * ((x[0] - mean) / sd) ** 2)
    )
    errors, small = [], []
    for n in (40, 80, 160):
        first, second = normal(n, 0.0, 1.0), normal(n, 1.0, 1.5)
        spread = mf.observables.Wasserstein1D(second, 2, box, spread=True)
        errors.append(abs(float(spread(first)) - np.sqrt(1.25)))
        moved = normal(n, 1e-3, 1.0)
        small.append(
            [float(mf.observables.Wasserstein1D(moved, 2, box, spread=s)(first)) for s in (True, False)]
        )
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    print(f"spread cells: W2 errors {errors}, orders {orders}; a shift of 1e-3: {small}")
    assert np.all(np.abs(orders - 2) < 0.2)
    assert abs(small[-1][0] - 1e-3) < 1e-5 and small[-1][1] > 5e-3
