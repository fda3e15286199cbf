"""The rectified linear unit."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ScalarLike

from mfjax._numerics.arrays import is_traced
from mfjax._numerics.operators import Arcs, Sectors, Windows, near_circle
from mfjax.features.ridge import Ridge

# Up to this many features a matrix is faster than sorting, by measurement on two cores.
SMALLEST = 2**18


def relu(z: Array) -> Array:
    """max(z, 0), with derivative zero at the kink (as PyTorch has it)."""
    return jnp.where(z > 0, z, 0)


class ReLU(Ridge):
    """The rectified linear neuron, without bias unless one is given.

    phi(omega, x) = max(omega . x + bias, 0); without bias unless one is given.

    On a sphere the bias-free map cannot see odd modes k >= 3 of a measure (relu(t) - relu(-t) = t);
    `ReLU(bias=0.5)` on S^1 sees all of them.

    For inputs in the plane products with all features take O(N + M), without a matrix (`operators.Windows`):
    where no bias is given for any particles, and with one for particles of length one, which `circle=True`
    promises. Kinks make the velocity of a particle jump where it passes a datum; derivatives are one-sided.

    **Raises** `ValueError` for `circle=True` and particles elsewhere than on `Sphere(1)`.

    >>> float(ReLU(bias=0.5)(jnp.array([1.0, 0.0]), jnp.array([-0.25, 3.0])))
    0.25
    """

    circle: bool = eqx.field(static=True)
    homogeneous: bool = eqx.field(static=True)

    def __init__(self, bias: ScalarLike | None = None, *, circle: bool = False):
        super().__init__(relu, 0.0 if bias is None else bias)
        self.circle = circle
        # Not whether it is zero: all numbers that may be swept have one structure.
        self.homogeneous = bias is None

    def _windows(self, x: Array) -> bool:
        return x.shape[1] == 2 and (self.circle or self.homogeneous)

    def prepare(self, x, root):
        return Arcs(x, self.bias.astype(x.dtype), root) if self._windows(x) else None

    def operator(self, points, x, root, prepared=None):
        count = len(points) * len(x)
        if count <= SMALLEST and prepared is not None and self.homogeneous:
            # Where nothing is prepared, sorting the data would be most of a solve.
            return Sectors(self.matrix(points, x), root, points, prepared)
        if count <= SMALLEST or not self._windows(x) or self._elsewhere(points):
            return super().operator(points, x, root)
        bias = None if self.homogeneous else self.bias.astype(x.dtype)
        return Windows(points, x, root, bias, prepared)

    def _elsewhere(self, points: Array) -> bool:
        """Whether windows are known to be wrong: with a bias, for points off the circle."""
        # By numpy: inside jit a constant is no tracer, and what JAX makes of it would be one.
        return not self.homogeneous and not is_traced(points) and not np.all(near_circle(np.asarray(points)))

    def validate(self, points: Array, domain: Any = None) -> None:
        if not self.circle:
            return
        length = None if is_traced(points) else np.linalg.norm(np.asarray(points), axis=-1)
        in_plane = domain is None or (domain.dim, domain.ambient) == (1, 2)
        wrong = not in_plane or not (domain is None or domain.product_of_circles)
        if wrong or (length is not None and np.any(np.abs(length - 1) > 1e-3)):
            raise ValueError(
                f"ReLU(circle=True) is for unit vectors of the plane, got particles of shape {points.shape} "
                f"on {domain!r}: leave circle=True out"
            )
