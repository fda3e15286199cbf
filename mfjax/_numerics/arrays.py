"""Small array helpers shared by every module: conversions, checks that respect tracing, and safe norms."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

T = TypeVar("T")


def is_traced(tree: Any) -> bool:
    """Whether any leaf of `tree` is a JAX tracer, so that its value cannot be inspected."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def kind(value: Any) -> str:
    """What a wrong argument is: its type, or the class that should have been called.

    >>> kind(1.0), kind(int)
    ('float', 'the class int: write int(...)')
    """
    name = getattr(value, "__name__", "")
    return f"the class {name}: write {name}(...)" if isinstance(value, type) else type(value).__name__


def shown(value: Any) -> str:
    """A wrong argument as it was written where that is short, otherwise what it is.

    >>> import numpy as np
    >>> shown(2.5), shown(np.arange(100.0))
    ('2.5', 'ndarray of shape (100,)')
    """
    text = repr(value)
    if len(text) <= 60 and "\n" not in text:
        return text
    return f"{type(value).__name__} of shape {np.shape(value)}" if hasattr(value, "shape") else kind(value)


def nothing_in(tree: Any) -> str | None:
    """The name of the first part of `tree` that is `None`; the optional fields of a module may be.

    >>> nothing_in({"x": 1.0, "y": {"z": None}}), nothing_in({"x": 1.0})
    ('y_z', None)
    """
    closed = lambda node: node is None or isinstance(node, eqx.Module)
    for path, node in jax.tree_util.tree_flatten_with_path(tree, is_leaf=closed)[0]:
        if node is None:
            return jax.tree_util.keystr(path, simple=True, separator="_") or "value"
    return None


class Fixed(eqx.Module):
    """A part of a run's state that never changes: loops keep it beside what they carry."""

    value: Any


class Prepared(Fixed):
    """What was computed once from the data and the features, which must then stay the same, or `None`."""


def known(value: T | None) -> T:
    """`value`, which an earlier check, or the form of the run, has shown not to be `None`."""
    assert value is not None
    return value


def added(a: Array | None, b: Array | None) -> Array | None:
    """The sum of two numbers, or `None` where one of them is not known."""
    return None if a is None or b is None else a + b


def frozen(tree: T) -> T:
    """`tree` with the same numbers and no derivatives.

    >>> float(jax.grad(lambda x: x * frozen(x))(3.0))
    3.0
    """
    return jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_inexact_array(x) else x, tree)


def as_floats(value: Any, name: str) -> Array:
    """Convert to a floating array, keeping a floating dtype and promoting integers and booleans.

    Python numbers give weakly typed arrays: a parameter never promotes the dtype of the data it meets.
    """
    value = native(value, name)
    # JAX cuts whole numbers to 32 bits unless it has 64, before it makes them floating.
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "iu":
        value = value.astype(np.float64)
    elif type(value) is int:
        value = float(value)
    try:
        if is_traced(value):
            array = jnp.asarray(value)
        else:
            # A constant stays one inside jit: it can be checked, and decides structure as it does outside.
            with jax.ensure_compile_time_eval():
                array = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numeric, got {shown(value)}") from error
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ValueError(f"{name} must be real, got dtype {array.dtype}")
    if jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize < 4:
        raise ValueError(
            f"{name} must be float32 or float64, got {array.dtype}: convert it by .astype(jnp.float32)"
        )
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(jnp.result_type(float))
    return array


def native(value: Any, name: str) -> Any:
    """`value`, a NumPy array in the byte order and a precision that JAX has, and without masked entries.

    **Raises** `ValueError` naming the first entry that is masked.

    >>> native(np.arange(2.0).astype(">f8"), "x").dtype.isnative
    True
    """
    if np.ma.isMaskedArray(value):
        masked = np.argwhere(np.ma.getmaskarray(value))
        if len(masked):
            index = tuple(map(int, masked[0]))
            raise ValueError(f"{name} is masked at index {index}: fill its entries, or leave them out")
        return native(value.data, name)
    if not isinstance(value, (np.ndarray, np.generic)) or value.dtype.kind not in "iuf":
        return value
    # Of more digits than 64 bits have JAX knows nothing.
    kind = (
        np.float64 if value.dtype.kind == "f" and value.dtype.itemsize > 8 else value.dtype.newbyteorder("=")
    )
    return value.astype(kind, copy=False)


def scalar(
    value: Any, name: str, *, minimum: int | float | None = None, above: int | float | None = None
) -> Array:
    """A parameter as a zero-dimensional array leaf, so that sweeping it never retraces.

    **Raises** `ValueError` if `value` is not a finite scalar, or lies outside the stated range.
    Values that are being traced are not inspected.
    """
    array = as_floats(value, name)
    if array.ndim != 0:
        raise ValueError(f"{name} must be a scalar, got an array of shape {array.shape}")
    if not is_traced(array):
        number = float(array)
        if not np.isfinite(number):
            raise ValueError(f"{name} must be finite, got {number}")
        if minimum is not None and number < minimum:
            raise ValueError(f"{name} must be at least {minimum:g}, got {number:g}")
        if above is not None and number <= above:
            raise ValueError(f"{name} must be greater than {above:g}, got {number:g}")
    return array


def count(value: Any, name: str, *, minimum: int = 1) -> int:
    """A structural whole number (width, number of cells, number of steps)."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise ValueError(f"{name} must be a whole number, got {shown(value)}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    return int(value)


def finite(array: Array, name: str) -> Array:
    """Return `array`, or raise `ValueError` naming the first entry that is NaN or infinite."""
    if not is_traced(array):
        bad = np.argwhere(~np.isfinite(np.asarray(array)))
        if len(bad):
            index = tuple(int(i) for i in bad[0])
            value = np.asarray(array)[index]
            raise ValueError(f"{name} must be finite, got {value} at index {index}")
    return array


def safe_norm(vector: Float[Array, " d"]) -> Float[Array, ""]:
    """Euclidean length whose derivative at the zero vector is zero instead of NaN.

    The one distance used in the library: kernels, distances and feature maps all meet coincident points.
    """
    return safe_sqrt(jnp.sum(vector * vector))


def long_norm(vector: Float[Array, " n"]) -> Float[Array, ""]:
    """`safe_norm` of many numbers of any size, whose squares may underflow or overflow."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(vector)))
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1.0)
    return scale * safe_norm(vector / scale)


def safe_sqrt(value: Array) -> Array:
    """Square root with derivative zero at zero; NaN for NaN and for negative numbers."""
    zero = value == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, value)))


def inner(a: Array, b: Array) -> Array:
    """Contraction in full precision: accelerators otherwise drop to 10-bit mantissas (TF32, bfloat16)."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def transposed_inner(a: Float[Array, "n m"], b: Float[Array, "n *c"]) -> Float[Array, "m *c"]:
    """a^T b as the transpose of b^T a: on CPU the product that transposes a is several times slower.

    >>> transposed_inner(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([1.0, 1.0])).tolist()
    [4.0, 6.0]
    """
    # Without the barrier XLA would write the transpose of a product as the product we avoid.
    return inner(b, a) if b.ndim == 1 else jax.lax.optimization_barrier(inner(b.T, a)).T


def as_part(function: Callable) -> Callable:
    """A function as a part of a pytree: a plain one is structure, a module brings its arrays as leaves."""
    module = isinstance(function, (eqx.Module, jax.tree_util.Partial))
    return cast(Callable, function) if module else jax.tree_util.Partial(function)


def along(vector: Float[Array, " n"], block: Array) -> Array:
    """`vector` shaped to multiply `block`, (n,) or (n, c), row by row."""
    return vector.reshape(-1, *[1] * (block.ndim - 1))


def columns(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """`function` of a vector (n,), for a vector or for each column of a block (n, c).

    >>> columns(jnp.max)(jnp.array([[1.0, 5.0], [3.0, 2.0]])).tolist()
    [3.0, 5.0]
    """
    batch = jax.vmap(function, in_axes=1, out_axes=-1)
    return lambda block: function(block) if block.ndim == 1 else batch(block)


def as_block(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """`function` of a block (n, c), for a block or for a vector (n,), which is one of a single column.

    >>> as_block(lambda block: 2 * block)(jnp.array([1.0, 5.0])).tolist()
    [2.0, 10.0]
    """
    return lambda values: function(values[:, None])[:, 0] if values.ndim == 1 else function(values)


def pairing(a: Array, b: Array) -> Float[Array, ""]:
    """The sum of the products of all entries of two arrays of one shape."""
    return inner(a.ravel(), b.ravel())


def over_outputs(values: Float[Array, "n *c"]) -> Float[Array, " n"]:
    """The sums over the outputs of a network, if it has several."""
    return values if values.ndim == 1 else jnp.sum(values, axis=1)
