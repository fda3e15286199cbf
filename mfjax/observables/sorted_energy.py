"""-int int |x - y| d sigma(x) d sigma(y) of a signed measure sigma on a line or a circle, by one sort.

Both are written as integrals of squares of the cumulative function of sigma rather than as a difference
of mean distances, so that the value keeps its relative accuracy when two measures nearly agree.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax._numerics.sums.ordered import Places, positions, sorted_keys


def _sorted(coordinates: Array, masses: Array) -> tuple[Array, Array]:
    """Sorted coordinates, and the masses at each, those that coincide all at the first of them."""
    order, own = sorted_keys(coordinates)
    return positions(order, coordinates.dtype), jnp.zeros_like(masses).at[own].add(masses)


def _with_derivative(energy: Callable, potential_and_slope: Callable) -> Callable:
    """`energy`, with d/dmass_i = -2 phi(x_i) and d/dx_i = -2 mass_i phi'(x_i), phi = int |. - y| d sigma(y).

    phi' is the mean of its one-sided limits: coincident points do not push each other, whatever
    their order after sorting.
    """
    wrapped = jax.custom_jvp(energy)

    @wrapped.defjvp
    def rule(primals, tangents):
        potential, slope = potential_and_slope(*primals)
        moved, changed = tangents
        rate = jnp.sum(potential * changed) + jnp.sum(primals[1] * slope * moved)
        return wrapped(*primals), -2 * rate

    return wrapped


def _line_energy(coordinates: Float[Array, " K"], masses: Float[Array, " K"]) -> Float[Array, ""]:
    """2 int D (D - m) dx for the cumulative function D of the signed masses and their sum m."""
    coordinates, masses = _sorted(coordinates, masses)
    cumulative = jnp.cumsum(masses)
    below = cumulative[:-1]
    return 2 * jnp.sum(jnp.diff(coordinates) * below * (below - cumulative[-1]))


def _line_potential(coordinates, masses):
    places = Places.of(coordinates, coordinates)
    x = coordinates - places.middle(coordinates.dtype)
    slope = places.signed_sum(masses)
    return x * slope - places.signed_sum(masses * x), slope


def _circle_energy(angles: Float[Array, " K"], masses: Float[Array, " K"]) -> Float[Array, ""]:
    """The energy for the chord 2 |sin((a - b) / 2)|, angles within one turn.

    phi = int 2 |sin((. - b) / 2)| d sigma(b) solves phi'' + phi / 4 = 2 sigma, hence the energy is
    1/2 int (phi'^2 - phi^2 / 4) over the circle, in which the second term is at most a quarter of the
    first for masses that sum to zero. Between two points phi is a combination of sin(a/2) and cos(a/2),
    and the integral over a gap g is 2 sin(g/2) times the integrand at the middle of the gap.
    """
    angles, masses = _sorted(angles, masses)
    cosine = jnp.cumsum(masses * jnp.cos(angles / 2))
    sine = jnp.cumsum(masses * jnp.sin(angles / 2))
    p, q = 2 * cosine - cosine[-1], 2 * sine - sine[-1]
    gap = jnp.append(jnp.diff(angles), angles[0] + 2 * jnp.pi - angles[-1])
    middle = (angles + gap / 2) / 2
    c, s = jnp.cos(middle), jnp.sin(middle)
    slope, half_potential = p * c + q * s, p * s - q * c
    return jnp.sum(jnp.sin(gap / 2) * (slope - half_potential) * (slope + half_potential))


def _circle_potential(angles, masses):
    places = Places.of(angles, angles)
    c, s = jnp.cos(angles / 2), jnp.sin(angles / 2)
    p, q = places.signed_sum(masses * c), places.signed_sum(masses * s)
    return 2 * (p * s - q * c), p * c + q * s


line_energy = _with_derivative(_line_energy, _line_potential)
circle_energy = _with_derivative(_circle_energy, _circle_potential)
