"""Where a run comes from: what its file says beside its numbers."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any

import jax
import numpy as np

from mfjax._numerics.arrays import is_traced
from mfjax._numerics.compiled import is_array
from mfjax.domains import Domain
from mfjax.domains.description import description


@jax.tree_util.register_pytree_node_class
class Origin:
    """The domain and the settings of a run, found out when they are asked for.

    A pytree has no place for them: runs that come out of `jit`, `vmap` or `jax.tree.map` may be of several
    origins at once, and have none.
    """

    def __init__(self, sim: Any = None, make: Callable[[], Any] | None = None):
        self._sim, self._make = sim, make

    @classmethod
    def of(cls, sim: Any, make: Callable[[], Any] | None = None) -> "Origin":
        """That of a cell, whose arrays must not outlive it; `make` declares it once more."""
        if is_traced(sim):
            return cls()
        origin = cls(make=make)
        # A schedule may read a number of its cell, of which its function holds what the trace knew.
        with suppress(jax.errors.UnexpectedTracerError):
            origin._found = (sim.flow.domain, settings(sim))
        return origin

    @classmethod
    def known(cls, domain: Domain | None, settings: Mapping[str, Any]) -> "Origin":
        """What a file says."""
        origin = cls()
        origin._found = (domain, dict(settings))
        return origin

    @cached_property
    def _found(self) -> tuple[Domain | None, dict[str, Any]]:
        sim = self._sim if self._make is None else self._make()
        return (None, {}) if sim is None else (sim.flow.domain, settings(sim))

    @property
    def domain(self) -> Domain | None:
        """The domain that the measures live on, where it is known."""
        return self._found[0]

    @property
    def settings(self) -> dict[str, Any]:
        """Classes and numbers of the run as text and JSON hold them; empty where nothing is known."""
        return self._found[1]

    def tree_flatten(self):
        return (), None

    @classmethod
    def tree_unflatten(cls, aux, children):
        return cls()


def settings(sim: Any) -> dict[str, Any]:
    """What a `Simulation` was made of: names of classes, its domain, and every single number by its path."""
    flow, domain = sim.flow, sim.flow.domain
    leaves = jax.tree_util.tree_flatten_with_path({"flow": flow, "stepper": sim.stepper})[0]
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator=".")
    single = lambda leaf: is_array(leaf) and np.ndim(leaf) == 0 and leaf.dtype.kind in "biuf"
    found = {
        "flow": type(flow).__name__,
        "energy": [] if flow.energy is None else [type(term).__name__ for _, term in flow.energy.parts()],
        "stepper": type(sim.stepper).__name__,
        "numbers": {name(path): np.asarray(leaf).item() for path, leaf in leaves if single(leaf)},
        "domain": description(domain),
        "lengths": np.asarray(domain.lengths).tolist(),
        "closed": list(domain.closed),
    }
    if sim.save_every is not None:
        found["save_every"] = sim.save_every
    if sim.key is not None and not is_traced(sim.key):
        found["key"] = np.asarray(jax.random.key_data(sim.key)).tolist()
    return found
