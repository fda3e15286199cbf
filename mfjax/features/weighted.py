"""Neurons that carry their outer weight, or its sign."""

import equinox as eqx
from jaxtyping import Array, Float

from mfjax._numerics.arrays import count
from mfjax._numerics.operators import Scaled
from mfjax.features.base import FeatureMap, require_features


class Weighted(FeatureMap):
    """Neurons whose outer weight is the first coordinate of the particle, so that all weights move.

    Phi((w, omega), x) = w phi(omega, x): a neuron whose outer weight is its first coordinate.

    `features` is phi, on points omega (d,); this map is on points (w, omega) (1 + d,), for `energies.Risk` on
    a Euclidean domain of that dimension. For a network with c `outputs` w has c coordinates, and points are
    (c + d,): Omega = R^c x Theta (thesis I.8). Outer weights of size one at the start are a good choice; at
    w = 0 omega feels no force, and where all w are 0 only they move.

    **Raises** `ValueError` for what is no feature map, and `outputs` that are not a whole number >= 1.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> float(Weighted(mf.features.ReLU())(jnp.array([2.0, 1.0, 0.0]), jnp.array([3.0, 5.0])))
    6.0
    >>> Weighted(mf.features.ReLU(), outputs=2)(jnp.array([2.0, -1.0, 1.0]), jnp.array([3.0])).tolist()
    [6.0, -3.0]
    """

    features: FeatureMap
    outputs: int | None = eqx.field(static=True)

    def __init__(self, features: FeatureMap, outputs: int | None = None):
        require_features(features)
        self.features = features
        self.outputs = None if outputs is None else count(outputs, "outputs")

    @property
    def _weights(self) -> int:
        return 1 if self.outputs is None else self.outputs

    def split(self, points: Float[Array, "M d"]) -> tuple[Float[Array, "M *c"], Float[Array, "M rest"]]:
        """(w, omega) of points (w, omega)."""
        w = points[:, 0] if self.outputs is None else points[:, : self.outputs]
        return w, points[:, self._weights :]

    def __call__(self, omega, x):
        response = self.features(omega[self._weights :], x)
        if self.outputs is None:
            return omega[0] * response
        if response.ndim:
            raise ValueError(
                f"the neurons of Weighted(phi, outputs={self.outputs}) return one number, got shape "
                f"{response.shape}: leave outputs out"
            )
        return omega[: self.outputs] * response

    def validate(self, points, domain=None):
        # On which domain omega lies is not known from that of (w, omega).
        self.features.validate(points[:, self._weights :])

    def prepare(self, x, root):
        return self.features.prepare(x, root)

    def operator(self, points, x, root, prepared=None):
        # Those of phi, which may need no matrix.
        factors, omega = self.split(points)
        return Scaled(self.features.operator(omega, x, root, prepared), factors)


class SignedFeatures(Weighted):
    """Features of particles with a sign, on `domains.Signed`.

    Phi((s, omega), x) = s phi(omega, x) of a particle of sign s on `domains.Signed`.

    A network of positive masses then has the outer weights s_i m_i, and a potential s V(omega).

    >>> import jax.numpy as jnp, mfjax as mf
    >>> float(SignedFeatures(mf.features.ReLU())(jnp.array([-1.0, 2.0]), jnp.array([3.0])))
    -6.0
    """

    def __init__(self, features: FeatureMap):
        super().__init__(features)
