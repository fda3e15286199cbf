"""The (rho, H) system whose height is transported by the Wasserstein flow of rho."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mfjax._numerics.arrays import count, known
from mfjax.domains import Domain
from mfjax.energies.base import Energy
from mfjax.flows.heights import HeightFlow
from mfjax.measures import Particles


class Transported(HeightFlow):
    """The (rho, H) system in which the height H is carried along with the whole velocity.

    d_t rho + div(rho v) = 0, d_t H + v . grad H = -d_H V, v = -grad[V(H(.), .)] (survey (3.21), (3.22)).

    V as in `PropagationOfChaos`; for the risk v = -grad(H N) - lam (H grad H + theta) and d_H V = N + lam H.
    With s = d_H V and v = -(grad_theta V + s grad H)

        dG/dt = -int |v|^2 drho - int s^2 drho - int s v . grad H drho,

    which may be positive, though not while |grad H| <= 2 on the support: the energy MAY INCREASE. The
    recorded `dissipation` is then negative, and the certificate `largest_increase` says by how much.

    - `labels`: shape of a grid of labels. Free particles are refused: v needs grad H, which obeys an equation
      with grad v, hence with the second derivatives of H, and so on: no number of marks closes. On labels
      a -> (X(a), H(a)) it is (dX/da)^{-T} dH/da: particle number i (C order) is the image of label i of a
      uniform grid, as many axes as the domain has coordinates, closed where those of the domain are. Second
      order, while X is one to one: where it folds the run ends as non-finite.

    Without `labels` the measure is a `Grid` with the mark "H"; second order in the mesh for smooth H. The
    equation of H is one of Hamilton-Jacobi type, H_t = s |grad H|^2 + grad_theta V . grad H - s: smooth H may
    develop a kink in finite time, where labels fold. The grid goes on, with no theory behind it: its mass is
    kept and positive, but the density oscillates from cell to cell.

    **Raises** `ValueError` for free particles, for labels that do not fit the domain, and for a measure
    without the mark "H".

    >>> import jax.numpy as jnp, mfjax as mf
    >>> neuron = mf.features.Weighted(mf.features.Ridge(jnp.tanh))
    >>> risk = mf.energies.Risk(neuron, jnp.array([[1.0]]), jnp.array([1.0]))
    >>> interval = mf.domains.Interval(-1.0, 1.0)
    >>> mu = mf.measures.Grid.uniform(interval, 8)
    >>> mu = mu.with_marks(H=mu.points[:, 0])
    >>> run = mf.simulate(Transported(risk, interval), mu, t1=0.5)
    >>> bool(run.observables["energy"][-1] < run.observables["energy"][0])
    True
    """

    energy: Energy
    domain: Domain
    labels: tuple[int, ...] | None = eqx.field(static=True, default=None)
    held: ClassVar[bool] = False
    rides: ClassVar[bool] = True
    monotone: ClassVar[bool] = False

    def __check_init__(self):
        # First, for what follows asks the domain: equinox calls the checks of base classes last.
        super().__check_init__()
        if self.labels is None:
            return
        flat = self.domain.euclidean and self.domain.ambient == self.domain.dim
        if not flat or len(self.labels) != self.domain.dim:
            raise ValueError(
                f"labels must hold one number per axis of a flat domain, got {self.labels} for "
                f"{self.domain!r}"
            )
        for n in self.labels:
            count(n, "labels", minimum=4)

    def validate(self, mu):
        if isinstance(mu, Particles) and self.labels is None:
            raise ValueError(
                "free particles do not close this system: its velocity needs grad H, whose equation needs "
                "the second derivatives of H. Use a Grid, or particles on a grid of labels: "
                "Transported(..., labels=(M,))"
            )
        if self.labels is not None:
            size = int(np.prod(self.labels))
            if not isinstance(mu, Particles) or mu.size != size:
                raise ValueError(
                    f"labels {self.labels} need {size} Particles, got {type(mu).__name__} of {mu.size}"
                )
        super().validate(mu)

    def slope_of_height(self, state):
        mu = state.measure
        labels = known(self.labels)
        points = mu.points.reshape(*labels, -1)
        height = self.outer_weights(mu).reshape(labels)
        apart = jnp.vectorize(self.domain.displacement, signature="(d),(d)->(d)")
        closed, axes = self.domain.closed, range(len(labels))
        # Entry (a, b) of the first is dX_b/da_a: its inverse acts on dH/da.
        stretch = jnp.stack([_differences(points, axis, closed[axis], apart) for axis in axes], axis=-2)
        rise = jnp.stack([_differences(height, axis, closed[axis]) for axis in axes], axis=-1)
        slope = jnp.linalg.solve(stretch, rise[..., None])[..., 0].reshape(mu.points.shape)
        side = jnp.sign(jnp.linalg.det(stretch))
        return jnp.where(jnp.all(side == side.ravel()[0]), slope, jnp.nan)


def _differences(values: Array, axis: int, closed: bool, apart: Callable = jnp.subtract) -> Array:
    """Central differences per label along one axis; at an end one-sided and of second order too."""
    ahead = apart(jnp.roll(values, -1, axis), values)
    central = 0.5 * (ahead + jnp.roll(ahead, 1, axis))
    if closed:
        return central
    n = values.shape[axis]
    step = lambda k: jax.lax.index_in_dim(ahead, k, axis)
    first, last = 1.5 * step(0) - 0.5 * step(1), 1.5 * step(n - 2) - 0.5 * step(n - 3)
    return jnp.concatenate([first, jax.lax.slice_in_dim(central, 1, n - 1, axis=axis), last], axis)
