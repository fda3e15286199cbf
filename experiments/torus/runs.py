"""Radial basis functions on the 2-torus: particles and their distance to the teacher."""

import numpy as np

import mfjax as mf
from _lab.jax_settings import double_precision
from _lab.records import Records
from _lab.teachers.laboratory import Laboratory
from _lab.teachers.series import GAMMA
from mfjax import problems


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
