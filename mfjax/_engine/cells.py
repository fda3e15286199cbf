"""Cells that share a program: a function of named numbers, which stays inside the compiled loop over time."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mfjax._engine.devices import over_devices, put
from mfjax._engine.programs import Programs
from mfjax._engine.simulation import Simulation
from mfjax._numerics.compiled import Form, Program, is_array, shapes_of


class Inputs(NamedTuple):
    """What makes one cell, or several: `values` of axes, `own` arrays that follow from them, `shared` ones.

    Of several cells, `values` and `own` have the cells as leading axis.
    """

    values: list[Any]
    own: list[Any]
    shared: list[Any]


class Cells:
    """`fn` of the structural values `constant` and of numbers, given as `columns` of one entry a cell.

    The arrays that `fn` makes are computed once a cell, those that depend on no axis once in all, and are
    arguments of the loop. Inside the loop `fn` is called again, where its arrays are replaced by these: what
    is left are the numbers that it keeps elsewhere, in closures, objects and static fields. A result that is
    made of library code alone keeps none, and a later call finds the loop that was traced for its like.
    """

    def __init__(self, fn: Callable[..., Any], constant: dict[str, Any], columns: dict[str, Any]):
        self.fn, self.constant, self.columns = fn, constant, columns
        self.names = sorted(columns)
        # Weakly typed, as Python numbers are, the numbers of a cell promote nothing.
        kinds = [jnp.asarray(columns[name][:1]).dtype for name in self.names]
        self.values_like = [jax.ShapeDtypeStruct((), kind, weak_type=True) for kind in kinds]
        self.program = Program(self._arrays, self.values_like)
        self.form = self.program.form
        # The result of one cell, with shapes in place of arrays.
        self.outline: Any = self.program.shapes
        self.number = len(self.columns[self.names[0]]) if self.names else 1

    def result(self, values: list[Any]) -> Any:
        """What `fn` returns for one cell."""
        result = self.fn(**self.constant, **dict(zip(self.names, values, strict=True)))
        # The histories of all measures would fill the memory, and a table holds the last only.
        return result.without_measures() if isinstance(result, Simulation) else result

    def declared(self, index: int) -> Any:
        """What `fn` returns for the Python numbers of a cell."""
        return self.fn(**self.constant, **{name: self.columns[name][index].item() for name in self.names})

    def _arrays(self, values: list[Any]) -> Any:
        return jax.tree.map(lambda leaf: jnp.asarray(leaf) if is_array(leaf) else leaf, self.result(values))

    def _part(self, varying: bool) -> Callable[[list[Any]], list[Any]]:
        """The arrays of a cell that vary, or those that do not."""

        def part(values):
            pairs = zip(self.program.replayed(*values), self.form.varying, strict=True)
            return [leaf for leaf, v in pairs if v == varying]

        return part

    @cached_property
    def shared(self) -> list[Any]:
        """The arrays that are the same in all cells."""
        some = self.values(0)
        return Program(self._part(False), self.values_like)(some)

    def values(self, cells: Any) -> list[Any]:
        """The numbers of one cell, or of several."""
        if np.ndim(cells):
            return [jnp.asarray(self.columns[name][cells]) for name in self.names]
        return [jnp.asarray(self.columns[name][cells].item()) for name in self.names]

    @cached_property
    def _own(self) -> Program:
        return Program(self._part(True), self.values_like)

    @cached_property
    def _own_of_many(self) -> Program:
        return self._own.lifted(Batch("vmap", None, len(self.names)))

    def prepare(self) -> None:
        """Trace and compute, once, what threads share."""
        _ = self.shared, self._own, self._own_of_many

    def inputs(self, cells: Any) -> Inputs:
        """The inputs of cell number `cells`, or of several."""
        values = self.values(cells)
        own = self._own_of_many if np.ndim(cells) else self._own
        return Inputs(values, own(values), self.shared)

    @property
    def inputs_of_one(self) -> Inputs:
        """The inputs of one cell as shapes."""
        return Inputs(self.values_like, list(self._own.shapes), shapes_of(self.shared))

    def inputs_like(self, size: int) -> Inputs:
        """The inputs of `size` cells as shapes."""
        many = lambda s: jax.ShapeDtypeStruct((size, *s.shape), s.dtype)
        own = [many(s) for s in self._own.shapes]
        return Inputs([many(s) for s in self.values_like], own, shapes_of(self.shared))

    def simulation(self, inputs: Inputs) -> Simulation:
        """The run of one cell, its arrays taken from `inputs`."""
        dynamic, static = eqx.partition(self.result(inputs.values), is_array)
        return Form(jax.tree.structure(dynamic), static, self.form.varying)(inputs.own, inputs.shared)

    def assembled(self, inputs: Inputs) -> Any:
        """The result of one cell or of several, as far as it consists of arrays."""
        return self.form(inputs.own, inputs.shared)

    def arrays_of_many(self, method: str, mesh: Mesh | None = None) -> Program:
        """What `fn` returns, of numbers of many cells."""
        return self.program.lifted(Batch(method, mesh, len(self.names)))

    def programs(self, method: str, mesh: Mesh | None = None) -> Programs:
        """The loop over time of one cell ("loop"), or of a batch: "vmap" or "map", divided over a mesh."""
        if method == "loop":
            return Programs(self.simulation, self.form)
        one = self.inputs_of_one
        own, shared = len(one.values) + len(one.own), len(one.shared)
        lift = lambda counts: Batch(method, mesh, own, shared, counts)
        return Programs(self.simulation, self.form, one, lift)


class Batch(NamedTuple):
    """One cell made many: as one array axis ("vmap"), or one after the other ("map"), divided over a mesh.

    Of the arrays of a cell `own` are its own, then `shared` those of all, and the last `counts` too; what is
    between is its state.
    """

    method: str
    mesh: Mesh | None
    own: int
    shared: int = 0
    counts: int = 0

    def __call__(self, function: Callable) -> Callable:
        """From a function of (constants, *arrays of one cell) to that of many."""
        first = self.own + self.shared

        def many(constants, *leaves):
            last = len(leaves) - self.counts
            moving = (leaves[: self.own], leaves[first:last])
            still = (leaves[self.own : first], leaves[last:])

            def on_device(constants, moving, still):
                def one(own, state):
                    return function(constants, *own, *still[0], *state, *still[1])

                return along(one, self.method)(*moving)

            return over_devices(on_device, self.mesh, (False, True, False))(constants, moving, still)

        return many


def along(one: Callable, method: str) -> Callable:
    """`one` cell made a function of many, stacked: as one array axis, or one after the other."""
    return jax.vmap(one) if method == "vmap" else lambda *xs: jax.lax.map(lambda x: one(*x), xs)


def placed(inputs: Any, mesh: Mesh | None) -> Any:
    """The inputs or the values of a group where its program wants them, so that no call moves them again."""
    if mesh is None:
        return inputs
    cells, everywhere = (NamedSharding(mesh, PartitionSpec(*names)) for names in ((mesh.axis_names,), ()))
    stacked = lambda leaves: [put(leaf, cells) for leaf in leaves]
    if not isinstance(inputs, Inputs):
        return stacked(inputs)
    shared = [put(leaf, everywhere) for leaf in inputs.shared]
    return Inputs(stacked(inputs.values), stacked(inputs.own), shared)
