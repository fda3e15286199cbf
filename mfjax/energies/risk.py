"""The risk of a mean-field network whose particles carry all their parameters."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import Prepared, inner, scalar
from mfjax.energies.base import Energy, Solution
from mfjax.energies.data import Data
from mfjax.energies.dual import Dual
from mfjax.energies.field import Field
from mfjax.energies.predictor import Predictor
from mfjax.features import FeatureMap, Interpolated, check_features, require_features
from mfjax.losses import Loss, Square, as_loss


class Risk(Energy):
    """The regularized risk of a mean-field network, all of whose weights move.

    F(mu) = sum_j p_j l(int Phi(xi, x_j) dmu, y_j) + lam/2 int |xi|^2 dmu.

    A particle xi holds all parameters of a neuron; `features.Weighted(phi)` makes Phi((w, omega), x)
    = w phi(omega, x). First variation sum_j p_j l'(F(x_j), y_j) Phi(xi, x_j) + lam |xi|^2 / 2 (survey
    (2.9), 3.1, which lacks the 1/N on the regularizer). Other regularizers: add a `Potential`.

    - `x` (N, k), `y` (N,), masses `data_weights` (N,), 1/N unless given; `lam` >= 0, default 0.
    - `loss`: l of prediction and target, one of `mf.losses` or a function of two numbers, convex in
      the first; `Square()`, (f - y)^2 / 2, unless given.

    **Raises** `ValueError` for data that are empty, not finite or of mismatched shapes, lam < 0, and
    labels that the loss does not take.

    >>> import mfjax as mf
    >>> mu = mf.measures.Particles(jnp.array([[1.0], [3.0]]))
    >>> linear = mf.features.Function(lambda xi, x: xi[0] * x[0])
    >>> losses = mf.losses.Square(), mf.losses.Huber(1.0)
    >>> [float(Risk(linear, [[1.0]], [0.0], loss=loss)(mu)) for loss in losses]
    [2.0, 1.5]
    """

    features: FeatureMap
    data: Data
    lam: Float[Array, ""]
    loss: Loss

    def __init__(
        self,
        features: FeatureMap,
        x,
        y,
        lam: ScalarLike = 0.0,
        loss: Loss | Callable | None = None,
        *,
        data_weights=None,
    ):
        require_features(features)
        self.features = features
        self.data = Data(x, y, data_weights)
        self.lam = scalar(lam, "lam", minimum=0.0)
        self.loss = as_loss(loss)
        self.loss.validate(self.data.y)

    def validate(self, mu, domain=None):
        check_features(self.features, mu.points, self.data.x, domain)
        if isinstance(self.features, Interpolated) and not isinstance(self.loss, Square):
            raise ValueError(
                f"compressed data are those of the squared loss, got {type(self.loss).__name__}: use all data"
            )

    def predictor(self, mu) -> Predictor:
        """The network F at `mu` without the data, a function of new inputs.

        Of heights over points (`flows.SeparatedVariables`) it is that of `flow.lift(mu)`.
        """
        return Predictor(self.features, mu.points, mu.weights)

    def init(self, mu):
        return Prepared(self._unweighted().prepare(self.features, mu.points))

    def _unweighted(self) -> Data:
        """The data with masses one: a prediction is asked for where the mass is zero, too."""
        return eqx.tree_at(lambda data: data.weights, self.data, jnp.ones_like(self.data.weights))

    def solve(self, mu, carry=None):
        prepared = None if carry is None else carry.value
        unweighted = self._unweighted()
        prediction = unweighted.operator(self.features, mu.points, prepared).output(mu.weights)
        y, masses = (part.astype(prediction.dtype) for part in (self.data.y, self.data.weights))
        lam = self.lam.astype(prediction.dtype)
        squares = jnp.sum(mu.points * mu.points, axis=-1)
        value = inner(masses, self.loss(prediction, y)) + 0.5 * lam * mu.integrate(squares)
        dual = masses * self.loss.derivative(prediction, y)
        potential = RiskPotential(self.features, unweighted, dual, lam, prepared)
        return Solution(value, potential, carry=carry)

    def dual(self, mu):
        features = self.features.matrix(mu.points, self.data.x.astype(mu.dtype))
        linear = 0.5 * self.lam.astype(features.dtype) * jnp.sum(mu.points * mu.points, axis=-1)
        return RiskDual(inner(features, mu.weights), features, linear, self.data, self.loss)


class RiskPotential(Field):
    """xi -> sum_j dual_j Phi(xi, x_j) + lam |xi|^2 / 2, dual = p l'(F, y), of `data` of masses one."""

    features: FeatureMap
    data: Data
    dual: Float[Array, " N"]
    lam: Float[Array, ""]
    prepared: Any = None

    def __call__(self, point: Float[Array, " d"]) -> Array:
        row = jax.vmap(self.features, in_axes=(None, 0))(point, self.data.x.astype(point.dtype))
        return inner(row, self.dual) + 0.5 * self.lam * jnp.sum(point * point)

    def at(self, points):
        scores = self.data.operator(self.features, points, self.prepared).scores(self.dual)
        return scores + 0.5 * self.lam * jnp.sum(points * points, axis=-1)


class RiskDual(Dual):
    """The unknowns are the predictions F_j at the data; the slope l'(F_j, y_j) is the dual variable.

    The conjugate sum_j p_j l*(l'(F_j)) is sum_j p_j (l'(F_j) F_j - l(F_j)).
    """

    start: Float[Array, " N"]
    features: Float[Array, "N K"]
    linear: Float[Array, " K"]
    data: Data
    loss: Loss

    def potential(self, unknowns):
        y, masses = self._data(unknowns.dtype)
        return inner(masses * self.loss.derivative(unknowns, y), self.features) + self.linear

    def conjugate(self, unknowns):
        y, masses = self._data(unknowns.dtype)
        slope, loss = self.loss.derivative(unknowns, y), self.loss(unknowns, y)
        return inner(masses, slope * unknowns - loss)

    def defect(self, unknowns, weights):
        return unknowns - inner(self.features, weights)

    def _data(self, dtype) -> tuple[Array, Array]:
        return self.data.y.astype(dtype), self.data.weights.astype(dtype)
