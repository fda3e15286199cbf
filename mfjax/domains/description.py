"""Domains as plain text, and back."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import numpy as np

from mfjax import domains
from mfjax.domains.base import Domain


def description(domain: Domain) -> dict[str, Any]:
    """The class of a domain and its fields, as JSON holds them; of a user's own class the name alone.

    >>> description(domains.Torus(2, 4.0))
    {'class': 'Torus', 'dim': 2, 'period': 4.0}
    """
    kind = type(domain)
    if vars(domains).get(kind.__name__) is not kind:
        return {"class": f"{kind.__module__}.{kind.__qualname__}"}
    return {"class": kind.__name__} | {name: _plain(value) for name, value in vars(domain).items()}


def rebuilt(described: Mapping[str, Any]) -> Domain | None:
    """The domain of a `description`; `None` for a class that mfjax does not have, in a factor too.

    >>> rebuilt({"class": "Torus", "dim": 2, "period": 4.0})
    Torus(dim=2, period=4.0)
    """
    if described["class"] not in domains.__all__:
        return None
    fields = {name: _value(value) for name, value in described.items() if name != "class"}
    # The factors of a product are its arguments.
    factors = fields.pop("factors", ())
    if any(value is None for value in (*fields.values(), *factors)):
        return None
    return vars(domains)[described["class"]](*factors, **fields)


def _plain(value: Any) -> Any:
    if isinstance(value, Domain):
        return description(value)
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if not eqx.is_array(value):
        return value
    # A Python number gave an array without a dtype of its own, and does so again.
    if value.size == 1 and getattr(value, "weak_type", False):
        return value.item()
    return {"dtype": str(value.dtype), "values": np.asarray(value).tolist()}


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return [_value(each) for each in value]
    if not isinstance(value, dict):
        return value
    if "class" in value:
        return rebuilt(value)
    array = np.asarray(value["values"], value["dtype"])
    # One-dimensional boxes take their corners as numbers.
    return array.reshape(()) if array.size == 1 else array
