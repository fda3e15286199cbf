"""The quantization energy: how well the points of a measure stand for a density."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import inner, is_traced, scalar, shown
from mfjax.domains import Domain
from mfjax.energies.base import require_number
from mfjax.energies.neighbors import NeighborEstimate, Pieces, require_neighbors
from mfjax.energies.power_divergence import DensityFunction, PowerDivergence


class Quantization(NeighborEstimate):
    """How well particles in one dimension stand for a density nu: ultra-fast diffusion by particles.

    F(mu) = sum_i int over C_i of (d(x, x_i) / m_i)^p nu(x) dx, m_i the masses, d the length along the domain.

    C_i, the cell of x_i, ends where d / m is that of the next particle. With N equal masses 1/N, cells are
    those of Voronoi and F = N^p F_N of the classical quantization energy F_N = sum_i int over C_i of d^p dnu.
    The flow of F_N slows like N^-p; here particles and their limit have one time axis:

        x_i' = -grad V(x_i) = -(1/m_i) dF/dx_i, for equal masses -N^(p + 1) dF_N/dx_i.

    Gaps are mass over density, masses equal or not, so that the limit of many particles is

        F = C int nu mu^-p dx,    d_t mu = -p C d_x(mu d_x (nu / mu^(p + 1))),    C = 1 / (2^p (p + 1)),

    the flow of `.energy` on a `Grid`, the `PowerDivergence` of order p + 1, target nu^(1/(p + 1)), scale p C.
    Rest is at density nu^(1/(p + 1)) / Z (Zador's law), Z its integral, where F = C Z^(p + 1).

    - `density`: nu, a function of one point, smooth and non-negative; positive for the limit. Of any mass,
      which is a factor of the time.
    - `domain`: one of dimension one with ends, or closed: an interval, `Torus(1)`, `Sphere(1)` or a curve of
      your own.
    - `order`: p >= 1, a leaf.

    Each half of a cell is integrated by 12 nodes, exact for polynomials of degree 11: to rounding where nu is
    smooth on the scale of a cell. Particles and limit differ by O(1/N^2). The potential is the variation
    in the cell that holds a point: constant there, so that forces are the derivative of F in the positions.
    Particles of zero mass (padding) have no cell and feel no force.

    **Raises** `ValueError` for an endless domain, several dimensions, p < 1, a density that is no function of
    one point or negative at a particle, on another domain than the flow's, and for a `Grid`. **Fails** at
    jumps of nu, which the nodes do not see: forces are off by a cell. Good values: p = 2, and
    `steppers.Proximal` or adaptive steps: explicit ones are limited by the square of the gaps times
    mu^(p + 1) / nu.

    Source: E. Caglioti, F. Golse, M. Iacobelli, Math. Models Methods Appl. Sci. 25 (2015), for equal masses;
    M. Iacobelli, F. Patacchini, F. Santambrogio, Arch. Rational Mech. Anal. 232 (2019), for the limit.

    >>> import mfjax as mf
    >>> nu = lambda x: jnp.ones((), x.dtype)
    >>> line = mf.domains.Interval(0.0, 1.0)
    >>> mu = mf.measures.Particles(jnp.array([[0.125], [0.375], [0.625], [0.875]]))
    >>> energy = Quantization(nu, line)
    >>> round(float(energy(mu)) * 12, 5)  # the least: 1 / (2^2 * 3)
    1.0
    """

    density: Callable
    order: Float[Array, ""]
    domain: Domain

    def __init__(self, density: Callable, domain: Domain, order: ScalarLike = 2.0):
        if not callable(density):
            raise ValueError(f"density must be a function of one point, got {shown(density)}")
        require_neighbors(domain)
        axis = domain.axes[0]
        if axis.lower is None or axis.upper is None:
            raise ValueError(f"the outer cells of {domain!r} have no end: take an Interval that holds nu")
        self.density = DensityFunction(density)
        self.order, self.domain = scalar(order, "order", minimum=1), domain

    @property
    def energy(self) -> PowerDivergence:
        """The limit of many particles: the energy of their density, which runs on a `Grid`."""
        p = self.order
        return PowerDivergence(_Optimal(self.density, p), p + 1, p / (2**p * (p + 1)))

    def validate(self, mu, domain=None):
        super().validate(mu, domain)
        require_number("the density", self.density, mu.points[0])
        values = jax.vmap(self.density)(mu.points)
        if not is_traced(values) and not np.all(np.asarray(values) >= 0):
            worst = int(np.argmin(np.asarray(values)))
            raise ValueError(
                f"the density must not be negative, got {float(values[worst]):g} at particle {worst}"
            )

    def pieces(self, points, weights):
        n, p = self.neighbors(points, weights), self.order.astype(points.dtype)
        ahead = n.gaps * n.masses / (n.masses + n.partners)
        rest = n.gaps - ahead
        if self.domain.closed[0]:
            behind = jnp.where(n.first, jnp.sum(jnp.where(n.last, rest, 0)), jnp.roll(rest, 1))
        else:
            axis = self.domain.axes[0]
            lower, upper = (jnp.asarray(end, n.coordinates.dtype) for end in (axis.lower, axis.upper))
            behind = jnp.where(n.first, n.coordinates - lower, jnp.roll(rest, 1))
            ahead = jnp.where(n.last, upper - n.coordinates, ahead)
        behind, ahead = (jnp.where(n.massive, reach, 0) for reach in (-behind, ahead))

        def half(reach):
            """The energy of the part of each cell within `reach`, of either sign, of its particle."""
            length = jnp.where(n.massive, jnp.abs(reach), 1)
            return length * (length / n.masses) ** p * self._weighted_mean(n.coordinates, reach, p)

        values = half(behind) + half(ahead)
        middles, lengths = n.coordinates + 0.5 * (ahead + behind), ahead - behind
        return Pieces(n.massive, middles, lengths, values, -p * values / n.masses)

    def _weighted_mean(
        self, q: Float[Array, " K"], reach: Float[Array, " K"], p: Array
    ) -> Float[Array, " K"]:
        """int_0^1 s^p nu(q + s reach) ds."""
        places = q[:, None] + reach[:, None] * jnp.asarray(NODES, q.dtype)[None]
        values = jax.vmap(self.density)(self.at(places.ravel())).astype(q.dtype)
        return inner(values.reshape(places.shape), _nodal_weights(p))


class _Optimal(eqx.Module):
    """nu^(1/(p + 1)), to which the best points are proportional."""

    density: Callable
    order: Float[Array, ""]

    def __call__(self, point: Array) -> Array:
        return self.density(point) ** (1 / (self.order.astype(point.dtype) + 1))


def _nodes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss's nodes on [0, 1], and what each contributes to the coefficients of Legendre's polynomials."""
    t, w = np.polynomial.legendre.leggauss(count)
    basis = np.polynomial.legendre.legvander(t, count - 1)
    return 0.5 * (t + 1), 0.5 * w[:, None] * (2 * np.arange(count) + 1) * basis


NODES, TO_COEFFICIENTS = _nodes(12)


def _nodal_weights(p: Array) -> Float[Array, " nodes"]:
    """Weights of the values at the nodes in int_0^1 s^p g(s) ds for any p, exact where g is a polynomial."""
    j = jnp.arange(len(NODES), dtype=p.dtype)
    # int_0^1 s^p P_j(2 s - 1) ds = p (p - 1) ... (p - j + 1) / ((p + 1) ... (p + j + 1)).
    moments = jnp.cumprod(jnp.append(1 / (p + 1), (p - j[:-1]) / (p + j[1:] + 1)))
    return inner(jnp.asarray(TO_COEFFICIENTS, p.dtype), moments)
