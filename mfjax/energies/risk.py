"""The risk of a mean-field network whose particles carry all their parameters."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from mfjax._arrays import inner, scalar
from mfjax.energies.base import Energy, Solution
from mfjax.energies.data import Data
from mfjax.features import FeatureMap, check_features


class Risk(Energy):
    """F(mu) = 1/2 sum_j p_j (int Phi(xi, x_j) dmu - y_j)^2 + lam/2 int |xi|^2 dmu.

    A particle xi holds all parameters of a neuron; `features.Weighted(phi)` makes Phi((w, omega), x)
    = w phi(omega, x). First variation sum_j p_j Phi(xi, x_j) (F(x_j) - y_j) + lam |xi|^2 / 2 (survey
    (2.9), 3.1, which lacks the 1/N on the regulariser). Other regularisers: add a `Potential`.

    - `x` (N, k), `y` (N,), masses `data_weights` (N,), 1/N unless given; `lam` >= 0, default 0.
    """

    features: FeatureMap
    data: Data
    lam: Float[Array, ""]

    def __init__(self, features: FeatureMap, x, y, lam: ScalarLike = 0.0, *, data_weights=None):
        self.features = features
        self.data = Data(x, y, data_weights)
        self.lam = scalar(lam, "lam", minimum=0.0)

    def validate(self, mu, domain=None):
        check_features(self.features, mu.points, self.data.x)

    def solve(self, mu, carry=None):
        features = self.features.matrix(mu.points, self.data.x)
        error = inner(features, mu.weights) - self.data.y
        lam = self.lam.astype(error.dtype)
        squares = jnp.sum(mu.points * mu.points, axis=-1)
        value = 0.5 * inner(self.data.weights, error**2) + 0.5 * lam * mu.integrate(squares)
        dual = self.data.weights * error
        return Solution(value, RiskPotential(self.features, self.data.x, dual, lam))


class RiskPotential(eqx.Module):
    """xi -> sum_j dual_j Phi(xi, x_j) + lam |xi|^2 / 2, dual = p (F - y)."""

    features: FeatureMap
    x: Float[Array, "N k"]
    dual: Float[Array, " N"]
    lam: Float[Array, ""]

    def __call__(self, point: Float[Array, " d"]) -> Array:
        row = jax.vmap(self.features, in_axes=(None, 0))(point, self.x)
        return inner(row, self.dual) + 0.5 * self.lam * jnp.sum(point * point)
