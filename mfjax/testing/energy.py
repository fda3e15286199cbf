"""The generic check of an energy."""

from collections.abc import Sequence

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Key

from mfjax.energies import Energy, InternalEnergy
from mfjax.measures import Grid, Measure, Particles
from mfjax.testing.base import (
    DIFFERENCE,
    ROUNDING,
    Counted,
    Errors,
    bar_for,
    check_relabeled,
    ensure,
    follow,
    padded,
    relabeled,
    replaced,
)


def _values(energy: Energy, mu: Measure) -> dict[str, Array]:
    solution = energy.solve(mu, energy.init(mu))
    if solution.value is None:
        raise ValueError(
            f"{type(energy).__name__} has no value, and this check compares the derivatives of one with the "
            "potential: mf.simulate runs it all the same"
        )
    values = {
        "value": jnp.asarray(solution.value, mu.dtype),
        "first variation": energy.first_variation(mu, solution),
    }
    if not any(isinstance(term, InternalEnergy) and isinstance(mu, Grid) for _, term in energy.parts()):
        values["gradient field"] = energy.gradient_field(mu, solution)
    if solution.outer_weights is not None:
        values["outer weights"] = solution.outer_weights
    return values


def _slopes(energy: Energy, mu: Measure) -> tuple[Array, Array]:
    value_at = lambda points, weights: jnp.asarray(
        energy.solve(replaced(mu, points, weights), energy.init(mu)).value, mu.dtype
    )
    return jax.grad(value_at, argnums=(0, 1))(mu.points, mu.weights)


def _stiffness(energy: Energy, mu: Measure, motion: Array) -> Array:
    """The derivative of the gradient field along `motion`, as that of a whole run sees it."""

    def field(points):
        moved = replaced(mu, points)
        return energy.gradient_field(moved, energy.solve(moved, energy.init(moved)))

    return jax.jvp(field, (mu.points,), (motion,))[1]


def check_energy(
    energy: Energy,
    mu: Measure,
    *,
    variants: Sequence[Energy] = (),
    key: Key[Array, ""] | None = None,
    rtol: float | None = None,
) -> dict[str, float]:
    """The promises of an energy F with potential V, at one measure of positive masses.

    dF/dw_i = V(x_i) up to one constant and dF/dx_i = w_i grad V(x_i), against `jax.grad` and against
    central differences along a random direction; grad V has the derivative in the points that its differences
    show, which an inner solve behind a `stop_gradient` has not; F does not see the order of particles, a
    particle of mass zero, nor, if it is `divisible`, the splitting of one into two of half its mass; dtype in
    is dtype out; jit = eager; vmap = loop. Internal energies on a `Grid` have the first identity only.

    - `variants`: the same energy with other parameters, which must share its compiled program.
    - `rtol`: the relative error that passes, in place of those of rounding (identities) and of differences.

    >>> import mfjax as mf
    >>> mu = Particles(jnp.array([[0.0], [2.0]]))
    >>> errors = check_energy(mf.energies.Potential(lambda x: jnp.sum(jnp.cos(x))), mu)
    >>> sorted(errors)[1:3]
    ['dF/dw, autodiff', 'dF/dw, difference']
    """
    key = jr.key(0) if key is None else key
    bar, rough = bar_for(ROUNDING, mu.dtype, rtol), bar_for(DIFFERENCE, mu.dtype, rtol)
    errors = Errors()
    # One program evaluates every measure below: batched, compiled and padded, against single eager values.
    compiled = Counted(jax.vmap(lambda energy, mu: (_values(energy, mu), _slopes(energy, mu)), (None, 0)))
    eager, plain = _values(energy, mu), mu
    for name, array in eager.items():
        ensure(array.dtype == mu.dtype, f"{name} has dtype {array.dtype} on a measure of dtype {mu.dtype}")
    if isinstance(mu, Particles):
        # Off the support: at the first point itself a formula that skips coincidences would pass.
        mu = padded(mu, 0.5 * (mu.points[0] + mu.points[-1]) + 0.1)

    step = float(jnp.finfo(mu.dtype).eps) ** (1 / 3)
    at_weights, at_points = jr.split(key)
    noise = jr.normal(at_weights, mu.weights.shape, mu.dtype)
    exchange = mu.weights * (noise - mu.integrate(noise) / mu.mass)
    motion = jr.normal(at_points, mu.points.shape, mu.dtype)
    measures = {"base": mu, "scaled": replaced(mu, weights=1.2 * mu.weights)}
    measures |= {s: replaced(mu, weights=mu.weights + s * step * exchange) for s in (1, -1)}
    measures |= {2 * s: replaced(mu, mu.points + s * step * motion) for s in (1, -1)}
    if isinstance(mu, Particles):
        measures |= relabeled(mu, energy.divisible)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *measures.values())
    values, slopes = compiled(energy, stacked)
    chex.assert_tree_all_finite((values, slopes))
    at = lambda name: jax.tree.map(lambda v: v[list(measures).index(name)], values)
    base, slopes = at("base"), jax.tree.map(lambda v: v[0], slopes)
    difference = lambda name: (at(name)["value"] - at(-name)["value"]) / (2 * step)
    difference_of = lambda name: (at(2)[name] - at(-2)[name]) / (2 * step)

    errors.same("jit, vmap and padding", follow(base, slice(plain.size)), eager, bar)
    scaled = _values(energy, replaced(plain, weights=1.2 * plain.weights))
    errors.same("vmap and loop", follow(at("scaled"), slice(plain.size)), scaled, bar)
    variation = base["first variation"]
    centered = lambda v: jnp.where(mu.weights > 0, v - mu.integrate(v) / mu.mass, 0)
    # Relative to V, not to its deviation from the constant, which may be zero.
    gap = jnp.max(jnp.abs(centered(slopes[1]) - centered(variation)))
    errors.require("dF/dw, autodiff", float(gap / jnp.maximum(jnp.max(jnp.abs(variation)), 1e-12)), bar)
    scale = jnp.maximum(jnp.abs(exchange) @ jnp.abs(variation), 1e-12)
    gap = jnp.abs(difference(1) - exchange @ variation)
    errors.require("dF/dw, difference", float(gap / scale), rough)
    if "gradient field" in base:
        forces = mu.weights[:, None] * base["gradient field"]
        errors.same("dF/dx, autodiff", slopes[0], forces, bar)
        scale = jnp.maximum(jnp.sum(jnp.abs(motion * forces)), 1e-12)
        gap = jnp.abs(difference(2) - jnp.sum(motion * forces))
        errors.require("dF/dx, difference", float(gap / scale), rough)
        # Along the motion of all particles together: at one of their own a kink of V may lie.
        stiffness = eqx.filter_jit(_stiffness)(energy, mu, motion) * mu.weights[:, None]
        seen = difference_of("gradient field") * mu.weights[:, None]
        scale = jnp.maximum(jnp.sum(jnp.abs(motion * seen)), jnp.sum(jnp.abs(motion * forces)))
        gap = jnp.abs(jnp.sum(motion * (stiffness - seen)))
        errors.require("d grad V/dx, difference", float(gap / jnp.maximum(scale, 1e-12)), 30 * rough)
    if isinstance(mu, Particles):
        check_relabeled(errors, at, mu.size, energy.divisible, bar)
    for variant in variants:
        compiled(variant, stacked)
    ensure(compiled.traces == 1, f"{1 + len(variants)} parameter values took {compiled.traces} traces")
    return errors
