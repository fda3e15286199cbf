"""What an observable sees of averages along a run."""

from collections.abc import Callable
from typing import Any

import equinox as eqx

from mfjax._numerics.arrays import as_part, shown
from mfjax.flows.base import Flow
from mfjax.measures import Measure
from mfjax.observables.base import Observable


class AtAverage(Observable):
    """Another observable at the measure whose points are averages along the run, of `flows.Averaged`.

    - `observable`: one of this package, or a function of a measure and a flow.

    **Raises** `ValueError` for what is no function, and for a measure without the mark "average".

    >>> import jax.numpy as jnp, mfjax as mf
    >>> mu = mf.measures.Particles(jnp.array([[1.0]]), marks={"average": jnp.array([[0.5]])})
    >>> AtAverage(mf.observables.Moments(1))(mu).tolist()
    [0.5]
    """

    observable: Callable

    def __init__(self, observable: Callable):
        if not callable(observable):
            raise ValueError(f"observable must be a function of (measure, flow), got {shown(observable)}")
        self.observable = as_part(observable)

    def validate(self, mu, flow):
        if isinstance(self.observable, Observable):
            self.observable.validate(mu, flow)

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Any:
        if "average" not in mu.marks:
            raise ValueError("this measure has no averages: run flows.Averaged(flow)")
        return self.observable(eqx.tree_at(lambda nu: nu.points, mu, mu.marks["average"]), flow)
