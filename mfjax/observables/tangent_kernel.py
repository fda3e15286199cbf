"""The tangent kernel of a network: how fast its predictions follow the data while all weights move."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax._numerics.arrays import along, as_floats, finite, inner, known
from mfjax.energies.risk import Risk
from mfjax.flows.base import Flow
from mfjax.flows.fisher_rao import WassersteinFisherRao
from mfjax.flows.separated_variables import SeparatedVariables
from mfjax.flows.transported import Transported
from mfjax.flows.two_hidden_layers import TwoHiddenLayers
from mfjax.flows.wrapper import WrapperFlow
from mfjax.measures import Measure
from mfjax.observables.base import Observable
from mfjax.observables.network import scaled_risk_of


class TangentKernel(Observable):
    """The neural tangent kernel of the network of a `Risk`, at given inputs.

    K(x, x') = int grad_xi Phi(xi, x) . grad_xi Phi(xi, x') dmu(xi): an array (B, B), of c outputs (B, c, B,
    c); times the coefficient of the risk in the energy of the flow.

    Along the flow predictions move by d_t F(x) = -sum_j p_j K(x, x_j) l'(F(x_j), y_j), regularizer apart: in
    flow time. Of M equal masses it is M times (38) of the thesis for the output 1/M sum_i Phi, and (38)
    itself for M^{-1/2} sum_i Phi. That other scaling is here, too: with the squared loss its plain gradient
    descent from random parameters is the flow of a `Risk` whose targets are y / sqrt(M), in flow time, and
    its output sqrt(M) F. Parameters then move by O(M^{-1/2}), K changes by O(M^{-1/2}), by O(M^{-1}) for
    outer weights of an even law, and the network learns as its linearization does ("lazy training").

    Gradients are tangent to the domain; particles that a wall holds move slower. For `flows.TwoHiddenLayers`
    those in w, b and theta.

    - `x` (B, k): inputs. Eigenvalues of K / B at the N = B data are the rates at which errors fall;
      `bounds.tangent_decay` makes a bound of the least. Cost M B^2 d.

    **Raises** `ValueError` for inputs that are empty or not finite, for a flow without a `Risk`, and for one
    that moves otherwise than by the gradients of all parameters: with births and deaths, or with heights that
    stay or are carried.

    Source: thesis, (38) and II.3.1.

    >>> import mfjax as mf
    >>> neuron = mf.features.Weighted(mf.features.ReLU())
    >>> flow = mf.flows.Wasserstein(mf.energies.Risk(neuron, [[1.0]], [1.0]), mf.domains.Euclidean(2))
    >>> mu = mf.measures.Particles(jnp.array([[3.0, 2.0]]))
    >>> TangentKernel([[1.0], [-1.0]])(mu, flow).tolist()
    [[13.0, 0.0], [0.0, 0.0]]
    """

    x: Float[Array, "B k"]

    def __init__(self, x: Any):
        self.x = finite(as_floats(x, "x"), "x")
        if self.x.ndim != 2 or 0 in self.x.shape:
            raise ValueError(f"x must have shape (B, k) with B, k >= 1, got {self.x.shape}")

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, "B ..."]:
        coefficient, risk = scaled_risk_of(flow, (Risk,), self)
        _check_gradient(known(flow))
        flow, lifted, x = known(flow), known(flow).lift(mu), self.x.astype(mu.dtype)
        matrix = risk.features.matrix(lifted.points, x)
        handed = jnp.tensordot(lifted.weights, matrix, axes=(0, 1), precision=jax.lax.Precision.HIGHEST)
        layer = risk.layer
        outer = lifted.points.shape[1] - mu.points.shape[1]

        def slopes(point: Array, place: Array) -> Array:
            """The gradients of the outputs in one particle, over its mass: (B * c, d)."""
            rows = jax.jacrev(lambda xi: jax.vmap(risk.features, in_axes=(None, 0))(xi, x))(point)
            if layer is not None:
                through = jax.vmap(jax.jacrev(layer.output))(handed)
                rows = jax.vmap(inner)(through.reshape(len(x), -1, handed.shape[1]), rows)
            rows = rows.reshape(-1, point.size)
            tangent = jax.vmap(lambda row: flow.domain.project(place, row[outer:]))(rows)
            return jnp.concatenate([rows[:, :outer], tangent], axis=1)

        def add(kernel, particle):
            point, place, mass = particle
            rows = slopes(point, place)
            return kernel + mass * inner(rows, rows.T), None

        shape = x.shape[:1] + (matrix.shape[2:] if layer is None else layer.weights.shape[1:])
        size = shape[0] * (shape[1] if len(shape) > 1 else 1)
        start = jnp.zeros((size, size), mu.dtype)
        kernel, _ = jax.lax.scan(add, start, (lifted.points, mu.points, lifted.weights))
        if layer is not None and isinstance(flow, TwoHiddenLayers):
            signals = layer.signals(handed).T
            by_weight = inner(signals.T, along(layer.masses.astype(mu.dtype), signals) * signals)
            kernel = kernel + jnp.kron(by_weight, jnp.eye(size // len(x), dtype=mu.dtype))
        return jnp.asarray(coefficient).astype(mu.dtype) * kernel.reshape(*shape, *shape)


def _check_gradient(flow: Flow) -> None:
    while isinstance(flow, WrapperFlow):
        flow = flow.flow
    if isinstance(flow, WassersteinFisherRao | SeparatedVariables | Transported):
        raise ValueError(
            "a tangent kernel says how predictions move where all parameters follow their gradients, and "
            f"those of {type(flow).__name__} do not: take flows.Wasserstein or flows.PropagationOfChaos"
        )
