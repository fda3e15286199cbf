"""What the checks share: bars, measured errors, trace counts, and measures relabeled."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array

from mfjax import status as codes
from mfjax._engine.loop import trajectory
from mfjax._engine.simulation import Simulation
from mfjax._numerics.compiled import program
from mfjax.measures import Measure, Particles

# Largest relative errors: of two ways to compute one number, and of a central difference.
ROUNDING = {"float32": 5e-3, "float64": 1e-8}
DIFFERENCE = {"float32": 3e-2, "float64": 1e-6}

M = TypeVar("M", bound=Measure)


def bar_for(table: Mapping[str, float], dtype: Any, given: float | None) -> float:
    """The bar of a check: `given`, or that of the dtype."""
    return table[jnp.dtype(dtype).name] if given is None else given


def relative_error(actual: Any, expected: Any) -> float:
    """Largest difference of two trees, relative to the largest entry of each array."""
    chex.assert_trees_all_equal_shapes(actual, expected)
    worst = 0.0
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        scale = max(np.max(np.abs(b), initial=0), 1e-12)
        gap = np.max(np.abs(a - b), initial=0) / scale
        worst = np.inf if np.isnan(gap) else max(worst, float(gap))
    return worst


def ensure(condition: Any, message: str) -> None:
    """An `assert` that `python -O` keeps."""
    if not condition:
        raise AssertionError(message)


class Errors(dict):
    """Measured errors by name; `require` fails with the name, the number and its bar."""

    def require(self, name: str, error: float, bar: float) -> None:
        self[name] = error
        ensure(error <= bar, f"{name}: relative error {error:.2e}, above {bar:.0e}")

    def same(self, name: str, actual: Any, expected: Any, bar: float) -> None:
        self.require(name, relative_error(actual, expected), bar)


def replaced(mu: M, points: Array | None = None, weights: Array | None = None) -> M:
    """The same measure with other points or weights."""
    new = (mu.points if points is None else points, mu.weights if weights is None else weights)
    return eqx.tree_at(lambda nu: (nu.points, nu.weights), mu, new)


def take(mu: Particles, index: Array, weights: Array) -> Particles:
    """The particles at `index`, with other masses."""
    return replaced(jax.tree.map(lambda leaf: leaf[index], mu), weights=weights)


class Counted:
    """`function` compiled, with the number of its traces."""

    def __init__(self, function: Callable):
        self.traces = 0

        def counted(*arguments):
            self.traces += 1
            return function(*arguments)

        self.compiled = eqx.filter_jit(counted)

    def __call__(self, *arguments):
        return self.compiled(*arguments)


def check_traces(function: Callable, calls: Sequence[tuple], *, most: int = 1) -> int:
    """The number of times `function` is traced over `calls`, tuples of arguments. **Raises** if above `most`.

    >>> check_traces(lambda x, y: x + y, [(jnp.array(1.0), jnp.array(k)) for k in (1.0, 2.0, 3.0)])
    1
    """
    counted = Counted(function)
    for arguments in calls:
        counted(*arguments)
    message = f"{counted.traces} traces over {len(calls)} calls, expected at most {most}"
    ensure(counted.traces <= most, message)
    return counted.traces


def padded(mu: Particles, elsewhere: Array) -> Particles:
    """`mu` and one particle of zero mass at `elsewhere`."""
    index = jnp.append(jnp.arange(mu.size), 0)
    mu = take(mu, index, mu.weights[index].at[-1].set(0.0))
    return replaced(mu, points=mu.points.at[-1].set(elsewhere))


def follow(values: Any, index: Any) -> Any:
    """Arrays of a leading axis M at `index`; single numbers as they are."""
    return jax.tree.map(lambda v: v if v.ndim == 0 else v[index], values)


def relabeled(mu: Particles, divisible: bool) -> dict[str, Particles]:
    """`mu`, which ends with a particle of zero mass, in another order, and with its first particle split."""
    order = jr.permutation(jr.key(1), mu.size)
    permuted = {"permuted": take(mu, order, mu.weights[order])}
    if not divisible:
        return permuted
    index = jnp.arange(mu.size).at[-1].set(0)
    halved = mu.weights[index].at[jnp.array([0, mu.size - 1])].multiply(0.5)
    return permuted | {"split": take(mu, index, halved)}


def check_relabeled(errors: Errors, at: Callable[[str], Any], size: int, divisible: bool, bar: float) -> None:
    """Arrays of the measures of `relabeled` follow the particles of the base measure."""
    order = jr.permutation(jr.key(1), size)
    errors.same("permutation", at("permuted"), follow(at("base"), order), bar)
    if not divisible:
        return
    index = jnp.arange(size).at[-1].set(0)
    errors.same("splitting", at("split"), follow(at("base"), index), bar)


def finished(flow, mu: Measure, stepper, **options: Any) -> tuple[Measure, dict[str, Any]]:
    """The final measure and the records of a compiled run that must complete.

    (the measure at the end, what was recorded) of a compiled run. **Raises** unless it completes.
    """
    sim = Simulation(flow, mu, stepper=stepper, **options)
    carry, (_, values) = program(trajectory, sim)(sim)
    ensure(int(carry.status) == codes.OK, codes.describe(int(carry.status)))
    return carry.state.measure, values
