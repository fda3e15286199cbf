"""Variable projection with all inputs and neurons: its distance to the diffusion has no sampling error."""

from typing import Any

import jax.numpy as jnp
import numpy as np

import mfjax as mf
from _lab.jax_settings import double_precision
from _lab.records import Records
from _lab.teachers.diffusion import diffusion
from mfjax import problems
from mfjax.observables import FourierModes

# MMD^2 to the diffusion by bias and lam, biased f, at this gamma and time (computed independently).
GAMMA, TIME = 10.0, 0.5
KNOWN = {0.0: {1e-3: 3.7e-4, 1e-4: 4.15e-4, 1e-5: 4.24e-4}, 0.5: {1e-3: 1.4e-5, 1e-4: 7.4e-7, 1e-5: 1.3e-8}}


def population(records: Records) -> Any:
    """The dataset of the population flows of both feature maps, with mmd_squared_diffusion."""
    preset, domain = records.settings.preset, mf.domains.Sphere(1)
    with double_precision():
        # Quantile starts: the moments of particles moved by a smooth velocity are then spectrally accurate.
        angle = 2 * np.pi * (np.arange(preset.population_width) + 0.5) / preset.population_width
        start = mf.measures.Particles(jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1))
        modes = FourierModes(min(preset.population_degree, preset.population_width // 2 - 1), domain)
        times = [TIME * (i + 1) / 16 for i in range(16)]

        def cell(bias, lam):
            problem = problems.circle_population(GAMMA, bias=bias, degree=preset.population_degree)
            return mf.Simulation(
                mf.flows.Wasserstein(problem.risk(lam), domain),
                start,
                stepper=mf.steppers.RK4(preset.population_step),
                save_at=times,
                observables={"modes": modes},
                save_measures=False,
            )

        def limit(gamma):
            grid, stepper = mf.measures.Grid.uniform(domain, 2048), mf.steppers.Rosenbrock(1e-7, 1e-10)
            return diffusion(problems.CircleTeacher(gamma), grid, stepper, times, {"modes": modes})

        reference = records.sweep("population-diffusion", limit, {"gamma": (GAMMA,)})

        def add_distance(data):
            gap = np.sum((data["modes"].values - reference["modes"].values[0]) ** 2, axis=-1)
            k = np.arange(gap.shape[-1])
            # |x - y| = 4 / pi - (8 / pi) sum_k cos(k (a - b)) / (4 k^2 - 1) for two points of the circle.
            weight = np.where(k > 0, 8 / np.pi / (4.0 * k**2 - 1), 0)
            return data.assign(mmd_squared_diffusion=(data.energy.dims, gap @ weight))

        axes = {"bias": tuple(KNOWN), "lam": preset.population_lams}
        return records.sweep("population", cell, axes, derive=add_distance, static=("bias",))
