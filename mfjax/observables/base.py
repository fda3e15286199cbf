"""The abstract observable, what may serve as its target, and arc length in one dimension."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfjax._numerics.arrays import as_floats, count, finite, is_traced
from mfjax.domains import Domain, require_domain
from mfjax.flows.base import Flow
from mfjax.measures import Grid, Measure, Particles


class Observable(eqx.Module):
    """A number, or an array of numbers, read off a measure while a flow moves it.

    A new observable is one subclass with `__call__`; what does not depend on the measure is computed in
    its constructor and kept as array leaves. `flow` may be `None` where the observable asks nothing of it.
    """

    @abstractmethod
    def __call__(self, mu: Measure, flow: Flow | None = None) -> Array:
        """The value at `mu`."""

    def validate(self, mu: Measure, flow: Flow) -> None:
        """What a run from `mu` checks before it begins, while data are no tracers yet.

        **Raises** `ValueError` for data that this observable cannot be asked about there.
        """


# Cells per axis on which a density is discretized, by dimension of the domain.
CELLS = {1: 4096, 2: 64, 3: 16}


def as_measure(target: Any, domain: Domain | None, cells: int | None) -> Measure:
    """A measure from a measure, from (M, d) points, or from a density of one point (on `cells` per axis)."""
    require_domain(domain, optional=True)
    if isinstance(target, Measure):
        measure = target
    elif callable(target):
        if domain is None:
            raise ValueError("a density as target needs domain=, on whose grid it is discretized")
        n = CELLS.get(domain.dim, 8) if cells is None else count(cells, "cells", minimum=4)
        return Grid.from_density(domain, n, cast(Callable, target))
    else:
        measure = Particles(finite(as_floats(target, "target"), "target"))
    if domain is not None:
        domain.validate(measure.points, "target")
    return measure


def check_dimension(mu: Measure, ambient: int) -> None:
    """**Raises** `ValueError` if the points of `mu` do not have `ambient` coordinates."""
    if mu.points.shape[-1] != ambient:
        have = mu.points.shape[-1]
        raise ValueError(f"the target has points of dimension {ambient} and the measure {have}")


def on_unit_circle(points: Array) -> bool:
    """Whether concrete points are unit vectors of the plane."""
    if is_traced(points) or points.shape[-1] != 2:
        return False
    norms = np.linalg.norm(np.asarray(points, np.float64), axis=-1)
    return bool(np.all(np.abs(norms - 1) <= 100 * float(jnp.finfo(points.dtype).eps)))


def is_unit_circle(domain: Domain) -> bool:
    """Whether points of `domain` are unit vectors of the plane."""
    in_plane = (domain.dim, domain.ambient, domain.product_of_circles) == (1, 2, True)
    lengths = [axis.length for axis in domain.axes]
    return in_plane and domain.flat and not is_traced(lengths) and np.allclose(np.asarray(lengths), 2 * np.pi)


def one_dimensional(domain: Domain | None) -> bool:
    """Whether `domain` is a line or a closed curve, with arc length as its coordinate."""
    return domain is not None and domain.dim == domain.tangent_dim == 1 and domain.isometric


def arc_length(domain: Domain, points: Float[Array, "K d"]) -> Float[Array, " K"]:
    """The coordinate of each point of a line or a closed curve."""
    return jax.vmap(domain.coordinates)(points)[:, 0]


def angles(domain: Domain, points: Float[Array, "K d"]) -> Float[Array, " K"]:
    """Arc length on a closed curve scaled to a circumference of 2 pi."""
    coordinates = arc_length(domain, points)
    return coordinates * (2 * jnp.pi / domain.lengths.astype(coordinates.dtype)[0])


def check_flow_domain(flow: Flow | None, domain: Domain | None) -> None:
    """**Raises** `ValueError` without `domain` if distances on that of the flow are not of coordinates."""
    if domain is None and flow is not None and not flow.domain.flat:
        raise ValueError(
            f"this flow moves on a {type(flow.domain).__name__}, whose distance is not that of the "
            "coordinates: pass domain= to the observable"
        )
