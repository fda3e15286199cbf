"""The power divergence, whose gradient flow is weighted ultra-fast diffusion."""

from collections.abc import Callable
from typing import Any, ClassVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import as_floats, is_traced, scalar
from mfjax.energies.internal import InternalEnergy
from mfjax.measures import Grid, require_same_cells


class PowerDivergence(InternalEnergy):
    """The divergence whose flow is weighted ultra-fast diffusion, the limit of variable projection.

    F(mu) = scale / (order - 1) * int target^order mu^(1 - order) dx.

    Its Wasserstein gradient flow is weighted ultra-fast diffusion,
    d_t mu = -scale div(mu grad (target/mu)^order)
           = -scale order/(order - 1) div(target grad (target/mu)^(order - 1)),
    the second form being the one discretized (generic upwinding of the first is first order).

    `target` is a density of one point with respect to volume, or a `Grid` on the cells of the flow;
    `order` > 1; `scale` 1/2 with order 2 is the lam -> 0 limit of the reduced risk for
    f = (t - c)^2 / 2, and scale |nu|_TV^order, order r that of f = |t|^r / (r - 1) for a teacher nu of any
    sign, with target |nu| / |nu|_TV. Minimum scale / (order - 1) at mu = target of mass one.

    Source: VarPro paper (31), (32); the prefactor of the divergence form is r / (r - 1), not r, and
    for f = t^2 / 2 there is a factor 1/2 that the thesis (III.35) lacks.

    **Fails** on a target that vanishes on a cell, or on particles (no density): both raise `ValueError`. In
    one dimension `Spacings(PowerDivergence(...), domain)` and `Quantization` are particles of this flow. A
    density that vanishes has infinite energy; start from a positive one. Good values: order 2, and implicit
    steps (the default on a grid), since diffusion is fast where mu is small.

    >>> from mfjax.domains import Interval
    >>> line = Interval(0.0, 1.0)
    >>> nu = Grid(line, 4, [0.1, 0.4, 0.4, 0.1])
    >>> energy = PowerDivergence(nu, order=2, scale=0.5)
    >>> [round(float(energy(mu)), 4) for mu in (nu, Grid.uniform(line, 4))]
    [0.5, 0.68]
    """

    concave_pressure: ClassVar[bool] = True
    target: Callable | Grid
    order: Float[Array, ""]
    scale: Float[Array, ""]

    def __init__(self, target: Any, order: ScalarLike = 2.0, scale: ScalarLike = 1.0):
        if not (callable(target) or isinstance(target, Grid)):
            raise ValueError(f"target must be a Grid or a density of one point, got {type(target).__name__}")
        self.target = target if isinstance(target, Grid) else DensityFunction(target)
        self.order = scalar(order, "order")
        if not is_traced(self.order) and float(self.order) <= 1:
            raise ValueError(f"order must be greater than 1, got {float(self.order):g}")
        self.scale = scalar(scale, "scale", above=0)

    def target_density(self, points: Float[Array, "K d"]) -> Float[Array, " K"]:
        """The target density in each cell."""
        if isinstance(self.target, Grid):
            return self.target.density.astype(points.dtype)
        return jax.vmap(self.target)(points).astype(points.dtype)

    def validate(self, mu, domain=None):
        super().validate(mu, domain)
        mu = cast(Grid, mu)
        if isinstance(self.target, Grid):
            require_same_cells(self.target, mu, "target")
        target = self.target_density(mu.points)
        if target.shape != (mu.size,):
            raise ValueError(f"target must return one number per point, got {target.shape[1:]}")
        if not is_traced(target) and not np.all(np.asarray(target) > 0):
            raise ValueError(
                "target must be positive in every cell: ultra-fast diffusion is undefined where it vanishes"
            )
        # By numpy: inside a trace JAX makes tracers of known numbers too.
        if not is_traced(mu.weights) and not np.all(np.asarray(mu.weights) > 0):
            empty = int(np.argmin(np.asarray(mu.weights)))
            raise ValueError(
                f"the measure is empty in cell {empty}, where this energy is infinite: start from a positive "
                "density, such as 0.99 * density + 0.01"
            )

    def _parameters(self, density):
        return self.order.astype(density.dtype), self.scale.astype(density.dtype)

    def integrand(self, density, points):
        r, scale = self._parameters(density)
        target = self.target_density(points)
        return scale / (r - 1) * target * _power(target / density, r - 1)

    def derivative(self, density, points):
        r, scale = self._parameters(density)
        ratio = self.target_density(points) / density
        return -scale * ratio * _power(ratio, r - 1)

    def pressure(self, density, points):
        r, scale = self._parameters(density)
        return -scale * r / (r - 1) * _power(self.target_density(points) / density, r - 1)

    def density_from_pressure(self, pressure, points):
        r, scale = self._parameters(pressure)
        ratio = (-pressure * (r - 1) / (scale * r)) ** (1 / (r - 1))
        return self.target_density(points) / ratio

    def mobility(self, points):
        return self.target_density(points)


@jax.custom_jvp
def _power(base: Float[Array, " K"], exponent: Float[Array, ""]) -> Float[Array, " K"]:
    """base^exponent > 0; the usual exponent 1 is free, where powers take most of the time of a rate."""
    return jax.lax.cond(exponent == 1, lambda x, _: x, lambda x, a: x**a, base, exponent)


def _power_rule(primals, tangents):
    (base, exponent), (moved, changed) = primals, tangents
    value, rate = _power(base, exponent), 0.0
    if not isinstance(moved, SymbolicZero):
        rate = rate + exponent * value / base * moved
    if not isinstance(changed, SymbolicZero):
        rate = rate + value * jnp.log(base) * changed
    return value, jnp.broadcast_to(rate, value.shape).astype(value.dtype)


_power.defjvp(_power_rule, symbolic_zeros=True)


class DensityFunction(eqx.Module):
    """A plain density function, kept static so that two energies with one density share a program."""

    function: Callable

    def __call__(self, point: Array) -> Array:
        return as_floats(self.function(point), "target density")
