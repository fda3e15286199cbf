"""The masses that lie between given values of one coordinate."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfjax._numerics.arrays import as_floats, count, finite, is_traced
from mfjax.flows.base import Flow
from mfjax.measures import Measure
from mfjax.observables.base import Observable


class Histogram(Observable):
    """A histogram of one coordinate: the mass in each bin.

    mu({x : e_b <= x_k < e_(b+1)}) of the bins between B + 1 increasing `edges` e: an array (B,). The last bin
    holds its upper edge too, as in `numpy.histogram`; mass outside all bins is left out.

    - `edges` (B + 1,), in units of the coordinate.
    - `coordinate` k, from 0, of the points as they are stored: the outer weight w of `features.Weighted` is
      the first.

    Masses are counted, so that the derivative with respect to points is zero; `KernelDensity` is smooth.

    **Raises** `ValueError` for edges that do not increase, and a coordinate that the points do not have.

    >>> import mfjax as mf
    >>> mu = mf.measures.Particles(jnp.array([[0.5, 7.0], [1.0, 8.0], [2.0, 9.0], [5.0, 9.0]]))
    >>> Histogram([0.0, 1.0, 2.0])(mu).tolist()
    [0.25, 0.5]
    """

    edges: Float[Array, " edges"]
    coordinate: int = eqx.field(static=True)

    def __init__(self, edges: Any, coordinate: int = 0):
        self.edges = finite(as_floats(edges, "edges"), "edges")
        if self.edges.ndim != 1 or len(self.edges) < 2:
            raise ValueError(f"edges must have shape (B + 1,) for B >= 1 bins, got {self.edges.shape}")
        if not is_traced(self.edges) and np.any(np.diff(np.asarray(self.edges)) <= 0):
            raise ValueError(f"edges must increase, got {np.asarray(self.edges).tolist()}")
        self.coordinate = count(coordinate, "coordinate", minimum=0)

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, " bins"]:
        dimension = mu.points.shape[-1]
        if self.coordinate >= dimension:
            raise ValueError(
                f"points have the coordinates 0 to {dimension - 1}, got coordinate = {self.coordinate}"
            )
        x, edges = mu.points[:, self.coordinate], self.edges.astype(mu.dtype)
        bins = len(edges) - 1
        place = jnp.searchsorted(edges, x, side="right") - 1
        place = jnp.where(x == edges[-1], bins - 1, place)
        # Places before the first and beyond the last bin are dropped; -1 would be the last.
        place = jnp.where(place < 0, bins, place)
        return jnp.zeros(bins, mu.dtype).at[place].add(mu.weights, mode="drop")
