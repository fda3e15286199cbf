"""Variable projection on the circle by every deterministic scheme, and what each run took."""

from typing import Any

import jax.random as jr
import numpy as np

import mfjax as mf
from _lab.records import Records, Runs
from _lab.teachers.series import UNBIASED
from mfjax import problems

FIXED = {"Euler": mf.steppers.Euler, "Heun": mf.steppers.Heun, "RK4": mf.steppers.RK4}
ADAPTIVE = {"Adaptive": mf.steppers.Adaptive, "Multirate": mf.steppers.Multirate}
# An absolute tolerance that stays below the relative one.
ABSOLUTE = 1e-2


class Precision(Runs):
    """Bias-free ReLU on the circle and the two-bump teacher, outer weights drawn to one."""

    def __init__(self, records: Records):
        super().__init__(records)
        self.seeds = range(self.settings.seed, self.settings.seed + self.preset.seeds)
        self.domain = mf.domains.Sphere(1)

    def simulation(self, seed, stepper, lam=None) -> mf.Simulation:
        """The run of a seed to the end, which alone is recorded."""
        preset = self.preset
        for_problem, for_start = jr.split(jr.key(seed))
        sizes = {"inputs": preset.inputs, "width": preset.teacher_width, "dtype": self.dtype}
        problem = problems.circle(for_problem, gamma=preset.gamma, **sizes)
        regularizer = mf.regularizers.Quadratic(center=UNBIASED)
        risk = problem.risk(preset.lam if lam is None else lam, regularizer)
        distance = mf.observables.EnergyDistance(problem.neurons, self.domain)
        return mf.Simulation(
            mf.flows.Wasserstein(risk, self.domain),
            mf.measures.Particles.sample(self.domain, for_start, preset.width, dtype=self.dtype),
            stepper=stepper,
            t1=preset.time,
            observables={"mmd_squared": distance},
            save_measures=False,
        )

    def reference(self) -> np.ndarray:
        """MMD^2 to the teacher at the end, by seed."""
        step = self.preset.reference
        cell = lambda seed: self.simulation(seed, mf.steppers.RK4(step))
        data = self.records.sweep("reference", cell, {"seed": self.seeds})
        return data.mmd_squared.isel(save=-1).values

    def fixed(self, name: str) -> Any:
        """The dataset of a fixed scheme over its steps."""
        cell = lambda dt, seed: self.simulation(seed, FIXED[name](dt))
        steps = [self.preset.time / count for count in self.preset.steps]
        return self.records.sweep(name, cell, {"dt": steps, "seed": self.seeds})

    def adaptive(self, name: str) -> Any:
        """The dataset of an adaptive scheme over its tolerances."""
        cell = lambda rtol, seed: self.simulation(seed, ADAPTIVE[name](rtol, ABSOLUTE * rtol))
        return self.records.sweep(name, cell, {"rtol": self.preset.tolerances, "seed": self.seeds})

    def over_lams(self, name: str) -> Any:
        """The dataset of an adaptive scheme over lam, at one tolerance."""
        rtol = self.preset.tolerances[-1]
        cell = lambda lam, seed: self.simulation(seed, ADAPTIVE[name](rtol, ABSOLUTE * rtol), lam)
        return self.records.sweep(f"{name}-lams", cell, {"lam": self.preset.lams, "seed": self.seeds})
