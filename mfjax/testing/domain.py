"""The generic check of a domain."""

from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from mfjax._numerics.arrays import safe_norm
from mfjax.domains import Domain
from mfjax.testing.base import (
    ROUNDING,
    Errors,
    bar_for,
    ensure,
)


def check_domain(
    domain: Domain, *, cells: int | None = None, volume: float | None = None, dtype: Any = None
) -> dict[str, float]:
    """A domain: samples inside and independent of their number, motion inside and first-order consistent.

    retract(x, 0) = x; `project` is linear, idempotent and self-adjoint; displacement(retract(x, h v), x)
    = h v + O(h^2) for admissible v; derivatives are finite at coincident points. With `cells` per axis, the
    centers lie inside and their volumes add up to `volume`.

    >>> import mfjax as mf
    >>> errors = check_domain(mf.domains.Torus(1), cells=8, volume=1.0)
    """
    dtype = jnp.result_type(float) if dtype is None else jnp.dtype(dtype)
    bar, errors = bar_for(ROUNDING, dtype, None), Errors()
    points = domain.sample(jr.key(0), 32, dtype)
    found = (points.shape, points.dtype)
    ensure(found == ((32, domain.ambient), dtype), f"32 samples have shape and dtype {found}")
    ensure(bool(jnp.all(domain.sample(jr.key(0), 5, dtype) == points[:5])), "a sample depends on its size")
    # Rounding and curvature both enter at the square root of the machine precision.
    step = float(jnp.finfo(dtype).eps) ** 0.5

    @eqx.filter_jit
    def compiled(domain, points, a, b):
        contains, project, retract = (jax.vmap(f) for f in (domain.contains, domain.project, domain.retract))
        displacement = jax.vmap(domain.displacement)
        product = lambda u, v: jnp.sum(u * v, axis=-1)
        tangent = project(points, jax.vmap(domain.velocity)(points, a))
        # A point within one step of a face is stopped there.
        clear = contains(points + 2 * step * a) | (domain.ambient != domain.dim)
        speed = displacement(retract(points, step * tangent), points) / step
        swapped = points[::-1]
        pairs = {
            "retract by nothing": (retract(points, 0 * a), points),
            "project twice": (project(points, project(points, a)), project(points, a)),
            "self-adjoint": (product(project(points, a), b), product(a, project(points, b))),
            "back": (retract(points, displacement(swapped, points)), swapped),
            "first order": (jnp.where(clear[:, None], speed, tangent), tangent),
        }
        moved = {
            f"{name} by displacements of size {size:g}": jax.vmap(move)(points, size * project(points, a))
            for name, move in (("retract", domain.retract), ("diffuse", domain.diffuse))
            for size in (1e-3, 1.0, 10.0)
        }
        moved["sample"] = points
        distance = lambda x, y: safe_norm(domain.embed(x) - domain.embed(y))
        slopes = (
            jax.vmap(jax.grad(distance))(points, points),
            jax.vmap(jax.jacobian(domain.retract, argnums=(0, 1)))(points, 0 * a),
        )
        return pairs, {k: (v, jnp.all(contains(v))) for k, v in moved.items()}, slopes

    pairs, moved, slopes = compiled(domain, points, *jr.normal(jr.key(1), (2, *points.shape), dtype))
    for name, (left, right) in pairs.items():
        errors.same(name, left, right, 40 * step if name == "first order" else bar)
    for name, (ends, inside) in moved.items():
        ensure(bool(inside), f"{name}: outside the domain")
        ensure(ends.dtype == dtype, f"{name}: dtype {ends.dtype} from {dtype}")
    chex.assert_tree_all_finite(slopes)
    if cells is not None:
        grid = domain.cells(cells)
        ensure(bool(jnp.all(jax.vmap(domain.contains)(grid.points))), "a cell center lies outside the domain")
        ensure(
            len(grid.points) == np.prod(grid.shape),
            f"{len(grid.points)} cell centers on a grid of shape {grid.shape}",
        )
        if volume is not None:
            total = float(jnp.prod(grid.spacing)) * len(grid.points)
            errors.require("volume", abs(total / volume - 1), 1e-5)
    return errors
