"""The generic check of a domain."""

from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array

from mfjax._numerics.arrays import known, safe_norm
from mfjax.domains import Domain, require_domain
from mfjax.testing.base import (
    ROUNDING,
    Errors,
    bar_for,
    ensure,
)


def check_domain(
    domain: Domain,
    *,
    cells: int | tuple[int, ...] | None = None,
    volume: float | None = None,
    dtype: Any = None,
) -> dict[str, float]:
    """A domain: samples inside and independent of their number, motion inside and first-order consistent.

    retract(x, 0) = x, and retract(x, displacement(y, x)) = y for samples and points reached from them, unless
    the displacement is infinite; `project` is linear, idempotent, self-adjoint and of rank `tangent_dim`;
    displacement(retract(x, h v), x) = h v + O(h^2) for admissible v; derivatives are finite at coincident
    points. A `distance`, where there is one, is symmetric, that of such a retraction to first order, and
    infinite where the displacement is: nowhere on a `connected` domain. `tangent_basis` is orthonormal and
    tangent, and so is the noise; a `chord` is as long as the difference of `embed`. Coordinates, if there are
    any, lie between the ends of `axes`, are undone by `point`, and measure lengths on an `isometric` domain;
    two points beside the seam of a closed axis are near to each other for `displacement`, `chord` and
    `embed`. With `cells` per axis, the centers lie inside, their volumes add up to `volume`, the axes are as
    long and closed as those of the domain, as many of them frozen as points cannot move along; they are boxes
    on a `euclidean` domain, and its Gaussian, where there is one, has mass one.

    >>> import mfjax as mf
    >>> errors = check_domain(mf.domains.Torus(1), cells=8, volume=1.0)
    """
    require_domain(domain)
    dtype = jnp.result_type(float) if dtype is None else jnp.dtype(dtype)
    bar, errors = bar_for(ROUNDING, dtype, None), Errors()
    points = domain.sample(jr.key(0), 32, dtype)
    found = (points.shape, points.dtype)
    ensure(found == ((32, domain.ambient), dtype), f"32 samples have shape and dtype {found}")
    ensure(bool(jnp.all(domain.sample(jr.key(0), 5, dtype) == points[:5])), "a sample depends on its size")
    shape = jax.eval_shape(domain.tangent_basis, points[0]).shape
    expected = (domain.ambient, domain.tangent_dim)
    ensure(shape == expected, f"tangent_basis has shape {shape}, for {expected} by ambient and tangent_dim")
    one, other = jr.normal(jr.key(1), (2, *points.shape), dtype)
    pairs, moved, slopes = _identities(domain, points, one, other, has_distance(domain, points[0]))
    for name, (ends, inside) in [("sample", moved["sample"]), *moved.items()]:
        ensure(bool(inside), f"{name}: outside the domain")
        ensure(ends.dtype == dtype, f"{name}: dtype {ends.dtype} from {dtype}")
    for name, (left, right) in pairs.items():
        errors.same(name, left, right, 40 * _step(dtype) if "first order" in name else bar)
    chex.assert_tree_all_finite(slopes)
    paths = bool(jnp.all(jnp.isfinite(jax.vmap(domain.displacement)(points[::-1], points))))
    ensure(paths == domain.connected, f"connected is {domain.connected}, finite displacements: {paths}")
    ensure(len(domain.axes) == domain.dim, f"{len(domain.axes)} axes in dimension {domain.dim}")
    known = has_coordinates(domain, points[0])
    if known:
        check_coordinates(domain, points, errors, bar)
    if cells is not None:
        check_cells(domain, cells, volume, points, errors, bar, coordinates=known)
    return errors


def _step(dtype: Any) -> float:
    """The size of a step that shows first order."""
    # Rounding and curvature both enter at the square root of the machine precision.
    return float(jnp.finfo(dtype).eps) ** 0.5


@eqx.filter_jit
def _identities(domain: Any, points: Array, a: Array, b: Array, measured: bool):
    """(pairs that must be equal, where moved points end and whether inside, derivatives where two coincide).

    `a` and `b` are vectors at the points.
    """
    step = _step(points.dtype)
    contains, project, retract = (jax.vmap(f) for f in (domain.contains, domain.project, domain.retract))
    displacement = jax.vmap(domain.displacement)
    product = lambda u, v: jnp.sum(u * v, axis=-1)
    tangent = project(points, jax.vmap(domain.velocity)(points, a))
    # A point within one step of a face is stopped there.
    clear = contains(points + 2 * step * a) | (domain.ambient != domain.dim)
    speed = displacement(retract(points, step * tangent), points) / step
    swapped, reached = points[::-1], retract(points, tangent)
    basis = jax.vmap(domain.tangent_basis)(points)
    identity = jnp.broadcast_to(
        jnp.eye(domain.tangent_dim, dtype=points.dtype), (len(points),) + 2 * (domain.tangent_dim,)
    )
    noise = jax.vmap(domain.noise)(points, a)
    unit = jnp.eye(domain.ambient, dtype=points.dtype)
    projected = jax.vmap(jax.vmap(domain.project, (None, 0)), (0, None))(points, unit)
    embed = jax.vmap(domain.embed)

    def undone(there):
        """(where a displacement leads, where it should): finite ones."""
        apart = displacement(there, points)
        joined = jnp.all(jnp.isfinite(apart), axis=-1, keepdims=True)
        moved = retract(points, jnp.where(joined, apart, 0))
        return jnp.where(joined, moved, 0), jnp.where(joined, there, 0)

    pairs = {
        "orthonormal basis": (jnp.einsum("kda,kdb->kab", basis, basis), identity),
        "tangent basis": (jax.vmap(jax.vmap(domain.project, (None, 1), 1))(points, basis), basis),
        "chord": (
            jnp.linalg.norm(jax.vmap(domain.chord)(points, swapped), axis=-1),
            jnp.linalg.norm(embed(points) - embed(swapped), axis=-1),
        ),
        "retract(x, 0) = x": (retract(points, 0 * a), points),
        "project twice": (project(points, project(points, a)), project(points, a)),
        "self-adjoint": (product(project(points, a), b), product(a, project(points, b))),
        "rank": (
            jnp.trace(projected, axis1=1, axis2=2),
            jnp.full(len(points), domain.tangent_dim, points.dtype),
        ),
        "tangent noise": (project(points, noise), noise),
        "retract(x, displacement(y, x)) = y": undone(swapped),
        "retract(x, displacement(y, x)) = y, y reached": undone(reached),
        "first order": (jnp.where(clear[:, None], speed, tangent), tangent),
    }
    if measured:
        distance = jax.vmap(domain.distance)
        lengths = jnp.linalg.norm(jnp.where(clear[:, None], tangent, 0), axis=-1)
        near = distance(jnp.where(clear[:, None], retract(points, step * tangent), points), points) / step
        pairs["distance to first order"] = (near, lengths)
        for name, there in (("", swapped), (", reached", reached)):
            both = distance(points, there), distance(there, points)
            joined = jnp.all(jnp.isfinite(displacement(there, points)), axis=-1)
            finite = [jnp.where(joined, one, 0) for one in both]
            pairs[f"distance both ways{name}"] = tuple(finite)
            pairs[f"finite distance{name}"] = tuple(
                where.astype(points.dtype) for where in (jnp.isfinite(both[0]), joined)
            )
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


def check_cells(
    domain: Domain,
    cells: Any,
    volume: float | None,
    points: Array,
    errors: Errors,
    bar: float,
    *,
    coordinates: bool,
) -> None:
    """Cells that lie in the domain, along its axes, of its volume; `points` are some of the domain."""
    grid = domain.cells(cells)
    ensure(bool(jnp.all(jax.vmap(domain.contains)(grid.points))), "a cell center lies outside the domain")
    ensure(
        len(grid.points) == np.prod(grid.shape),
        f"{len(grid.points)} cell centers on a grid of shape {grid.shape}",
    )
    copies = len(grid.shape) - domain.dim
    lengths = grid.spacing[copies:] * jnp.array(grid.shape[copies:])
    still = len(grid.frozen) - copies
    ensure(still == domain.dim - domain.tangent_dim, f"{still} coordinates of cells are frozen")
    ensure(bool(grid.noiseless) == domain.noiseless, f"noiseless axes of cells are {grid.noiseless}")
    ended = not any(axis.endless for axis in domain.axes)
    if ended:
        ensure(grid.periodic[copies:] == domain.closed, "cells and axes are closed differently")
        errors.same("lengths", lengths, domain.lengths, bar)
    if coordinates and ended and has_gaussian(domain, points[0]):
        width, at = 2 * jnp.max(grid.spacing), points[:4].astype(grid.points.dtype)
        kernel = jax.vmap(jax.vmap(domain.gaussian, (0, None, None)), (None, 0, None))
        mass = jnp.sum(jax.jit(kernel)(grid.points, at, width) * grid.volume, axis=1)
        errors.same("mass of a Gaussian", mass, jnp.ones_like(mass), 1e-5)
    if volume is not None:
        total = float(jnp.sum(jnp.broadcast_to(grid.volume, len(grid.points))))
        errors.require("volume", abs(total / volume - 1), 1e-5)
    if domain.euclidean and not copies:
        boxes = jnp.broadcast_to(jnp.prod(grid.spacing), len(grid.points))
        errors.same("volumes of boxes", jnp.broadcast_to(grid.volume, len(grid.points)), boxes, bar)


def has_coordinates(domain: Domain, x: Array) -> bool:
    """Whether a domain says what the coordinates of its point `x` are, and the point of coordinates."""
    try:
        domain.point(domain.coordinates(x))
    except NotImplementedError:
        return False
    return True


def has_distance(domain: Domain, x: Array) -> bool:
    """Whether a domain says how long paths are."""
    try:
        domain.distance(x, x)
    except NotImplementedError:
        return False
    return True


def has_gaussian(domain: Domain, x: Array) -> bool:
    """Whether an isometric domain knows the heat kernel about its point `x`."""
    try:
        domain.gaussian(x, x, jnp.ones((), x.dtype))
    except ValueError:
        return False
    return domain.isometric


def check_coordinates(domain: Domain, points: Array, errors: Errors, bar: float) -> None:
    """Coordinates between their ends, undone by `point`; isometric where the domain says so."""

    @eqx.filter_jit
    def compiled(domain, points):
        coordinates = jax.vmap(domain.coordinates)
        q = coordinates(points)
        back = jax.vmap(domain.point)(q)
        # Arc length along a tangent: its derivative is unchanged by turns around a closed axis.
        along = lambda x: jax.jacobian(
            lambda v: domain.coordinates(domain.retract(x, domain.tangent_basis(x) @ v))
        )(jnp.zeros((domain.tangent_dim,), x.dtype))
        return q, back, coordinates(back), jax.vmap(domain.contains)(back), jax.vmap(along)(points)

    q, back, again, inside, slopes = compiled(domain, points)
    ensure(q.shape == (len(points), domain.dim), f"coordinates of {len(points)} points have shape {q.shape}")
    ensure(bool(jnp.all(inside)), "a point of given coordinates lies outside the domain")
    errors.same("coordinates of the point", again, q, bar)
    # Two copies of a domain share coordinates: only what can move must come back.
    gap = jax.vmap(domain.project)(points, jax.vmap(domain.displacement)(back, points))
    errors.require("point of the coordinates", float(jnp.max(jnp.abs(gap))), bar)
    for i, axis in enumerate(domain.axes):
        if not axis.endless:
            slack = bar * (1 + float(jnp.max(jnp.abs(q))))
            within = (q[:, i] >= known(axis.lower) - slack) & (q[:, i] <= known(axis.upper) + slack)
            ensure(bool(jnp.all(within)), f"coordinate {i} lies beyond the ends of its axis")
    for i, axis in enumerate(domain.axes):
        if axis.closed:
            check_seam(domain, q[:8], i, bar)
    if domain.isometric:
        gram = jnp.einsum("kab,kac->kbc", slopes, slopes)
        identity = jnp.broadcast_to(jnp.eye(domain.tangent_dim, dtype=q.dtype), gram.shape)
        errors.same("lengths in coordinates", gram, identity, bar)


def check_seam(domain: Domain, q: Array, i: int, bar: float) -> None:
    """Points on the two sides of a closed axis' seam are as near as two beside it."""
    axis = domain.axes[i]
    low, high = float(known(axis.lower)), float(known(axis.upper))
    step = 1e-3 * (high - low)

    @eqx.filter_jit
    def distances(domain, q):
        at = lambda value: jax.vmap(lambda one: domain.point(one.at[i].set(value)))(q)
        here = at(low + step)
        length = lambda function, y: jnp.linalg.norm(jax.vmap(function)(here, y), axis=-1)
        apart = lambda x, y: domain.embed(x) - domain.embed(y)
        return {
            name: (length(function, at(high - step)), length(function, at(low + 3 * step)))
            for name, function in (
                ("displacement", domain.displacement),
                ("chord", domain.chord),
                ("embed", apart),
            )
        }

    for name, (across, beside) in distances(domain, q).items():
        ensure(
            bool(jnp.all(across <= 10 * beside + bar)),
            f"{name}: two points {2 * step:.2g} apart across the seam of the closed axis {i} are "
            f"{float(jnp.max(across)):.2g} apart",
        )
