"""The loop over time for a batch of cells: as an array axis or one after the other, on a device or a mesh."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mfjax._engine.devices import put
from mfjax._engine.host import Program
from mfjax._engine.loop import advance, begin, close, steps_only
from mfjax._engine.table import Traced


def along(one: Callable, method: str) -> Callable:
    """`one` cell made a function of many, stacked: as one array axis, or one after the other."""
    return jax.vmap(one) if method == "vmap" else lambda *xs: jax.lax.map(lambda x: one(*x), xs)


def split(function: Callable, mesh: Mesh | None, stacked: tuple[bool, ...]) -> Callable:
    """`function` of many cells with the cells divided among the devices; of `stacked` arguments only."""
    if mesh is None:
        return function
    cells = PartitionSpec(mesh.axis_names)
    specs = tuple(cells if s else PartitionSpec() for s in stacked)
    # No cell needs another: nothing is exchanged, and there is no replication to be proved.
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=cells, check_vma=False)


class Lifted:
    """`function(simulation, *carry, *counts)` of a batch of cells; what does not vary is shared."""

    def __init__(
        self,
        rebuild: Callable,
        varying: tuple[bool, ...],
        function: Callable,
        carries: int,
        method: str,
        mesh: Mesh | None,
    ):
        self._varying, self._carries = varying, carries

        def all_cells(counts, own, shared, *carry):
            def on_device(own, shared, *carry):
                def one(own, *carry):
                    return function(rebuild(self._merged(own, shared)), *carry, *counts)

                return along(one, method)(own, *carry)

            return split(on_device, mesh, (True, False, *([True] * carries)))(own, shared, *carry)

        placement = {}
        if mesh is not None:
            cells = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
            shared = NamedSharding(mesh, PartitionSpec())
            placement = {"in_shardings": (cells, shared, *([cells] * carries)), "out_shardings": cells}
        self._jitted = jax.jit(all_cells, static_argnums=0, **placement)

    def _merged(self, own: list[Any], shared: list[Any]) -> list[Any]:
        mine, others = iter(own), iter(shared)
        return [next(mine) if varies else next(others) for varies in self._varying]

    def _arguments(self, batch: list[Any], *rest: Any) -> tuple[Any, ...]:
        pairs = list(zip(batch, self._varying, strict=True))
        own, shared = [a for a, v in pairs if v], [a for a, v in pairs if not v]
        return rest[self._carries :], own, shared, *rest[: self._carries]

    def __call__(self, batch: list[Any], *rest: Any) -> Any:
        """The function of all cells."""
        return self._jitted(*self._arguments(batch, *rest))

    def lower(self, batch: list[Any], *rest: Any) -> Any:
        """The lowered program, which a later call shares."""
        return self._jitted.lower(*self._arguments(batch, *rest))


def batched(traced: Traced, method: str, mesh: Mesh | None = None) -> Program:
    """The loop over time of a batch, the array outputs of `traced` with the cells as leading axis.

    `method` is "vmap" or "map". A mesh divides the cells among its devices, all its axes taken together;
    their number must be a multiple of that of the devices.
    """
    key = (traced.outline, method, mesh)
    try:
        return _compiled_before[key]
    except KeyError:
        pass
    except (TypeError, ValueError):
        # Something in it cannot be hashed, or compared.
        return _batched(traced, method, mesh)
    while len(_compiled_before) >= REMEMBERED:
        _compiled_before.pop(next(iter(_compiled_before)), None)
    return _compiled_before.setdefault(key, _batched(traced, method, mesh))


# A sweep of the same structure finds its programs compiled, as a solo run does.
_compiled_before: dict[Any, Program] = {}
REMEMBERED = 16


def _batched(traced: Traced, method: str, mesh: Mesh | None) -> Program:
    lift = lambda function, carries: Lifted(traced.rebuild, traced.varying, function, carries, method, mesh)
    return Program(lift(begin, 0), lift(advance, 1), lift(steps_only, 1), lift(close, 1), 1)


def placed(batch: list[Any], varying: tuple[bool, ...], mesh: Mesh | None) -> list[Any]:
    """The batch where its program wants it, so that no call moves it again."""
    if mesh is None:
        return batch
    cells, shared = (NamedSharding(mesh, PartitionSpec(*names)) for names in ((mesh.axis_names,), ()))
    return [put(leaf, cells if v else shared) for leaf, v in zip(batch, varying, strict=True)]
