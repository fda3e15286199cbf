"""Hot kernels beside the roofline of the machine: what their arithmetic and their traffic would take at the
peak.

Operations are those of the formula, an exponential or a square root counting as one; bytes are those of
inputs and outputs, each once. A kernel whose data stay in the cache may have more than all of the bandwidth.
"""

from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import mfjax as mf
from benchmarks.cases.particles import INPUTS, circle, is_double
from benchmarks.harness import Contender, Results, race
from mfjax._numerics.arrays import inner
from mfjax._numerics.linalg import cholesky
from mfjax._numerics.operators import Dense, Tiled, Windows
from mfjax._numerics.sums.waves import half_space
from mfjax.grids.linear import ShiftedFluxes
from mfjax.kernels import kernel_sums


def peaks(quick, dtype):
    """(operations, bytes) a second, the best of NumPy and XLA, on all cores that each takes."""
    n, values = (256, 100_000) if quick else (2048, 20_000_000)
    matrix, vector = jnp.ones((n, n), dtype), jnp.ones(values, dtype)
    array, out = np.ones(values, dtype), np.empty(values, dtype)
    square = np.ones((n, n), dtype)
    contenders = [
        compiled("product", inner, matrix, matrix),
        Contender("numpy product", partial(np.matmul, square, square)),
        compiled("copy", lambda a: a + 1, vector),
        Contender("numpy copy", partial(np.copyto, out, array)),
    ]
    least = {name: seconds.least for name, seconds in race(contenders, 5).items()}
    work, traffic = 2 * n**3, 2 * vector.nbytes
    return (
        work / min(least["product"], least["numpy product"]),
        traffic / min(least["copy"], least["numpy copy"]),
    )


def compiled(name, function, *arguments):
    """The contender that calls a compiled function of arrays that are there."""
    program = jax.jit(function)
    return Contender(name, lambda: jax.block_until_ready(program(*arguments)))


def cases(quick, dtype):
    """(name, contender, operations, bytes) of each kernel."""
    m, n, many = (64, 128, 512) if quick else (1024, INPUTS, 10**4)
    large, cells = (1000, 256) if quick else (10**6, 4096)
    problem, mu = circle(m, dtype, n)
    ones = jnp.ones(n, dtype)
    matrix = problem.features.matrix(mu.points, problem.x)
    gram = inner(matrix.T, matrix) / n + jnp.eye(m, dtype=dtype)
    v, alpha = jnp.ones(m, dtype), ones
    item = matrix.dtype.itemsize
    yield "Gram matrix", compiled("", lambda a: inner(a.T, a), matrix), 2 * n * m * m, item * (n * m + m * m)
    yield "Cholesky factor", compiled("", cholesky, gram), m**3 / 3, 2 * item * m * m
    both = lambda a, v, alpha: (Dense(a).output(v), Dense(a).scores(alpha))
    yield "A v and A^T alpha, matrix", compiled("", both, matrix, v, alpha), 4 * n * m, 2 * item * n * m
    windows = jax.jit(lambda p, x: Windows(p, x, ones, None))(mu.points, problem.x)
    both = lambda v, alpha: (windows.output(v), windows.scores(alpha))
    # Two components: a product, a prefix sum, two gathers and a difference each.
    terms = 2 * 2 * 5 * (n + m)
    yield "A v and A^T alpha, windows", compiled("", both, v, alpha), terms, item * 12 * (n + m)
    few = mf.measures.Particles.sample(problem.domain, jr.key(1), many, dtype=dtype)
    tiles = Tiled(problem.features, few.points, problem.x, ones, block=max(1, 2**23 // n))
    yield (
        "A v and A^T alpha, tiles",
        compiled("", lambda v, alpha: (tiles.output(v), tiles.scores(alpha)), few.weights, alpha),
        2 * n * many * (3 + 1 + 2),
        item * 4 * (n + many),
    )
    kernel, w = mf.kernels.Gaussian(0.3), few.weights
    pairs = lambda x, w: kernel_sums(kernel, x, x, w)
    # Two differences, their squares and sum, the exponent, the exponential, and its sum.
    yield "all pairs, Gaussian", compiled("", pairs, few.points, w), many * many * 9, item * 4 * many
    line, energy = jr.uniform(jr.key(2), (large, 1), dtype), mf.kernels.Distance()
    masses = jnp.ones(large, dtype)
    # Comparisons of a sort, and a few operations on each point.
    work = large * (np.log2(large) + 10)
    sorting = lambda x, w: kernel_sums(energy, x, x, w)
    yield "energy kernel, by sorting", compiled("", sorting, line, masses), work, item * 3 * large
    plane, waves = jr.uniform(jr.key(3), (large, 2), dtype), half_space(4 if quick else 32, 2)
    width = 12 if dtype == "float64" else 7
    work, traffic = large * width**2 * 4, item * 4 * large
    yield "waves on the 2-torus, by FFT", compiled("", waves.transform, plane, masses), work, traffic
    through = 1 + 0.5 * jnp.cos(jnp.arange(cells, dtype=dtype))
    system = ShiftedFluxes(((through, through),), jnp.asarray(1e3, dtype), (True,))
    b = jnp.ones(cells, dtype)
    yield (
        "tridiagonal system, made ready",
        compiled("", lambda b: system.solve(b), b),
        8 * cells,
        item * 5 * cells,
    )


def run(quick=False):
    """The share of the roofline: the time that the peak would take over the least time measured."""
    results, dtype = Results(), "float64" if is_double() else "float32"
    operations, traffic = peaks(quick, dtype)
    results.add(f"peak {dtype}", "product and copy", gflops=operations / 1e9, gbytes_per_s=traffic / 1e9)
    for name, contender, work, moved in cases(quick, dtype):
        seconds = race([contender], 9, budget=10)[contender.name]
        bound = max(work / operations, moved / traffic)
        limit = "arithmetic" if work / operations > moved / traffic else "bandwidth"
        results.add(
            f"{name} {dtype}",
            "mfjax",
            seconds,
            gflops=work / seconds.least / 1e9,
            gbytes_per_s=moved / seconds.least / 1e9,
            share_of_roofline=bound / seconds.least,
            limit=limit,
        )
    return results
