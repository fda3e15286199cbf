"""Convolutions of a kernel with a measure."""

from collections.abc import Callable

import jax
from jaxtyping import Array

from mfjax._arrays import inner
from mfjax.domains import Domain
from mfjax.energies.rows import over_rows
from mfjax.kernels import Kernel
from mfjax.measures import Measure


def convolution_at(kernel: Callable, mu: Measure, point: Array) -> Array:
    """int k(x, y) dmu(y) at one point x."""
    return inner(mu.weights, jax.vmap(kernel, in_axes=(None, 0))(point, mu.points))


def convolution(kernel: Callable, mu: Measure, points: Array) -> Array:
    """int k(., y) dmu(y) at many points, in blocks of rows: memory O(K), not O(K^2)."""
    return over_rows(lambda p: convolution_at(kernel, mu, p), points, mu.size)


def check_kernel(kernel: Callable, domain: Domain | None) -> None:
    """**Raises** `ValueError` if `kernel` is none on `domain`. What a plain function does is its author's."""
    if domain is not None and isinstance(kernel, Kernel):
        kernel.validate(domain)
