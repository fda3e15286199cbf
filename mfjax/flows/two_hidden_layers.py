"""Training of a network with two hidden layers: the first is a measure, the second a field beside it."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax._numerics.arrays import along, inner, over_outputs
from mfjax.energies.base import one_term
from mfjax.energies.risk import Risk
from mfjax.energies.second_layer import SecondLayer
from mfjax.flows.base import Evaluation, State
from mfjax.flows.propagation_of_chaos import PropagationOfChaos
from mfjax.measures import Measure


class TwoHiddenLayers(PropagationOfChaos):
    """Gradient descent on all weights of a network with two hidden layers, and its mean-field limit.

    theta_i' = -(1/p_i) dR/dtheta_i, b_ij' = -(1/(p_i q_j)) dR/db_ij, w_j' = -(1/q_j) dR/dw_j, of the risk

        R = sum_k m_k loss(F(x_k), y_k)
            + lam/2 (sum_j q_j w_j^2 + sum_ij p_i q_j b_ij^2 + sum_i p_i |theta_i|^2),
        F(x) = sum_j q_j w_j sigma( sum_i p_i b_ij phi(theta_i, x) ),

    (5.1) of the survey with the masses of neurons, 1 / N_1 and 1 / N_2, which it leaves to the weights.
    The neurons i of the first layer are the points theta of the measure, with masses p_i; each carries its
    weights to the second layer as the mark "H" (K, N_2), H_ij = sqrt(q_j) b_ij (`SecondLayer.heights(b)`),
    and takes them along as in `PropagationOfChaos`. Neurons of the second layer are the outputs j, and their
    w the field "w" of the state, (N_2,) or (N_2, c) for c outputs, which starts from that of the layer.
    Flow time; no number of neurons appears but in masses, so that splitting a neuron of either layer into two
    of half its mass changes nothing. Energy R, which falls at sum_i p_i |theta_i'|^2 +
    sum_ij p_i q_j b_ij'^2 + sum_j q_j w_j'^2.

    - `energy`: one `Risk(Weighted(phi, outputs=N_2), x, y, lam, layer=SecondLayer(sigma, w, q))`, and other
      terms of (H, theta). With batches it is stochastic gradient descent.
    - `noise` as in `PropagationOfChaos`.

    `flow.at(state)`, which observables are given, holds the w of that state: `flow.layer.weights`, and of a
    finished run `flow.at(run.end.state)`. A frozen w is `PropagationOfChaos`, or, with points (H, theta),
    `Wasserstein`.

    **The limit N_1, N_2 -> infinity.** Where b_ij(0) = b(theta_i, w_j) + noise of mean zero, independent of
    all else, b_ij(t) = e^{-lam t} noise + b_t(i, j): the noise is averaged out in both sums, and b_t is a
    function of the neurons i and j alone. Hence a density rho of theta, with a function b(., w) over its
    places for each w: on a `Grid` the mark "H" rides with the mass, and w, q are nodes and masses of a
    quadrature of the law of w. Particles with independent neurons tend to it like N_1^{-1/2} + N_2^{-1/2}.
    Neurons of the second layer that begin with one w and one mean of b do the same for ever: in this limit a
    law of w is what tells them apart.

    The noise of b itself has no place on a `Grid`, where b is a function of theta: at finite N_2 the neurons
    of one theta move apart, by their own b, and the law lives on (b, theta) in R^{N_2 + d}. Nor do neurons
    that meet from different places (`PropagationOfChaos`).

    **Raises** `ValueError` for an energy without one such risk, for a mark "H" of another width than N_2, and
    as `PropagationOfChaos` does.

    Source: survey, 5.2, which leaves the limit open; D. Araujo, R. Oliveira, D. Yukimura, arXiv 1906.00193,
    and P.-M. Nguyen, H. T. Pham, arXiv 2001.11443, for it.

    >>> import mfjax as mf
    >>> phi = mf.features.Weighted(mf.features.Ridge(jnp.tanh), outputs=3)
    >>> layer = mf.energies.SecondLayer(jnp.tanh, [1.0, -1.0, 0.5])
    >>> risk = mf.energies.Risk(phi, jnp.array([[1.0], [2.0]]), jnp.array([0.5, -0.5]), layer=layer)
    >>> b = jnp.array([[1.0, 2.0, 0.5], [-1.0, 0.5, 1.0]])
    >>> mu = mf.measures.Particles(jnp.array([[1.0], [-0.3]]), marks={"H": layer.heights(b)})
    >>> flow = TwoHiddenLayers(risk, mf.domains.Euclidean(1))
    >>> run = mf.simulate(flow, mu, stepper=mf.steppers.RK4(0.1), steps=10)
    >>> trained = flow.at(run.end.state)
    >>> bool(run.observables["energy"][-1] < run.observables["energy"][0])
    True
    >>> trained.energy.predictor(trained.lift(run.final))([[1.0]]).shape
    (1,)
    """

    def __check_init__(self):
        # First, for what follows asks the domain: equinox calls the checks of base classes last.
        super().__check_init__()
        self._network()

    def _network(self) -> tuple[Any, Risk, SecondLayer]:
        """(coefficient, risk, its second layer)."""
        needed = (
            "TwoHiddenLayers needs one Risk(Weighted(phi, outputs=N_2), x, y, "
            "layer=energies.SecondLayer(sigma, w))"
        )
        layered = lambda term: isinstance(term, Risk) and term.layer is not None
        factor, risk = one_term(self.energy, layered, needed)
        return factor, risk, risk.layer

    @property
    def layer(self) -> SecondLayer:
        """The second layer, with the w of the start, or, of `flow.at(state)`, those of that state."""
        return self._network()[2]

    def at(self, state: State | None = None) -> "TwoHiddenLayers":
        if state is None:
            return self
        return eqx.tree_at(lambda flow: flow.layer.weights, self, state.fields["w"])

    def init(self, mu: Measure) -> State:
        state = super().init(mu)
        return State(state.measure, state.carry, {"w": self.layer.weights.astype(mu.dtype)}, state.time)

    def evaluate(self, state: State) -> Evaluation:
        flow = self.at(state)
        now = super(TwoHiddenLayers, flow).evaluate(state)
        factor, risk, layer = flow._network()
        lifted = self.lift(state.measure)
        handed = risk.at_data(lifted)
        slope = self._slope(risk, layer, handed)
        factor = jnp.asarray(factor).astype(handed.dtype)
        q, w = layer.masses.astype(handed.dtype), layer.weights.astype(handed.dtype)
        penalty = 0.5 * risk.lam.astype(handed.dtype) * inner(q, over_outputs(w**2))
        rate = -factor * slope
        value = None if now.energy is None else now.energy + factor * penalty
        fall = now.dissipation + inner(q, over_outputs(rate**2))
        where = lambda e: (e.tangent.fields, e.energy, e.dissipation)
        return eqx.tree_at(where, now, ({"w": rate}, value, fall), is_leaf=lambda leaf: leaf is None)

    def _slope(self, risk: Risk, layer: SecondLayer, handed: Float[Array, "N N2"]) -> Float[Array, "N2 *c"]:
        """(1/q_j) dR/dw_j where the first layer hands over Z."""
        y, masses = (part.astype(handed.dtype) for part in (risk.data.y, risk.data.weights))
        slopes = risk.loss.slopes(layer.output(handed), y)
        pull = inner(layer.signals(handed).T, along(masses, slopes) * slopes)
        return pull + risk.lam.astype(handed.dtype) * layer.weights.astype(handed.dtype)
