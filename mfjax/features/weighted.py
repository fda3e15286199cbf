"""Neurons that carry their outer weight, or its sign."""

from mfjax._numerics.operators import Scaled
from mfjax.features.base import FeatureMap


class Weighted(FeatureMap):
    """Neurons whose outer weight is the first coordinate of the particle, so that all weights move.

    Phi((w, omega), x) = w phi(omega, x): a neuron whose outer weight is its first coordinate.

    `features` is phi, on points omega (d,); this map is on points (w, omega) (1 + d,), for `energies.Risk` on
    a Euclidean domain of that dimension. Outer weights of size one at the start are a good choice; at w = 0
    omega feels no force, and where all w are 0 only they move.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> float(Weighted(mf.features.ReLU())(jnp.array([2.0, 1.0, 0.0]), jnp.array([3.0, 5.0])))
    6.0
    """

    features: FeatureMap

    def __call__(self, omega, x):
        return omega[0] * self.features(omega[1:], x)

    def validate(self, points, domain=None):
        # On which domain omega lies is not known from that of (w, omega).
        self.features.validate(points[:, 1:])

    def prepare(self, x, root):
        return self.features.prepare(x, root)

    def operator(self, points, x, root, prepared=None):
        # Those of phi, which may need no matrix.
        return Scaled(self.features.operator(points[:, 1:], x, root, prepared), points[:, 0])


class SignedFeatures(Weighted):
    """Features of particles with a sign, on `domains.Signed`.

    Phi((s, omega), x) = s phi(omega, x) of a particle of sign s on `domains.Signed`.

    A network of positive masses then has the outer weights s_i m_i, and a potential s V(omega).

    >>> import jax.numpy as jnp, mfjax as mf
    >>> float(SignedFeatures(mf.features.ReLU())(jnp.array([-1.0, 2.0]), jnp.array([3.0])))
    -6.0
    """
