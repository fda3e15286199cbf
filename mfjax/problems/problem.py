"""A teacher, the features that try to learn it, and its data."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mfjax._numerics.arrays import along, inner
from mfjax.domains import Domain
from mfjax.energies import ReducedRisk
from mfjax.features import FeatureMap
from mfjax.measures import Particles
from mfjax.problems.teachers import Teacher
from mfjax.regularizers import Regularizer


class Problem(eqx.Module):
    """A teacher, the features that try to learn it, and its data `x` (N, k), `y` (N,).

    `neurons` are the teacher's own neurons, `None` for a population problem, whose teacher is the density.
    """

    teacher: Teacher
    features: FeatureMap
    x: Float[Array, "N k"]
    y: Float[Array, " N"]
    neurons: Particles | None = None

    @property
    def domain(self) -> Domain:
        """Where the features live."""
        return self.teacher.domain

    def risk(self, lam: Any, regularizer: Regularizer | None = None, **options: Any) -> ReducedRisk:
        """The `ReducedRisk` of this problem; `options` go to its constructor."""
        return ReducedRisk(self.features, self.x, self.y, lam, regularizer, **options)


def network_output(features: FeatureMap, neurons: Particles, x: Float[Array, "N k"]) -> Float[Array, "N *c"]:
    """The targets that a teacher network gives to inputs.

    y_j = sum_i m_i u_i phi(omega_i, x_j), u the mark "u" of the neurons, (M,) or (M, c) for c outputs (one
    where there is none).
    """
    u = neurons.marks.get("u", jnp.ones_like(neurons.weights))
    weights = along(neurons.weights, u) * u
    row = lambda point: inner(jax.vmap(features, in_axes=(0, None))(neurons.points, point), weights)
    # Row by row: the N x width matrix of the published size takes 134 MB.
    return jax.lax.map(row, x, batch_size=256)


def teacher_student(
    teacher: Teacher,
    features: FeatureMap,
    key: Key[Array, ""],
    *,
    x: Float[Array, "N k"],
    width: int = 4096,
    stratified: bool = False,
) -> Problem:
    """Data of a sampled teacher of `width` neurons at the inputs `x`, without noise."""
    neurons = teacher.sample(key, width, stratified=stratified, dtype=x.dtype)
    return Problem(teacher, features, x, network_output(features, neurons, x), neurons)
