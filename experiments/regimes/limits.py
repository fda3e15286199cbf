"""Distances of training to its limits: small and large lam, fast outer weights, many particles."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mfjax as mf
from _lab.records import Records, Runs
from mfjax.measures import Grid, Particles, padded_weights
from mfjax.observables import ChiSquare, FourierModes

from .model import (
    BIASES,
    CIRCLE,
    TEACHER,
    coefficients,
    decades,
    lattice,
    mmd_squared,
    on_circle,
    risk,
)

# Flow time of the comparison with the diffusion; and with the discrepancy flow, in units of lam.
TIME, SLOW_TIME = 0.5, 4.0
MODES = FourierModes(48, CIRCLE)
TIMESCALE_LAM = 0.1


class Limits(Runs):
    """The series, each computed once, and the distances between them."""

    def _run(self, flow: Any, mu: Any, time: Any, stepper: Any) -> mf.Simulation:
        return mf.Simulation(
            flow, mu, stepper=stepper, save_at=time * jnp.ones(1), observables={"modes": MODES},
            save_measures=False,
        )  # fmt: skip

    def diffusion(self) -> np.ndarray:
        """Fourier modes of ultra-fast diffusion at `TIME`."""
        data = diffusion(self.records)
        save = int(np.argmin(np.abs(data.times.values.ravel()[: data.sizes["save"]] - TIME)))
        return data["modes"].values[0, save]

    def discrepancy(self) -> np.ndarray:
        """Fourier modes of the MMD flow at `SLOW_TIME`: the network with all outer weights one."""

        def cell(bias):
            energy = risk(1.0, bias, self.preset.degree)
            network = mf.energies.Risk(energy.features, energy.data.x, energy.data.y)
            flow = mf.flows.Wasserstein(network, CIRCLE)
            return self._run(flow, lattice(self.preset.lattice), SLOW_TIME, mf.steppers.RK4(SLOW_TIME / 64))

        return self.records.sweep("discrepancy", cell, {"bias": (0.5,)})["modes"].values[0, -1]

    def varpro(self) -> Any:
        """Variable projection of a lattice over bias and lam: `mmd_squared` to the diffusion."""
        return self.widths().mmd_squared.isel(seed=-1, particles=-1)

    def slow_varpro(self) -> Any:
        """Variable projection at large lam until lam `SLOW_TIME`: `mmd_squared` to the MMD flow."""
        preset = self.preset

        def cell(lam):
            flow = mf.flows.Wasserstein(risk(lam, 0.5, preset.degree), CIRCLE)
            time = lam * SLOW_TIME
            return self._run(flow, lattice(preset.lattice), time, mf.steppers.RK4(time / 64))

        reference = self.discrepancy()
        derive = lambda data: _with_distance(data, reference)
        return self.records.sweep("large-lam", cell, {"lam": decades(preset.large_lams)}, derive=derive)

    def sampling(self, bias: float, lam: Any) -> np.ndarray:
        """S(lam): M random particles add S / M to `mmd_squared`, near a uniform teacher.

        Mode k of the sample has the mean square 1 / M and decays at k^2 c_k / (c_k + lam).
        """
        k, lam = np.arange(1, 4000), np.asarray(lam)[..., None]
        c = np.zeros(k.size)
        c[: self.preset.degree] = coefficients(self.preset.degree)[bias][1:]
        rate = k**2 * c / (c + lam)
        return np.sum(8 / np.pi * np.exp(-2 * rate * TIME) / (4.0 * k**2 - 1), axis=-1)

    def timescales(self) -> Any:
        """The two-timescale flow at `TIMESCALE_LAM` over gamma: `mmd_squared` to the fastest of them."""
        preset, lam = self.preset, TIMESCALE_LAM
        c = coefficients(preset.degree)[0.5]

        def cell(gamma):
            flow = mf.flows.TwoTimescale(risk(lam, 0.5, preset.degree), CIRCLE, rate=gamma)
            # Where explicit steps are stable.
            dt = 2 / (gamma * (c[0] + lam) / lam + 10)
            return self._run(flow, lattice(preset.lattice), TIME, mf.steppers.RK4(dt))

        def derive(data):
            near = self.widths().sel(bias=0.5, lam=lam).isel(seed=-1, particles=-1)
            return _with_distance(data, near["modes"].values[-1])

        return self.records.sweep("fast-outer", cell, {"gamma": decades(preset.gammas)}, derive=derive)

    def widths(self) -> Any:
        """Variable projection over bias, lam, number of particles and start: `mmd_squared` to the diffusion.

        Starts are random for the seeds, and last a lattice.
        """
        preset, seeds, most = self.preset, self.settings.seeds, max(self.preset.widths)
        keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
        points = jax.jit(jax.vmap(lambda key: CIRCLE.sample(key, most)))(keys)
        slot = jnp.arange(most)

        def cell(bias, lam, particles, seed):
            even = on_circle(2 * jnp.pi * (slot + 0.5) / particles)
            start = jnp.where(seed > seeds[-1], even, points[jnp.minimum(seed - seeds[0], len(seeds) - 1)])
            flow = mf.flows.Wasserstein(risk(lam, bias, preset.degree), CIRCLE)
            mu = Particles(start, padded_weights(particles, most))
            return self._run(flow, mu, TIME, mf.steppers.Adaptive(1e-5, 1e-7))

        reference = self.diffusion()
        axes = {
            "bias": BIASES,
            "lam": decades(preset.width_lams),
            "particles": preset.widths,
            "seed": (*seeds, seeds[-1] + 1),
        }
        derive = lambda data: _with_distance(data, reference)
        return self.records.sweep("widths", cell, axes, derive=derive)


def diffusion(records: Records) -> Any:
    """The dataset of ultra-fast diffusion, with Fourier modes and chi^2 to the teacher."""
    cells = 4 * records.settings.preset.cells
    target, start = Grid.from_density(CIRCLE, cells, TEACHER), Grid.uniform(CIRCLE, cells)
    observables = {"modes": MODES, "chi": ChiSquare(target)}

    def cell(order):
        energy = mf.energies.PowerDivergence(target, order, 0.5)
        return mf.Simulation(
            mf.flows.Wasserstein(energy, CIRCLE), start, stepper=mf.steppers.Rosenbrock(1e-7, 1e-10),
            save_at=TIME * np.arange(1, 13), observables=observables, save_measures=False,
        )  # fmt: skip

    return records.sweep("diffusion", cell, {"order": (2.0,)})


def _with_distance(data: Any, reference: np.ndarray) -> Any:
    """`data` with the squared distance of its last modes to the reference."""
    last = data["modes"].isel(save=-1)
    others = tuple(dim for dim in data.energy.dims if dim != "save")
    return data.assign(mmd_squared=(others, mmd_squared(last.values, reference)))
