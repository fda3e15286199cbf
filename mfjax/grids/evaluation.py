"""What evaluating a flow returns; its own module, so that `grids` can make one without importing flows."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from mfjax.measures import Tangent


class Evaluation(eqx.Module):
    """A flow at one state: `tangent`, and the numbers that a run records with it.

    `energy` F, or `None` where it is not known; `dissipation` -dF/dt along the tangent, >= 0 if the flow is
    monotone; `residual` of the inner solve and its `status`; `carry` for the next one; `max_step`, the
    longest stable explicit transport step (flow time; infinite on particles); `potential` (K,) in the cells
    of a grid, the first variation of the terms that transport, from which implicit steps start, else `None`.
    """

    tangent: Tangent
    energy: Float[Array, ""] | None
    dissipation: Float[Array, ""]
    residual: Float[Array, ""]
    status: Int[Array, ""]
    max_step: Float[Array, ""]
    carry: Any = None
    potential: Float[Array, " K"] | None = None


def evaluation(
    tangent: Tangent,
    energy: ArrayLike | None,
    dissipation: ArrayLike | None,
    dtype: Any,
    *,
    residual: ArrayLike = 0.0,
    status: ArrayLike = 0,
    max_step: ArrayLike = jnp.inf,
    carry: Any = None,
    potential: Float[Array, " K"] | None = None,
) -> Evaluation:
    """An `Evaluation` whose numbers are arrays of `dtype`, so that loops see one structure."""
    number = lambda v: jnp.asarray(v, dtype)
    return Evaluation(
        tangent,
        None if energy is None else number(energy),
        number(0.0 if dissipation is None else dissipation),
        number(residual),
        jnp.asarray(status, jnp.int32),
        number(max_step),
        carry,
        potential,
    )
