"""Rates of the modes of a small perturbation of a uniform teacher, measured in runs and predicted."""

from typing import Any

import jax.numpy as jnp
import numpy as np

import mfjax as mf
from _lab.records import Records
from mfjax.problems import CircleTeacher
from mfjax.theory import fit_rate

from .model import BIASES, CIRCLE, coefficients, decades, lattice, risk, turns

# A lattice of M particles has exact rates if the kernel has no mode beyond M / 2.
DEGREE, WIDTH, SIZE = 4, 16, 1e-6
MODES = (1, 2, 3, 4)
UNIFORM = CircleTeacher(0.0)


def predicted(bias: float, k: Any, lam: Any, gamma: Any = None) -> Any:
    """The rate of mode k: k^2 c_k / (c_k + lam), and with a timescale gamma the slower of the two rates.

    With a the mode of the density and b that of u: a' = -(k^2 c_k / lam) (a + b),
    b' = -(gamma / lam) (c_k (a + b) + lam b).
    """
    c = coefficients(DEGREE)[bias][k]
    if gamma is None:
        return k**2 * c / (c + lam)
    trace = k**2 * c / lam + gamma * (c + lam) / lam
    determinant = gamma * k**2 * c / lam
    # A power instead of np.sqrt: lam and gamma may be traced.
    return 2 * determinant / (trace + (trace**2 - 4 * determinant) ** 0.5)


def fitted(times: np.ndarray, amplitude: np.ndarray) -> float:
    """The slope of -log(amplitude) where it has fallen by less than 1e5, in the later half of that."""
    there = np.flatnonzero(amplitude > 1e-5 * amplitude[0])
    there = times[there[min(len(there) // 2, len(there) - 3) :]]
    return fit_rate(times, amplitude, window=(there[0], there[-1])).rate


def perturbed(modes: Any) -> Any:
    """A lattice displaced by a small sine of each mode."""
    angle = turns(WIDTH)
    return lattice(WIDTH, SIZE * sum(jnp.sin(k * angle) for k in modes))


def varpro_rates(records: Records) -> Any:
    """The dataset of variable projection over bias and lam, with `rate` (bias, lam, mode)."""
    lams, c1 = decades(records.settings.preset.rate_lams), coefficients(DEGREE)[0.5][1]

    def cell(bias, lam):
        # The slow rates fall like 1 / lam: so many steps cover as much of the decay at every lam.
        time = 2 * (1 + lam / c1)
        return mf.Simulation(
            mf.flows.Wasserstein(risk(lam, bias, DEGREE, UNIFORM), CIRCLE),
            perturbed(MODES),
            stepper=mf.steppers.RK4(time / 96),
            save_at=time * jnp.arange(1, 33) / 32,
            observables={"modes": mf.observables.FourierModes(DEGREE, CIRCLE)},
            save_measures=False,
        )

    def add_rates(data):
        return data.assign(rate=(("bias", "lam", "mode"), _rates(data, MODES)))

    return records.sweep("rates", cell, {"bias": BIASES, "lam": lams}, derive=add_rates)


def timescale_rates(records: Records) -> Any:
    """The dataset of the two-timescale flow with bias 1/2 over lam and gamma, with `rate` of mode 1."""
    preset, (c0, c1) = records.settings.preset, coefficients(DEGREE)[0.5][:2]

    def cell(lam, gamma):
        slow = predicted(0.5, 1, lam, gamma)
        # Where explicit steps are stable.
        dt = 2 / (gamma * (c0 + lam) / lam + c1 / lam)
        # The other rate may be near: late times tell them apart.
        time = 9 / slow
        return mf.Simulation(
            mf.flows.TwoTimescale(risk(lam, 0.5, DEGREE, UNIFORM), CIRCLE, rate=gamma),
            perturbed((1,)),
            stepper=mf.steppers.RK4(jnp.minimum(dt, time / 64)),
            save_at=time * jnp.arange(1, 33) / 32,
            observables={"modes": mf.observables.FourierModes(DEGREE, CIRCLE)},
            save_measures=False,
        )

    def add_rates(data):
        return data.assign(rate=(("lam", "gamma"), _rates(data, (1,))[..., 0]))

    axes = {"lam": decades(preset.map_lams), "gamma": decades(preset.map_gammas)}
    return records.sweep("timescales", cell, axes, derive=add_rates)


def _rates(data: Any, modes: Any) -> np.ndarray:
    amplitudes = np.linalg.norm(data["modes"].values, axis=-1)
    times = np.broadcast_to(data.times.values, data.energy.shape)
    rates = np.empty((*amplitudes.shape[:-2], len(modes)))
    for index in np.ndindex(rates.shape):
        rates[index] = fitted(times[index[:-1]], amplitudes[index[:-1]][:, modes[index[-1]]])
    return rates
