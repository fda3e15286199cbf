"""The generic check of a feature map."""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from mfjax.features import FeatureMap
from mfjax.testing.base import (
    DIFFERENCE,
    ROUNDING,
    Counted,
    Errors,
    bar_for,
    ensure,
)


def check_feature_map(
    features: FeatureMap,
    points: Float[Array, "M d"],
    inputs: Float[Array, "N k"],
    *,
    variants: Sequence[FeatureMap] = (),
) -> dict[str, float]:
    """Check the promises of a feature map.

    One number per pair, `matrix` = loop, derivative = central difference, dtype kept.

    Where a particle can coincide with an input (equal lengths) the derivative there must be finite.

    >>> import mfjax as mf
    >>> errors = check_feature_map(mf.features.ReLU(), jnp.ones((2, 2)), jnp.ones((3, 2)))
    """
    errors = Errors()
    bar, rough = bar_for(ROUNDING, points.dtype, None), bar_for(DIFFERENCE, points.dtype, None)
    one = features(points[0], inputs[0])
    ensure(one.shape == (), f"a feature must be one number, got shape {one.shape}")
    ensure(one.dtype == points.dtype, f"dtype {one.dtype} from points of dtype {points.dtype}")
    step = float(jnp.finfo(points.dtype).eps) ** (1 / 3)
    along = jr.normal(jr.key(0), points.shape, points.dtype)

    @Counted
    def compiled(features):
        matrix, slope = jax.jvp(lambda w: features.matrix(w, inputs), (points,), (along,))
        ahead, behind = (features.matrix(points + s * along, inputs) for s in (step, -step))
        meeting = ()
        if points.shape[1] == inputs.shape[1]:
            meeting = jax.grad(features)(points[0], points[0])
        return matrix, slope, (ahead - behind) / (2 * step), meeting

    matrix, slope, difference, meeting = compiled(features)
    chex.assert_tree_all_finite((matrix, slope, meeting))
    loop = jnp.stack([jnp.stack([features(w, x) for w in points]) for x in inputs])
    errors.same("jit, vmap and loop", matrix, loop, bar)
    errors.same("derivative", slope, difference, rough)
    for variant in variants:
        compiled(variant)
    ensure(compiled.traces == 1, f"{1 + len(variants)} parameter values took {compiled.traces} traces")
    return errors
