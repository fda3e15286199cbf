"""Several devices, of this process or of others: work divided over them, arrays put there and back."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def whole_mesh(mesh: Mesh | None) -> Mesh | None:
    """The mesh that a sweep divides its cells over: the given one, else all devices if there are several.

    **Raises** `ValueError` for what is no mesh.
    """
    if mesh is None:
        if jax.process_count() > 1 or jax.local_device_count() == 1:
            return None
        return jax.make_mesh((jax.local_device_count(),), ("cells",), axis_types=(AxisType.Auto,))
    if not isinstance(mesh, Mesh):
        raise ValueError(f"mesh must be a jax.sharding.Mesh (jax.make_mesh), got {type(mesh).__name__}")
    # Explicit axes would ask every array of a cell for its own sharding.
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)


def spans_processes(mesh: Mesh | None) -> bool:
    """Whether a mesh has devices of several processes, of which the first alone then writes files."""
    return mesh is not None and len({device.process_index for device in mesh.devices.flat}) > 1


def over_devices(function: Callable, mesh: Mesh | None, stacked: tuple[bool, ...]) -> Callable:
    """`function` of many cells with the cells divided among the devices; of `stacked` arguments only."""
    if mesh is None:
        return function
    cells = PartitionSpec(mesh.axis_names)
    specs = tuple(cells if s else PartitionSpec() for s in stacked)
    # No cell needs another: nothing is exchanged, and there is no replication to be proved.
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=cells, check_vma=False)


def is_global(tree: Any) -> bool:
    """Whether an array of `tree` has parts on devices of other processes."""
    return any(_is_elsewhere(leaf) for leaf in jax.tree.leaves(tree))


def _is_elsewhere(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not _traced(leaf) and not leaf.is_fully_addressable


def together(name: str) -> None:
    """Wait until every process is here."""
    from jax.experimental.multihost_utils import sync_global_devices

    sync_global_devices(name)


def gathered(tree: Any) -> Any:
    """`tree` with the arrays of several processes brought to each: all processes must call it together."""
    leaves, structure = jax.tree.flatten(tree)
    away = [leaf for leaf in leaves if _is_elsewhere(leaf)]
    if not away:
        return tree
    everywhere = [NamedSharding(leaf.sharding.mesh, PartitionSpec()) for leaf in away]
    copies = iter(jax.jit(_same, out_shardings=everywhere)(away))
    local = lambda leaf: next(copies).addressable_data(0) if _is_elsewhere(leaf) else leaf
    return jax.tree.unflatten(structure, [local(leaf) for leaf in leaves])


def _same(arrays: Any) -> Any:
    return arrays


def put(leaf: Any, sharding: Any) -> Any:
    """`leaf`, the same in every process, as one array on all devices of `sharding`."""
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = put(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    local = np.asarray(leaf)
    return jax.make_array_from_callback(local.shape, sharding, lambda index: local[index])


def as_placed(tree: Any, like: Any) -> Any:
    """`tree` divided among devices as `like` is: a state read from disk goes on as the run it came from."""
    divided = lambda b: isinstance(b, jax.Array) and isinstance(b.sharding, NamedSharding)
    return jax.tree.map(lambda a, b: put(a, b.sharding) if divided(b) else a, tree, like)


def refuse_explicit(tree: Any) -> None:
    """**Raises** `ValueError` for arrays on a mesh whose axes ask every operation for its own sharding."""
    for leaf in jax.tree.leaves(tree):
        sharding = leaf.sharding if isinstance(leaf, jax.Array) and not _traced(leaf) else None
        if isinstance(sharding, NamedSharding) and AxisType.Explicit in sharding.mesh.axis_types:
            raise ValueError(
                f"an array is divided over the explicit mesh axes {sharding.mesh.axis_names}: make the mesh "
                "by jax.make_mesh(..., axis_types=(jax.sharding.AxisType.Auto,) * number of axes)"
            )


def _traced(leaf: Any) -> bool:
    return isinstance(leaf, Tracer)


def divisions(tree: Any) -> list[str]:
    """How the arrays of `tree` are divided among devices, which changes rounding; empty if they are not."""
    arrays = jax.tree.leaves(eqx.filter(tree, lambda leaf: isinstance(leaf, jax.Array)))
    found = (a.sharding for a in arrays if not _traced(a))
    return sorted(
        {
            f"{tuple(s.mesh.shape.items())} {s.spec}"
            for s in found
            if isinstance(s, NamedSharding) and s.mesh.size > 1
        }
    )


def as_here(function: Callable) -> Callable:
    """`function` for another thread, under the settings of JAX in this one: precision, device, checks."""
    # JAX adds the names of its settings when it is imported.
    config: Any = jax.config
    settings = [
        (jax.enable_x64, config.jax_enable_x64),
        (jax.default_device, config.jax_default_device),
        (jax.default_matmul_precision, config.jax_default_matmul_precision),
        (jax.numpy_dtype_promotion, config.jax_numpy_dtype_promotion),
        (jax.numpy_rank_promotion, config.jax_numpy_rank_promotion),
        (jax.debug_nans, config.jax_debug_nans),
        (jax.debug_infs, config.jax_debug_infs),
        (jax.default_prng_impl, config.jax_default_prng_impl),
        (jax.threefry_partitionable, config.jax_threefry_partitionable),
    ]

    def there(*arguments):
        with ExitStack() as stack:
            for setting, value in settings:
                stack.enter_context(setting(value))
            return function(*arguments)

    return there
