"""ReLU on the circle: particles, the diffusion that is their limit, and the distances between them."""

from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

import mfjax as mf
from _lab.identifiability import relu_on_circle
from _lab.records import Records
from _lab.teachers.diffusion import diffusions
from _lab.teachers.laboratory import Laboratory
from _lab.teachers.series import GAMMA
from mfjax import problems
from mfjax.features import ReLU

from .population import KNOWN


class Circle(Laboratory):
    """The series of the circle; a particle is recorded as its angle."""

    recorded = "angle"

    def __init__(self, records: Records):
        super().__init__(records)
        self.domain, self.features = mf.domains.Sphere(1), ReLU()

    def problem(self, key, gamma):
        """The two-bump teacher seen through Gaussian inputs."""
        preset = self.preset
        sizes = {"inputs": preset.inputs, "width": preset.teacher_width}
        return problems.circle(key, gamma=gamma, **sizes, dtype=self.dtype)

    @staticmethod
    def coordinates(points):
        """Angles of unit vectors."""
        return jnp.arctan2(points[:, 1], points[:, 0])

    @staticmethod
    def points(coordinates):
        """Unit vectors of angles."""
        return jnp.stack([jnp.cos(coordinates), jnp.sin(coordinates)], axis=-1)

    @cached_property
    def grid(self) -> mf.measures.Grid:
        """The cells of the diffusion."""
        return mf.measures.Grid.uniform(self.domain, self.preset.cells, dtype=self.dtype)

    def diffusion(self) -> Any:
        """The dataset of the diffusion: masses (gamma, save, cell)."""
        return diffusions(self.records, problems.CircleTeacher, self.grid, self.preset.times, self.gammas)

    def add_distances(self, data):
        """MMD^2 of the particles to their teacher, and to the diffusion of the same gamma, time by time."""
        masses = self.diffusion().masses
        return self.add_distance(
            super().add_distances(data),
            "mmd_squared_diffusion",
            lambda angles, which, row: self._mmd_to_masses(angles, masses.isel(gamma=which).values),
        )

    @cached_property
    def _mmd_to_masses(self):
        grid = self.grid

        @jax.jit
        def distances(angles, masses):
            def one(pair):
                distance = mf.observables.EnergyDistance(grid.with_weights(pair[1]), self.domain)
                return distance(self.particles(pair[0]))

            return jax.lax.map(one, (angles, masses))

        return distances

    def identifiability(self):
        """Which modes of the teacher ReLU cannot see, with and without bias."""
        return relu_on_circle(KNOWN, GAMMA)
