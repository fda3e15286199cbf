"""The (rho, H) system of propagation of chaos: gradient descent of a network, and its density."""

from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Float

from mfjax._numerics.arrays import scalar
from mfjax.domains import Domain
from mfjax.energies.base import Energy
from mfjax.flows.heights import HeightFlow
from mfjax.measures import Grid


class PropagationOfChaos(HeightFlow):
    """The (rho, H) system whose particles do exactly what gradient descent on neurons does.

    d_t rho + div(rho w) = 0, d_t H + w . grad H = -d_H V, w = -grad_theta V(H, .) (survey (3.23), (3.24)).

    V is the first variation of an energy of xi = (H, theta) at the law of (H(theta), theta). For
    `Risk(Weighted(phi), x, y, lam)`: w = -H grad N - lam theta and d_H V = N + lam H, where N(theta) =
    sum_j p_j phi(theta, x_j) (F(x_j) - y_j), F = int H phi drho. Flow time.

    On `Particles` with the mark "H" this is gradient descent on all (H_i, theta_i), the plain gradient
    divided by the mass of the particle: no height need be a function of place. On a `Grid` with the mark "H"
    one height stands in each cell: trajectories of particles must not cross. Where they do, the density
    becomes concentrated and the grid describes it no longer: `observables.ClosureDefect` says when and how
    far. Balance (survey, Proposition 3.3):

        dG/dt = -int |grad_theta V|^2 drho - int (d_H V)^2 drho.

    It is the gradient flow of G for the distance D, `observables.HeightDistance` (Remark 3.4), whose
    minimizing movements are `steppers.Proximal` of `Wasserstein` on points (H, theta), `flow.lift(mu)`: of
    order one, beside particles for ever, and beside a `Grid` until paths cross. Beyond, a step has no
    minimizer among pairs. By heights that oscillate, pairs come as near in D to any law of (H, theta) as one
    likes: the infimum over pairs is that over laws, and is attained at one of several heights over one place.
    Nor is there a scheme on the cells of a fixed mesh: mass moves by whole cells, and stays where it is for
    steps dt below a cell over twice the speed. Second order in the mesh for smooth rho and H. `tau *
    Entropy()` and `tau * PorousMedium()` regularize rho (Remark 4.1, see `HeightFlow`).

    - `noise` T >= 0: on `Particles`, noise sqrt(2 T) dW of theta that carries H along, none unless given.
      The law of (H, theta) then follows a Fokker-Planck equation with diffusion in theta alone, another
      system than `T * Entropy()` on a `Grid`, which takes H along with the mean velocity of rho: after noise
      H is no function of theta, and there is no grid of it.

    A network of c outputs has c heights at a point, the mark "H" (K, c), and d_H V a sum over them.

    **Raises** `ValueError` for a measure without the mark "H", or of another width than the network, and for
    `noise` on a `Grid`.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> neuron = mf.features.Weighted(mf.features.Ridge(jnp.tanh))
    >>> risk = mf.energies.Risk(neuron, jnp.array([[1.0]]), jnp.array([1.0]), lam=0.1)
    >>> mu = mf.measures.Particles(jnp.array([[1.0]]), marks={"H": jnp.array([0.5])})
    >>> flow = PropagationOfChaos(risk, mf.domains.Euclidean(1))
    >>> run = mf.simulate(flow, mu, stepper=mf.steppers.Euler(0.1), steps=1)
    >>> [round(float(v), 4) for v in (run.final.points[0, 0], run.final.marks["H"][0])]
    [1.003, 0.5422]
    """

    energy: Energy
    domain: Domain
    noise: Float[Array, ""] | None = eqx.field(
        default=None, converter=lambda t: None if t is None else scalar(t, "noise", minimum=0)
    )
    held: ClassVar[bool] = True
    rides: ClassVar[bool] = True
    several: ClassVar[bool] = True

    @property
    def temperature(self):
        return super().temperature if self.noise is None else self.noise

    def validate(self, mu):
        if self.noise is not None and isinstance(mu, Grid):
            raise ValueError(
                "noise takes the height of each particle elsewhere, and H is then no function of theta: use "
                "Particles, or T * Entropy() in the energy, which moves H with the mean velocity of rho"
            )
        super().validate(mu)

    def slope_of_height(self, state):
        return None
