"""The outer solve, whole family: Cholesky, Newton and minimum norm against 60-digit solutions.

Bars: value, outer weights and dual values right to 1e-10 relative, 1e-8 at lam = 1e-4, primal and dual,
for f_b, f_u and powers 1.5, 2, 3, lam = 1 to 1e-4 and 0. The oracle solves the convex problem in
60-digit arithmetic by a Newton method of its own and proves its answer by the optimality conditions.
"""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import mpmath
import numpy as np
import pytest

import mfjax as mf
from mfjax import status as codes
from mfjax._numerics.operators import Dense
from mfjax.outer import Cholesky, ConjugateGradient, MinimumNorm, Newton
from mfjax.outer.base import OuterProblem
from mfjax.regularizers import ConvexRegularizer, Power, Quadratic

mp = mpmath.mp.clone()
mp.dps = 60


REGULARIZERS = {
    "biased": Quadratic(0.0),
    "unbiased": Quadratic(1.0),
    "power-1.5": Power(1.5),
    "power-2": Power(2.0),
    "power-3": Power(3.0),
}
LAMS = [1.0, 1e-1, 1e-2, 1e-3, 1e-4, 0.0]
# (data, particles); one particle of the first has no mass.
SHAPES = [(4, 6), (6, 4)]


OUTPUTS = 3


def arrays(n, m, output=0):
    rng = np.random.default_rng(10 * n + m)
    operator = rng.normal(size=(n, m)) / np.sqrt(n)
    masses = rng.uniform(0.5, 1.5, m)
    masses[2] = 0 if m > n else masses[2]
    targets = [rng.normal(size=n) for _ in range(OUTPUTS)]
    return operator, targets[output], masses / masses.sum()


def problem(n, m, lam, regularizer, dtype="float64", outputs=None):
    operator, target, masses = (jnp.asarray(a, dtype) for a in arrays(n, m))
    if outputs is not None:
        target = jnp.stack([jnp.asarray(arrays(n, m, k)[1], dtype) for k in range(outputs)], axis=1)
    return OuterProblem(operator, target, masses, jnp.asarray(lam, dtype), regularizer)


@eqx.filter_jit
def solve(solver, problem, carry=None):
    solution = solver.solve(problem, carry)
    alpha = solution.alpha
    return solution, problem.value(alpha), problem.outer_weights(alpha), problem.scores(alpha)


class Exact:
    """f, f', f*, f*', f*'' in 60-digit arithmetic."""

    def __init__(self, name):
        if name in ("biased", "unbiased"):
            c = mp.mpf(name == "unbiased")
            self.f = lambda t: (t - c) ** 2 / 2
            self.slope = lambda t: t - c
            self.dual = lambda s: (c * s + s * s / 2, s + c, mp.one)
        elif name == "cosh":
            self.f = lambda t: mp.cosh(t) - 1
            self.slope = mp.sinh
            self.dual = lambda s: (
                s * mp.asinh(s) - mp.sqrt(1 + s * s) + 1,
                mp.asinh(s),
                1 / mp.sqrt(1 + s * s),
            )
        else:
            r = mp.mpf(name.removeprefix("power-"))
            self.f = lambda t: abs(t) ** r / (r - 1)
            self.slope = lambda t: mp.sign(t) * r * abs(t) ** (r - 1) / (r - 1)

            def dual(s):
                z = abs(s) * (r - 1) / r
                u = z ** (1 / (r - 1))
                return z ** (r / (r - 1)), mp.sign(s) * u, z ** (1 / (r - 1) - 1) / r

            self.dual = dual


@functools.cache
def exact(name, n, m, lam, output=0):
    """(value, u, s) to 60 digits, by Newton on the dual with halved steps, along decreasing lam."""
    f = Exact(name)
    a, b, masses = (np.vectorize(mp.mpf)(v) for v in arrays(n, m, output))
    lams = [value for value in LAMS if value >= lam]
    alpha = b / 10

    def look(alpha, lam):
        s = alpha @ a
        value, u, weight = np.vectorize(f.dual)(s)
        gradient = lam * alpha + a @ (masses * u) - b
        hessian = (a * (masses * weight)) @ a.T + lam * np.eye(n, dtype=int)
        return lam * alpha @ alpha / 2 - alpha @ b + masses @ value, gradient, hessian, u, s

    for strength in map(mp.mpf, lams):
        value, gradient, hessian, u, s = look(alpha, strength)
        for _ in range(200):
            if mp.norm(mp.matrix(gradient)) < mp.mpf(10) ** -55:
                break
            step = np.array(list(mp.lu_solve(mp.matrix(hessian), mp.matrix(-gradient))))
            for _ in range(60):
                new = look(alpha + step, strength)
                # Far from the end the function decides, at the end the gradient.
                if new[0] < value or mp.norm(mp.matrix(new[1])) < mp.norm(mp.matrix(gradient)):
                    break
                step = step / 2
            alpha = alpha + step
            value, gradient, hessian, u, s = new
    # The certificate: both optimality conditions, and equal primal and dual values, hold to 50 digits.
    error = a @ (masses * u) - b
    fit = error @ error / (2 * strength) if strength else mp.zero
    primal = fit + masses @ np.vectorize(f.f)(u)
    assert max(abs(error + strength * alpha)) < mp.mpf(10) ** -50
    assert max(abs(np.vectorize(f.slope)(u) - s)) < mp.mpf(10) ** -50
    assert abs(primal + value) < mp.mpf(10) ** -48 * (1 + abs(primal))
    as_floats = lambda v: np.array([float(x) for x in v])
    return float(primal), as_floats(u), as_floats(s)


def cases():
    for name, regularizer in REGULARIZERS.items():
        for shape in SHAPES:
            for lam in LAMS:
                if lam == 0:
                    # With more data than particles there is no interpolant.
                    solvers = [MinimumNorm(), MinimumNorm(form="dual")] if shape[1] > shape[0] else []
                elif isinstance(regularizer, Quadratic):
                    solvers = [Cholesky("primal"), Cholesky("dual")]
                else:
                    solvers = [Newton("primal"), Newton("dual")]
                for solver in solvers:
                    yield name, shape, lam, solver


def relative_error(value, reference):
    return np.max(np.abs(np.asarray(value) - reference)) / np.max(np.abs(reference))


def exact_outputs(name, n, m, lam):
    """The sum of the values of all outputs, each solved by itself, their u and their s as columns."""
    parts = [exact(name, n, m, lam, output) for output in range(OUTPUTS)]
    return sum(p[0] for p in parts), *(np.stack([p[i] for p in parts], axis=1) for i in (1, 2))


@pytest.mark.slow_cases("three outputs")
@pytest.mark.parametrize("outputs", [None, OUTPUTS], ids=["one output", "three outputs"])
def test_sixty_digits(outputs):
    """Several outputs share masses and features and nothing else."""
    worst = {}
    for name, shape, lam, solver in cases():
        value, u, s = (exact if outputs is None else exact_outputs)(name, *shape, lam)
        whole = problem(*shape, lam, REGULARIZERS[name], outputs=outputs)
        solution, ours, weights, scores = solve(solver, whole)
        assert int(solution.status) == codes.OK
        errors = [relative_error(ours, value), relative_error(weights, u), relative_error(scores, s)]
        worst[lam] = np.maximum(worst.get(lam, 0), errors)
        assert max(errors) <= (1e-8 if lam == 1e-4 else 1e-10), (name, shape, lam, solver, errors)
    for lam, errors in worst.items():
        print(f"lam = {lam:g}: relative error of value {errors[0]:.1e}, u {errors[1]:.1e}, s {errors[2]:.1e}")


METHODS = {
    "primal": (Cholesky("primal"), "unbiased", 1e-2),
    "dual": (Cholesky("dual"), "biased", 1e-2),
    "iterations": (ConjugateGradient(tolerance=1e-14), "unbiased", 1e-2),
    "newton": (Newton(), "power-1.5", 1e-2),
    "newton, primal": (Newton("primal"), "power-3", 1e-2),
    "minimum norm": (MinimumNorm(), "unbiased", 0.0),
    "minimum norm, power": (MinimumNorm(), "power-3", 0.0),
}


@pytest.mark.core
@pytest.mark.slow_cases("iterations", "newton", "newton, primal", "minimum norm, power")
@pytest.mark.parametrize("name", METHODS)
def test_one_column_is_one_output(name):
    """Value, outer weights and scores of targets (N, 1) and (N,), and of a column among others."""
    solver, regularizer, lam = METHODS[name]
    f = REGULARIZERS[regularizer]
    one, column, three = (problem(4, 6, lam, f, outputs=c) for c in (None, 1, OUTPUTS))
    (_, value, *arrays), (solved, same, *columns) = solve(solver, one), solve(solver, column)
    assert solved.alpha.shape == (4, 1) and solved.residual.shape == solved.status.shape == ()
    np.testing.assert_allclose(same, value, rtol=1e-14)
    for array, block in zip(arrays, columns, strict=True):
        np.testing.assert_allclose(block[:, 0], array, rtol=0, atol=1e-14 * jnp.max(jnp.abs(array)))
    for array, block in zip(arrays, solve(solver, three)[2:], strict=True):
        np.testing.assert_allclose(block[:, 0], array, rtol=1e-11, atol=1e-12)


@pytest.mark.slow
def test_a_bad_output_is_the_status_of_all():
    """No interpolant of the second output alone."""
    a = jnp.asarray([[1.0, 2.0], [0.0, 0.0]])
    target = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    whole = OuterProblem(a, target, jnp.array([0.5, 0.5]), jnp.asarray(0.0), Quadratic())
    assert int(MinimumNorm().solve(whole).status) == codes.NO_INTERPOLANT


@pytest.mark.slow
def test_a_function_of_the_user():
    for lam in (1.0, 1e-1, 1e-2):
        value, u, _ = exact("cosh", 4, 6, lam)
        solution, ours, weights, _ = solve(Newton("dual"), problem(4, 6, lam, COSH))
        assert int(solution.status) == codes.OK
        assert relative_error(ours, value) <= 1e-10
        assert relative_error(weights, u) <= 1e-10
    # The same problem through the built-in form, the user's form, and Newton on a quadratic.
    for user, builtin, solver in [
        (ConvexRegularizer(lambda t: jnp.abs(t) ** 3 / 2), Power(3.0), Newton("dual")),
        (ConvexRegularizer(lambda t: (t - 1) ** 2 / 2), Quadratic(1.0), Cholesky()),
    ]:
        one = solve(Newton("dual"), problem(4, 6, 1e-2, user))
        two = solve(solver, problem(4, 6, 1e-2, builtin))
        for a, b in zip(one[1:], two[1:], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11)


COSH = ConvexRegularizer(lambda t: jnp.cosh(t) - 1)


def test_order_two_is_the_quadratic_at_twice_lam():
    # |t|^2 = 2 (t^2 / 2): dividing the objective by two leaves a quadratic penalty and 2 lam.
    power = solve(Newton("dual"), problem(4, 6, 1e-2, Power(2.0)))
    ridge = solve(Cholesky("dual"), problem(4, 6, 2e-2, Quadratic()))
    np.testing.assert_allclose(power[1], 2 * ridge[1], rtol=1e-13)
    np.testing.assert_allclose(power[2], ridge[2], rtol=1e-12)


@pytest.mark.slow
def test_single_precision():
    for name in ("unbiased", "power-1.5", "power-3"):
        f = REGULARIZERS[name]
        for lam in LAMS:
            usual = Cholesky() if isinstance(f, Quadratic) else Newton()
            value, u, _ = exact(name, 4, 6, lam)
            p = problem(4, 6, lam, f, "float32")
            solution, ours, weights, _ = solve(usual if lam else MinimumNorm(), p)
            assert int(solution.status) == codes.OK
            assert ours.dtype == weights.dtype == solution.alpha.dtype == jnp.float32
            errors = relative_error(ours, value), relative_error(weights, u)
            print(f"float32 {name} lam = {lam:g}: value {errors[0]:.1e}, u {errors[1]:.1e}")
            assert errors[0] <= 1e-5 and errors[1] <= 1e-3


def batch(values):
    """One problem for each lam, and the axes of the batch."""
    base = problem(4, 6, 1.0, Power(3.0))
    return eqx.tree_at(lambda p: p.lam, base, values), eqx.tree_at(
        lambda p: p.lam, jax.tree.map(lambda _: None, base), 0, is_leaf=lambda x: x is None
    )


@pytest.mark.slow
def test_a_batch_over_lam_equals_the_single_solves():
    lams = jnp.asarray([1.0, 1e-2, 1e-4])
    many, axes = batch(lams)
    both = eqx.filter_jit(jax.vmap(lambda p: Newton().solve(p).alpha, in_axes=(axes,)))(many)
    for lam, alpha in zip(lams, both, strict=True):
        single = solve(Newton(), problem(4, 6, lam, Power(3.0)))[0].alpha
        np.testing.assert_allclose(alpha, single, rtol=1e-10)


def test_warm_start_is_carried_and_does_not_change_the_answer():
    newton, one = Newton("primal"), Newton("primal", max_iterations=1)
    cold = solve(newton, problem(4, 6, 1e-2, Power(3.0)))
    zeros = newton.init(problem(4, 6, 1e-2, Power(3.0)))
    assert jax.tree.structure(zeros) == jax.tree.structure(cold[0].carry)
    bad = jnp.full(4, jnp.nan)
    # From the solution itself one step is enough; from nothing or from a broken carry it is not.
    p = problem(4, 6, 1e-2, Power(3.0))
    assert int(solve(one, p, cold[0].carry)[0].status) == codes.OK
    assert int(solve(one, p, zeros)[0].status) == codes.OUTER_SOLVE
    for carry in (zeros, bad, cold[0].carry, 100 * cold[0].carry):
        np.testing.assert_allclose(solve(newton, p, carry)[0].alpha, cold[0].alpha, rtol=1e-12)


def derivative_cases():
    wide = problem(4, 6, 0.3, Power(3.0))
    yield "newton-3", Newton("primal"), wide
    yield "newton-1.5", Newton("primal"), eqx.tree_at(lambda p: p.regularizer.order, wide, jnp.asarray(1.5))
    yield "ridge", Cholesky(), problem(4, 6, 0.3, Quadratic(1.0))
    yield "norm", MinimumNorm(), problem(4, 6, 0.0, Quadratic(1.0))
    yield "norm-3", MinimumNorm("primal"), problem(4, 6, 0.0, Power(3.0))


@eqx.filter_jit
def derivatives(solver, problem, tangent):
    """A smooth function of alpha and u, with its gradient and second directional derivative."""

    def function(p):
        solution = solver.solve(p)
        alpha = solution.alpha
        # The residual has no weight, and must not spoil the derivative where it is exactly zero.
        ignored = 0 * solution.residual
        return jnp.sum(alpha * alpha) + jnp.sum(jnp.cos(p.outer_weights(alpha))) + ignored

    def slope(p):
        return jax.jvp(function, (p,), (tangent,))

    (value, first), (_, second) = jax.jvp(slope, (problem,), (tangent,))
    return value, first, second, jax.grad(function)(problem)


@pytest.mark.slow_cases("ridge", "newton-3", "norm-3", "newton-1.5")
@pytest.mark.parametrize(("name", "solver", "p"), [pytest.param(*c, id=c[0]) for c in derivative_cases()])
def test_derivatives_of_the_solution_to_second_order(name, solver, p):
    rng = np.random.default_rng(1)
    direction = jax.tree.map(lambda a: jnp.asarray(0.1 * rng.normal(size=a.shape)) * jnp.abs(a), p)
    # Along the direction the mass of the empty particle stays zero.
    _, first, second, gradient = derivatives(solver, p, direction)
    h = 1e-4
    move = lambda k: jax.tree.map(lambda a, t: a + k * h * t, p, direction)
    at = [derivatives(solver, move(k), direction)[:2] for k in (1, -1, 2, -2)]
    for order, derivative in enumerate((first, second)):
        near, far = (float(at[i][order] - at[i + 1][order]) for i in (0, 2))
        # Central differences of fourth order.
        assert float(derivative) == pytest.approx((8 * near - far) / (12 * h), rel=1e-6)
    products = jax.tree.map(lambda g, t: jnp.sum(g * t), gradient, direction)
    assert float(sum(jax.tree.leaves(products))) == pytest.approx(float(first), rel=1e-9)
    # In the mass of the empty particle, where only one side exists.
    empty = lambda k: eqx.tree_at(lambda q: q.masses, p, p.masses.at[2].set(k * h))
    zero, one, two, three = (float(derivatives(solver, empty(k), direction)[0]) for k in range(4))
    one_sided = (18 * one - 11 * zero - 9 * two + 2 * three) / (6 * h)
    assert float(gradient.masses[2]) == pytest.approx(one_sided, rel=1e-5)


@pytest.mark.slow_cases("newton-1.5", "norm-3", "newton-3")
@pytest.mark.parametrize(("name", "solver", "p"), [pytest.param(*c, id=c[0]) for c in derivative_cases()])
def test_no_derivative_is_nan_where_all_outer_weights_are_at_the_minimizer(name, solver, p):
    # With b = c A m the solution is alpha = 0, and f'' is 0, finite or infinite there.
    still = eqx.tree_at(lambda q: q.target, p, p.target - p.centered_target)
    everything = derivatives(solver, still, jax.tree.map(jnp.ones_like, p))
    assert all(np.all(np.isfinite(np.asarray(leaf))) for leaf in jax.tree.leaves(everything))
    assert float(jnp.max(jnp.abs(solve(solver, still)[0].alpha))) <= 1e-14


@pytest.mark.slow
def test_a_function_that_closes_over_a_parameter_is_differentiated():
    def value(a):
        return solve_value(ConvexRegularizer(lambda t: jnp.cosh(a * t) + t * t))

    def solve_value(regularizer):
        p = problem(4, 6, 1e-2, regularizer)
        return jnp.sum(p.outer_weights(Newton("dual").solve(p).alpha) ** 2)

    function = jax.jit(jax.value_and_grad(value))
    h = 1e-5
    difference = (function(0.8 + h)[0] - function(0.8 - h)[0]) / (2 * h)
    np.testing.assert_allclose(function(0.8)[1], difference, rtol=1e-8)


@pytest.mark.slow
def test_symmetric_data_with_outer_weights_that_are_exactly_zero():
    # Odd features, even data: s = 0 in exact arithmetic, where f'' vanishes and f*'' is infinite.
    x = np.array([-1.5, -0.5, 0.5, 1.5])
    operator = np.stack([np.tanh(x), np.cos(x), np.tanh(2 * x), np.ones(4)], -1) / 2
    target = np.abs(x) / 2
    cases = itertools.product((3.0, 5.0), ("float64", "float32"), (1e-1, 1e-2, 1e-3, 1e-4))
    for order, dtype, lam in cases:
        p = OuterProblem(
            jnp.asarray(operator, dtype),
            jnp.asarray(target, dtype),
            jnp.full(4, 0.25, dtype),
            jnp.asarray(lam, dtype),
            Power(order),
        )
        solution, value, weights, _ = solve(Newton(), p)
        assert int(solution.status) == codes.OK
        without = eqx.tree_at(lambda q: q.masses, p, p.masses.at[jnp.array([0, 2])].set(0.0))
        eps = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(value, solve(Newton(), without)[1], rtol=100 * eps)
        # s = 0 up to rounding of its 4 terms of size 20 leaves this of u.
        bar = Power(order).conjugate_derivative(jnp.asarray(64 * 40 * eps))
        assert np.all(np.abs(weights[jnp.array([0, 2])]) < bar)


def test_minimum_norm_is_the_limit_of_small_lam():
    for name in ("unbiased", "power-1.5", "power-3"):
        f = REGULARIZERS[name]
        ridge, norm = (
            (Cholesky("dual"), MinimumNorm()) if name == "unbiased" else (Newton("dual"), MinimumNorm("dual"))
        )
        limit = solve(norm, problem(4, 6, 0.0, f))[2]
        far, near = (jnp.max(jnp.abs(solve(ridge, problem(4, 6, lam, f))[2] - limit)) for lam in (1e-7, 1e-8))
        # First order in lam.
        assert float(near) == pytest.approx(float(far) / 10, rel=0.01)


def test_interpolants_of_more_data_than_particles():
    # They exist for data in the range of the features, with unique outer weights, and for no others.
    operator, other, masses = arrays(6, 4)
    u = np.array([0.5, -1.0, 2.0, 0.25])
    for regularizer in (Quadratic(1.0), Power(3.0), Power(1.5)):
        p = problem(6, 4, 0.0, regularizer)
        inside = eqx.tree_at(lambda q: q.target, p, jnp.asarray(operator @ (masses * u)))
        solution, value, weights, _ = solve(MinimumNorm(), inside)
        assert int(solution.status) == codes.OK
        np.testing.assert_allclose(weights, u, rtol=1e-9)
        np.testing.assert_allclose(
            value, np.sum(masses * np.asarray(regularizer(jnp.asarray(u)))), rtol=1e-11
        )
        outside = eqx.tree_at(lambda q: q.target, p, jnp.asarray(other))
        assert int(solve(MinimumNorm(), outside)[0].status) == codes.NO_INTERPOLANT


def test_repeated_features_and_data():
    # Rank 3 of 4 particles: two equal columns share their weight, as one particle of their mass.
    operator, target, masses = arrays(3, 5)
    doubled = operator.copy()
    doubled[:, 4] = doubled[:, 3]
    p = OuterProblem(*map(jnp.asarray, (doubled, target, masses)), jnp.asarray(0.0), Quadratic())
    merged = OuterProblem(
        jnp.asarray(operator[:, :4]),
        jnp.asarray(target),
        jnp.asarray(np.append(masses[:3], masses[3] + masses[4])),
        jnp.asarray(0.0),
        Quadratic(),
    )
    assert float(solve(MinimumNorm(), p)[1]) == pytest.approx(
        float(solve(MinimumNorm(), merged)[1]), rel=1e-11
    )
    # A datum given twice leaves a singular dual problem and the same interpolant.
    twice = eqx.tree_at(
        lambda q: (q.operator, q.target),
        p,
        (Dense(jnp.concatenate([p.matrix, p.matrix[:1]])), jnp.append(p.target, p.target[0])),
    )
    again = solve(MinimumNorm(), twice)
    assert int(again[0].status) == codes.OK
    np.testing.assert_allclose(again[2], solve(MinimumNorm(), p)[2], rtol=1e-9)


# The same, seen through the energy.

DATA = jr.normal(jr.key(3), (9, 2))
LABELS = jnp.sin(2 * DATA[:, 0]) + 0.3 * DATA[:, 1]


def energy(regularizer, lam):
    # At lam = 0 more particles than data: an interpolant exists, and goes on existing nearby.
    x, y = (DATA[:4], LABELS[:4]) if lam == 0 else (DATA, LABELS)
    outer = None
    if isinstance(regularizer, ConvexRegularizer):
        outer = Newton("dual") if lam else MinimumNorm("dual")
    return mf.energies.ReducedRisk(mf.features.Ridge(jnp.tanh), x, y, lam, regularizer, outer=outer)


@eqx.filter_jit
def explore(energy, points, weights):
    measure = lambda p, w: mf.measures.Particles(p, w)
    value = lambda p, w: energy.solve(measure(p, w)).value
    solution = energy.solve(measure(points, weights))
    slopes = jax.grad(value, (0, 1))(points, weights)
    return (
        solution,
        jax.vmap(solution.potential)(points),
        energy.gradient_field(measure(points, weights), solution),
        slopes,
    )


@eqx.filter_jit
def energy_value(energy, points, weights):
    return energy.solve(mf.measures.Particles(points, weights)).value


@pytest.mark.slow_cases("power-1.5-0.05", "cosh-0.0", "power-1.5-0.0", "cosh-0.05", "power-3-0.0")
@pytest.mark.parametrize("lam", [0.05, 0.0])
@pytest.mark.parametrize("name", ["unbiased", "power-1.5", "power-3", "cosh"])
def test_value_and_potential_agree(name, lam):
    f = COSH if name == "cosh" else REGULARIZERS[name]
    risk = energy(f, lam)
    points = jr.normal(jr.key(5), (7, 2))
    weights = jnp.asarray([0.3, 0.1, 0.0, 0.2, 0.15, 0.1, 0.15])
    solution, potential, field, (by_points, by_weights) = explore(risk, points, weights)
    assert int(solution.status) == codes.OK
    # dF/dw_i = V(x_i), at zero mass too, and dF/dx_i = w_i grad V(x_i).
    np.testing.assert_allclose(by_weights, potential, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(by_points, weights[:, None] * field, rtol=1e-8, atol=1e-10)
    assert np.all(np.isfinite(field))
    # The same two against differences of the value alone.
    rng, h = np.random.default_rng(0), 1e-5
    dp, dw = jnp.asarray(rng.normal(size=points.shape)), jnp.asarray(rng.normal(size=7)) * weights
    at = lambda k: float(energy_value(risk, points + k * h * dp, weights + k * h * dw))
    expected = float(jnp.sum(weights[:, None] * field * dp) + jnp.sum(potential * dw))
    assert (at(1) - at(-1)) / (2 * h) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("lam", [0.05, 0.0])
@pytest.mark.parametrize("name", ["unbiased", "power-3"])
def test_the_energy_sees_the_measure_and_not_its_list_of_particles(name, lam):
    risk = energy(REGULARIZERS[name], lam)
    points = jr.normal(jr.key(5), (7, 2))
    weights = jnp.asarray([0.3, 0.1, 0.0, 0.2, 0.15, 0.1, 0.15])
    base = explore(risk, points, weights)[0]
    order = jnp.asarray([6, 2, 0, 1, 5, 4, 3])
    # Split the particle 0 in two, in the slot of the empty particle.
    split = points.at[2].set(points[0]), weights.at[2].set(0.1).at[0].set(0.2)
    moved = points.at[2].set(jnp.asarray([3.0, -2.0])), weights
    for other in ((points[order], weights[order]), split, moved):
        solution = explore(risk, *other)[0]
        np.testing.assert_allclose(solution.value, base.value, rtol=1e-12)
        # Conditioning of the interpolant: the value is insensitive, the dual variable is not.
        for point in points[:3]:
            np.testing.assert_allclose(
                solution.potential(point), base.potential(point), rtol=1e-7 if lam == 0 else 1e-10
            )


@pytest.mark.slow
def test_an_interpolant_that_does_not_exist_is_an_error():
    risk = mf.energies.ReducedRisk(mf.features.Ridge(jnp.tanh), DATA, LABELS, lam=0.0)
    mu = mf.measures.Particles(jr.normal(jr.key(5), (3, 2)))
    with pytest.raises(RuntimeError, match="lam = 0 asks for an interpolant and none exists"):
        risk(mu)
    starved = mf.energies.ReducedRisk(
        mf.features.Ridge(jnp.tanh), DATA, LABELS, 1e-3, Power(3.0), outer=Newton("primal", max_iterations=1)
    )
    with pytest.raises(RuntimeError, match="relative residual above its tolerance"):
        starved(mu)


def test_carry_is_part_of_the_state_of_a_run():
    risk = energy(Power(3.0), 0.05)
    mu = mf.measures.Particles(jr.normal(jr.key(5), (7, 2)))
    carry = risk.init(mu)
    after = jax.eval_shape(lambda: risk.solve(mu, carry).carry)
    assert jax.tree.structure(carry) == jax.tree.structure(after)
    assert (carry.memory.shape, carry.memory.dtype) == ((9,), jnp.float64)
    assert energy(Quadratic(), 0.05).init(mu).memory is None


@pytest.mark.wrong_calls
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cholesky(side="left"), "side must be 'primal', 'dual' or None, got 'left'"),
        (lambda: Cholesky(refinements=-1), "refinements must be at least 0"),
        (lambda: Cholesky(refinements=1.5), "refinements must be a whole number"),
        (lambda: Newton(form="both"), "form must be 'primal', 'dual' or None, got 'both'"),
        (lambda: Newton(max_iterations=0), "max_iterations must be at least 1"),
        (lambda: Newton(max_iterations=2.5), "max_iterations must be a whole number"),
        (lambda: MinimumNorm(form="both"), "form must be"),
        (lambda: MinimumNorm(rank_tolerance=-1.0), "rank_tolerance must be at least 0"),
        (
            lambda: Cholesky().solve(problem(4, 6, 1.0, Power(3.0))),
            "Cholesky needs the regularizer Quadratic",
        ),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
