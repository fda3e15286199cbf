"""The kernel of Gaussian radial features under Gaussian inputs."""

import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import scalar
from mfjax.kernels.base import Kernel


class SmoothedGaussian(Kernel):
    """The kernel of Gaussian features at standard normal inputs.

    E phi(x, z) phi(y, z), phi(x, z) = exp(-|x - z|^2 / (2 scale^2)), z standard normal in R^d.

    = (1 + 2 / scale^2)^{-d/2} exp(-|x - y|^2 / (4 scale^2) - |(x + y) / 2|^2 / (scale^2 + 2)): the product
    of two bumps is a bump about their middle, which the inputs average.

    - `scale` > 0, an array leaf. Good values: about one, the spread of the inputs.

    **Fails** to see far from the inputs: k(x, x) falls like exp(-|x|^2 / (scale^2 + 2)).

    >>> round(float(SmoothedGaussian(2.0**0.5)(jnp.zeros(2), jnp.zeros(2))), 6)
    0.5
    """

    scale: Float[Array, ""]

    def __init__(self, scale: ScalarLike = 1.0):
        self.scale = scalar(scale, "scale", above=0)

    def __call__(self, x, y):
        square = self.scale.astype(x.dtype) ** 2
        apart, middle = jnp.sum((x - y) ** 2), jnp.sum((x + y) ** 2) / 4
        return (1 + 2 / square) ** (-x.shape[0] / 2) * jnp.exp(-apart / (4 * square) - middle / (square + 2))
