"""Exponential rates fitted to a curve."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import ScalarLike


class Rate(NamedTuple):
    """The exponential rate of a decay that was fitted to a curve.

    A fitted decay e^{-rate t}: `rate`, its standard `error`, the `window` (t0, t1) of times, and the number
    of `points` in it.
    """

    rate: float
    error: float
    window: tuple[float, float]
    points: int


def fit_rate(
    times: Any,
    values: Any,
    *,
    window: tuple[ScalarLike, ScalarLike] | None = None,
    floor: ScalarLike = 0.0,
    transient: ScalarLike = 0.1,
) -> Rate:
    """Fit an exponential rate to a curve that decays, within a window of time.

    The rate r of values ~ C e^{-r t}, by least squares on their logarithms within a window.

    `times` (S,) in flow time, `values` (S,), such as a free energy minus its minimum, a KL or a W2; what is
    not finite is left out.

    - `window` (t0, t1): the times to fit. Without it, from where the values have fallen to `transient`
      times the first one until they first come within a factor 100 of `floor`, the value at which the
      noise of the seeds or the mesh stops the decay, or to 1e-13 of the first one.

    The error is that of independent residuals: an indication, since those of one curve are not.

    **Raises** `ValueError` for fewer than 3 positive values in the window: save more often, or run longer.

    >>> t = np.linspace(0.0, 10.0, 101)
    >>> fit = fit_rate(t, 3 * np.exp(-2 * t) + 5 * np.exp(-9 * t) + 1e-7, floor=1e-7)
    >>> round(fit.rate, 2), fit.window[0] > 0.5, fit.window[1] < 7
    (2.0, True, True)
    """
    times, values = np.asarray(times, float), np.asarray(values, float)
    if times.ndim != 1 or times.shape != values.shape:
        raise ValueError(
            f"times and values must be vectors of one length, got {times.shape} and {values.shape}"
        )
    fine = np.isfinite(values) & np.isfinite(times)
    times, values = times[fine], values[fine]
    if window is not None:
        kept = (times >= window[0]) & (times <= window[1]) & (values > 0)
    else:
        kept = _between(values, *(float(np.asarray(number)) for number in (floor, transient)))
    n = int(np.sum(kept))
    if n < 3:
        raise ValueError(
            f"a rate needs 3 positive values between transient and floor, got {n}: save more often, run "
            "longer, or pass window=(t0, t1)"
        )
    t, logs = times[kept], np.log(values[kept])
    centered = t - t.mean()
    spread = np.sum(centered**2)
    if spread == 0:
        raise ValueError(f"all {n} values of the window lie at t = {t[0]:g}")
    slope = np.sum(centered * logs) / spread
    rest = logs - logs.mean() - slope * centered
    error = np.sqrt(np.sum(rest**2) / (n - 2) / spread)
    return Rate(float(-slope), float(error), (float(t[0]), float(t[-1])), n)


def _between(values: np.ndarray, floor: float, transient: float) -> np.ndarray:
    """Where a decaying curve is past its transient and has not met its floor."""
    if not values.size:
        return np.zeros(0, bool)
    low = max(100 * floor, 1e-13 * abs(values[0]))
    begun = np.flatnonzero(values <= transient * values[0])
    index = np.arange(values.size)
    ended = np.flatnonzero(~(values > low))
    last = ended[0] if len(ended) else values.size
    return (index >= (begun[0] if len(begun) else values.size)) & (index < last)
