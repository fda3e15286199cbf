"""Features at combinations of a few inputs."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax._numerics.arrays import inner
from mfjax._numerics.operators import Combined
from mfjax.features.base import FeatureMap


class Interpolated(FeatureMap):
    """Features of inputs that are combinations of a few nodes, as `mf.compress` makes them.

    phi~(omega, c) = sum_k c_k phi(omega, nodes_k): inputs are coefficients c (J,) of features at J nodes.

    `mfjax.compress` finds nodes (J, k) and, for any data, the coefficients with which phi~ is phi up to
    `error`, in the norm of L^2 of the data. All products with these features cost J M.

    >>> from mfjax.features import ReLU
    >>> phi = Interpolated(ReLU(), jnp.eye(2), jnp.zeros(()))
    >>> float(phi(jnp.array([1.0, 2.0]), jnp.array([3.0, 5.0])))
    13.0
    """

    features: FeatureMap
    nodes: Float[Array, "J k"]
    error: Float[Array, ""]

    def __call__(self, omega, x):
        self._check(x)
        at_nodes = jax.vmap(self.features, in_axes=(None, 0))(omega, self.nodes.astype(omega.dtype))
        return inner(x, at_nodes)

    def validate(self, points, domain=None):
        self.features.validate(points, domain)

    def prepare(self, x, root):
        nodes = self.nodes.astype(x.dtype)
        return self.features.prepare(nodes, jnp.ones(len(nodes), x.dtype))

    def operator(self, points, x, root, prepared=None):
        self._check(x)
        nodes = self.nodes.astype(points.dtype)
        ones = jnp.ones(len(nodes), points.dtype)
        return Combined(root[:, None] * x, self.features.operator(points, nodes, ones, prepared))

    def matrix(self, points, inputs):
        self._check(inputs)
        return inner(inputs, self.features.matrix(points, self.nodes.astype(points.dtype)))

    def _check(self, inputs: Array) -> None:
        if inputs.shape[-1] != len(self.nodes):
            raise ValueError(
                f"inputs of Interpolated features are {len(self.nodes)} coefficients each, got "
                f"{inputs.shape}; Compressed.inputs(x) makes them"
            )
