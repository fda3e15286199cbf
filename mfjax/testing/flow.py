"""The generic check of a flow."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from mfjax.flows import Flow
from mfjax.measures import Measure, Particles
from mfjax.testing.base import (
    DIFFERENCE,
    ROUNDING,
    Errors,
    bar_for,
    check_relabelled,
    ensure,
    follow,
    padded,
    relabelled,
)


def check_flow(flow: Flow, mu: Measure, *, rtol: float | None = None) -> dict[str, float]:
    """A flow: its energy falls at the recorded rate, and labels and padding change nothing; jit = eager.

    (F(state moved by h) - F(state moved by -h)) / 2h = -dissipation, a central difference along the rate.
    On a grid both are discretisations: state `rtol`.

    >>> import mfjax as mf
    >>> energy = mf.energies.Potential(lambda x: jnp.sum(x**2))
    >>> flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(1))
    >>> errors = check_flow(flow, Particles(jnp.array([[1.0], [2.0]])))
    """
    errors = Errors()
    bar, rough = bar_for(ROUNDING, mu.dtype, None), bar_for(DIFFERENCE, mu.dtype, rtol)
    recorded = lambda e: {"energy": e.energy, "dissipation": e.dissipation, "rate": e.tangent}
    compiled = eqx.filter_jit(lambda flow, state: recorded(flow.evaluate(state)))
    evaluate = lambda nu: compiled(flow, flow.init(nu))
    plain = flow.init(mu).measure
    if isinstance(mu, Particles):
        mu = padded(plain, flow.domain.sample(jr.key(0), 1, mu.dtype)[0])
    state = flow.init(mu)
    now = compiled(flow, state)
    for leaf in jax.tree.leaves(now):
        ensure(leaf.dtype == mu.dtype, f"a rate of dtype {leaf.dtype} on a measure of dtype {mu.dtype}")
    chex.assert_tree_all_finite(now)
    eager = recorded(flow.evaluate(flow.init(plain)))
    errors.same("jit and padding", follow(now, slice(plain.size)), eager, bar)

    speeds = [float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(now["rate"])]
    step = float(jnp.finfo(mu.dtype).eps) ** (1 / 3) / max(1.0, *speeds)
    ahead, behind = (compiled(flow, flow.move(state, now["rate"], s))["energy"] for s in (step, -step))
    slope, dissipation = float((ahead - behind) / (2 * step)), float(now["dissipation"])
    ensure(dissipation >= 0, f"dissipation {dissipation:.2e}")
    scale = max(dissipation, 1e-6 * abs(float(now["energy"])), 1e-12)
    errors.require("dissipation", abs(slope + dissipation) / scale, rough)
    if isinstance(mu, Particles):
        measures = {"base": mu, **relabelled(mu)}
        check_relabelled(errors, lambda name: evaluate(measures[name]), mu.size, bar)
    return errors
