"""Domains on which measures live: how to sample, measure displacements, move, and cut into cells.

Every domain is written for one point `x` of shape `(ambient,)`; callers batch with `jax.vmap`. Points are
stored in ambient coordinates: unit vectors on a sphere, coordinates in one period on a torus.
"""

from abc import abstractmethod
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key, ScalarLike

from mfjax._arrays import as_floats, count, finite, is_traced, safe_norm, scalar

Point = Float[Array, " ambient"]


class Cells(NamedTuple):
    """A uniform tensor grid: cell centres `points` (K, ambient), `spacing` (dim,), cells per axis `shape`.

    Nothing flows along the first `frozen` axes.
    """

    points: Float[Array, "K ambient"]
    spacing: Float[Array, " dim"]
    shape: tuple[int, ...]
    periodic: tuple[bool, ...]
    frozen: int = 0


class Domain(eqx.Module):
    """A set with a way to move inside it.

    A new domain provides `dim`, `ambient`, `sample_point`, `contains` and, where they differ from flat
    space, the other methods; none of them sees a batch axis.
    """

    # Intrinsic dimension.
    dim: eqx.AbstractVar[int]

    @property
    def ambient(self) -> int:
        """Number of coordinates of a stored point."""
        return self.dim

    @abstractmethod
    def sample_point(self, key: Key[Array, ""], dtype=float) -> Point:
        """One point of the uniform (for `Euclidean`: standard normal) law."""

    @abstractmethod
    def contains(self, x: Point) -> Array:
        """Whether `x` is a point of the domain, to rounding."""

    def displacement(self, x: Point, y: Point) -> Point:
        """The shortest vector from `y` to `x` (on a sphere: the chord)."""
        return x - y

    def project(self, x: Point, v: Point) -> Point:
        """Orthogonal projection of `v` onto the tangent space at `x`."""
        return v

    def velocity(self, x: Point, v: Point) -> Point:
        """The admissible part of an ambient velocity `v`: tangent, and not pointing out of a face."""
        return self.project(x, v)

    def retract(self, x: Point, v: Point) -> Point:
        """The point reached from `x` by the displacement `v`, to first order along a geodesic."""
        return x + v

    def diffuse(self, x: Point, v: Point) -> Point:
        """`retract` for a noisy displacement; reflecting where the domain has a boundary."""
        return self.retract(x, v)

    def embed(self, x: Point) -> Float[Array, " k"]:
        """Coordinates in a Euclidean space in which chordal distances are negative definite."""
        return x

    def cells(self, n: int | tuple[int, ...]) -> Cells:
        """`n` uniform cells per axis (arc length or volume), as cell centres.

        **Raises** `ValueError` where the domain has no uniform tensor grid.
        """
        raise ValueError(f"{type(self).__name__} has no uniform grid; use Sphere(1), Torus, Interval or Box")

    def sample(self, key: Key[Array, ""], n: int, dtype=float) -> Float[Array, "n ambient"]:
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
                where = np.asarray(points[bad[0]]).tolist()
                raise ValueError(
                    f"{name}[{bad[0]}] = {where} does not lie on {self!r}; map it there with domain.retract"
                )


def _tolerance(x: Array) -> float:
    return 100 * float(jnp.finfo(x.dtype).eps)


def _axes(n: int | tuple[int, ...], dim: int) -> tuple[int, ...]:
    shape = tuple(n) if isinstance(n, (tuple, list)) else (n,) * dim
    if len(shape) != dim:
        raise ValueError(f"n must be one number or {dim} numbers, got {n!r}")
    return tuple(count(k, "n", minimum=4) for k in shape)


def _tensor_centres(lower: Array, upper: Array, shape: tuple[int, ...]):
    spacing = (upper - lower) / jnp.asarray(shape, lower.dtype)
    axes = [lower[i] + spacing[i] * (jnp.arange(k, dtype=lower.dtype) + 0.5) for i, k in enumerate(shape)]
    mesh = jnp.meshgrid(*axes, indexing="ij")
    return jnp.stack([m.ravel() for m in mesh], axis=-1), spacing


class Euclidean(Domain):
    """R^dim. `sample` draws standard normals; there is no grid: truncate to a `Box`.

    >>> Euclidean(3).ambient
    3
    """

    dim: int = eqx.field(static=True)

    def __init__(self, dim: int):
        self.dim = count(dim, "dim")

    def sample_point(self, key, dtype=float):
        return jr.normal(key, (self.dim,), dtype)

    def contains(self, x):
        return jnp.all(jnp.isfinite(x))


class Sphere(Domain):
    """The unit sphere S^dim in R^(dim+1); `Sphere(1)` is the circle, with cells in arc length.

    With `tangent=False` a flow keeps the radial part of the Euclidean gradient and only normalises
    afterwards, as public variable-projection code does; trajectories then differ by O(tau^2) per step
    and only `Euler` is meaningful.

    >>> import jax.numpy as jnp
    >>> Sphere(1).retract(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])).round(3).tolist()
    [0.707..., 0.707...]
    """

    dim: int = eqx.field(static=True)
    tangent: bool = eqx.field(static=True)

    def __init__(self, dim: int, *, tangent: bool = True):
        self.dim = count(dim, "dim")
        self.tangent = bool(tangent)

    @property
    def ambient(self) -> int:
        return self.dim + 1

    def sample_point(self, key, dtype=float):
        z = jr.normal(key, (self.ambient,), dtype)
        return z / safe_norm(z)

    def contains(self, x):
        return jnp.abs(jnp.sum(x * x) - 1) <= _tolerance(x)

    def project(self, x, v):
        return v - jnp.sum(x * v) * x

    def velocity(self, x, v):
        return self.project(x, v) if self.tangent else v

    def retract(self, x, v):
        moved = x + v
        return moved / safe_norm(moved)

    def cells(self, n):
        if self.dim != 1:
            raise ValueError(f"only Sphere(1) has a uniform grid, got Sphere({self.dim})")
        (k,) = _axes(n, 1)
        dtype = jnp.result_type(float)
        angle = 2 * jnp.pi * (jnp.arange(k, dtype=dtype) + 0.5) / k
        points = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
        return Cells(points, jnp.full((1,), 2 * jnp.pi / k, dtype), (k,), (True,))


class Torus(Domain):
    """The flat torus (R / period Z)^dim; points are stored in [0, period)^dim.

    `embed` is the chordal embedding into R^(2 dim), in which the distance is negative definite; the
    wrapped Euclidean distance is not.

    >>> import jax.numpy as jnp
    >>> round(float(Torus(1).displacement(jnp.array([0.9]), jnp.array([0.1]))[0]), 3)
    -0.2
    """

    dim: int = eqx.field(static=True)
    period: Float[Array, ""]

    def __init__(self, dim: int, period: ScalarLike = 1.0):
        self.dim = count(dim, "dim")
        self.period = scalar(period, "period", above=0)

    def _wrap(self, x):
        period = self.period.astype(x.dtype)
        # The exact remainder: x - period * floor(x / period) rounds to values below zero.
        wrapped = jnp.mod(x, period)
        # Rounding can still return exactly `period` for tiny negative x.
        return jnp.where(wrapped >= period, wrapped - period, wrapped)

    def sample_point(self, key, dtype=float):
        return self.period.astype(dtype) * jr.uniform(key, (self.dim,), dtype)

    def contains(self, x):
        return jnp.all((x >= 0) & (x < self.period.astype(x.dtype)))

    def displacement(self, x, y):
        period = self.period.astype(x.dtype)
        return (x - y) - period * jnp.round((x - y) / period)

    def retract(self, x, v):
        return self._wrap(x + v)

    def embed(self, x):
        radius = self.period.astype(x.dtype) / (2 * jnp.pi)
        return radius * jnp.concatenate([jnp.cos(x / radius), jnp.sin(x / radius)])

    def cells(self, n):
        shape = _axes(n, self.dim)
        upper = jnp.broadcast_to(self.period, (self.dim,)).astype(jnp.result_type(float))
        points, spacing = _tensor_centres(jnp.zeros_like(upper), upper, shape)
        return Cells(points, spacing, shape, (True,) * self.dim)


class Box(Domain):
    """The box prod_i [lower_i, upper_i] with no-flux boundary.

    Deterministic motion stops at a face (the velocity is projected onto the admissible cone); noisy
    motion is reflected, the weakly first-order scheme for reflected diffusions.
    """

    lower: Float[Array, " dim"]
    upper: Float[Array, " dim"]

    def __init__(self, lower, upper):
        self.lower = jnp.atleast_1d(finite(as_floats(lower, "lower"), "lower"))
        self.upper = jnp.atleast_1d(finite(as_floats(upper, "upper"), "upper"))
        if self.lower.ndim != 1 or self.lower.shape != self.upper.shape:
            raise ValueError(
                "lower and upper must be vectors of one length, "
                f"got {self.lower.shape} and {self.upper.shape}"
            )
        if not is_traced((self.lower, self.upper)) and np.any(
            np.asarray(self.lower) >= np.asarray(self.upper)
        ):
            raise ValueError(f"lower must lie below upper on every axis, got {self.lower} and {self.upper}")

    @property
    def dim(self) -> int:
        return self.lower.shape[0]

    def sample_point(self, key, dtype=float):
        low, high = self.lower.astype(dtype), self.upper.astype(dtype)
        return jnp.minimum(low + (high - low) * jr.uniform(key, (self.dim,), dtype), high)

    def contains(self, x):
        return jnp.all((x >= self.lower.astype(x.dtype)) & (x <= self.upper.astype(x.dtype)))

    def velocity(self, x, v):
        blocked = ((x <= self.lower.astype(x.dtype)) & (v < 0)) | (
            (x >= self.upper.astype(x.dtype)) & (v > 0)
        )
        return jnp.where(blocked, 0.0, v)

    def retract(self, x, v):
        return jnp.clip(x + v, self.lower.astype(x.dtype), self.upper.astype(x.dtype))

    def diffuse(self, x, v):
        low, high = self.lower.astype(x.dtype), self.upper.astype(x.dtype)
        width = high - low
        folded = jnp.mod(x + v - low, 2 * width)
        moved = low + jnp.where(folded > width, 2 * width - folded, folded)
        # low + (high - low) may round to a number above high.
        return jnp.minimum(moved, high)

    def cells(self, n):
        shape = _axes(n, self.dim)
        dtype = jnp.result_type(float)
        points, spacing = _tensor_centres(self.lower.astype(dtype), self.upper.astype(dtype), shape)
        return Cells(points, spacing, shape, (False,) * self.dim)


def Interval(lower, upper) -> Box:
    """The interval [lower, upper] with no-flux ends: a one-dimensional `Box`.

    >>> Interval(0.0, 1.0).dim
    1
    """
    return Box(scalar(lower, "lower"), scalar(upper, "upper"))


class Signed(Domain):
    """Two copies {-1, +1} x `domain`, so that a signed measure is a measure: points (sign, x).

    The sign never moves. `features.Signed` and `kernels.Signed` let an energy see sign times mass, and its
    potential at (s, x) is then s V(x). A grid has `n` cells per axis of each copy, first those of -1, with
    no flux between the copies.

    >>> import jax.numpy as jnp
    >>> pair = Signed(Torus(1))
    >>> pair.cells(4).points[3:5].tolist()
    [[-1.0, 0.875], [1.0, 0.125]]
    >>> pair.retract(jnp.array([-1.0, 0.75]), jnp.array([0.0, 0.5])).tolist()
    [-1.0, 0.25]
    """

    domain: Domain

    def __check_init__(self):
        if not isinstance(self.domain, Domain):
            raise ValueError(f"domain must be a Domain, got {type(self.domain).__name__}")

    @property
    def dim(self) -> int:
        return self.domain.dim

    @property
    def ambient(self) -> int:
        return self.domain.ambient + 1

    @property
    def tangent(self) -> bool:
        """Whether motion is tangent, as `Sphere` says."""
        return getattr(self.domain, "tangent", True)

    def sample_point(self, key, dtype=float):
        for_sign, for_point = jr.split(key)
        return _joined(jr.rademacher(for_sign, (), dtype), self.domain.sample_point(for_point, dtype))

    def contains(self, x):
        return (jnp.abs(x[0]) == 1) & self.domain.contains(x[1:])

    def displacement(self, x, y):
        return _joined(x[0] - y[0], self.domain.displacement(x[1:], y[1:]))

    def project(self, x, v):
        return _joined(jnp.zeros_like(v[0]), self.domain.project(x[1:], v[1:]))

    def velocity(self, x, v):
        return _joined(jnp.zeros_like(v[0]), self.domain.velocity(x[1:], v[1:]))

    def retract(self, x, v):
        return _joined(_nearest_sign(x[0] + v[0]), self.domain.retract(x[1:], v[1:]))

    def diffuse(self, x, v):
        return _joined(_nearest_sign(x[0] + v[0]), self.domain.diffuse(x[1:], v[1:]))

    def embed(self, x):
        return _joined(x[0], self.domain.embed(x[1:]))

    def cells(self, n):
        one = self.domain.cells(n)
        signs = jnp.repeat(jnp.array([-1.0, 1.0], one.points.dtype), len(one.points))
        points = jnp.concatenate([signs[:, None], jnp.tile(one.points, (2, 1))], axis=1)
        spacing = jnp.concatenate([jnp.ones_like(one.spacing[:1]), one.spacing])
        return Cells(points, spacing, (2, *one.shape), (False, *one.periodic), one.frozen + 1)


def _joined(sign: Array, x: Array) -> Array:
    return jnp.concatenate([sign[None], x])


def _nearest_sign(value: Array) -> Array:
    return jnp.where(value < 0, -1.0, 1.0).astype(value.dtype)
