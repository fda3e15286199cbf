"""Features of networks that do not see a finite group of transformations of their inputs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfjax._numerics.arrays import as_floats, finite, inner, is_traced
from mfjax.features.base import FeatureMap, require_features


class Symmetrized(FeatureMap):
    """Any features made invariant under a finite group of linear maps of the inputs: flips, rotations.

    phi_G(omega, x) = 1/|G| sum_g phi(omega, g x), so that every network of these has F(g x) = F(x).

    Where the objective has a symmetry it belongs into the problem (survey 2.1): of ridge features
    phi(omega, g x) = phi(g^T omega, x), and the risk of mu with these features is that of the symmetrized
    measure 1/|G| sum_g (g^T) mu with plain ones on symmetric data. For orthogonal g so is its flow, by |G|
    times fewer particles; others do not keep the lengths of velocities. A network is symmetrized without
    loss: the risk is convex in mu, and that of the symmetrized measure no greater.

    - `features`: phi.
    - `group` (|G|, k, k): all its matrices, the identity among them.

    **Raises** `ValueError` for matrices that are not square or not finite, or no group: the identity or
    products that are not among them.

    >>> import mfjax as mf
    >>> even = Symmetrized(mf.features.ReLU(), [[[1.0]], [[-1.0]]])
    >>> [float(even(jnp.array([2.0]), jnp.array([x]))) for x in (3.0, -3.0)]
    [3.0, 3.0]
    """

    features: FeatureMap
    group: Float[Array, "G k k"]

    def __init__(self, features: FeatureMap, group: Any):
        require_features(features)
        self.features, self.group = features, finite(as_floats(group, "group"), "group")
        shape = self.group.shape
        if len(shape) != 3 or shape[1] != shape[2] or 0 in shape:
            raise ValueError(f"group must be matrices (G, k, k), got shape {shape}")
        if not is_traced(self.group):
            elements = np.asarray(self.group, np.float64)
            products = np.einsum("aij,bjk->abik", elements, elements)
            if np.abs(elements - np.eye(shape[1])).max(axis=(-1, -2)).min() > 1e-5:
                raise ValueError("group must hold the identity, which is not among its matrices")
            gaps = np.abs(products[:, :, None] - elements).max(axis=(-1, -2)).min(axis=-1)
            if gaps.max() > 1e-5:
                a, b = np.unravel_index(int(gaps.argmax()), gaps.shape)
                raise ValueError(
                    f"group must hold all products of its matrices: that of {a} and {b} is missing"
                )

    def __call__(self, omega, x):
        images = inner(self.group.astype(x.dtype), x)
        return jnp.mean(jax.vmap(self.features, in_axes=(None, 0))(omega, images), axis=0)

    def validate(self, points, domain=None):
        self.features.validate(points, domain)
