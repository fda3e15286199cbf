"""Harmonics: waves along an axis, zonal ones of S^d, polynomials of one height, and all of S^2."""

from math import comb, pi

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def waves_along(
    q: Float[Array, ""], length: Float[Array, ""], closed: bool, degree: int
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Orthonormal waves at `q` from the lower end of an axis, the constant first, and squared frequencies.

    On a closed axis cosines, then sines; between walls cosines, without slope there.

    >>> values, squares = waves_along(jnp.array(0.5), jnp.array(1.0), False, 1)
    >>> values.round(3).tolist(), squares.round(3).tolist()
    ([1.0, 0.0], [0.0, 9.87...])
    """
    frequency = jnp.arange(1, degree + 1, dtype=q.dtype) * ((2 if closed else 1) * jnp.asarray(pi, q.dtype))
    frequency = frequency / length
    waves = [jnp.cos(frequency * q), jnp.sin(frequency * q)] if closed else [jnp.cos(frequency * q)]
    values = jnp.concatenate([jnp.sqrt(1 / length)[None], *(jnp.sqrt(2 / length) * wave for wave in waves)])
    return values, jnp.concatenate([jnp.zeros((1,), q.dtype), jnp.tile(frequency**2, len(waves))])


def zonal_harmonics(degree: int, dim: int) -> np.ndarray:
    """The table A with P_l(cos theta) = sum_k A_lk cos(k theta), P_l(1) = 1, for l = 0, ..., degree.

    Its entries are not negative and rows add up to one: values and slopes are right to rounding, at the
    poles too. P_l is the Gegenbauer polynomial of index (d - 1) / 2, that of Legendre on S^2, and
    cos(l theta) on the circle.

    >>> zonal_harmonics(2, 2).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.25, 0.0, 0.75]]
    """
    if dim == 1:
        return np.eye(degree + 1)
    k = np.arange(1, degree + 1)
    rising = np.cumprod(np.concatenate([[1.0], ((dim - 3) / 2 + k) / k]))
    table = np.zeros((degree + 1, degree + 1))
    for n in range(degree + 1):
        frequency = np.abs(n - 2 * np.arange(n + 1))
        np.add.at(table[n], frequency, rising[: n + 1] * rising[n::-1])
    return table / table.sum(axis=1, keepdims=True)


def multiplicities(degree: int, dim: int) -> np.ndarray:
    """The numbers N_l of independent harmonics of degree l = 0, ..., degree on S^dim.

    >>> multiplicities(3, 1).tolist(), multiplicities(3, 2).tolist()
    ([1.0, 2.0, 2.0, 2.0], [1.0, 3.0, 5.0, 7.0])
    """
    below = lambda n: comb(n + dim, dim) if n >= 0 else 0
    return np.array([float(below(n) - below(n - 2)) for n in range(degree + 1)])


def spherical_harmonics(x: Float[Array, "3"], degree: int) -> Float[Array, " n"]:
    """The (degree + 1)^2 - 1 real harmonics of degree 1, 2, ..., `degree` on S^2, orthonormal there.

    Of each degree l the cosines of m = 0, ..., l turns about the last axis, then the sines of 1, ..., l.

    Polynomials of x: values and slopes are right at the poles, too. Their recurrence in l, at fixed m, begins
    with sin^m, which must be a number of the dtype: up to degree 128 in float32, and 1500 in float64.

    >>> values = spherical_harmonics(jnp.array([0.0, 0.6, 0.8]), 2)
    >>> (values[:3] * (4 * pi / 3) ** 0.5).round(3).tolist()  # z, x, y
    [0.8..., 0.0, 0.6...]
    """
    level, m = np.arange(1, degree + 1)[:, None, None], np.arange(degree + 1)[None, None]
    # Y_l = rise (z Y_{l-1} - back Y_{l-2}) for m < l; a step back is nothing where m = l - 1.
    rise = np.sqrt((4 * level**2 - 1) / np.where(m < level, level**2 - m**2, np.inf))
    back = np.sqrt(np.maximum((level - 1) ** 2 - m**2, 0) / np.maximum(4 * (level - 1) ** 2 - 1, 1))
    turn = np.sqrt((2 * level + 1) / np.where(level > 1, 2 * level, 1))[:, 0, 0]
    table = lambda values: jnp.asarray(values, x.dtype)

    def next_degree(carry, coefficients):
        before, last, wave = carry
        rise, back, turn, here = coefficients
        # c_m (x + i y)^m, which begins the harmonics of m turns.
        wave = turn * jnp.stack([x[0] * wave[0] - x[1] * wave[1], x[0] * wave[1] + x[1] * wave[0]])
        now = rise * (x[2] * last - back * before) + here * wave[:, None]
        return (last, now, wave), now

    one = table([(4 * pi) ** -0.5, 0.0])
    start = table(np.zeros((2, degree + 1))), one[:, None] * table(m[0] == 0), one
    rows = table(rise), table(back), table(turn), table(level == m)
    _, values = jax.lax.scan(next_degree, start, rows)
    kept = np.concatenate([level >= m, (level >= m) & (m > 0)], axis=1)
    return values.reshape(-1)[np.flatnonzero(kept)]
