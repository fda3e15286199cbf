"""Kernel mean discrepancies between the measure and a target."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from mfjax._numerics.arrays import is_traced
from mfjax.energies.base import Energy, Solution
from mfjax.energies.convolution import (
    check_kernel,
    convolution,
    convolution_at,
    convolution_slopes,
)
from mfjax.energies.field import Field
from mfjax.kernels.base import Kernel, require_kernel
from mfjax.measures import Measure, Particles


class MMD(Energy):
    """Half the squared kernel discrepancy to a target.

    F(mu) = 1/2 int int k(x, y) d(mu - nu)(x) d(mu - nu)(y), nu the `target`.

    First variation V = int k(., y) d(mu - nu)(y), so that the velocity is minus its gradient. The cost is
    O(M (M + K)) for M particles and a target of K; rows are taken in blocks, so that memory is not. In one
    dimension `Distance`, `Laplace` and `kernels.NegativeSobolev` take O((M + K) log(M + K)) by sorting.

    - `kernel(x, y)`: a symmetric, conditionally positive definite function of two points (d,), such as an
      `mf.kernels` object; one with a scale comparable to the spread of the measures is a good start. On a
      torus it needs `domain=`.
    - `target` nu: any measure, or points (K, d), which get equal masses of sum one; of the mass of mu where
      the kernel is only conditionally positive definite (`Distance`, `Riesz`). A signed one lies on
      `domains.Signed` and is seen by `kernels.SignedKernel`; a mu that is not negative has the sign +1 alone
      there.

    **Fails** quietly where particles lie farther from the target than the kernel reaches: forces are zero
    there. Values near the minimum 0 are differences of numbers of size k: their absolute error is about
    max|k| times the machine precision (1e-7 in single precision), so that they may be negative by as much;
    forces do not suffer from it.

    **Raises** `ValueError` for a target that is neither, of another dimension, or of another mass where
    the kernel is only conditionally positive definite, and for a kernel that takes distances on another
    domain than the flow.

    Source: VarPro paper (37); thesis (III.49) is the root of twice this; arXiv 2603.01977.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> mu, nu = (mf.measures.Particles(jnp.array([[x]])) for x in (0.0, 2.0))
    >>> float(MMD(mf.kernels.Distance(), nu)(mu))
    2.0
    """

    kernel: Callable[[Array, Array], Array]
    target: Measure
    self_energy: Float[Array, ""]

    def __init__(self, kernel: Callable, target: Any):
        require_kernel(kernel)
        if not isinstance(target, Measure):
            target = Particles(target)
        self.kernel = kernel
        self.target = target
        self.self_energy = target.integrate(convolution(kernel, target, target.points))

    def validate(self, mu, domain=None):
        check_kernel(self.kernel, domain, mu.points[0])
        if mu.points.shape[-1] != self.target.points.shape[-1]:
            raise ValueError(
                f"the target has points of dimension {self.target.points.shape[-1]} and the measure "
                f"{mu.points.shape[-1]}"
            )
        conditional = isinstance(self.kernel, Kernel) and self.kernel.conditional
        if conditional and not is_traced((mu, self.target)):
            # By numpy: inside jit a constant is no tracer, and its sum would be one.
            both = [(np.asarray(nu.points), np.asarray(nu.weights)) for nu in (mu, self.target)]
            masses = [float(self.kernel.mass(*nu)) for nu in both]
            if abs(masses[0] - masses[1]) > 1e-3 * max(weights.sum() for _, weights in both):
                raise ValueError(
                    f"kernels.{type(self.kernel).__name__} compares measures of one mass, got "
                    f"{masses[0]:g} and a target of {masses[1]:g}: change the weights of one of them"
                )

    def solve(self, mu, carry=None):
        at_mu = convolution(self.kernel, mu, mu.points) - 2 * convolution(self.kernel, self.target, mu.points)
        value = 0.5 * (mu.integrate(at_mu) + self.self_energy.astype(mu.dtype))
        return Solution(value, KernelPotential(self.kernel, mu, self.target))


class KernelPotential(Field):
    """x -> int k(x, y) d(mu - nu)(y)."""

    kernel: Callable
    mu: Measure
    target: Measure

    def __call__(self, point):
        return convolution_at(self.kernel, self.mu, point) - convolution_at(self.kernel, self.target, point)

    def at(self, points):
        return convolution(self.kernel, self.mu, points) - convolution(self.kernel, self.target, points)

    def slopes(self, points):
        own = convolution_slopes(self.kernel, self.mu, points)
        return own - convolution_slopes(self.kernel, self.target, points)
