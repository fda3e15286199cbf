"""The abstract bound, and the shapes that the theorems have."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import as_floats, finite, is_traced, scalar
from mfjax.measures import Measure

Times = Float[Array, "*times"]


class Bound(eqx.Module):
    """An upper bound B(t) for a quantity along a flow. A new shape is one subclass with `curve`.

    `name` says which quantity, and whose theorem.
    """

    name: eqx.AbstractVar[str]

    @abstractmethod
    def curve(self, times: Times) -> Times:
        """B at flow times t >= 0."""

    def __call__(self, times: Any) -> Times:
        """B at flow times t >= 0, one number or an array."""
        return self.curve(as_floats(times, "times"))

    def check(self, times: Any, values: Any, *, resolution: float | None = None) -> float:
        """The margin min over t > 0 of 1 - (value - resolution) / B(t), negative where the bound is broken.

        - `times`, `values` (S,): the recorded curve. A value or a bound of NaN gives NaN: it proves nothing.
        - `resolution`: the absolute error of the values, 16 roundings of the largest unless given. Without
          it a curve that has reached the rounding floor would break a bound that still falls.

        **Raises** `ValueError` for mismatched shapes and for no time after 0.
        """
        given = np.asarray(values)
        times, values = np.asarray(times, np.float64), given.astype(np.float64)
        if times.ndim != 1 or values.shape != times.shape:
            raise ValueError(f"times and values must be (S,) alike, got {times.shape} and {values.shape}")
        later = times > 0
        if not later.any():
            raise ValueError("no time after 0: at t = 0 a bound says nothing")
        if resolution is None:
            dtype = given.dtype if np.issubdtype(given.dtype, np.floating) else np.float64
            resolution = 16 * float(np.finfo(dtype).eps) * float(np.max(np.abs(values)))
        excess = np.maximum(values[later] - resolution, 0) + 0 * values[later]
        ceiling = np.asarray(self(times), np.float64)[later]
        ratio = np.where(excess > 0, excess / np.where(ceiling > 0, ceiling, 1e-300), excess)
        ratio = np.where(np.isnan(ceiling), np.nan, ratio)
        return float(1 - np.max(ratio))

    def row(self, times: Any, values: Any, *, resolution: float | None = None) -> dict[str, float]:
        """The margin of `check` as a column of the table of certificates."""
        return {f"margin of {self.name}": self.check(times, values, resolution=resolution)}


def check_probability(mu: Measure, name: str) -> None:
    """**Raises** `ValueError` unless the mass of `mu` is one, to a thousandth."""
    if is_traced(mu.weights):
        return
    # By numpy: inside jit a constant is no tracer, and its sum would be one.
    mass = float(np.sum(np.asarray(mu.weights)))
    if abs(mass - 1) > 1e-3:
        raise ValueError(f"{name} must be a probability measure, got one of mass {mass:g}")


class Algebraic(Bound):
    """A bound that falls like one over time.

    B(t) = 1 / (1 / initial + constant t).

    >>> float(Algebraic(2.0, 0.5)(3.0))
    0.5
    """

    initial: Float[Array, ""]
    constant: Float[Array, ""]
    name: str = eqx.field(static=True)

    def __init__(self, initial: ScalarLike, constant: ScalarLike, name: str = "algebraic decay"):
        self.initial = scalar(initial, "initial", minimum=0)
        self.constant = scalar(constant, "constant")
        self.name = name

    def curve(self, times):
        return self.initial / (1 + self.initial * self.constant * times)


class Exponential(Bound):
    """A bound that falls, or grows, exponentially.

    B(t) = initial e^{-rate t}; a negative rate bounds growth.

    >>> round(float(Exponential(1.0, 2.0)(1.0)), 4)
    0.1353
    """

    initial: Float[Array, ""]
    rate: Float[Array, ""]
    name: str = eqx.field(static=True)

    def __init__(self, initial: ScalarLike, rate: ScalarLike, name: str = "exponential decay"):
        self.initial = scalar(initial, "initial", minimum=0)
        self.rate = scalar(rate, "rate")
        self.name = name

    def curve(self, times):
        return self.initial * jnp.exp(-self.rate * times)


class Geometric(Bound):
    """The bound of implicit steps of one size, exponential as the size goes to zero.

    B(t) = initial (1 + rate step)^{-t / step}: implicit steps of size `step`; e^{-rate t} as step -> 0.

    >>> float(Geometric(1.0, 2.0, 0.5)(1.0))
    0.25
    """

    initial: Float[Array, ""]
    rate: Float[Array, ""]
    step: Float[Array, ""]
    name: str = eqx.field(static=True)

    def __init__(
        self, initial: ScalarLike, rate: ScalarLike, step: ScalarLike, name: str = "geometric decay"
    ):
        self.initial = scalar(initial, "initial", minimum=0)
        self.rate = scalar(rate, "rate", minimum=0)
        self.step = scalar(step, "step", above=0)
        self.name = name

    def curve(self, times):
        return self.initial * jnp.exp(-jnp.log1p(self.rate * self.step) * times / self.step)


class Integrated(Bound):
    """An exponential bound whose rate changes along a run.

    B(t) = initial e^{-int_0^t r}, with a rate r known at times of a run, the smaller of two between them.

    - `times` (S,) increasing from 0, `rates` (S,): r there. Beyond the last time its rate goes on.

    A bound a posteriori, between the times up to how fast r can dip there: save often enough that r
    changes little from one time to the next.

    **Raises** `ValueError` for times that do not begin with 0 or do not increase, and shapes that differ.

    >>> bound = Integrated(1.0, [0.0, 1.0, 3.0], [1.0, 2.0, 4.0])
    >>> round(float(-jnp.log(bound(2.0))), 6)
    3.0
    """

    initial: Float[Array, ""]
    times: Float[Array, " S"]
    rates: Float[Array, " S"]
    name: str = eqx.field(static=True)

    def __init__(self, initial: ScalarLike, times: Any, rates: Any, name: str = "integrated decay"):
        self.initial = scalar(initial, "initial", minimum=0)
        self.times, self.rates = as_floats(times, "times"), finite(as_floats(rates, "rates"), "rates")
        if self.times.ndim != 1 or self.times.size < 2 or self.rates.shape != self.times.shape:
            raise ValueError(
                f"times and rates must be (S,) alike, S > 1, got {self.times.shape} and {self.rates.shape}"
            )
        if not is_traced(self.times):
            known = np.asarray(self.times)
            if known[0] != 0 or not np.all(np.diff(known) > 0):
                raise ValueError(f"times must increase from 0, got {known.tolist()}")
        self.name = name

    def curve(self, times):
        smaller = jnp.append(jnp.minimum(self.rates[1:], self.rates[:-1]), self.rates[-1])
        exponents = jnp.append(0, jnp.cumsum(jnp.diff(self.times) * smaller[:-1]))
        before = jnp.clip(jnp.searchsorted(self.times, times, side="right") - 1, 0, self.times.size - 1)
        return self.initial * jnp.exp(-exponents[before] - smaller[before] * (times - self.times[before]))


class Recorded(Bound):
    """A bound that is known at the saved times of a run alone.

    B(t) = the value of the same place at each of `times`, NaN at any other time.

    - `times` (S,), `values` (S,): as a run has them.

    **Raises** `ValueError` for shapes that differ.

    >>> Recorded([0.0, 1.0], [3.0, 2.0], "H")(jnp.array([1.0, 0.5])).tolist()
    [2.0, nan]
    """

    times: Float[Array, " S"]
    values: Float[Array, " S"]
    name: str = eqx.field(static=True)

    def __init__(self, times: Any, values: Any, name: str):
        self.times, self.values = as_floats(times, "times"), as_floats(values, "values")
        if self.times.ndim != 1 or self.values.shape != self.times.shape:
            raise ValueError(
                f"times and values must be (S,) alike, got {self.times.shape} and {self.values.shape}"
            )
        self.name = name

    def curve(self, times):
        same = times[..., None] == self.times
        # A run that has stopped repeats its last time.
        found = self.values[jnp.argmax(same, axis=-1)]
        return jnp.where(jnp.any(same, axis=-1), found, jnp.nan)
