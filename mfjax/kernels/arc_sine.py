"""The kernel of erf features under Gaussian inputs."""

import jax.numpy as jnp

from mfjax.kernels.base import Kernel


class ArcSine(Kernel):
    """The kernel of an erf layer with Gaussian weights.

    (2 / pi) asin(2 x.y / sqrt((1 + 2 |x|^2)(1 + 2 |y|^2))) = E erf(x . z) erf(y . z), z standard normal.

    The kernel of `features.Ridge(jax.scipy.special.erf)` without bias, in any dimension. Smooth, between -1
    and 1, and blind to the even part of a measure, as erf is odd.

    Source: C. K. I. Williams, Computation with infinite neural networks, Neural Computation 10 (1998), (11),
    with prior covariance one and no bias.

    >>> round(float(ArcSine()(jnp.array([1.0, 0.0]), jnp.array([1.0, 0.0]))), 6)
    0.464559
    """

    def __call__(self, x, y):
        square = lambda v: jnp.sum(v * v)
        # The arc tangent of the same angle: by Lagrange's identity the root is at least one.
        area = square(x[:, None] * y - y[:, None] * x)
        root = jnp.sqrt(1 + 2 * square(x) + 2 * square(y) + 2 * area)
        return (2 / jnp.pi) * jnp.arctan2(2 * jnp.sum(x * y), root)
