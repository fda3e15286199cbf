"""Radial basis functions on the 2-torus: particles and their distance to the teacher."""

from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import mfjax as mf
from _lab.jax_settings import double_precision
from _lab.records import Records
from _lab.teachers.diffusion import diffusions
from _lab.teachers.laboratory import Laboratory
from _lab.teachers.series import GAMMA, UNBIASED
from mfjax import problems

# The concentration of the teacher whose diffusion is computed, and the flow times that are compared.
SMOOTH, TIMES = 10.0, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class FlatTorus(Laboratory):
    """The series of the torus; a particle is recorded as its position."""

    recorded = "position"

    def __init__(self, records: Records):
        super().__init__(records)
        self.domain = problems.TorusTeacher(GAMMA).domain
        self.kernel = {"scale": self.preset.scale, "amplitude": self.preset.amplitude}
        self.features = mf.features.RBF(self.domain, **self.kernel)

    def problem(self, key, gamma):
        """The two-mode teacher seen through Gaussian inputs."""
        preset = self.preset
        sizes = {"inputs": preset.inputs, "width": preset.teacher_width}
        return problems.torus(key, gamma=gamma, **self.kernel, **sizes, dtype=self.dtype)

    @cached_property
    def grid(self) -> mf.measures.Grid:
        """The cells of the diffusion."""
        return mf.measures.Grid.uniform(self.domain, self.preset.cells, dtype=self.dtype)

    def diffusion(self) -> Any:
        """The dataset of the diffusion from the uniform law: masses (gamma, save, cell)."""
        return diffusions(self.records, problems.TorusTeacher, self.grid, TIMES, (SMOOTH,))

    def limit(self) -> Any:
        """The dataset of VarPro from a lattice: positions and MMD^2 to the diffusion, by lam and seed."""
        preset = self.preset
        masses = jnp.asarray(self.diffusion().masses.values[0], self.dtype)
        lattice = mf.measures.Grid.uniform(self.domain, preset.lattice, dtype=self.dtype).points
        sizes = {"inputs": preset.limit_inputs, "width": preset.teacher_width}

        def cell(lam, seed):
            problem = problems.torus(jr.key(seed), gamma=SMOOTH, **self.kernel, **sizes, dtype=self.dtype)
            regularizer = mf.regularizers.Quadratic(UNBIASED)
            energy = mf.energies.ReducedRisk(self.features, problem.x, problem.y, lam, regularizer)
            return mf.Simulation(
                mf.flows.Wasserstein(energy, self.domain),
                mf.measures.Particles(lattice),
                stepper=mf.steppers.Euler(preset.limit_step),
                save_at=TIMES,
                observables={"position": lambda mu, flow: mu.points},
                save_measures=False,
            )

        @jax.jit
        def distances(positions):
            one = lambda pair: mf.observables.EnergyDistance(self.grid.with_weights(pair[1]), self.domain)(
                mf.measures.Particles(pair[0])
            )
            return jax.lax.map(one, (positions, masses))

        def add_distance(data):
            values = np.full(data.energy.shape, np.nan)
            for index in np.ndindex(*values.shape[:-1]):
                values[index] = distances(jnp.asarray(data.position.values[index]))
            return data.assign(mmd_squared_diffusion=(data.energy.dims, values))

        axes = {"lam": preset.lams, "seed": self.settings.seeds}
        return self.records.sweep("limit", cell, axes, derive=add_distance)

    @staticmethod
    def coordinates(points):
        """The points themselves."""
        return points

    @staticmethod
    def points(coordinates):
        """The points themselves."""
        return coordinates

    def identifiability(self):
        """Which share of the teacher the features and the data of the first seed cannot see."""
        with double_precision():
            x, teacher = np.asarray(self.data.x[0], np.float64), problems.TorusTeacher(GAMMA)
            found = mf.certificates.identifiability(self.features, x, self.domain, teacher=teacher, n=16)
        return {f"the RBF, gamma = {GAMMA:g}": found}
