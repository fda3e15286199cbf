"""Iterative outer solves against factorizations: values, derivatives, sequences of solves, what is chosen."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import mfjax as mf
from mfjax import problems
from mfjax import status as codes
from mfjax._engine.loop import trajectory
from mfjax._numerics import operators
from mfjax.features import RBF, CircleModes, ReLU, Ridge
from mfjax.outer import Automatic, Cholesky, ConjugateGradient
from mfjax.outer.base import OuterProblem
from mfjax.outer.conjugate_gradient import PATIENCE, conjugate_gradient
from mfjax.outer.subspace import Subspace, spread_rows
from mfjax.regularizers import Quadratic

CIRCLE, TORUS = mf.domains.Sphere(1), mf.domains.Torus(2)
N, M = 600, 500  # N M above the size from which the circle goes without a matrix


def setting(name, dtype="float64"):
    """(features, domain, x, y)."""
    x = jr.normal(jr.key(0), (N, 2))
    features, domain = {
        "circle": (ReLU(), CIRCLE),
        "circle, bias": (ReLU(0.5, circle=True), CIRCLE),
        "tanh": (Ridge(jnp.tanh), CIRCLE),
        "torus": (RBF(TORUS, scale=0.3), TORUS),
    }[name]
    if domain is TORUS:
        x = jr.uniform(jr.key(0), (N, 2))
    y = jnp.mean(features.matrix(domain.sample(jr.key(1), 40), x), axis=1)
    return features, domain, x.astype(dtype), y.astype(dtype)


def energies(name, lam=1e-3, dtype="float64", **options):
    features, domain, x, y = setting(name, dtype)
    risk = lambda outer: mf.energies.ReducedRisk(features, x, y, lam, Quadratic(1.0), outer=outer)
    return risk(ConjugateGradient(**options)), risk(Cholesky()), domain


def measure(domain, m=M, dtype="float64"):
    masses = jr.uniform(jr.key(3), (m,))
    return mf.measures.Particles(
        domain.sample(jr.key(2), m).astype(dtype), (masses / masses.sum()).astype(dtype)
    )


@eqx.filter_jit
def everything(energy, mu, carry=None):
    solution = energy.solve(mu, energy.init(mu) if carry is None else carry)
    return solution, energy.first_variation(mu, solution), energy.gradient_field(mu, solution)


@pytest.mark.slow_cases(
    "0.1-circle", "0.1-tanh", "0.1-circle, bias", "0.1-torus", "0.0001-circle, bias", "0.0001-torus"
)
@pytest.mark.parametrize("name", ["circle", "circle, bias", "tanh", "torus"])
@pytest.mark.parametrize("lam", [1e-1, 1e-4])
def test_it_finds_what_a_factorization_finds(name, lam):
    iterative, exact, domain = energies(name, lam)
    mu = measure(domain)
    (ours, values, slopes), (theirs, *other) = everything(iterative, mu), everything(exact, mu)
    assert int(ours.status) == codes.OK and float(ours.residual) < 3e-11
    np.testing.assert_allclose(ours.value, theirs.value, rtol=1e-10)
    size = float(jnp.max(jnp.abs(other[1])))
    np.testing.assert_allclose(ours.outer_weights, theirs.outer_weights, atol=1e-7)
    np.testing.assert_allclose(values, other[0], atol=1e-7)
    np.testing.assert_allclose(slopes, other[1], atol=1e-6 * max(size, 1))
    # Point by point and all at once.
    np.testing.assert_allclose(jax.vmap(ours.potential)(mu.points[:5]), values[:5], rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["circle", "torus"])
def test_single_precision(name):
    iterative, exact, domain = energies(name, 1e-3, "float32")
    _, reference, _ = energies(name, 1e-3)
    mu = measure(domain, dtype="float32")
    solution = everything(iterative, mu)[0]
    assert solution.value.dtype == "float32" and int(solution.status) == codes.OK
    wide = mf.measures.Particles(mu.points.astype(float), mu.weights.astype(float))
    value = float(everything(reference, wide)[0].value)
    assert float(solution.residual) < 3e-6
    np.testing.assert_allclose(solution.value, value, rtol=2e-5)
    np.testing.assert_allclose(everything(exact, mu)[0].value, value, rtol=2e-5)


@pytest.mark.slow
def test_derivatives_are_those_of_the_solution():
    """Of the risk at the optimum and of a function of the outer weights: reverse, forward, second."""
    mu = measure(TORUS, 60)
    direction = jr.normal(jr.key(5), mu.points.shape)

    def functions(outer):
        features, _, x, y = setting("torus")

        def weights(s, scale, lam):
            moved = eqx.tree_at(lambda m: m.points, mu, mu.points + s * direction)
            maps = eqx.tree_at(lambda f: f.scale, features, scale)
            energy = mf.energies.ReducedRisk(maps, x, y, lam, Quadratic(1.0), outer=outer)
            solution = energy.solve(moved, energy.init(moved))
            return jnp.sum(solution.outer_weights**2) + solution.value

        where = (jnp.asarray(0.01), jnp.asarray(0.3), jnp.asarray(1e-2))
        first = jax.jit(jax.grad(weights, argnums=(0, 1, 2)))
        forward = jax.jit(lambda *a: jax.jvp(weights, a, jax.tree.map(jnp.ones_like, a))[1])
        second = jax.jit(jax.jacfwd(jax.grad(weights, argnums=2), argnums=(0, 2)))
        return [*first(*where), forward(*where), *second(*where)], jax.jit(weights), where

    ours, weights, where = functions(ConjugateGradient(tolerance=1e-13, rank=60))
    theirs = functions(Cholesky())[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    for i, h in enumerate((1e-5, 1e-5, 1e-6)):
        shifted = lambda s, i=i: weights(*[w + s * (j == i) for j, w in enumerate(where)])
        slope = (shifted(h) - shifted(-h)) / (2 * h)
        np.testing.assert_allclose(ours[i], slope, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["circle", "torus"])
def test_runs_follow_those_of_a_factorization(name):
    iterative, exact, domain = energies(name, 1e-3)
    mu = measure(domain, 300)

    @eqx.filter_jit
    def end(energy):
        flow = mf.flows.Wasserstein(energy, domain)
        sim = mf.Simulation(flow, mu, stepper=mf.steppers.Heun(2**-6), steps=20, save_every=10)
        carry, (_, values) = trajectory(sim)
        return carry.state.measure.points, values["energy"], values["residual"], carry.status

    ours, theirs = end(iterative), end(exact)
    assert int(ours[3]) == codes.OK and float(ours[2].max()) < 3e-11
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-8)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-9)


def outer_problem(features, points, x, y, lam=1e-3):
    root = jnp.full(len(x), len(x) ** -0.5)
    masses = jnp.full(len(points), 1 / len(points))
    operator = features.operator(points, x, root, features.prepare(x, root))
    return OuterProblem(operator, root * y, masses, jnp.asarray(lam), Quadratic(1.0))


def iterations(problem, subspace, start, tolerance=1e-6):
    product = lambda a: problem.output(problem.scores(a)) + problem.lam * a
    goal = tolerance * jnp.linalg.norm(problem.target)
    lack = problem.centered_target - product(start)
    x, left, k = conjugate_gradient(product, lack, subspace.inverse(problem), goal, 200)
    np.testing.assert_allclose(left, lack - product(x), atol=1e-2 * float(goal))
    assert float(jnp.linalg.norm(lack - product(x))) <= 1.01 * float(goal)
    return start + x, int(k)


@pytest.mark.slow
def test_few_iterations_with_the_basis_of_the_first_particles():
    """On the circle: for other particles too, concentrated ones included; fewer from a neighboring one."""
    features, _, x, y = setting("circle")
    first = outer_problem(features, CIRCLE.sample(jr.key(4), M), x, y)
    subspace = eqx.filter_jit(Subspace)(first, 32)
    alpha, cold = iterations(first, subspace, jnp.zeros(N))
    gathered = CIRCLE.sample(jr.key(5), M).at[:, 1].multiply(0.02)
    gathered = gathered / jnp.linalg.norm(gathered, axis=1, keepdims=True)
    _, other = iterations(outer_problem(features, gathered, x, y), subspace, jnp.zeros(N))
    near = first.operator.points + 1e-3 * first.operator.points[:, ::-1]
    near = near / jnp.linalg.norm(near, axis=1, keepdims=True)
    _, warm = iterations(outer_problem(features, near, x, y), subspace, alpha)
    plain = eqx.tree_at(lambda s: s.reader, subspace, jnp.zeros_like(subspace.reader))
    _, without = iterations(first, plain, jnp.zeros(N))
    print(f"iterations: cold {cold}, gathered {other}, warm {warm}, no preconditioner {without}")
    assert cold <= 4 and other <= 6 and warm < cold and without > 3 * cold


@pytest.mark.slow
@pytest.mark.parametrize("name", ["circle", "torus"])
def test_a_basis_that_particles_have_left_is_found_anew(name, monkeypatch):
    """From a start gathered at a point: few products a solve, in a batch too, and derivatives as before."""
    features, domain, x, y = setting(name)
    spread = domain.sample(jr.key(4), M)
    center = spread[:1] * jnp.ones((M, 1)) + 1e-7 * jnp.sin(jnp.arange(2 * M)).reshape(M, 2)
    make = lambda p: outer_problem(features, p, x, y, 1e-5)
    solver = ConjugateGradient(rank=32 if name == "circle" else 128)
    memory = eqx.filter_jit(solver.init)(make(center))
    products = []
    count = lambda a: products.append(0) or a

    def counted(points):
        problem = make(points)
        inside = problem.operator
        before = type(inside).output
        monkeypatch.setattr(
            type(inside),
            "output",
            lambda self, v, before=before: jax.debug.callback(count, 0.0) or before(self, v),
        )
        found = solver.solve(problem, memory)
        monkeypatch.undo()
        return found

    found = jax.jit(counted)(spread)
    jax.block_until_ready(found)
    jax.effects_barrier()
    assert int(found.status) == codes.OK and float(found.residual) < 1e-10
    exact = Cholesky().solve(make(spread))
    np.testing.assert_allclose(found.alpha, exact.alpha, atol=1e-5 * float(jnp.max(jnp.abs(exact.alpha))))
    # Two to set up and to report, PATIENCE that did not suffice, and few with the new basis.
    assert PATIENCE + 2 < len(products) < PATIENCE + 40
    batch = jnp.stack([spread, center])
    both = jax.jit(jax.vmap(lambda p: solver.solve(make(p), memory).alpha))(batch)
    np.testing.assert_allclose(both[0], found.alpha, atol=1e-6 * float(jnp.max(jnp.abs(exact.alpha))))


@pytest.mark.slow
def test_the_basis_is_orthonormal_and_its_rows_are_well_conditioned():
    problem = outer_problem(*[setting("torus")[0], TORUS.sample(jr.key(4), M)], *setting("torus")[2:])
    subspace = Subspace(problem, 50)
    q = subspace.basis.T
    np.testing.assert_allclose(q.T @ q, np.eye(50), atol=1e-12)
    assert len(set(np.asarray(subspace.data).tolist())) == 100
    assert np.linalg.cond(np.asarray(q)[np.asarray(subspace.data)]) < 300
    # Exactly r rows, of a matrix whose first r rows are the only ones that count.
    known = jnp.concatenate([jnp.eye(5), 1e-9 * jnp.ones((20, 5))])
    assert sorted(np.asarray(spread_rows(known, 5)).tolist()) == [0, 1, 2, 3, 4]
    # Fewer particles, or data, than functions asked for.
    assert Subspace(
        outer_problem(Ridge(jnp.tanh), jnp.ones((3, 2)), *setting("tanh")[2:]), 50
    ).basis.shape == (3, N)


@pytest.mark.slow
def test_sequences_batch_and_do_not_retrace():
    features, _, x, y = setting("circle")
    mu, traces = measure(CIRCLE, 500), []

    @jax.jit
    def value(lam):
        traces.append(1)
        return mf.energies.ReducedRisk(features, x, y, lam, outer=ConjugateGradient())(mu)

    lams = jnp.array([1e-3, 1e-2, 1e-1])
    alone = [value(lam) for lam in lams]
    assert len(traces) == 1
    np.testing.assert_allclose(jax.vmap(value)(lams), alone, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.0, 0.01])
@pytest.mark.parametrize("lam", [1e-3, 1e-4])
def test_gathered_particles_in_single_precision(spread, lam):
    """All features are nearly one, and the first step throws the particles far: as a factorization has it."""
    x = jr.normal(jr.key(0), (256, 2), "float32")
    angle = 0.9 + spread * jr.normal(jr.key(1), (300,), "float32")
    mu = mf.measures.Particles(jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1))
    found = []
    # The factorization, itself at the edge of single precision, is the measure of the first step alone.
    for outer, steps in ((ConjugateGradient(), 5), (Cholesky(), 1)):
        energy = mf.energies.ReducedRisk(ReLU(), x, jnp.sin(x[:, 0]), lam, outer=outer)
        flow = mf.flows.Wasserstein(energy, CIRCLE)
        run = mf.simulate(flow, mu, stepper=mf.steppers.Euler(1e-4), steps=steps, save_every=1, throw=False)
        assert int(run.status) == codes.OK
        found.append(run.observables["energy"][:2])
    # The velocity depends on the last digits: only what the first step sees is the same.
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-4)


def test_a_matrix_that_is_too_large_is_not_chosen():
    """For one solve alone, which is factorized while its matrix fits."""
    x, y = jnp.zeros((2048, 2), "float32").at[:, 0].set(1.0), jnp.ones(2048, "float32")
    features, points = ReLU(0.5, circle=True), lambda m: jnp.zeros((m, 2), "float32").at[:, 0].set(1.0)
    chosen = lambda m: jax.eval_shape(
        lambda p: Automatic().choose(
            mf.energies.ReducedRisk(features, x, y, 1e-3).problem(mf.measures.Particles(p)), alone=True
        ),
        points(m),
    )
    assert isinstance(chosen(1000), Cholesky) and isinstance(chosen(100_000), ConjugateGradient)


@pytest.mark.slow
def test_what_is_chosen():
    x, y = jnp.ones((4096, 2)), jnp.ones(4096)
    energy = mf.energies.ReducedRisk(ReLU(), x, y, 1e-3)
    at = lambda m: mf.measures.Particles(CIRCLE.sample(jr.key(0), m))
    assert isinstance(energy.outer, Automatic)
    assert isinstance(energy.solver(at(32)), Cholesky) and isinstance(
        energy.solver(at(512)), ConjugateGradient
    )
    assert (
        energy.solver(at(512)).rank
        < mf.energies.ReducedRisk(Ridge(jnp.tanh), x, y, 1e-3).solver(at(512)).rank
    )
    # Of many variables no few functions span the features.
    many = mf.energies.ReducedRisk(Ridge(jnp.tanh), jnp.ones((4096, 8)), y, 1e-3)
    assert isinstance(many.solver(mf.measures.Particles(jnp.ones((512, 8)))), Cholesky)
    explicit = mf.energies.ReducedRisk(ReLU(), x, y, 1e-3, outer=Cholesky())
    assert explicit.solver(at(512)) is explicit.outer


@pytest.mark.slow
def test_zero_targets_and_targets_that_underflow_when_squared():
    x, mu = jr.normal(jr.key(0), (40, 2), "float32"), measure(CIRCLE, 12, "float32")
    solve = lambda y: mf.energies.ReducedRisk(
        mf.features.ReLU(), x, y, lam=1e-2, outer=mf.outer.ConjugateGradient(rank=4)
    ).solve(mu)
    one = solve(jnp.sin(3 * x[:, 0]))
    tiny = solve(1e-22 * jnp.sin(3 * x[:, 0]))
    np.testing.assert_allclose(1e22 * tiny.outer_weights, one.outer_weights, rtol=1e-3, atol=1e-4)
    assert 0 < float(tiny.residual) < 1e-4
    nothing = mf.energies.ReducedRisk(
        mf.features.ReLU(), x, 0 * x[:, 0], lam=1e-2, regularizer=mf.regularizers.Quadratic(center=1.0)
    )
    problem = nothing.problem(mu)
    found = mf.outer.ConjugateGradient(rank=4, max_iterations=12).solve(problem)
    assert int(found.status) == 0
    np.testing.assert_allclose(found.alpha, mf.outer.Cholesky().solve(problem).alpha, rtol=1e-4, atol=1e-4)


def test_a_prediction_without_a_solution_is_refused():
    x = jr.normal(jr.key(0), (20, 2))
    energy = mf.energies.ReducedRisk(mf.features.ReLU(), x, jnp.sin(9 * x[:, 0]), lam=0.0)
    with pytest.raises(RuntimeError, match="none exists"):
        energy.predict(measure(CIRCLE, 5), x)


@pytest.mark.slow
@pytest.mark.optimized
def test_a_run_through_windows_is_differentiated_like_one_through_a_matrix(monkeypatch):
    """Conjugate gradients with a carried basis and dual variable, prefix sums, sectors; in five numbers."""
    x, points = jr.normal(jr.key(0), (40, 2)), measure(CIRCLE, 12).points

    def final(p, features, outer):
        energy = mf.energies.ReducedRisk(features, p["x"], jnp.sin(3 * p["x"][:, 0]), p["lam"], outer=outer)
        mu = mf.measures.Particles(p["points"], p["masses"])
        flow = mf.flows.Wasserstein(energy, CIRCLE)
        run = mf.simulate(flow, mu, stepper=mf.steppers.Heun(0.05), steps=5, save_every=5)
        return run.observables["energy"][-1] + jnp.sum(jnp.sin(run.final.points[:, 0]))

    numbers = {"x": x, "lam": jnp.asarray(1e-2), "points": points, "masses": jnp.full(12, 1 / 12)}
    relu, iterate = mf.features.ReLU(), mf.outer.ConjugateGradient(rank=6)
    plain = mf.features.Ridge(lambda z: jnp.where(z > 0, z, 0))
    exact = jax.grad(final)(numbers, plain, mf.outer.Cholesky())
    sectors = jax.grad(final)(numbers, relu, mf.outer.Cholesky())
    monkeypatch.setattr(mf.features.relu, "SMALLEST", 0)
    windows = jax.grad(final)(numbers, relu, iterate)
    for found in (sectors, windows):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-8), found, exact)


@pytest.mark.slow
def test_a_solve_that_does_not_converge_says_so():
    iterative, _, domain = energies("torus", 1e-6, rank=2, max_iterations=3)
    solution = everything(iterative, measure(domain))[0]
    assert int(solution.status) == codes.OUTER_SOLVE and float(solution.residual) > 1e-8
    with pytest.raises(RuntimeError, match="outer"):
        iterative(measure(domain))


@pytest.mark.wrong_calls
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConjugateGradient(rank=0), "rank must be at least 1"),
        (lambda: ConjugateGradient(max_iterations=0), "max_iterations must be at least 1"),
        (lambda: ConjugateGradient(tolerance=-1.0), "tolerance must be at least 0"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_other_regularizers_are_refused():
    features, _, x, y = setting("tanh")
    energy = mf.energies.ReducedRisk(
        features, x, y, 0.1, mf.regularizers.Power(3.0), outer=ConjugateGradient()
    )
    with pytest.raises(ValueError, match="needs the regularizer Quadratic, got Power; use Newton"):
        energy(measure(CIRCLE, 5))


@pytest.mark.slow
def test_a_population_kernel_goes_through_it():
    """Circle modes have 2 K + 1 "data": few, so that the default factorizes them; both agree."""
    c = problems.relu_coefficients(0.5, 60)
    modes = CircleModes(c)
    y = modes.image(problems.CircleTeacher(10.0).fourier(60))
    mu = mf.measures.Particles(CIRCLE.sample(jr.key(0), 200))
    risk = lambda outer: mf.energies.ReducedRisk(modes, modes.inputs(), y, 1e-3, outer=outer)
    assert isinstance(modes.operator(mu.points, modes.inputs(), jnp.ones(121)), operators.Dense)
    np.testing.assert_allclose(risk(ConjugateGradient())(mu), risk(None)(mu), rtol=1e-10)


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.parametrize(("width", "steps", "bar"), [(128, 500, 2e-5), (1024, 1000, 1e-4)])
def test_the_risk_of_a_run_in_single_precision(width, steps, bar):
    """At lam = 1e-4, against double precision: the published circle run, N = 4096."""
    problem = problems.circle(jr.key(0), gamma=100.0, dtype="float64")
    mu = mf.measures.Particles.sample(CIRCLE, jr.key(1), width, dtype="float64")

    @eqx.filter_jit
    def risks(x, y, mu):
        energy = mf.energies.ReducedRisk(problem.features, x, y, 1e-4, Quadratic(1.0))
        flow = mf.flows.Wasserstein(energy, CIRCLE)
        sim = mf.Simulation(flow, mu, stepper=mf.steppers.Euler(2**-10), steps=steps, save_every=steps // 10)
        carry, (_, values) = trajectory(sim)
        return values["energy"], carry.status

    narrow = jax.tree.map(lambda a: a.astype("float32"), (problem.x, problem.y, mu))
    (single, status), (double, _) = risks(*narrow), risks(problem.x, problem.y, mu)
    error = float(np.max(np.abs(np.asarray(single, float) / double - 1)))
    print(f"M = {width}, {steps} steps: largest relative error of the risk {error:.1e}")
    assert single.dtype == "float32" and int(status) == codes.OK and error < bar
