"""Large measures: fast sums equal dense ones, with their derivatives, and nothing has the size M x M."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import mfjax as mf
from mfjax import kernels
from mfjax._numerics.sums import nonuniform, ordered
from mfjax._numerics.sums.waves import half_space
from mfjax.energies import MMD, Interaction, Sobolev
from mfjax.energies.fourier import Series
from mfjax.kernels import kernel_slopes, kernel_sums
from mfjax.kernels.sums import FEW, row_sum
from mfjax.measures import Particles
from mfjax.observables import EnergyDistance, SlicedEnergyDistance

LINE, PLANE = mf.domains.Torus(1, 2.5), mf.domains.Torus(2, 2.5)
KERNELS = {
    "energy": kernels.Distance(0.7),
    "energy on a circle": kernels.Distance(0.7, LINE),
    "laplace": kernels.Laplace(0.3),
    "laplace, narrow": kernels.Laplace(1e-3),
    "gaussian by modes": kernels.Gaussian(0.3, LINE, modes=16),
    "sobolev 1": kernels.NegativeSobolev(1.0, LINE),
    "sobolev 2": kernels.NegativeSobolev(2.0, LINE),
    "sobolev 3": kernels.NegativeSobolev(3.0, LINE),
    "sobolev 1.5": kernels.NegativeSobolev(1.5, LINE),
    "zones": kernels.ZonalKernel(kernels.ArcCosine(), 3, 4),
    "signed energy": kernels.SignedKernel(kernels.Distance()),
}
M, K = 280, 300
assert M * K > FEW


def drawn(name, dtype):
    """Points, sources of which some lie at points and some at each other, and weights of both signs."""
    x, y = (2.5 * jr.uniform(jr.key(i), (n, 1), jnp.float32) for i, n in ((0, M), (1, K)))
    y = y.at[:40].set(x[:40]).at[40:60].set(y[:20])
    if name.startswith("signed"):
        sign = lambda n: jnp.where(jnp.arange(n) % 3 == 0, -1.0, 1.0)[:, None]
        x, y = jnp.hstack([sign(M), x]), jnp.hstack([sign(K), y])
    w = jr.normal(jr.key(2), (K,), jnp.float32)
    return tuple(a.astype(dtype) for a in (x, y, w))


def dense(kernel, x, y, w):
    return jax.vmap(lambda point: row_sum(kernel, point, y, w))(x)


def everything(sums, kernel, x, y, w):
    """Values, and the derivatives of a sum of them in points, sources and weights, together and as one."""
    t = jnp.cos(jnp.arange(M, dtype=x.dtype))
    total = lambda *given: t @ sums(kernel, *given)
    return sums(kernel, x, y, w), *jax.grad(total, (0, 1, 2))(x, y, w)


SINGLE = ("energy", "energy on a circle", "laplace", "laplace, narrow", "gaussian by modes")


@pytest.mark.slow_cases(
    "laplace-float32",
    "energy-float64",
    "laplace, narrow-float64",
    "sobolev 1-float64",
    "sobolev 2-float64",
    "sobolev 3-float64",
    "laplace-float64",
    "sobolev 1.5-float64",
)
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, "float64") for name in KERNELS]
    # Reverse mode of Laplace sums once failed with one release of JAX alone.
    + [pytest.param(name, "float32", marks=pytest.mark.core if name == "laplace" else ()) for name in SINGLE],
)
def test_fast_sums_and_their_derivatives_are_the_dense_ones(name, dtype):
    kernel, given = KERNELS[name], drawn(name, dtype)
    exact = jax.jit(lambda *a: everything(dense, kernel, *a))(*drawn(name, "float64"))
    found = jax.jit(lambda *a: everything(kernel_sums, kernel, *a))(*given)
    # Powers of distances cancel: digits of the largest term, not of the sum, are kept.
    bar = 1e-12 if dtype == "float64" else 1e-4 if "sobolev" in name else 1e-5
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, atol=bar * float(jnp.max(jnp.abs(b))))
    slopes = jax.jit(lambda *a: kernel_slopes(kernel, *a))(*given)
    of_row = jax.grad(lambda point, y, w: row_sum(kernel, point, y, w))
    rows = jax.jit(jax.vmap(of_row, (0, None, None)))(*drawn(name, "float64"))
    np.testing.assert_allclose(slopes, rows, atol=bar * float(jnp.max(jnp.abs(rows))))


def test_the_fast_way_is_taken():
    """Sorting shows in the program of the fast sums and of no other."""
    program = lambda kernel, n: str(jax.make_jaxpr(lambda x, w: kernel_sums(kernel, x, x, w))(*n))
    size = lambda n: (jnp.zeros((n, 1)), jnp.zeros(n))
    for kernel in (
        kernels.Distance(),
        kernels.Laplace(),
        kernels.NegativeSobolev(1.0),
        kernels.Distance(1.0, LINE),
    ):
        assert " sort[" in program(kernel, size(300)) and " sort[" not in program(kernel, size(100))
    assert " sort[" not in program(kernels.Gaussian(), size(300))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["energy on a circle", "laplace"])
def test_labels_halves_and_padding_do_not_count(name):
    x, y, w = drawn(name, "float64")
    sums = jax.jit(lambda y, w: (kernel_sums(KERNELS[name], x, y, w), kernel_slopes(KERNELS[name], x, y, w)))
    order = jr.permutation(jr.key(5), K)
    halves = jnp.concatenate([y, y[:50]]), jnp.concatenate([w.at[:50].multiply(0.25), 0.75 * w[:50]])
    padded = jnp.concatenate([y, 2.4 * jr.uniform(jr.key(6), (30, 1))]), jnp.concatenate([w, jnp.zeros(30)])
    for other in ((y[order], w[order]), halves, padded):
        for a, b in zip(sums(*other), sums(y, w), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12 * float(jnp.max(jnp.abs(b))))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["energy", "laplace"])
def test_vmap_is_a_loop_and_jit_is_eager(name):
    x, y, w = drawn(name, "float64")
    sums = lambda w: kernel_slopes(KERNELS[name], x, y, w)
    masses = jnp.stack([w, w**2, jnp.sin(w)])
    compiled = jax.jit(sums)
    for a, mass in zip(jax.jit(jax.vmap(sums))(masses), masses, strict=True):
        np.testing.assert_allclose(a, compiled(mass), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(compiled(w), sums(w), rtol=1e-12, atol=1e-12)


@pytest.mark.slow_cases("sobolev 1")
@pytest.mark.parametrize("name", ["energy", "laplace", "sobolev 1"])
def test_coincident_points_do_not_push_each_other(name):
    x = jnp.full((300, 1), 0.3)
    force = jax.jit(lambda x: kernel_slopes(KERNELS[name], x, x, jnp.ones(300)))(x)
    assert float(jnp.max(jnp.abs(force))) < 1e-10


def test_order_of_signed_numbers_and_zeros():
    x = jnp.array([1.5, -0.0, -3.0, 0.0, 1e-300, -1e-300, jnp.inf, -jnp.inf])
    order, own = ordered.sorted_keys(x)
    np.testing.assert_array_equal(ordered.positions(order, x.dtype), jnp.sort(x))
    assert own[1] == own[3]


@pytest.mark.parametrize("wide", [1e4, 1e-4])
def test_laplace_sums_neither_overflow_nor_vanish(wide):
    x, y, w = drawn("laplace", "float32")
    given = wide * x, wide * y, jnp.abs(w)
    values = jax.jit(lambda *a: everything(kernel_sums, kernels.Laplace(), *a))(*given)
    exact = jax.jit(lambda *a: everything(dense, kernels.Laplace(), *a))(*given)
    for a, b in zip(values, exact, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.max(jnp.abs(b))))


@pytest.mark.slow
def test_derivative_in_the_scale_far_from_zero():
    """The changes of x / scale and y / scale cancel."""
    x, y = jr.normal(jr.key(0), (50,)), jr.normal(jr.key(1), (60,))
    slope = jax.grad(lambda s, shift: jnp.sum(jnp.stack(ordered.decaying_sums(x + shift, y + shift, y, s))))
    near, far = slope(jnp.asarray(0.7), 0.0), slope(jnp.asarray(0.7), 2.0**20)
    np.testing.assert_allclose(far, near, rtol=1e-8)


@pytest.mark.parametrize("name", ["energy", "laplace", "energy on a circle", "gaussian by modes"])
def test_derivative_in_the_scale(name):
    x, y, w = drawn(name, "float64")
    at = lambda scale: eqx.tree_at(lambda kernel: kernel.scale, KERNELS[name], scale)
    scaled = lambda sums: lambda scale: jnp.sum(jnp.sin(3 * sums(at(scale), x, y, w)))
    fast, slow = (jax.jit(jax.grad(scaled(sums)))(0.4) for sums in (kernel_sums, dense))
    np.testing.assert_allclose(fast, slow, rtol=1e-9)


# --- Fourier sums


def scattered(dim, dtype, size=300):
    x = jr.uniform(jr.key(0), (size, dim), jnp.float32, -2.0, 3.0)
    return x.astype(dtype), jr.normal(jr.key(1), (size,), jnp.float32).astype(dtype)


@pytest.mark.parametrize(("dim", "modes"), [(1, 3), (1, 40), (2, 6)])
def test_transform_and_series_against_direct_sums(dim, modes, dtype):
    """Relative to the total mass and to the sum of coefficients: 1e-6, 1e-10, as `nonuniform` says."""
    k = half_space(modes, dim).k
    (x, w), waves = scattered(dim, dtype), jnp.asarray(k, dtype)
    phases = 2 * np.pi * np.asarray(x, np.float64) @ k.T
    bar = 1e-10 if dtype == "float64" else 1e-6
    found = jax.jit(lambda x, w: nonuniform.transform(x, w, waves, modes))(x, w)
    np.testing.assert_allclose(found, np.asarray(w) @ np.exp(-1j * phases), atol=bar * np.sum(np.abs(w)))
    c = np.exp(1j * np.arange(len(k))) / (1 + np.sum(k * k, axis=1))
    series = lambda x: nonuniform.evaluate(x, jnp.asarray(c, found.dtype), waves, modes)
    size = np.sum(np.abs(c))
    np.testing.assert_allclose(jax.jit(series)(x), (np.exp(1j * phases) @ c).real, atol=bar * size)
    slopes = jax.jit(jax.grad(lambda x: jnp.sum(series(x))))(x)
    exact = (np.exp(1j * phases) @ (2j * np.pi * k * c[:, None])).real
    np.testing.assert_allclose(slopes, exact, atol=bar * np.sum(np.abs(2 * np.pi * k * c[:, None])))


@pytest.mark.slow
@pytest.mark.parametrize("dim", [1, 2])
def test_derivatives_of_the_transform(dim):
    """In both modes, in points and weights, against differences; vmap is a loop."""
    modes = 5
    waves = jnp.asarray(half_space(modes, dim).k, jnp.float64)
    x, w = scattered(dim, "float64", 20)
    energy = jax.jit(lambda x, w: jnp.sum(jnp.abs(nonuniform.transform(x, w, waves, modes)) ** 2))
    dx, dw = jnp.sin(jnp.arange(x.size)).reshape(x.shape), jnp.cos(jnp.arange(w.size))
    gradient = jax.grad(energy, (0, 1))(x, w)
    forward = jax.jvp(energy, (x, w), (dx, dw))[1]
    step = 1e-5
    difference = (energy(x + step * dx, w + step * dw) - energy(x - step * dx, w - step * dw)) / (2 * step)
    backward = jnp.sum(gradient[0] * dx) + gradient[1] @ dw
    np.testing.assert_allclose([forward, backward], difference, rtol=1e-6)
    points = jnp.stack([x, x + 0.1])
    loop = jnp.stack([energy(p, w) for p in points])
    np.testing.assert_allclose(jax.vmap(energy, (0, None))(points, w), loop, rtol=1e-10)
    twice = jax.jvp(jax.grad(energy), (x, w), (dx, 0 * w))[1]
    slope = (jax.grad(energy)(x + step * dx, w) - jax.grad(energy)(x - step * dx, w)) / (2 * step)
    np.testing.assert_allclose(twice, slope, atol=1e-5 * float(jnp.max(jnp.abs(twice))))


@pytest.mark.slow_cases(
    "float64-1e-16", "float32-0.0", "float32-1e-16", "float32-1e-13", "float64-0.0", "float32-1e-09"
)
@pytest.mark.parametrize("shift", [0.0, 1e-16, 1e-13, 1e-9])
def test_second_derivatives_where_windows_end(shift, dtype):
    """At and beside the edges of cells, where the window has an infinite slope, against direct sums."""
    modes = 19
    waves = jnp.arange(1, modes + 1, dtype=dtype)[:, None]
    # Near zero, so that a shift is not lost in rounding.
    x = (
        jnp.concatenate([jnp.zeros((1, 1)), jr.randint(jr.key(0), (40, 1), -64, 64) / 128]).astype(dtype)
        + shift
    )
    w, dx = jnp.cos(jnp.arange(41, dtype=dtype)), jnp.sin(1 + jnp.arange(41, dtype=dtype))[:, None]
    direct = lambda x: w @ jnp.exp(-2j * np.pi * (x @ waves.T))
    fast = lambda x: nonuniform.transform(x, w, waves, modes)
    twice = lambda f: jax.jvp(jax.grad(lambda x: jnp.sum(jnp.abs(f(x)) ** 2)), (x,), (dx,))[1]
    exact, bar = twice(direct), {"float64": 1e-8, "float32": 2e-3}[dtype]
    np.testing.assert_allclose(twice(fast), exact, rtol=0, atol=bar * float(jnp.max(jnp.abs(exact))))


@pytest.mark.slow
@pytest.mark.parametrize(("domain", "modes", "size"), [(LINE, 24, 45000), (PLANE, 6, 13000)])
def test_a_large_sobolev_energy_is_its_direct_sum(domain, modes, size):
    """Value, forces, and dF/dx_i = w_i grad V(x_i), at a size where the transform is taken."""
    energy = Sobolev(lambda x: 1 + 0.5 * jnp.prod(jnp.cos(x)), 2.0, domain, modes=modes)
    mu = Particles(domain.sample(jr.key(1), size, jnp.float64))
    k, few = half_space(modes, domain.dim).k, mu.points[:50]
    assert nonuniform.pays(size, domain.dim, len(k), mu.dtype)
    value, slopes, gradient = eqx.filter_jit(
        lambda mu: (
            energy(mu),
            energy.gradient_field(mu),
            jax.grad(lambda p: energy(Particles(p)))(mu.points),
        )
    )(mu)
    turns = np.asarray(mu.points) / 2.5
    seen = np.array([np.mean(np.exp(-2j * np.pi * turns @ row)) for row in k]) - np.asarray(energy.spectrum)
    symbol = (2 * np.pi / 2.5 * np.linalg.norm(k, axis=1)) ** -4.0 / 2.5**domain.dim
    np.testing.assert_allclose(value, np.sum(symbol * np.abs(seen) ** 2), rtol=1e-9)
    series = Series(half_space(modes, domain.dim), jnp.asarray(symbol * seen), jnp.asarray(2.5), 0 * few[0])
    exact = jax.vmap(jax.grad(series))(few)
    np.testing.assert_allclose(slopes[:50], exact, atol=1e-9 * float(jnp.max(jnp.abs(exact))))
    np.testing.assert_allclose(gradient * size, slopes, atol=1e-9 * float(jnp.max(jnp.abs(slopes))))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("domain", "scale", "modes", "size"),
    [(LINE, 0.05, 70, 20000), (PLANE, 0.3, 12, 5000), (mf.domains.Sphere(1), 0.1, 90, 15000)],
    ids=["circle of a torus", "2-torus", "circle in the plane"],
)
def test_gaussian_sums_by_modes_at_a_size_where_the_transform_is_taken(domain, scale, modes, size, dtype):
    kernel = kernels.Gaussian(scale, domain, modes=modes)
    assert nonuniform.pays(size, domain.dim, len(half_space(modes, domain.dim).k), dtype)
    y, w = domain.sample(jr.key(0), size, jnp.float32), jr.uniform(jr.key(1), (size,), jnp.float32) / size
    y, w = y.astype(dtype), w.astype(dtype)
    if isinstance(domain, mf.domains.Sphere):
        y = y / jnp.linalg.norm(y, axis=1, keepdims=True)
    few = y[:60]
    exact = jax.vmap(lambda point: row_sum(kernel, point, y, w))(few)
    of_row = jax.grad(lambda point: row_sum(kernel, point, y, w))
    rows = jax.vmap(lambda p: domain.project(p, of_row(p)))(few)
    values = jax.jit(lambda y, w: kernel_sums(kernel, y, y, w))(y, w)[:60]
    slopes = jax.jit(lambda y, w: kernel_slopes(kernel, y, y, w))(y, w)[:60]
    bar = 1e-10 if dtype == "float64" else 2e-6
    np.testing.assert_allclose(values, exact, atol=bar)
    np.testing.assert_allclose(jax.vmap(domain.project)(few, slopes), rows, atol=10 * bar / scale)


def test_wrong_modes_are_refused():
    with pytest.raises(ValueError, match="at least 18 for this scale, got 10"):
        kernels.Gaussian(0.1, LINE, modes=10)
    with pytest.raises(ValueError, match="Torus or of Sphere"):
        kernels.Gaussian(0.1, modes=10)
    # A scale that is only known in the program.
    x, w = jr.uniform(jr.key(0), (M, 1)), jnp.ones(M)
    sums = jax.jit(lambda scale: kernel_sums(kernels.Gaussian(scale, LINE, modes=10), x, x, w))
    assert bool(jnp.all(jnp.isfinite(sums(0.2)))) and bool(jnp.all(jnp.isnan(sums(0.05))))


# --- energies


@pytest.mark.slow_cases("laplace")
@pytest.mark.parametrize("name", ["energy", "laplace"])
def test_energies_by_sorting_are_consistent(name):
    """dF/dx_i = w_i grad V(x_i) and dF/dw_i = V(x_i), of a discrepancy and an interaction."""
    kernel = KERNELS[name]
    mu, nu = (
        Particles(2.5 * jr.uniform(jr.key(i), (300, 1)), jr.uniform(jr.key(i + 2), (300,))) for i in (0, 1)
    )
    mu, nu = (eqx.tree_at(lambda m: m.weights, m, m.weights / m.mass) for m in (mu, nu))
    for energy in (MMD(kernel, nu), Interaction(kernel)):
        value = lambda x, w, energy=energy: energy.solve(Particles(x, w)).value
        by_point, by_mass = jax.jit(jax.grad(value, (0, 1)))(mu.points, mu.weights)
        slopes, values, one_by_one = eqx.filter_jit(
            lambda mu, energy=energy: (
                energy.gradient_field(mu),
                energy.first_variation(mu),
                jax.vmap(energy.potential(mu))(mu.points),
            )
        )(mu)
        np.testing.assert_allclose(by_point, mu.weights[:, None] * slopes, atol=1e-14)
        np.testing.assert_allclose(by_mass, values, atol=1e-11)
        np.testing.assert_allclose(one_by_one, values, atol=1e-11)


# --- memory

LARGE = 20000
CASES = {
    "sorted": (1, lambda mu, nu: MMD(kernels.Distance(), nu)),
    "closed": (1, lambda mu, nu: Sobolev("uniform", 1.0)),
    "gaussian by modes": (
        2,
        lambda mu, nu: MMD(kernels.Gaussian(0.1, mf.domains.Torus(2), modes=10), nu),
    ),
    "transform": (2, lambda mu, nu: Sobolev("uniform", 2.0, mf.domains.Torus(2), modes=8)),
    "tiles": (2, lambda mu, nu: Interaction(kernels.Gaussian(0.3))),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_no_array_of_all_pairs(name):
    """Compiled memory at M = 20000 in float32, forward and reverse; the matrix would take 1600 MB."""
    dim, make = CASES[name]
    nu = Particles(jr.uniform(jr.key(0), (LARGE, dim), jnp.float32))
    energy = make(nu, nu)
    value = lambda energy, x: energy.solve(Particles(x)).value
    field = lambda energy, x: energy.gradient_field(Particles(x))
    for program in (jax.grad(value, argnums=1), field):
        compiled = eqx.filter_jit(program).lower(energy, nu.points).compile()
        used = compiled.compiled.memory_analysis().temp_size_in_bytes
        assert used < 40e6, f"{used / 1e6:.0f} MB"


# --- energy distances


def cloud(dim, seed, size=200):
    return Particles(jr.normal(jr.key(seed), (size, dim)), jr.uniform(jr.key(seed + 1), (size,)))


@pytest.mark.slow
def test_sliced_distance_in_the_plane():
    """Its error falls as P^-2, below the stated bound."""
    mu, nu = cloud(2, 0), cloud(2, 5)
    nu = eqx.tree_at(lambda m: m.points, nu, 0.5 * nu.points + 1.0)
    exact = float(EnergyDistance(nu)(mu))
    size = 2 * exact + 4 * float(jnp.mean(jnp.linalg.norm(mu.points, axis=1)) + 1.0)
    for number in (4, 16, 64):
        error = abs(float(SlicedEnergyDistance(nu, projections=number)(mu)) - exact)
        assert error < np.pi**2 / (12 * number**2) * size
        print(f"{number} projections: relative error {error / exact:.1e}")
    assert float(SlicedEnergyDistance(mu)(mu)) < 1e-14


def test_sliced_distance_in_space_within_its_standard_error():
    mu, nu = cloud(3, 0), cloud(3, 5)
    nu = eqx.tree_at(lambda m: m.points, nu, nu.points * jnp.array([0.5, 1.0, 2.0]) + 0.3)
    exact = float(EnergyDistance(nu)(mu))
    sliced = SlicedEnergyDistance(nu, projections=400, key=jr.key(3))
    terms = np.asarray(sliced.terms(mu))
    assert abs(np.mean(terms) - exact) < 4 * np.std(terms) / 20
    np.testing.assert_allclose(sliced(mu), np.mean(terms), rtol=1e-12)
    with pytest.raises(ValueError, match="pass key="):
        SlicedEnergyDistance(nu)


def test_gradient_of_the_sliced_distance():
    mu, sliced = cloud(2, 0, 30), SlicedEnergyDistance(cloud(2, 5, 20), projections=8)
    value = jax.jit(lambda x: sliced(Particles(x, mu.weights)))
    along, step = jnp.cos(jnp.arange(60.0)).reshape(30, 2), 1e-6
    difference = (value(mu.points + step * along) - value(mu.points - step * along)) / (2 * step)
    np.testing.assert_allclose(jnp.sum(jax.grad(value)(mu.points) * along), difference, rtol=1e-6)


# --- runs


@pytest.mark.slow
def test_a_run_of_many_particles_falls():
    """10^4 particles on the circle: what the energy loses is what was dissipated."""
    torus = mf.domains.Torus(1)
    mu = Particles(torus.sample(jr.key(0), 10**4, jnp.float64) ** 2)
    flow = mf.flows.Wasserstein(Sobolev("uniform", 1.5, modes=128), torus)
    run = mf.simulate(flow, mu, stepper=mf.steppers.Heun(1e-2), steps=4, save_every=4, progress=False)
    energies = np.asarray(run.observables["energy"])
    spent = float(run.observables["dissipated"][-1])
    np.testing.assert_allclose(energies[0] - energies[1], spent, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.parametrize("dim", [1, 2])
def test_a_hundred_thousand_particles(dim):
    """Against a tenth of them: energies agree to the sampling error."""
    torus, energies = mf.domains.Torus(dim), []
    for size in (10**4, 10**5):
        energy = Sobolev("uniform", 2.0, torus, modes=16)
        mu = Particles(torus.sample(jr.key(0), size, jnp.float32) ** 2)
        flow = mf.flows.Wasserstein(energy, torus)
        run = mf.simulate(flow, mu, stepper=mf.steppers.Euler(1.0), steps=20, save_every=20, progress=False)
        energies.append(run.observables["energy"][-1] / run.observables["energy"][0])
    assert energies[1] < 1
    np.testing.assert_allclose(*energies, rtol=0.1)
