"""The least reduced risk by the convex program, and flows of particles that tend to it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mfjax as mf
from _lab.records import Runs
from mfjax.measures import Grid, Particles, padded_weights
from mfjax.problems import CircleTeacher, network_output

from .model import CIRCLE, on_circle, risk

# A signed teacher, f = t^2 / 2: the minimum is unique and its value positive.
SIGNED = CircleTeacher(5.0, masses=(1.0, -0.5))
LAM, SPIKES_LAM = 0.05, 1e-3
TORUS = mf.domains.Torus(2, 4.0)
GAUSSIAN = mf.features.RBF(TORUS, scale=0.5, profile="gaussian")
SPIKES = Particles(
    jnp.array([[1.03, 1.22], [2.47, 2.96], [3.21, 0.87]]),
    marks={"u": jnp.array([3.0, -2.0, 1.5])},
)


class Minima(Runs):
    """The flows and the minima that they tend to, each computed once."""

    def circle(self) -> tuple[Any, mf.Minimum]:
        """Variable projection of a signed teacher over the number of particles, and the minimum."""
        preset, most = self.preset, max(self.preset.minimum_widths)
        degree = preset.degree
        energy = risk(LAM, 0.5, degree, SIGNED, center=0.0)

        def cell(particles):
            # Padding of a lattice: the first `particles` slots are spread over the circle.
            index = jnp.arange(most)
            angle = 2 * jnp.pi * (jnp.minimum(index, particles - 1) + 0.5) / particles
            mu = Particles(on_circle(angle), padded_weights(particles, most))
            flow = mf.flows.Wasserstein(energy, CIRCLE)
            return mf.Simulation(flow, mu, save_at=_times(preset.minimum_time))

        data = self.records.sweep("signed-teacher", cell, {"particles": preset.minimum_widths})
        return data, mf.minimize_reduced_risk(energy, Grid.uniform(CIRCLE, 4 * preset.cells))

    def spikes(self) -> tuple[Any, mf.Minimum]:
        """Sparse deconvolution on the 2-torus: the flow, and the minimum on a grid."""
        preset = self.preset
        x = spike_inputs()
        energy = mf.energies.ReducedRisk(GAUSSIAN, x, network_output(GAUSSIAN, SPIKES, x), SPIKES_LAM)
        with jax.ensure_compile_time_eval():
            start = TORUS.sample(jax.random.key(self.settings.seed), preset.spikes_width)

        def cell(lam):
            flow = mf.flows.Wasserstein(with_lam(energy, lam), TORUS)
            points = {"position": lambda mu, flow: mu.points}
            return mf.Simulation(
                flow, Particles(start), save_at=_times(0.1 * preset.minimum_time),
                observables=points,
            )  # fmt: skip

        data = self.records.sweep("spikes", cell, {"lam": (SPIKES_LAM,)})
        coarse = mf.minimize_reduced_risk(energy, Grid.uniform(TORUS, preset.spikes_cells))
        return data, coarse


def spike_inputs() -> Any:
    """Where the signal of the spikes is seen: a lattice on the 2-torus."""
    return Grid.uniform(TORUS, 12).points


def with_lam(energy: Any, lam: Any) -> Any:
    """The same energy at another regularization strength."""
    return mf.energies.ReducedRisk(energy.features, energy.data.x, energy.data.y, lam, energy.regularizer)


def _times(last: float) -> np.ndarray:
    return np.geomspace(1e-3 * last, last, 16)
