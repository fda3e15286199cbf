"""The network of the experiment: the population kernel of ReLU on the circle, with and without bias."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mfjax as mf
from mfjax import problems

CIRCLE = mf.domains.Sphere(1)
BIASES = (0.0, 0.5)
GAMMA = 3.0
TEACHER = problems.CircleTeacher(GAMMA)


def decades(axis: Sequence[int]) -> tuple[float, ...]:
    """(lowest, highest, number) powers of ten as numbers."""
    low, high, count = axis
    return tuple(float(f"{10**x:.4g}") for x in np.linspace(low, high, count))


@lru_cache
def coefficients(degree: int) -> dict[float, np.ndarray]:
    """c_0, ..., c_degree of the kernel for each bias."""
    # Constants of a program, also where they are asked for while one is traced.
    with jax.ensure_compile_time_eval():
        return {bias: np.asarray(problems.relu_coefficients(bias, degree)) for bias in BIASES}


def risk(lam: Any, bias: Any, degree: int, teacher: Any = TEACHER, center: float = 1.0) -> Any:
    """The reduced risk of a teacher; `bias` may be a traced one of `BIASES`: both share a program."""
    without, shifted = coefficients(degree).values()
    features = mf.features.CircleModes(jnp.where(jnp.asarray(bias) > 0, shifted, without))
    y = features.image(teacher.fourier(degree))
    return mf.energies.ReducedRisk(features, features.inputs(), y, lam, mf.regularizers.Quadratic(center))


def lattice(width: int, displacement: Any = 0.0) -> mf.measures.Particles:
    """Evenly spaced particles, each moved along the circle by a displacement (M,)."""
    return mf.measures.Particles(on_circle(turns(width) + displacement))


def turns(width: int) -> Any:
    """The angles of a lattice."""
    return 2 * jnp.pi * jnp.arange(width) / width


def on_circle(angle: Any) -> Any:
    """Unit vectors of angles."""
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def mmd_squared(modes: Any, reference: Any) -> np.ndarray:
    """Squared chordal energy distance of laws by their Fourier modes (..., n + 1, 2)."""
    gap = np.sum((np.asarray(modes) - np.asarray(reference)) ** 2, axis=-1)
    k = np.arange(gap.shape[-1])
    # |x - y| = 4 / pi - (8 / pi) sum_k cos(k (a - b)) / (4 k^2 - 1) for two points of the circle.
    return gap @ np.where(k > 0, 8 / np.pi / (4.0 * k**2 - 1), 0)
