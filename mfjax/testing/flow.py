"""The generic check of a flow."""

from typing import cast

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from mfjax.flows import Evaluation, Flow
from mfjax.measures import Measure, Particles
from mfjax.testing.base import (
    DIFFERENCE,
    ROUNDING,
    Errors,
    bar_for,
    check_relabeled,
    ensure,
    follow,
    padded,
    relabeled,
)


def check_flow(flow: Flow, mu: Measure, *, rtol: float | None = None) -> dict[str, float]:
    """Check the promises of a flow.

    Its energy falls at the recorded rate, and labels and padding change nothing; jit = eager.

    (F(state moved by h) - F(state moved by -h)) / 2h = -dissipation, a central difference along the rate;
    the dissipation of a `monotone` flow is not negative; a flow whose energy is not known has neither. On a
    grid both are discretizations: state `rtol`, the relative error of that difference that passes.

    >>> import mfjax as mf
    >>> energy = mf.energies.Potential(lambda x: jnp.sum(x**2))
    >>> flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(1))
    >>> errors = check_flow(flow, Particles(jnp.array([[1.0], [2.0]])))
    """
    errors = Errors()
    bar, rough = bar_for(ROUNDING, mu.dtype, None), bar_for(DIFFERENCE, mu.dtype, rtol)
    compiled = eqx.filter_jit(lambda flow, state: _recorded(flow.evaluate(state)))
    evaluate = lambda nu: compiled(flow, flow.init(nu))[0]
    plain = flow.init(mu).measure
    if isinstance(mu, Particles):
        mu = padded(cast(Particles, plain), flow.domain.sample(jr.key(0), 1, mu.dtype)[0])
    state = flow.init(mu)
    eager = _recorded(flow.evaluate(flow.init(plain)))
    known = eager[0]["energy"] is not None
    now, fields = compiled(flow, state)
    for leaf in jax.tree.leaves((now, fields)):
        ensure(leaf.dtype == mu.dtype, f"a rate of dtype {leaf.dtype} on a measure of dtype {mu.dtype}")
    chex.assert_tree_all_finite((now, fields))
    errors.same("jit and padding", (follow(now, slice(plain.size)), fields), eager, bar)

    rate = eqx.tree_at(lambda t: t.fields, now["rate"], fields, is_leaf=lambda leaf: leaf is None)
    speeds = [float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(rate)]
    step = float(jnp.finfo(mu.dtype).eps) ** (1 / 3) / max(1.0, *speeds)
    if known:
        ahead, behind = (compiled(flow, flow.move(state, rate, s))[0]["energy"] for s in (step, -step))
        slope, dissipation = float((ahead - behind) / (2 * step)), float(now["dissipation"])
        ensure(dissipation >= 0 or not flow.falls, f"dissipation {dissipation:.2e}")
        scale = max(abs(dissipation), 1e-6 * abs(float(now["energy"])), 1e-12)
        errors.require("dissipation", abs(slope + dissipation) / scale, rough)
    if isinstance(mu, Particles):
        divisible = flow.energy is None or flow.energy.divisible
        measures = {"base": mu, **relabeled(mu, divisible)}
        check_relabeled(errors, lambda name: evaluate(measures[name]), mu.size, divisible, bar)
    return errors


def _recorded(e: Evaluation):
    """The numbers of an evaluation with the rates of particles or cells, and the rates of the fields."""
    moving = eqx.tree_at(lambda t: t.fields, e.tangent, None, is_leaf=lambda leaf: leaf is None)
    return {"energy": e.energy, "dissipation": e.dissipation, "rate": moving}, e.tangent.fields
