"""The Wasserstein-Fisher-Rao gradient flow of an energy, on particles and on a grid."""

from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from mfjax import grids
from mfjax._numerics.arrays import known, scalar
from mfjax.domains import Domain, require_domain
from mfjax.energies.base import Energy
from mfjax.energies.blob import Blob
from mfjax.energies.entropy import Entropy
from mfjax.flows.base import Evaluation, Flow, State, require_measure
from mfjax.flows.wasserstein import check_space, descent, smooth_part
from mfjax.grids.diffusion import Part
from mfjax.grids.rates import Pairs
from mfjax.measures import Grid, Measure, Particles, Tangent


class WassersteinFisherRao(Flow):
    """Transport down the potential, with masses that grow where the potential is low.

    d_t mu = alpha div(mu grad V) - beta V mu, V the first variation of `energy`.

    On `Particles`: x_i' = -alpha grad V(x_i), m_i' = -beta V(x_i) m_i, the masses m_i (K,) by their
    logarithms: no step makes one negative. On a `Grid`: transport by `space`, reaction by logarithms. dF/dt =
    -alpha int |grad V|^2 dmu - beta int V^2 dmu.

    - `transport` alpha >= 0, `reaction` beta >= 0, per unit of flow time; array leaves. alpha = 0 is the
      Fisher-Rao flow (mirror descent), beta = 0 the Wasserstein flow.
    - `blur`: on particles an entropy in the energy is noise sqrt(2 alpha T) dW, and masses grow by -beta T
      times the potential of `energies.Blob(Entropy(), blur, domain)`, the density blurred by this length:
      an error O(blur^2), and of the scatter of particles within it. The recorded energy is the smooth part.
    - `balanced=True` subtracts the mean of V: the total mass, which is free otherwise, stays exactly. The
      constant in V matters only without it: V_i = dF/dm_i must hold as it stands, as it does for the
      energies of mfjax. Discrepancies of conditionally positive definite kernels (`Distance`, `Riesz`) have
      no minimum over all masses: balance those.

    **Good values**: for 1/2 E (F - y)^2 of a network F = sum_i a_i relu(b_i . x), the gradient flow of
    neurons that start with |a_i| = |b_i| is (alpha, beta) = (1, 2), m_i = |a_i| |b_i| at b_i / |b_i| on the
    sphere; with a_i = |b_i| not trained but bound to b_i it is (1, 4), m_i = |b_i|^2. Both signs:
    `domains.Signed`.
    Linearized at the uniform law on S^1 the mode k decays at (alpha k^2 + beta) c_k, c_k the Fourier
    coefficient of the kernel of V.

    **Fails** to reach a teacher where there is no mass at all when alpha = 0, and where the energy
    does not see (`mf.certificates.identifiability`).

    **Raises** `ValueError` for negative rates, for internal energies on particles (the entropy, too, without
    `blur`: its potential is the logarithm of a density), and for points outside the domain.

    Source: arXiv 2603.01977; Rotskoff, Jelassi, Bruna, Vanden-Eijnden, arXiv 1902.01843 (birth-death);
    Chizat, arXiv 1907.10300.

    >>> import mfjax as mf
    >>> energy = mf.energies.Potential(lambda x: x[0])
    >>> flow = WassersteinFisherRao(energy, mf.domains.Euclidean(1), transport=1.0, reaction=2.0)
    >>> now = flow.evaluate(flow.init(mf.measures.Particles(jnp.array([[3.0]]))))
    >>> now.tangent.points.tolist(), now.tangent.growth.tolist(), float(now.dissipation)
    ([[-1.0]], [-6.0], 19.0)
    """

    energy: Energy
    domain: Domain
    transport: Float[Array, ""]
    reaction: Float[Array, ""]
    space: grids.Discretization
    estimate: Blob | None
    balanced: bool = eqx.field(static=True)

    def __init__(
        self,
        energy: Energy,
        domain: Domain,
        transport: ScalarLike = 1.0,
        reaction: ScalarLike = 1.0,
        *,
        balanced: bool = False,
        blur: ScalarLike | None = None,
        space: grids.Discretization | None = None,
    ):
        require_domain(domain)
        self.space = grids.FiniteVolume() if space is None else space
        check_space(self.space)
        self.energy, self.domain, self.balanced = energy, domain, bool(balanced)
        self.transport = scalar(transport, "transport", minimum=0)
        self.reaction = scalar(reaction, "reaction", minimum=0)
        self.estimate = None if blur is None else Blob(Entropy(), scalar(blur, "blur", above=0), domain)

    @property
    def temperature(self):
        temperature = super().temperature
        still = isinstance(temperature, (int, float)) and temperature == 0
        return temperature if still else self.transport * temperature

    def validate(self, mu: Measure) -> None:
        require_measure(mu)
        if isinstance(mu, Grid):
            self.space.validate(self.energy, mu, self.domain)
        else:
            self._smooth().validate(mu, self.domain)
            if self.estimate is not None:
                self.estimate.validate(mu, self.domain)
        self.domain.validate(mu.points)

    def _smooth(self) -> Energy:
        """The energy that particles have a value of: without entropies, noise where there is an estimate."""
        internal = grids.internal_parts(self.energy)
        if internal and self.estimate is None:
            raise ValueError(
                f"{type(internal[0][1]).__name__} makes masses grow by a function of the density, which "
                "particles do not have: run this flow on a Grid, or give blur=, the width of an estimate for "
                "the entropy"
            )
        return smooth_part(self.energy)

    def init(self, mu: Measure) -> State:
        self.validate(mu)
        return State(
            mu, self.space.init(self.energy, mu) if isinstance(mu, Grid) else self._smooth().init(mu)
        )

    def evaluate(self, state: State) -> Evaluation:
        mu = state.measure
        if isinstance(mu, Grid):
            now, potential = self._on_grid(mu, state.carry)
        else:
            now, potential = self._on_particles(cast(Particles, mu), state.carry)
        if self.balanced:
            potential = potential - mu.integrate(potential) / mu.mass
        beta = self.reaction.astype(mu.dtype)
        growth = -beta * potential
        dissipation = now.dissipation + beta * mu.integrate(potential**2)
        where = lambda e: (e.tangent.growth, e.dissipation)
        return eqx.tree_at(where, now, (growth, dissipation), is_leaf=lambda leaf: leaf is None)

    def _on_particles(self, mu: Particles, carry: Any) -> tuple[Evaluation, Array]:
        """The transport, and V at the particles."""
        energy = self._smooth()
        now, solution = descent(energy, self.domain, mu, carry, self.transport.astype(mu.dtype))
        potential = energy.first_variation(mu, solution)
        if self.estimate is None or not grids.internal_parts(self.energy):
            return now, potential
        temperature = jnp.asarray(self.energy.temperature).astype(mu.dtype)
        return now, potential + temperature * self.estimate.first_variation(mu)

    def _on_grid(self, mu: Grid, carry: Any) -> tuple[Evaluation, Array]:
        """The transport, and V in the cells."""
        now = self.space.evaluate(self.energy, mu, carry)
        alpha = self.transport.astype(mu.dtype)
        longest = jnp.where(alpha > 0, now.max_step / jnp.where(alpha > 0, alpha, 1), jnp.inf)
        where = lambda e: (e.tangent.weights, e.dissipation, e.max_step)
        scaled = (alpha * known(now.tangent.weights), alpha * now.dissipation, longest.astype(mu.dtype))
        return eqx.tree_at(where, now, scaled), grids.first_variation(self.energy, mu, now)

    def diffusion(self, mu: Measure) -> tuple[Part, ...]:
        return self.space.diffusion(self.energy) if isinstance(mu, Grid) else ()

    def linearize(self, state: State, now: Evaluation) -> Pairs:
        """The transport; the reaction is not stiff."""
        mu = state.measure
        pairs = self.space.linearize(self.energy, cast(Grid, mu), now.potential)
        return jax.tree.map(lambda rates: self.transport.astype(mu.dtype) * rates, pairs)

    def move(self, state: State, tangent: Tangent, time: Any, noise: Tangent | None = None) -> State:
        moved = super().move(state, tangent, time, noise)
        if not self.balanced:
            return moved
        # The mean of V makes the mass constant in continuous time only.
        weights = moved.measure.weights * (state.measure.mass / moved.measure.mass)
        return eqx.tree_at(lambda s: s.measure.weights, moved, weights)
