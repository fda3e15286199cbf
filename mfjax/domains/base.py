"""The abstract domain, written for one point."""

import dataclasses
from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key

from mfjax._numerics.arrays import count, finite, is_traced, kind, safe_norm
from mfjax._numerics.harmonics import waves_along
from mfjax.domains.axis import Axis
from mfjax.domains.cells import Cells
from mfjax.domains.gaussians import gaussian, wrapped

Point = Float[Array, " ambient"]


class Domain(eqx.Module):
    """A set with a way to move inside it.

    A new domain provides `dim`, `ambient`, `sample_point`, `contains` and, where they differ from flat
    space, `project`, `retract` and the other methods; none of them sees a batch axis. With `axes`,
    `coordinates` and `point` it can be drawn, and in one dimension, or where it is `isometric`, has
    Wasserstein distances, Fourier modes and density estimates. Nobody asks for the class of a domain.
    """

    # Intrinsic dimension.
    dim: eqx.AbstractVar[int]

    @property
    def ambient(self) -> int:
        """Number of coordinates of a stored point."""
        return self.dim

    @property
    def tangent_dim(self) -> int:
        """In how many dimensions a point can move: fewer than `dim` where some coordinates are frozen."""
        return self.dim

    @abstractmethod
    def sample_point(self, key: Key[Array, ""], dtype: Any = float) -> Point:
        """One point of the uniform (for `Euclidean`: standard normal) law."""

    @abstractmethod
    def contains(self, x: Point) -> Array:
        """Whether `x` is a point of the domain, to rounding."""

    def displacement(self, x: Point, y: Point) -> Point:
        """The shortest vector from `y` to `x` (on a sphere: the chord); infinite where no path does."""
        return x - y

    def distance(self, x: Point, y: Point) -> Float[Array, ""]:
        """The length of the shortest path from `x` to `y`: of a great circle, the shorter way around a torus.

        **Raises** `NotImplementedError` where a domain in a space of more dimensions does not say.
        """
        if self.ambient == self.dim:
            return safe_norm(self.displacement(x, y))
        if not self.isometric:
            raise NotImplementedError(
                f"{type(self).__name__} has no lengths of paths: a domain whose coordinates measure none "
                "overrides `distance`"
            )
        gap, lengths = self.coordinates(x) - self.coordinates(y), self.lengths.astype(x.dtype)
        around = gap - lengths * jnp.round(gap / lengths)
        return safe_norm(jnp.where(jnp.array(self.closed), around, gap))

    def project(self, x: Point, v: Point) -> Point:
        """Orthogonal projection of `v` onto the tangent space at `x`."""
        return v

    def velocity(self, x: Point, v: Point) -> Point:
        """The admissible part of an ambient velocity `v`: tangent, and not pointing out of a face."""
        return self.project(x, v)

    def noise(self, x: Point, v: Point) -> Point:
        """The part of a standard normal vector `v` by which noise moves `x`: tangent."""
        return self.project(x, v)

    @property
    def noiseless(self) -> bool:
        """Whether noise leaves some directions alone in which a point can move."""
        return False

    @property
    def connected(self) -> bool:
        """Whether a path leads from each point to each other: else some are infinitely far apart."""
        return True

    def __repr__(self) -> str:
        numbers = lambda value: value if is_traced(value) or not eqx.is_array(value) else value.tolist()
        fields = ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
        return f"{type(self).__name__}({', '.join(f'{name}={numbers(value)}' for name, value in fields)})"

    def tangent_basis(self, x: Point) -> Float[Array, "ambient tangent_dim"]:
        """Orthonormal vectors that span the tangent space at `x`, as columns."""
        if self.ambient == self.tangent_dim:
            return jnp.eye(self.dim, dtype=x.dtype)
        projection = jax.vmap(lambda v: self.project(x, v))(jnp.eye(x.size, dtype=x.dtype))
        # Eigenvalues ascend from 0 (normal) to 1 (tangent).
        return jnp.linalg.eigh(projection)[1][:, self.ambient - self.tangent_dim :]

    def retract(self, x: Point, v: Point) -> Point:
        """The point reached from `x` by the displacement `v`, to first order along a geodesic.

        It undoes `displacement` between points that a path joins: retract(x, displacement(y, x)) = y.
        """
        return x + v

    def diffuse(self, x: Point, v: Point) -> Point:
        """`retract` for a noisy displacement; reflecting where the domain has a boundary."""
        return self.retract(x, v)

    def embed(self, x: Point) -> Float[Array, " k"]:
        """Coordinates in a Euclidean space in which chordal distances are negative definite."""
        return x

    def chord(self, x: Point, y: Point) -> Float[Array, " k"]:
        """A vector as long as `embed(x) - embed(y)`, exactly zero where x = y."""
        return self.embed(x) - self.embed(y)

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The `Axis` of each intrinsic coordinate: its ends, whether it is closed, its name."""
        return (Axis(),) * self.dim

    @property
    def closed(self) -> tuple[bool, ...]:
        """Which axes are closed to circles."""
        return tuple(axis.closed for axis in self.axes)

    @property
    def lengths(self) -> Float[Array, " dim"]:
        """The length of each axis, infinite where it is endless."""
        return jnp.stack([jnp.asarray(axis.length) for axis in self.axes])

    @property
    def walls(self) -> tuple[bool, ...]:
        """Which stored coordinates `retract` clips at walls, x + v elsewhere along them."""
        if self.ambient != self.dim:
            return (False,) * self.ambient
        return tuple(not (axis.closed or axis.endless) for axis in self.axes)

    def coordinates(self, x: Point) -> Float[Array, " dim"]:
        """The intrinsic coordinates of `x`, between the ends of `axes`; arc length in one dimension.

        **Raises** `NotImplementedError` where a domain in a space of more dimensions does not say.
        """
        self._require_flat("coordinates")
        return x

    def point(self, q: Float[Array, " dim"]) -> Point:
        """The point of coordinates `q`.

        **Raises** `NotImplementedError` as `coordinates` does.
        """
        self._require_flat("point")
        return q

    def _require_flat(self, method: str) -> None:
        if self.ambient != self.dim:
            raise NotImplementedError(
                f"{type(self).__name__} has no coordinates: a domain of dimension {self.dim} in a space of "
                f"{self.ambient} overrides `{method}`"
            )

    @property
    def isometric(self) -> bool:
        """Whether coordinates measure lengths: a product of lines, intervals and circles."""
        return self.dim == 1

    @property
    def orbits(self) -> bool:
        """Whether points stand for orbits, whose sizes their volumes contain."""
        return False

    @property
    def euclidean(self) -> bool:
        """Whether coordinates measure lengths and volumes."""
        return self.isometric and not self.orbits

    @property
    def volume_powers(self) -> tuple[int, ...]:
        """The power of each axis' unit that a volume has; above one where points stand for orbits."""
        return (1,) * self.dim

    @property
    def product_of_circles(self) -> bool:
        """Whether `embed` maps to a product of round circles about the origin, as long as `lengths`."""
        return False

    @property
    def log_sobolev(self) -> Float[Array, ""]:
        """The log-Sobolev constant of the uniform law; zero where there is none, or none is known."""
        if not self.isometric:
            return jnp.zeros(())
        axis_constant = lambda axis: ((2 if axis.closed else 1) * jnp.pi / axis.length) ** 2
        return jnp.min(jnp.stack([jnp.asarray(axis_constant(axis)) for axis in self.axes]))

    def gaussian(self, x: Point, y: Point, width: Float[Array, ""]) -> Float[Array, ""]:
        """The Gaussian density at `x` of standard deviation `width` about `y`, of mass one on the domain.

        The heat kernel where the domain is `isometric`: wrapped on closed axes, reflected at walls.

        **Raises** `ValueError` where neither holds and the domain gives no density of its own.
        """
        if not self.isometric:
            raise ValueError(f"no Gaussian is known on {self!r}: a domain that has one overrides `gaussian`")
        p, q, axes = self.coordinates(x), self.coordinates(y), self.axes
        kinds = {"endless": [], "closed": [], "walls": []}
        for i, axis in enumerate(axes):
            kinds["endless" if axis.endless else "closed" if axis.closed else "walls"].append(i)
        factors = []
        for form, which in kinds.items():
            if not which:
                continue
            here, there = (p, q) if len(which) == self.dim else (p[np.array(which)], q[np.array(which)])
            difference = here - there
            if form == "endless":
                factors.append(gaussian(difference / width) / width)
                continue
            ends = ([getattr(axes[i], side) for i in which] for side in ("lower", "upper"))
            lower, upper = (jnp.stack([jnp.asarray(end) for end in side]).astype(x.dtype) for side in ends)
            if form == "closed":
                factors.append(wrapped(difference, width, upper - lower))
            else:
                period = 2 * (upper - lower)
                mirrored = wrapped(here + there - 2 * lower, width, period)
                factors.append(wrapped(difference, width, period) + mirrored)
        return jnp.prod(jnp.concatenate(factors))

    def harmonics(self, x: Point, degree: int) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """Eigenfunctions of minus the Laplacian at `x`, orthonormal in volume, and their eigenvalues.

        All but the constant up to `degree` along each axis: on closed ones cosines and sines, between walls
        cosines, without slope there, and their products.

        **Raises** `ValueError` where none are known.
        """
        if not self.euclidean or any(axis.endless for axis in self.axes):
            raise ValueError(
                f"no harmonics are known on {self!r}: a domain that has them overrides `harmonics`"
            )
        values, eigenvalues = jnp.ones((1,), x.dtype), jnp.zeros((1,), x.dtype)
        for q, axis in zip(self.coordinates(x), self.axes, strict=True):
            lower, length = (jnp.asarray(number, x.dtype) for number in (axis.lower, axis.length))
            waves, squares = waves_along(q - lower, length, axis.closed, degree)
            values = jnp.outer(values, waves).ravel()
            eigenvalues = jnp.add.outer(eigenvalues, squares).ravel()
        return values[1:], eigenvalues[1:]

    def drawn(self, q: Float[Array, " dim"]) -> Float[Array, " dim"]:
        """Where coordinates are put in a figure: themselves, or their place on an equal-area map."""
        return q

    @property
    def flat(self) -> bool:
        """Whether `embed` leaves points as they are, so that distances need no domain."""
        return type(self).embed is Domain.embed

    def agrees(self, other: "Domain") -> bool:
        """Whether distances are the same on both, as far as their numbers are known."""
        if self.flat or other.flat:
            return self.flat and other.flat
        same = jax.tree.structure(self) == jax.tree.structure(other)
        if not same or is_traced((self, other)):
            return same
        leaves = zip(jax.tree.leaves(self), jax.tree.leaves(other), strict=True)
        return all(np.allclose(a, b, rtol=1e-6) for a, b in leaves)

    def cells(self, n: int | tuple[int, ...]) -> Cells:
        """A tensor grid of `n` cells per axis, equal steps of each coordinate.

        **Raises** `ValueError` where the domain has no grid, or n is not positive, on curvilinear ones n < 4.
        """
        raise ValueError(
            f"{type(self).__name__} has no grid of cells; use Sphere, Zonal, Torus, Interval, Box, or a "
            "Product of these"
        )

    def sample(self, key: Key[Array, ""], n: int, dtype: Any = float) -> Float[Array, "n ambient"]:
        """`n` independent points. Point `i` depends on `(key, i)` only, never on `n`."""
        keys = jax.vmap(lambda i: jr.fold_in(key, i))(jnp.arange(count(n, "n")))
        return jax.vmap(lambda k: self.sample_point(k, dtype))(keys)

    def validate(self, points: Float[Array, "n d"], name: str = "points") -> None:
        """**Raises** `ValueError` if `points` has the wrong width, is not finite, or leaves the domain."""
        if points.ndim != 2 or points.shape[1] != self.ambient:
            raise ValueError(
                f"{name} must have shape (M, {self.ambient}) on {type(self).__name__}, got {points.shape}"
            )
        finite(points, name)
        if not is_traced((points, self)):
            with jax.ensure_compile_time_eval():
                bad = np.flatnonzero(~np.asarray(jax.vmap(self.contains)(points)))
            if len(bad):
                where = np.asarray(points)[bad[0]].tolist()
                raise ValueError(
                    f"{name}[{bad[0]}] = {where} does not lie on {self!r}: jax.vmap(domain.retract)"
                    "(points, jnp.zeros_like(points)) is what lies there"
                )


def require_domain(domain: Any, name: str = "domain", *, optional: bool = False) -> None:
    """Refuse whatever is not a domain.

    **Raises** `ValueError` unless `domain` is one, or `None` where it is `optional`.
    """
    if optional and domain is None:
        return
    if not isinstance(domain, Domain):
        raise ValueError(f"{name} must be a Domain, got {kind(domain)}")


def torus_period(domain: Domain) -> Array | None:
    """The one period of a flat torus whose points are stored as coordinates from zero; `None` elsewhere.

    >>> import mfjax as mf
    >>> float(torus_period(mf.domains.Torus(2, 4.0))), torus_period(mf.domains.Sphere(1))
    (4.0, None)
    """
    if not (domain.product_of_circles and domain.ambient == domain.dim):
        return None
    periods = [axis.length for axis in domain.axes]
    # Known periods must agree; those of a torus that is traced are one array.
    one = all(other is periods[0] for other in periods) or is_traced(periods)
    if not one and len({float(period) for period in periods}) > 1:
        return None
    return jnp.asarray(periods[0])


def tolerance(x: Array) -> float:
    """How far from a domain a point may be by rounding, in units of one."""
    return 100 * float(jnp.finfo(x.dtype).eps)
