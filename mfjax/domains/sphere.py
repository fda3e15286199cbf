"""The unit sphere."""

from math import prod

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from mfjax._numerics.arrays import count, safe_norm
from mfjax._numerics.harmonics import spherical_harmonics
from mfjax.domains.axis import Axis
from mfjax.domains.base import Domain, tolerance
from mfjax.domains.cells import Cells, Metric, axes_of, tensor_centers
from mfjax.domains.polar import sine_integrals, sines_of_centers, sines_of_faces


class Sphere(Domain):
    """The unit sphere S^dim in R^(dim+1), the home of homogeneous features.

    `Sphere(1)` is the circle, with cells in arc length.

    Coordinates are the angle in (-pi, pi], in more dimensions the longitude followed by latitudes: on S^2
    x = (cos b cos a, cos b sin a, sin b). Figures of S^2 are equal-area maps (Hammer's).

    Cells lie between lines of longitude and latitude, `cells((n_longitude, n_latitude))` on S^2; of one
    number n, n around and n / 2 along each latitude. Volumes and areas of faces are exact; at the poles, ends
    of an axis, faces have no area. Cells there are narrow, about 2 pi^2 / n^2 on S^2, and steps of what moves
    explicitly, drift without diffusion, fall like that: 1e-2 at n = 32 where |grad V| = 1. Diffusion, and
    drift beside an entropy, have no such limit in `steppers.ImplicitEuler`, `Rosenbrock` and `RosenbrockW`;
    measures that are symmetric about an axis have none on `Zonal(dim)`.

    >>> import jax.numpy as jnp
    >>> Sphere(1).retract(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])).round(3).tolist()
    [0.707..., 0.707...]
    """

    dim: int = eqx.field(static=True)

    def __init__(self, dim: int):
        self.dim = count(dim, "dim")

    @property
    def ambient(self) -> int:
        return self.dim + 1

    @property
    def axes(self) -> tuple[Axis, ...]:
        name = "angle [rad]" if self.dim == 1 else "longitude [rad]"
        latitude = Axis(-np.pi / 2, np.pi / 2, label="latitude [rad]")
        return (Axis(-np.pi, np.pi, closed=True, label=name), *(latitude,) * (self.dim - 1))

    @property
    def product_of_circles(self) -> bool:
        return self.dim == 1

    @property
    def log_sobolev(self):
        return jnp.asarray(float(self.dim))

    def coordinates(self, x):
        # The angle has no derivative at the origin, where only padding can be.
        origin = (x[0] == 0) & (x[1] == 0)
        angles = [jnp.arctan2(x[1], jnp.where(origin, 1.0, x[0]))]
        angles += [jnp.arctan2(x[i], safe_norm(x[:i])) for i in range(2, self.ambient)]
        return jnp.stack(angles)

    def point(self, q):
        x = jnp.stack([jnp.cos(q[0]), jnp.sin(q[0])])
        for i in range(1, self.dim):
            x = jnp.append(jnp.cos(q[i]) * x, jnp.sin(q[i]))
        return x

    def gaussian(self, x, y, width):
        if self.dim != 2:
            return super().gaussian(x, y, width)
        # The law of von Mises and Fisher, whose mass is known: the heat kernel to first order in width^2.
        # 1 - x . y = |x - y|^2 / 2 on the sphere loses no digits where the points are close.
        sharpness = 1 / width**2
        mass = 2 * jnp.pi * -jnp.expm1(-2 * sharpness) / sharpness
        return jnp.exp(-0.5 * sharpness * jnp.sum((x - y) ** 2)) / mass

    def harmonics(self, x, degree):
        """On S^2 the real spherical harmonics of degree 1, ..., `degree`."""
        if self.dim != 2:
            return super().harmonics(x, degree)
        k = np.repeat(np.arange(1, degree + 1), 2 * np.arange(1, degree + 1) + 1)
        return spherical_harmonics(x, degree), jnp.asarray(k * (k + 1), x.dtype)

    def drawn(self, q):
        if self.dim != 2:
            return q
        half = 0.5 * q[0]
        depth = jnp.sqrt(2 / (1 + jnp.cos(q[1]) * jnp.cos(half)))
        return depth * jnp.stack([2 * jnp.cos(q[1]) * jnp.sin(half), jnp.sin(q[1])])

    def sample_point(self, key, dtype=float):
        z = jr.normal(key, (self.ambient,), dtype)
        return z / safe_norm(z)

    def contains(self, x):
        return jnp.abs(jnp.sum(x * x) - 1) <= tolerance(x)

    def distance(self, x, y):
        # Exact for near points and for opposite ones, where an arc cosine loses half the digits.
        return 2 * jnp.arctan2(safe_norm(x - y), safe_norm(x + y))

    def project(self, x, v):
        return v - jnp.sum(x * v) * x

    def retract(self, x, v):
        moved = x + v
        return moved / safe_norm(moved)

    def cells(self, n):
        dtype = jnp.result_type(float)
        if self.dim == 1:
            (k,) = axes_of(n, 1)
            angle = 2 * jnp.pi * (jnp.arange(k, dtype=dtype) + 0.5) / k
            points = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
            return Cells(points, jnp.full((1,), 2 * jnp.pi / k, dtype), (k,), (True,))
        if not isinstance(n, (tuple, list)):
            around = count(n, "n", minimum=4)
            n = (around,) + (max(4, (around + 1) // 2),) * (self.dim - 1)
        shape = axes_of(n, self.dim, minimum=4)
        ends = [(float(np.asarray(axis.lower)), float(np.asarray(axis.upper))) for axis in self.axes]
        lower, upper = (jnp.asarray(side, dtype) for side in zip(*ends, strict=True))
        places, spacing = tensor_centers(lower, upper, shape)
        metric = self._metric(shape, dtype)
        periodic = (True,) + (False,) * (self.dim - 1)
        return Cells(jax.vmap(self.point)(places), spacing, shape, periodic, metric=metric)

    def _metric(self, shape, dtype) -> Metric:
        """Volumes and areas of the cells, exact integrals, and distances along the lines of coordinates.

        A length along axis j is the product of the cosines of the latitudes above it times its step.
        """
        dim, steps = self.dim, [2 * np.pi / shape[0], *(np.pi / n for n in shape[1:])]
        # At latitude b the angle from the pole is pi / 2 - b: cos b is its sine, and the cells are the same.
        placed = lambda values, axis: np.reshape(values, [-1 if i == axis else 1 for i in range(dim)])
        # int cos^power over the cells of an axis; longitudes have no weight.
        over = lambda axis, power: placed(sine_integrals(shape[axis], power), axis) if axis else steps[0]
        volume = prod(over(i, i) for i in range(dim))
        areas, distances = [], []
        for j in range(dim):
            at_face = placed(sines_of_faces(shape[j]) ** j, j) if j else 1.0
            above = range(j + 1, dim)
            areas.append(
                prod((over(i, i) for i in range(j)), start=at_face) * prod(over(i, i - 1) for i in above)
            )
            distances.append(steps[j] * prod(placed(sines_of_centers(shape[i]), i) for i in above))
        as_arrays = lambda values: tuple(jnp.asarray(value, dtype) for value in values)
        return Metric(jnp.asarray(volume, dtype), as_arrays(areas), as_arrays(distances))
