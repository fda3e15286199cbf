"""The minimizing movement (JKO) scheme on a grid, its optimal transport solved by Sinkhorn's iteration."""

from collections.abc import Callable
from math import log
from typing import ClassVar, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int, ScalarLike

from mfjax import status as codes
from mfjax._numerics.arrays import count, known, scalar
from mfjax.energies.base import Energy
from mfjax.grids import internal_parts
from mfjax.grids.rates import sorted_parts
from mfjax.measures import Grid
from mfjax.steppers.base import Step, Stepper, settle, step_size, with_clock
from mfjax.steppers.implicit import require_wasserstein

# Enough to halve the range of logarithms down to rounding.
NEWTON = 100


class EntropicProximal(Stepper):
    """Minimizing movements on a grid by Sinkhorn's algorithm.

    m' = argmin over q of F(q) + W_2^2(m, q) / (2 dt), with an entropic transport cost.

    W_2^2 becomes min over couplings pi of int d^2 dpi + 2 b^2 KL(pi | vol x vol), d the distance along the
    axes and b the `blur`. By itself this would diffuse at the temperature b^2 / (2 dt); that much entropy is
    taken out of F, so that the bias left is O(b^4). Couplings have the form e^{f(x) + g(y) - d^2 / (2 b^2)};
    Sinkhorn's iteration alternates the marginal m in f with, in each cell, the stationarity

        b^2 (2 (log q - s) - log rho) + 2 dt V = 0,  s = log of the kernel applied to e^f,

    in g, rho the density of q and V the first variation: of internal energies at q, by Newton's method; of
    the others at m (forward-backward splitting, the same for a `Potential`, and decreasing F for
    short steps if not). Every iterate is positive, and the mass is that of m. No linearization of the
    transport limits the step. Order 1. It is a reference, not a fast scheme: a step takes 50 to 1000
    iterations of cost K times the cells of an axis.

    - `dt`: flow time. `blur`: a length, 1 to 3 spacings; mass must be able to move: about
      (dt |v| / b)^2 iterations.
    - `rtol`: change of masses, in total variation, at which the iteration stops: 1e-8, in float32 1e-5.

    **Raises** `ValueError` for flows other than `Wasserstein`, for curvilinear cells, and for particles,
    which take `Proximal`: in one dimension, while they keep their order, that is the scheme by quantiles,
    without blur.
    **Fails** (NOT_CONVERGED) beyond `max_iterations`. Derivatives are not supported.

    Source: G. Peyre, SIAM J. Imaging Sci. 8 (2015) 2323-2351; the correction of the entropy is ours.

    >>> import mfjax as mf
    >>> line = mf.domains.Interval(0.0, 1.0)
    >>> mu = mf.measures.Grid.from_density(line, 32, lambda x: 1 + 0.9 * jnp.cos(jnp.pi * x[0]))
    >>> flow = mf.flows.Wasserstein(mf.energies.Entropy(), line)
    >>> run = mf.simulate(flow, mu, stepper=EntropicProximal(0.5, blur=0.06), steps=4)
    >>> bool(jnp.all(jnp.abs(run.final.density - 1) < 1e-2))
    True
    """

    order: ClassVar[int] = 1
    dt: Float[Array, ""]
    blur: Float[Array, ""]
    rtol: Float[Array, ""] | None
    max_iterations: int = eqx.field(static=True)

    def __init__(
        self, dt: ScalarLike, blur: ScalarLike, *, rtol: ScalarLike | None = None, max_iterations: int = 5000
    ):
        self.dt, self.blur = step_size(dt), scalar(blur, "blur", above=0)
        self.rtol = None if rtol is None else scalar(rtol, "rtol", above=0)
        self.max_iterations = count(max_iterations, "max_iterations")

    def validate(self, flow, mu):
        if not isinstance(mu, Grid):
            raise ValueError(
                f"EntropicProximal moves the masses of a Grid, got {type(mu).__name__}: use steppers.Proximal"
            )
        if mu.metric is not None:
            raise ValueError(
                f"EntropicProximal blurs along axes of boxes, and the cells of {flow.domain!r} are none: use "
                "steppers.ImplicitEuler, or particles and steppers.Proximal"
            )
        if mu.noiseless:
            raise ValueError(
                f"EntropicProximal diffuses along all axes, and noise does not reach all of {flow.domain!r}: "
                "use stepper=None"
            )
        require_wasserstein(self, flow, "stepper=None")
        super().validate(flow, mu)

    def step(self, flow, state, evaluation, dt, key, memory) -> Step:
        mu = cast(Grid, state.measure)
        default = 1e-8 if mu.dtype == jnp.float64 else 1e-5
        tolerance = jnp.asarray(default if self.rtol is None else self.rtol, mu.dtype)
        potential = jnp.zeros_like(mu.weights) if evaluation.potential is None else evaluation.potential
        problem = _Problem(known(flow.at(state).energy), potential, mu, dt, self.blur.astype(mu.dtype) ** 2)

        def running(loop):
            return (loop.change > tolerance) & (loop.count < self.max_iterations)

        total = mu.mass
        start = _Iterate(
            jnp.zeros_like(mu.weights), mu.weights, jnp.asarray(jnp.inf, mu.dtype), jnp.asarray(0)
        )
        end = jax.lax.while_loop(running, lambda loop: problem.improve(loop, total), start)
        moved = mu.with_weights(end.weights * (total / jnp.sum(end.weights)))
        status = jnp.where(end.change <= tolerance, codes.OK, codes.NOT_CONVERGED)
        return settle(
            flow, with_clock(flow, state, evaluation, dt).with_measure(moved), memory, status=status
        )


class _Iterate(NamedTuple):
    g: Float[Array, " K"]
    weights: Float[Array, " K"]
    change: Float[Array, ""]
    count: Int[Array, ""]


class _Problem(NamedTuple):
    """One step from `mu`; `potential` of the terms that are not internal; `squared` is b^2."""

    energy: Energy
    potential: Float[Array, " K"]
    mu: Grid
    dt: Float[Array, ""]
    squared: Float[Array, ""]

    def improve(self, now: _Iterate, total: Float[Array, ""]) -> _Iterate:
        empty = jnp.finfo(self.mu.dtype).tiny
        f = jnp.log(jnp.maximum(self.mu.weights, empty)) - self.smoothed(now.g)
        s = self.smoothed(f)
        log_q, damping = self.balanced(s, now.weights)
        weights = jnp.exp(log_q)
        change = jnp.sum(jnp.abs(weights - now.weights)) / total
        g = now.g + damping * (log_q - s - now.g)
        return _Iterate(g, weights, change, now.count + 1)

    def smoothed(self, logarithm: Float[Array, " K"]) -> Float[Array, " K"]:
        """log of the Gaussian kernel applied to e^logarithm, axis by axis."""
        values = logarithm.reshape(self.mu.shape)
        for axis, n in enumerate(self.mu.shape):
            if axis in self.mu.frozen:
                continue
            index = jnp.arange(n, dtype=values.dtype)
            apart = jnp.abs(index[:, None] - index[None])
            if self.mu.periodic[axis]:
                apart = jnp.minimum(apart, n - apart)
            exponent = -((apart * self.mu.spacing[axis]) ** 2) / (2 * self.squared)
            along = jnp.moveaxis(values, axis, -1)
            along = logsumexp(along[..., None, :] + exponent, axis=-1)
            values = jnp.moveaxis(along, -1, axis)
        return values.ravel()

    def balanced(self, s: Float[Array, " K"], before: Float[Array, " K"]) -> tuple[Array, Array]:
        """log q (K,) from the stationarity of each cell, near the q `before`, and how far to follow it."""
        mu = self.mu
        temperature, upwinded, diffusing = sorted_parts(internal_parts(self.energy), mu)
        force = 2 * self.squared * s - 2 * self.dt * self.potential
        # Of the entropy T - b^2 / (2 dt) is left, its derivative log(q / volume) + 1.
        heat = (0.0 if temperature is None else 2 * self.dt * temperature) - self.squared
        force = force + heat * (jnp.log(mu.volume) - 1)
        linear = 2 * self.squared + heat
        # Taking out more entropy than there is would make the full step oscillate.
        damping = jnp.minimum(1, linear / (2 * self.squared))
        log_q = force / linear

        def others(log_q):
            density = jnp.exp(log_q) / mu.volume
            parts = ((c, e.derivative(density, mu.points)) for c, e in (*upwinded, *diffusing))
            return 2 * self.dt * sum(jnp.asarray(c).astype(mu.dtype) * value for c, value in parts)

        if not (upwinded or diffusing):
            return log_q, damping

        def equation(log_q):
            value, slope = jax.jvp(others, (log_q,), (jnp.ones_like(log_q),))
            return linear * log_q + value - force, linear + slope

        return increasing_root(equation, jnp.log(jnp.maximum(before, jnp.finfo(mu.dtype).tiny))), damping


class _Bracket(NamedTuple):
    x: Float[Array, " K"]
    low: Float[Array, " K"]
    high: Float[Array, " K"]
    step: Float[Array, " K"]
    count: Int[Array, ""]


def increasing_root(
    equation: Callable[[Array], tuple[Array, Array]], start: Float[Array, " K"]
) -> Float[Array, " K"]:
    """Where the increasing functions of `equation`, value and slope at x (K,), vanish.

    Newton's iteration within a bracket that is halved where a step leaves it or does not shrink: pressures of
    logarithms of densities are exponentials, on which steps from afar have a constant length.

    >>> [round(float(x), 3) for x in increasing_root(lambda x: (jnp.exp(x) - 1e9, jnp.exp(x)), jnp.zeros(1))]
    [20.723]
    """
    eps, limit = float(jnp.finfo(start.dtype).eps), 0.95 * log(float(jnp.finfo(start.dtype).max))

    def running(now):
        return (now.count < NEWTON) & jnp.any(jnp.abs(now.step) > 4 * eps * (1 + jnp.abs(now.x)))

    def improve(now):
        value, slope = equation(now.x)
        low = jnp.where(value < 0, now.x, now.low)
        high = jnp.where(value > 0, now.x, now.high)
        new = now.x - value / slope
        # Written so that a NaN is halved.
        good = (new >= low) & (new <= high) & (jnp.abs(new - now.x) <= 0.5 * jnp.abs(now.step))
        new = jnp.where(value == 0, now.x, jnp.where(good, new, 0.5 * (low + high)))
        return _Bracket(new, low, high, new - now.x, now.count + 1)

    whole = jnp.full_like(start, limit)
    begin = _Bracket(jnp.clip(start, -limit, limit), -whole, whole, 2 * whole, jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(running, improve, begin).x
