"""The size of a two-layer network, as the Barron norm counts it."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax._numerics.arrays import known, over_outputs, safe_sqrt
from mfjax.energies.reduced import Reduced
from mfjax.energies.risk import Risk
from mfjax.features import Weighted
from mfjax.flows.base import Flow
from mfjax.measures import Measure
from mfjax.observables.base import Observable
from mfjax.observables.network import risk_of


class PathNorm(Observable):
    """The path norm of a two-layer network, an upper bound of its Barron norm.

    int |u| |omega| dmu over its neurons u phi(omega . x), or int |u| (|omega'| + |b|) dmu for omega =
    (omega', b).

    The Barron norm of F is the infimum over all measures that represent F (thesis 1.3.3), as of ReLU neurons,
    or others that are homogeneous of degree one; this is its value at one of them. It does not see the scale
    that ReLU neurons trade between u and omega, is at most half of int u^2 + |omega|^2 dmu (with a bias, of
    int u^2 + (|omega'| + |b|)^2 dmu), and sampling M neurons in proportion to |u| |omega| leaves an rms error
    of at most the norm times |x| / sqrt(M). On a sphere |omega| = 1, and it is the total variation of the
    network; `mf.minimize_reduced_risk` finds the least as lam -> 0.

    The outer weights u are those of `flow.outer_weights(mu)`: the optimal ones of a reduced risk, marks, or
    the first coordinates of particles of `features.Weighted`. For c outputs |u| is the length of u.

    - `bias`: whether the last coordinate of omega is the bias, that of inputs which end with 1 (static).

    **Raises** `ValueError` for a flow whose energy holds no risk of weighted neurons, or one with two layers.

    Source: thesis 1.3.3; W. E, C. Ma, L. Wu, "The Barron space and the flow-induced function spaces for
    neural network models", Constr. Approx. (2021).

    >>> import mfjax as mf
    >>> neuron = mf.features.Weighted(mf.features.ReLU())
    >>> flow = mf.flows.Wasserstein(mf.energies.Risk(neuron, [[1.0, 1.0]], [1.0]), mf.domains.Euclidean(3))
    >>> mu = mf.measures.Particles(jnp.array([[-2.0, 3.0, 4.0]]))
    >>> float(PathNorm()(mu, flow)), float(PathNorm(bias=True)(mu, flow))
    (10.0, 14.0)
    """

    bias: bool = eqx.field(static=True, default=False)

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, ""]:
        risk = risk_of(flow, (Reduced, Risk), self)
        if isinstance(risk, Risk) and risk.layer is not None:
            raise ValueError("PathNorm is of networks with one hidden layer, got one with a SecondLayer")
        u, omega = known(flow).outer_weights(mu), mu.points
        if u is None:
            features = risk.features if isinstance(risk, Risk) else None
            if not isinstance(features, Weighted):
                raise ValueError(
                    "PathNorm needs neurons with outer weights, features.Weighted(phi), got "
                    f"{type(features).__name__}"
                )
            u, omega = features.split(mu.points)
        size = safe_sqrt(over_outputs(u * u))
        length = lambda rows: safe_sqrt(jnp.sum(rows * rows, axis=-1))
        if self.bias:
            return mu.integrate(size * (length(omega[:, :-1]) + jnp.abs(omega[:, -1])))
        return mu.integrate(size * length(omega))
