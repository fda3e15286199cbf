"""The observed order of a stepper."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Key

from mfjax.domains import Domain
from mfjax.flows import Flow
from mfjax.measures import Measure
from mfjax.steppers import Stepper
from mfjax.testing.base import ensure


def check_stepper_order(
    make: Callable[[float], Stepper],
    flow: Flow,
    mu: Measure,
    *,
    t1: float = 1.0,
    steps: Sequence[int] = (8, 16, 32),
    exact: Measure | None = None,
    order: int | float | None = None,
    bar: float = 0.2,
    key: Key[Array, ""] | None = None,
) -> float:
    """The observed order in time of the fixed stepper `make(dt)`, within `bar` of its declared `order`.

    The slope of log error against log dt at `t1` over runs of these numbers of `steps`, against `exact`
    or, without it, a run of the same scheme with eight times the most steps. Use double precision.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> energy = mf.energies.Potential(lambda x: jnp.sum(x**2))
    >>> flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(1))
    >>> mu = mf.measures.Particles(jnp.array([[1.0]]))
    >>> round(check_stepper_order(mf.steppers.Euler, flow, mu))
    1
    """
    from mfjax._engine.loop import trajectory
    from mfjax._engine.simulation import Simulation

    run = eqx.filter_jit(lambda sim: trajectory(sim)[0])

    def end(n):
        carry = run(Simulation(flow, mu, stepper=make(t1 / n), t1=t1, key=key))
        ensure(int(carry.status) == 0, f"the run of {n} steps ended with status {int(carry.status)}")
        ensure(int(carry.steps) == n, f"{int(carry.steps)} steps instead of {n}")
        return carry.state.measure

    exact = end(8 * max(steps)) if exact is None else exact
    errors = [_gap(flow.domain, end(n), exact) for n in steps]
    observed = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    expected = make(t1).order if order is None else order
    numbers = ", ".join(f"{n} steps: {e:.2e}" for n, e in zip(steps, errors, strict=True))
    ensure(abs(observed - expected) <= bar, f"order {observed:.2f} instead of {expected} ({numbers})")
    return float(observed)


def _gap(domain: Domain, a: Measure, b: Measure) -> float:
    """Root mean square distance of two measures, over points, masses and marks."""
    gaps = [jax.vmap(domain.displacement)(a.points, b.points), (a.weights - b.weights) * a.size]
    gaps += [a.marks[name] - b.marks[name] for name in getattr(a, "marks", {}) if name in b.marks]
    return float(np.sqrt(sum(np.mean(np.asarray(g, np.float64) ** 2) for g in gaps)))
