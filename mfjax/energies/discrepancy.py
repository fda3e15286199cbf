"""Kernel mean discrepancies between the measure and a target."""

from collections.abc import Callable

import equinox as eqx
from jaxtyping import Array, Float

from mfjax.energies.base import Energy, Solution
from mfjax.energies.convolution import convolution, convolution_at
from mfjax.measures import Measure


class MMD(Energy):
    """F(mu) = 1/2 int int k(x, y) d(mu - nu)(x) d(mu - nu)(y), half the squared discrepancy to `target` nu.

    `kernel(x, y)` is a symmetric, conditionally positive definite function of two points, such as an
    `mf.kernels` object; `target` any measure. First variation V = int k(., y) d(mu - nu)(y), so the
    velocity is minus its gradient (VarPro paper (37); thesis (III.49) is the root of twice this; arXiv
    2603.01977).
    """

    kernel: Callable[[Array, Array], Array]
    target: Measure
    self_energy: Float[Array, ""]

    def __init__(self, kernel: Callable, target: Measure):
        if not callable(kernel):
            raise ValueError(f"kernel must be callable on two points, got {kernel!r}")
        if not isinstance(target, Measure):
            raise ValueError(f"target must be a measure, got {type(target).__name__}")
        self.kernel = kernel
        self.target = target
        self.self_energy = target.integrate(convolution(kernel, target, target.points))

    def validate(self, mu, domain=None):
        if mu.points.shape[-1] != self.target.points.shape[-1]:
            raise ValueError(
                f"the target has points of dimension {self.target.points.shape[-1]} and the measure "
                f"{mu.points.shape[-1]}"
            )

    def solve(self, mu, carry=None):
        at_mu = convolution(self.kernel, mu, mu.points) - 2 * convolution(self.kernel, self.target, mu.points)
        value = 0.5 * (mu.integrate(at_mu) + self.self_energy.astype(mu.dtype))
        return Solution(value, KernelPotential(self.kernel, mu, self.target))


class KernelPotential(eqx.Module):
    """x -> int k(x, y) d(mu - nu)(y)."""

    kernel: Callable
    mu: Measure
    target: Measure

    def __call__(self, point):
        return convolution_at(self.kernel, self.mu, point) - convolution_at(self.kernel, self.target, point)
