"""Orbits of the rotations of a sphere about an axis."""

from math import pi

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from mfjax._numerics.arrays import count, inner, safe_norm
from mfjax._numerics.harmonics import multiplicities, zonal_harmonics
from mfjax.domains.axis import Axis
from mfjax.domains.base import Domain, Point
from mfjax.domains.cells import Cells, Metric, axes_of, tensor_centers
from mfjax.domains.polar import sine_integrals, sines_of_faces, sphere_volume


class Zonal(Domain):
    """The orbits of rotations about an axis of a sphere: one dimension for zonal measures in any.

    A point is the polar angle theta in [0, pi], stored as (theta,). Its orbit on S^d, d = `sphere_dim`, is a
    sphere of dimension d - 1 and radius sin(theta), so that the volume element is
    |S^(d-1)| sin^(d-1)(theta) dtheta: the density of a measure is that of the zonal measure on S^d, and cells
    have the volumes of its zones. `Zonal(1)` holds measures on the circle with a mirror, two points an orbit.

    - `sphere_dim` >= 1: d. A density costs the same in all.

    Motion folds at the poles, where theta and -theta are one orbit. Lengths are those of theta: Wasserstein
    distances of zonal measures are those of their angles. Chords are those between the nearest points of two
    orbits; a kernel of the sphere averaged over orbits is a function of two angles.

    Noise is Brownian motion on S^d, whose angle drifts by (d - 1) cot(theta): a displacement v moves a point
    of the orbit along a great circle by v along its meridian and by sqrt(d - 1) |v| across, which has the
    mean square that it should. Expectations of smooth functions of S^d are right to first order, at the poles
    too, and those of cos(theta) without drift exactly; single paths mean nothing.

    **Raises** `ValueError` unless d is a whole number >= 1.

    >>> zones = Zonal(2)
    >>> zones.retract(jnp.array([0.25]), jnp.array([-0.75])).tolist()
    [0.5]
    >>> round(float(jnp.sum(zones.cells(8).volume)) / pi, 5)
    4.0
    """

    sphere_dim: int = eqx.field(static=True)

    def __init__(self, sphere_dim: int):
        self.sphere_dim = count(sphere_dim, "sphere_dim")

    @property
    def dim(self) -> int:
        return 1

    @property
    def axes(self) -> tuple[Axis, ...]:
        return (Axis(0.0, pi, label="polar angle [rad]"),)

    @property
    def walls(self) -> tuple[bool, ...]:
        return (False,)

    @property
    def orbits(self) -> bool:
        return True

    @property
    def volume_powers(self) -> tuple[int, ...]:
        return (self.sphere_dim,)

    @property
    def log_sobolev(self):
        return jnp.asarray(float(self.sphere_dim))

    def sample_point(self, key, dtype=float):
        z = jr.normal(key, (self.sphere_dim + 1,), dtype)
        return jnp.arctan2(safe_norm(z[1:]), z[0])[None]

    def contains(self, x):
        return jnp.all((x >= 0) & (x <= jnp.asarray(pi, x.dtype)))

    def retract(self, x, v):
        turned = jnp.mod(x + v, jnp.asarray(2 * pi, x.dtype))
        folded = jnp.where(turned > pi, 2 * pi - turned, turned)
        return jnp.clip(folded, 0, jnp.asarray(pi, x.dtype))

    def diffuse(self, x, v):
        across = (self.sphere_dim - 1) ** 0.5 * v
        length = safe_norm(jnp.concatenate([v, across]))
        c, s = jnp.cos(length), jnp.sinc(length / pi)
        sine, cosine = jnp.sin(x), jnp.cos(x)
        from_axis = safe_norm(jnp.concatenate([c * sine + s * v * cosine, s * across]))
        return jnp.arctan2(from_axis, (c * cosine - s * v * sine)[0])[None]

    def embed(self, x):
        return jnp.concatenate([jnp.cos(x), jnp.sin(x)])

    def chord(self, x, y):
        # From the difference of angles, which is exactly zero for equal points.
        return 2 * jnp.sin(0.5 * (x - y))

    def lift(self, x: Point) -> Float[Array, " lifted"]:
        """A point of the orbit on the sphere, in R^(sphere_dim + 1), the axis being the last coordinate."""
        rest = jnp.zeros((self.sphere_dim - 1,), x.dtype)
        return jnp.concatenate([jnp.sin(x), rest, jnp.cos(x)])

    def harmonics(self, x, degree):
        """Zonal ones of S^d, orthonormal there: Gegenbauer polynomials of the height."""
        d, k = self.sphere_dim, np.arange(degree + 1)
        size = np.sqrt(multiplicities(degree, d) / sphere_volume(d))
        table = jnp.asarray((size[:, None] * zonal_harmonics(degree, d))[1:], x.dtype)
        return inner(table, jnp.cos(jnp.asarray(k, x.dtype) * x[0])), jnp.asarray(k * (k + d - 1), x.dtype)[
            1:
        ]

    def gaussian(self, x, y, width):
        if self.sphere_dim > 1:
            raise ValueError(
                f"no Gaussian is known on {self!r}: estimate the density of angles, on Interval(0, pi), and "
                "divide it by the volume element"
            )
        # Each of the two points of an orbit has half of the mass.
        return 0.5 * super().gaussian(x, y, width)

    def cells(self, n):
        shape, dtype = axes_of(n, 1, minimum=4), jnp.result_type(float)
        points, spacing = tensor_centers(jnp.zeros((1,), dtype), jnp.full((1,), pi, dtype), shape)
        power, orbit = self.sphere_dim - 1, sphere_volume(self.sphere_dim - 1)
        volume = jnp.asarray(orbit * sine_integrals(shape[0], power), dtype)
        area = jnp.asarray(orbit * sines_of_faces(shape[0]) ** power, dtype)
        metric = Metric(volume, (area,), (jnp.asarray(np.pi / shape[0], dtype),))
        return Cells(points, spacing, shape, (False,), metric=metric)
