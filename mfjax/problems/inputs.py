"""Inputs of a problem: independent normal points, or the normal law itself by quadrature."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key

from mfjax._numerics.arrays import count


def gaussian_inputs(key: Key[Array, ""], n: int, dim: int = 2, *, dtype: Any = None) -> Float[Array, "n dim"]:
    """Inputs drawn independently from the standard normal law.

    `n` of them in R^dim; input j depends on (key, j) only.
    """
    dtype = jnp.result_type(float) if dtype is None else dtype
    return _gaussian_inputs(key, count(n, "n"), count(dim, "dim"), dtype)


@eqx.filter_jit
def _gaussian_inputs(key, n: int, dim: int, dtype):
    return jax.vmap(lambda j: jr.normal(jr.fold_in(key, j), (dim,), dtype))(jnp.arange(n))


def gaussian_quadrature(
    radial: int = 32, angular: int = 128, *, dtype: Any = None
) -> tuple[Float[Array, "N 2"], Float[Array, " N"]]:
    """Nodes and masses of a quadrature of the standard normal law of the plane.

    Nodes x (N, 2) and masses (N,), N = radial * angular, of the standard normal law of R^2.

    Gauss-Legendre in the radius on [0, 10], where the law has all but e^{-50} of its mass, times equally
    spaced angles: "data" for any feature map that are invariant under rotation by 2 pi / angular. Exact
    for smooth features; for a kink in omega . x the error is about angular^-2 + radial^-2.5.

    >>> x, p = gaussian_quadrature(24, 8)
    >>> round(float(p @ (x[:, 0] ** 2)), 4)
    1.0
    """
    node, weight = np.polynomial.legendre.leggauss(count(radial, "radial"))
    r = 5 * (node + 1)
    mass = weight * r * np.exp(-(r**2) / 2)
    angle = 2 * np.pi * (np.arange(count(angular, "angular")) + 0.5) / angular
    x = r[:, None, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    p = np.repeat(mass / (mass.sum() * angular), angular)
    dtype = jnp.result_type(float) if dtype is None else dtype
    return jnp.asarray(x.reshape(-1, 2), dtype), jnp.asarray(p, dtype)
