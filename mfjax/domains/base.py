"""The abstract domain, written for one point, and its cells."""

import dataclasses
from abc import abstractmethod
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key

from mfjax._numerics.arrays import count, finite, is_traced

Point = Float[Array, " ambient"]


class Cells(NamedTuple):
    """A uniform tensor grid: cell centers `points` (K, ambient), `spacing` (dim,), cells per axis `shape`.

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
    def sample_point(self, key: Key[Array, ""], dtype: Any = float) -> Point:
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

    def __repr__(self) -> str:
        numbers = lambda value: value if is_traced(value) or not eqx.is_array(value) else value.tolist()
        fields = ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
        return f"{type(self).__name__}({', '.join(f'{name}={numbers(value)}' for name, value in fields)})"

    def retract(self, x: Point, v: Point) -> Point:
        """The point reached from `x` by the displacement `v`, to first order along a geodesic."""
        return x + v

    def diffuse(self, x: Point, v: Point) -> Point:
        """`retract` for a noisy displacement; reflecting where the domain has a boundary."""
        return self.retract(x, v)

    def embed(self, x: Point) -> Float[Array, " k"]:
        """Coordinates in a Euclidean space in which chordal distances are negative definite."""
        return x

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
        """`n` uniform cells per axis (arc length or volume), as cell centers.

        **Raises** `ValueError` where the domain has no uniform tensor grid.
        """
        raise ValueError(f"{type(self).__name__} has no uniform grid; use Sphere(1), Torus, Interval or Box")

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
                where = np.asarray(points[bad[0]]).tolist()
                raise ValueError(
                    f"{name}[{bad[0]}] = {where} does not lie on {self!r}: jax.vmap(domain.retract)"
                    "(points, jnp.zeros_like(points)) is what lies there"
                )


def tolerance(x: Array) -> float:
    """How far from a domain a point may be by rounding, in units of one."""
    return 100 * float(jnp.finfo(x.dtype).eps)


def axes_of(n: int | tuple[int, ...], dim: int) -> tuple[int, ...]:
    """Cells per axis from one number or one for each. **Raises** `ValueError` for fewer than 4."""
    shape = tuple(n) if isinstance(n, (tuple, list)) else (n,) * dim
    if len(shape) != dim:
        raise ValueError(f"n must be one number or {dim} numbers, got {n!r}")
    return tuple(count(k, "n", minimum=4) for k in shape)


def tensor_centers(lower: Array, upper: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """(centers (K, dim) in C order, spacing (dim,)) of the cells between two corners."""
    spacing = (upper - lower) / jnp.asarray(shape, lower.dtype)
    axes = [lower[i] + spacing[i] * (jnp.arange(k, dtype=lower.dtype) + 0.5) for i, k in enumerate(shape)]
    mesh = jnp.meshgrid(*axes, indexing="ij")
    return jnp.stack([m.ravel() for m in mesh], axis=-1), spacing
