"""Convex duality of the regularizers: f* is the conjugate of f, (f*)' the inverse of f'.

Oracles: closed forms, the Fenchel-Young inequality and its equality case, central differences in
float64, and each built-in regularizer written again by the user as `ConvexRegularizer`.
"""

import equinox as eqx
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from mfjax.regularizers import ConvexRegularizer, Power, Quadratic, Regularizer


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    # Small problems: compiling takes a hundred times longer than running.
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


FAMILY = {
    "biased": Quadratic(),
    "unbiased": Quadratic(1.0),
    "power-1.2": Power(1.2),
    "power-1.5": Power(1.5),
    "power-2": Power(2.0),
    "power-3": Power(3.0),
    "power-5": Power(5.0),
    "cosh": ConvexRegularizer(lambda t: jnp.cosh(t) - 1),
    "cubic": ConvexRegularizer(lambda t: jnp.abs(t) ** 3 / 2),
    "shifted": ConvexRegularizer(lambda t: 0.5 * (t - 1) ** 2 + (t - 1) ** 4),
}
EPS = {"float64": 2.0**-52, "float32": 2.0**-23}


@pytest.fixture(params=FAMILY, scope="module")
def regularizer(request):
    return FAMILY[request.param]


@pytest.fixture(scope="module")
def functions(regularizer):
    """f, f', f'', f*, f*' and automatic derivatives, at an array: one compiled program."""

    @eqx.filter_jit
    def program(t, s):
        f = regularizer
        second = jax.grad(jax.grad(f.conjugate))
        return {
            "f": f(t),
            "f'": f.derivative(t),
            "f''": f.curvature(t),
            "f*": f.conjugate(s),
            "f*'": f.conjugate_derivative(s),
            "grad f": jax.vmap(jax.grad(f))(t),
            "grad f*": jax.vmap(jax.grad(f.conjugate))(s),
            "grad f*'": jax.vmap(jax.grad(f.conjugate_derivative))(s),
            "grad grad f*": jax.vmap(second)(s),
        }

    return program


POINTS = np.array([-4.0, -0.7, -0.05, 0.3, 1.1, 6.0])


@given(
    t=st.lists(st.floats(-3, 3), min_size=6, max_size=6),
    s=st.lists(st.floats(-20, 20), min_size=6, max_size=6),
)
def test_fenchel_young(functions, t, s):
    t, s = jnp.asarray(t, jnp.float64), jnp.asarray(s, jnp.float64)
    here = functions(t, s)
    size = 1 + jnp.abs(here["f"]) + jnp.abs(here["f*"])
    assert np.all(here["f"] + here["f*"] - s * t >= -1e-14 * size)
    # Equality exactly on the curve s = f'(t), entered from either side.
    there = functions(here["f*'"], here["f'"])
    np.testing.assert_allclose((there["f"] + here["f*"] - s * here["f*'"]) / size, 0, atol=1e-13)
    size = 1 + jnp.abs(here["f"]) + jnp.abs(there["f*"])
    np.testing.assert_allclose((here["f"] + there["f*"] - here["f'"] * t) / size, 0, atol=1e-13)


def test_derivatives_of_f_and_conjugate_are_inverse(functions, dtype):
    s = jnp.asarray(np.concatenate([-np.geomspace(30, 1e-3, 12), np.geomspace(1e-3, 30, 12)]), dtype)
    t = functions(s, s)["f*'"]
    assert t.dtype == s.dtype and t.shape == s.shape
    assert np.all(np.diff(np.asarray(t)) > 0)
    back = functions(t, s)
    assert all(value.dtype == s.dtype for value in back.values())
    # A relative error eps of s is amplified by the exponent r - 1 <= 4; one of t by f''(t) t.
    bar = EPS[dtype] * (40 * jnp.abs(s) + 2 * back["f''"] * jnp.abs(t))
    assert np.all(np.abs(back["f'"] - s) <= bar)


def test_derivatives_match_differences(functions):
    s = jnp.asarray(POINTS)
    t = functions(s, s)["f*'"]
    # A step relative to the point: powers vary on the scale of their argument.
    h, k = 1e-6 * jnp.abs(t), 1e-6 * jnp.abs(s)
    at, up, down = functions(t, s), functions(t + h, s + k), functions(t - h, s - k)
    for value, derivative, step in [
        ("f", "f'", h),
        ("f", "grad f", h),
        ("f'", "f''", h),
        ("f*", "f*'", k),
        ("f*", "grad f*", k),
        ("f*'", "grad f*'", k),
        ("grad f*", "grad grad f*", k),
    ]:
        difference = (up[value] - down[value]) / (2 * step)
        np.testing.assert_allclose(at[derivative], difference, rtol=2e-8, atol=1e-9, err_msg=derivative)


def test_no_derivative_is_nan_at_the_minimizer(regularizer, functions):
    # Outer weights and dual values are exactly zero for dead features and symmetric data.
    zero = jnp.zeros(6)
    center = functions(zero, zero)["f*'"]
    for name, value in functions(center, zero).items():
        # f'' itself is infinite there for powers below two.
        assert name == "f''" or np.all(np.isfinite(value)), name
    parameters, structure = eqx.partition(regularizer, eqx.is_inexact_array)
    slopes = jax.grad(lambda p: eqx.combine(p, structure).conjugate(jnp.zeros(())))(parameters)
    assert all(np.isfinite(np.asarray(leaf)) for leaf in jax.tree.leaves(slopes))


@pytest.mark.parametrize(
    ("written", "builtin"),
    [
        (lambda t: 0.5 * (t - 1) ** 2, Quadratic(1.0)),
        (lambda t: jnp.abs(t) ** 3 / 2, Power(3.0)),
        (lambda t: jnp.abs(t) ** 1.5 / 0.5, Power(1.5)),
    ],
)
def test_a_function_of_the_user_equals_the_builtin(written, builtin, dtype):
    user = ConvexRegularizer(written)
    run = lambda method, v: eqx.filter_jit(method)(v)
    s = jnp.asarray([-1e6, -30.0, -2.0, -1e-4, 1e-5, 0.4, 17.0, 1e5], dtype)
    bar = 40 * EPS[dtype]
    np.testing.assert_allclose(run(user.conjugate_derivative, s), builtin.conjugate_derivative(s), rtol=bar)
    t = builtin.conjugate_derivative(s)
    # s t - f(t) cancels by the factor r.
    np.testing.assert_allclose(run(user.conjugate, s), builtin.conjugate(s), rtol=bar)
    np.testing.assert_allclose(run(user.derivative, t), builtin.derivative(t), rtol=bar)
    np.testing.assert_allclose(run(user.curvature, t), builtin.curvature(t), rtol=bar)


def test_conjugate_of_cosh_in_closed_form(dtype):
    f = FAMILY["cosh"]
    s = jnp.asarray([-1e8, -3.0, -1e-3, 0.0, 0.2, 50.0], dtype)
    exact = np.asarray(s, np.float64)
    np.testing.assert_allclose(f.conjugate_derivative(s), np.arcsinh(exact), rtol=20 * EPS[dtype], atol=1e-30)
    value = exact * np.arcsinh(exact) - np.sqrt(1 + exact**2) + 1
    np.testing.assert_allclose(f.conjugate(s), value, rtol=20 * EPS[dtype], atol=4 * EPS[dtype])


def test_order_two_is_twice_the_quadratic():
    t, s = jnp.asarray([-2.0, 0.0, 0.3]), jnp.asarray([-1.0, 0.0, 5.0])
    np.testing.assert_array_equal(Power(2.0)(t), 2 * Quadratic()(t))
    np.testing.assert_allclose(Power(2.0).conjugate(s), 0.5 * Quadratic().conjugate(s), rtol=1e-15)
    # Zero is no special point of t^2, neither for values nor for derivatives.
    assert float(jax.grad(Power(2.0).conjugate_derivative)(jnp.zeros(()))) == 0.5
    assert float(jax.grad(Power(2.0).derivative)(jnp.zeros(()))) == 2.0


def test_parameters_are_differentiable():
    s, h = jnp.asarray([-2.0, 0.3, 4.0]), 1e-6
    families = {
        "order": (lambda a: Power(a), 2.7),
        "center": (lambda a: Quadratic(a), 0.4),
        # The parameter is closed over by the function.
        "closure": (lambda a: ConvexRegularizer(lambda t: jnp.cosh(a * t) + t * t), 0.8),
        "module": (lambda a: ConvexRegularizer(_Scaled(jnp.asarray(a))), 0.8),
    }
    for name, (family, value) in families.items():
        both = lambda a, family=family: jnp.sum(
            family(a).conjugate(s) + 3 * family(a).conjugate_derivative(s)
        )
        function = jax.jit(jax.value_and_grad(both))
        difference = (function(value + h)[0] - function(value - h)[0]) / (2 * h)
        np.testing.assert_allclose(function(value)[1], difference, rtol=1e-7, err_msg=name)


class _Scaled(eqx.Module):
    scale: jax.Array

    def __call__(self, t):
        return jnp.cosh(self.scale * t) + t * t


def test_parameters_are_leaves_and_one_trace_serves_all():
    traces = []

    @eqx.filter_jit
    def conjugate(f, s):
        traces.append(0)
        return f.conjugate(s)

    for order in (1.5, 2.0, 3.0):
        conjugate(Power(order), jnp.ones(2))
    assert len(traces) == 1
    for scale in (1.0, 2.0):
        conjugate(ConvexRegularizer(_Scaled(jnp.asarray(scale))), jnp.ones(2))
    assert len(traces) == 2


def test_a_new_regularizer_is_one_method():
    class Quartic(Regularizer):
        def __call__(self, t):
            return t**4 / 4

    np.testing.assert_allclose(
        Quartic().conjugate_derivative(jnp.asarray([-8.0, 27.0])), [-2.0, 3.0], rtol=1e-14
    )


@pytest.mark.wrong_calls
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Power(1.0), "order must be greater than 1, got 1"),
        (lambda: Power(float("nan")), "order must be finite"),
        (lambda: Power([2.0, 3.0]), "order must be a scalar"),
        (lambda: Quadratic("a"), "center must be numeric"),
        (lambda: ConvexRegularizer(3.0), "must be a convex function of one number"),
        (lambda: ConvexRegularizer(lambda t: jnp.stack([t, t])), r"must return one number, got shape \(2,\)"),
        (lambda: ConvexRegularizer(lambda t: -t * t), "strictly convex"),
        (lambda: ConvexRegularizer(lambda t: (t * t - 1) ** 2), "does not increase near t = "),
        (lambda: ConvexRegularizer(lambda t: t * jnp.log(t)), "strictly convex on the whole line"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
