"""Convolutions of a kernel with a measure."""

from collections.abc import Callable

from jaxtyping import Array

from mfjax.domains import Domain
from mfjax.energies.base import require_number
from mfjax.kernels import Kernel
from mfjax.kernels.sums import kernel_slopes, kernel_sums, row_sum
from mfjax.measures import Measure


def convolution_at(kernel: Callable, mu: Measure, point: Array) -> Array:
    """int k(x, y) dmu(y) at one point x."""
    return row_sum(kernel, point, mu.points, mu.weights)


def convolution(kernel: Callable, mu: Measure, points: Array) -> Array:
    """int k(., y) dmu(y) at many points; no matrix of all pairs, see `kernels.kernel_sums`."""
    return kernel_sums(kernel, points, mu.points, mu.weights)


def convolution_slopes(kernel: Callable, mu: Measure, points: Array) -> Array:
    """int grad_1 k(., y) dmu(y) at many points."""
    return kernel_slopes(kernel, points, mu.points, mu.weights)


def check_kernel(kernel: Callable, domain: Domain | None, point: Array) -> None:
    """**Raises** `ValueError` if `kernel` is none on `domain`, or makes no number of two points."""
    require_number("the kernel", kernel, point, point)
    if domain is not None and isinstance(kernel, Kernel):
        kernel.validate(domain)
