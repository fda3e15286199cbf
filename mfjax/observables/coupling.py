"""Optimal couplings of two finite measures, exact, solved on the host for compiled programs as well."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from mfjax._numerics.arrays import is_traced, pairing

# Arcs of each point that the linear program begins with, and those that a round adds.
FIRST, MORE = 12, 16
# Strengths of the entropic potentials that suggest the first arcs, relative to the greatest cost, and sweeps.
STRENGTHS, SWEEPS = (0.1, 0.03, 0.01, 0.003), 4
# Of reduced costs, relative to the greatest cost, and of what HiGHS leaves of either condition.
PRECISION = 1e-10


def optimal_coupling(
    cost: Float[Array, "M K"], source: Float[Array, " M"], target: Float[Array, " K"]
) -> Float[Array, "M K"]:
    """The cheapest plan that moves one vector of masses to another.

    The plan P >= 0 of row sums `source` and column sums `target` that minimizes sum_ij P_ij cost_ij.

    Both masses must have the same sum, to a thousandth of it: those of `target` are scaled to that of
    `source`. **Raises** `ValueError` where they have not, for negative masses, and for other shapes; traced,
    the plan of such masses is NaN, as it is where anything given is not finite. It is found on the host, in
    double precision, by SciPy, from compiled programs by `jax.pure_callback`; the members of a `vmap` come
    one after the other:

    - equal masses of equal number: an assignment, O(M^3), 0.03 s for 500 points and 0.12 s for 1000.
    - other masses: a linear program (HiGHS) over a short list of arcs near those that entropic potentials
      suggest, enlarged until no arc outside has a negative reduced cost, which proves that no plan is
      better. 0.6 s for 500 points and 2 s for 1000; up to 10 s for grids, whose costs have many ties.

    Rows and columns of tiny masses are met to 1e-10 of the mean mass. The derivative of a plan in the costs
    is zero, as it is almost everywhere; that in the masses, which nothing here needs, is NaN.

    Source: D. Crouse, IEEE Trans. Aerosp. Electron. Syst. 52 (2016) for assignments; Q. Huangfu, J. Hall,
    Math. Program. Comput. 10 (2018) for HiGHS.

    >>> half = jnp.array([0.5, 0.5])
    >>> optimal_coupling(jnp.array([[0.0, 1.0], [1.0, 5.0]]), half, half).tolist()
    [[0.0, 0.5], [0.5, 0.0]]
    """
    cost, source, target = jnp.asarray(cost), jnp.asarray(source), jnp.asarray(target)
    if cost.shape != (*source.shape, *target.shape) or cost.ndim != 2:
        raise ValueError(
            f"costs (M, K) go with masses (M,) and (K,), got {cost.shape}, {source.shape} and {target.shape}"
        )
    if not is_traced((cost, source, target)) and bool(jnp.isfinite(jnp.sum(source) + jnp.sum(target))):
        sums = float(jnp.sum(source)), float(jnp.sum(target))
        if min(float(jnp.min(source)), float(jnp.min(target))) < -PRECISION * min(sums):
            raise ValueError("masses must not be negative")
        if not _even(*sums):
            raise ValueError(f"masses of sum {sums[0]:g} and {sums[1]:g} have no coupling: rescale one")
    return _solution(False, cost, source, target)[0]


@jax.custom_jvp
def transport_cost(
    cost: Float[Array, "M K"], source: Float[Array, " M"], target: Float[Array, " K"]
) -> Float[Array, ""]:
    """The least of sum_ij P_ij cost_ij over plans P, differentiable in costs and masses.

    Of masses of equal sum, by the envelope theorem: the derivative in cost_ij is P_ij, that in the masses
    the prices u, v of the dual program. Right almost everywhere, one of many slopes elsewhere. Second
    derivatives in the costs alone are those at a fixed plan; others are NaN.

    >>> half = jnp.array([0.5, 0.5])
    >>> float(transport_cost(jnp.array([[0.0, 1.0], [1.0, 5.0]]), half, half))
    1.0
    """
    return pairing(_solution(False, cost, source, target)[0], cost)


def _cost_rule(primals, tangents):
    cost, source, target = primals
    moved, given, taken = tangents
    priced = not (isinstance(given, SymbolicZero) and isinstance(taken, SymbolicZero))
    plan, u, v = _solution(priced, cost, source, target)
    rate = jnp.zeros((), cost.dtype)
    for price, tangent in ((plan, moved), (u, given), (v, taken)):
        if not isinstance(tangent, SymbolicZero):
            rate = rate + pairing(price, tangent)
    return pairing(plan, cost), rate


transport_cost.defjvp(_cost_rule, symbolic_zeros=True)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _solution(priced: bool, cost: Array, source: Array, target: Array) -> tuple[Array, Array, Array]:
    """The plan and the prices of rows and columns, zero unless `priced`."""
    shapes = [jax.ShapeDtypeStruct(v.shape, cost.dtype) for v in (cost, source, target)]
    arguments = (cost, source, target)
    return tuple(jax.pure_callback(partial(_on_host, priced), shapes, *arguments, vmap_method="sequential"))


def _solution_rule(priced, primals, tangents):
    plan, u, v = _solution(priced, *primals)
    moved, *given = tangents
    # A vertex of the plans follows the masses, and prices the costs: neither is known here.
    lost = lambda value, tangents: jnp.broadcast_to(sum(map(_unknown, tangents), 0.0), value.shape)
    rates = lost(plan, given), lost(u, [moved]), lost(v, [moved])
    return (plan, u, v), tuple(rate.astype(plan.dtype) for rate in rates)


def _unknown(tangent) -> Array | float:
    """NaN, in reverse mode as well, where the tangent is not known to be zero."""
    return 0.0 if isinstance(tangent, SymbolicZero) else jnp.nan * jnp.sum(tangent)


_solution.defjvp(_solution_rule, symbolic_zeros=True)


def _even(one, other) -> bool:
    return bool(abs(one - other) <= 1e-3 * (one + other))


def _on_host(priced, cost, source, target):
    """Plan and prices by NumPy: nothing of JAX may be called here."""
    dtype = cost.dtype
    cost, source, target = (np.asarray(value, np.float64) for value in (cost, source, target))
    plan, u, v = np.zeros_like(cost), np.zeros_like(source), np.zeros_like(target)
    known = all(np.all(np.isfinite(value)) for value in (cost, source, target))
    rows, columns = np.flatnonzero(source > 0), np.flatnonzero(target > 0)
    # Explicit steps leave roundings below zero.
    positive = all(np.min(value) >= -PRECISION * value.sum() for value in (source, target))
    if not known or not positive or not _even(source.sum(), target.sum()) or not rows.size:
        return tuple(np.full_like(value, np.nan, dtype) for value in (plan, u, v))
    among = np.ix_(rows, columns)
    a, b = source[rows] / source.sum(), target[columns] / target.sum()
    level = 8 * np.finfo(dtype).eps / a.size
    if a.size == b.size and np.all(np.abs(np.concatenate([a, b]) - 1 / a.size) <= level):
        plan[among], u[rows], v[columns] = _assignment(cost[among], priced)
    else:
        plan[among], u[rows], v[columns] = _linear_program(cost[among], a, b)
    if priced:
        # What a first grain of mass would cost.
        u = np.min(cost[:, columns] - v[columns], axis=1)
        v = np.min(cost - u[:, None], axis=0)
    return tuple(value.astype(dtype) for value in (plan * source.sum(), u, v))


def _assignment(cost, priced):
    from scipy.optimize import linear_sum_assignment

    n = len(cost)
    rows, columns = linear_sum_assignment(cost)
    plan, u = np.zeros_like(cost), np.zeros(n)
    plan[rows, columns] = 1 / n
    length = cost[:, columns] - cost[rows, columns]
    # Prices are shortest paths through exchanges (Bellman, Ford): no cycle of them is of negative length.
    for _ in range(n if priced else 0):
        shorter = np.min(length + u, axis=1)
        if np.all(shorter >= u - PRECISION * np.abs(cost).max()):
            break
        u = np.minimum(u, shorter)
    v = np.empty(n)
    v[columns] = cost[rows, columns] - u
    return plan, u, v


def _linear_program(cost, a, b):
    """Plan and prices by column generation."""
    from scipy.optimize import linprog
    from scipy.sparse import csr_matrix

    m, k = cost.shape
    scale = np.abs(cost).max() or 1.0
    arcs = _short_list(cost / scale, a, b)
    options = {"primal_feasibility_tolerance": PRECISION, "dual_feasibility_tolerance": PRECISION}
    while True:
        i, j = np.nonzero(arcs)
        number = np.arange(i.size)
        ends = (np.ones(2 * i.size), (np.concatenate([i, m + j]), np.concatenate([number, number])))
        # The last sum follows from the others.
        margins = csr_matrix(ends, shape=(m + k, i.size))[:-1]
        masses = m * np.concatenate([a, b])[:-1]
        found = linprog(cost[i, j] / scale, A_eq=margins, b_eq=masses, method="highs-ds", options=options)
        if found.x is None:
            return tuple(np.full(shape, np.nan) for shape in ((m, k), m, k))
        prices = scale * np.append(found.eqlin.marginals, 0)
        u, v = prices[:m], prices[m:]
        reduced = cost - u[:, None] - v
        missing = (reduced < -PRECISION * scale) & ~arcs & _least(reduced, MORE)
        if not missing.any():
            break
        arcs |= missing
    plan = np.zeros_like(cost)
    plan[i, j] = np.maximum(found.x, 0) / m
    return plan, u, v


def _short_list(cost, a, b):
    """Arcs of small cost after entropic potentials, and a plan among them, so that there is one."""
    f, g, log_a, log_b = np.zeros(len(a)), np.zeros(len(b)), np.log(a), np.log(b)
    for strength in STRENGTHS:
        for _ in range(SWEEPS):
            f = -strength * _log_sum((g - cost) / strength + log_b)
            g = -strength * _log_sum((f[:, None] - cost).T / strength + log_a)
    arcs = _least(cost - f[:, None] - g, FIRST)
    # The plan of both masses in the order of their points.
    ends = np.cumsum(a)[:-1], np.cumsum(b)[:-1]
    cuts = np.concatenate([[0.0], np.sort(np.concatenate(ends)), [1.0]])
    middle = 0.5 * (cuts[:-1] + cuts[1:])
    arcs[np.searchsorted(ends[0], middle), np.searchsorted(ends[1], middle)] = True
    return arcs


def _least(values, number):
    """Where the `number` least of each row and of each column are."""
    least = np.zeros(values.shape, bool)
    for axis in (0, 1):
        first = min(number, values.shape[axis])
        chosen = np.argpartition(values, first - 1, axis=axis).take(range(first), axis=axis)
        np.put_along_axis(least, chosen, True, axis=axis)
    return least


def _log_sum(values):
    """log sum exp of each row."""
    top = values.max(axis=1)
    return top + np.log(np.exp(values - top[:, None]).sum(axis=1))
