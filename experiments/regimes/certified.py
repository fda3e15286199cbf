"""Runs beside the bounds that theorems give for them; the margins go into the table of certificates."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import mfjax as mf
from _lab.records import Runs, times_of
from mfjax import bounds
from mfjax.measures import Grid, Particles
from mfjax.observables import KL, ChiSquare, SobolevDistance, Wasserstein1D

from .limits import diffusion
from .model import CIRCLE, TEACHER, on_circle, risk

DEGREE = 8


class Certified(NamedTuple):
    """A measured curve, its bound, and the margin between them."""

    label: str
    times: np.ndarray
    values: np.ndarray
    bound: bounds.Bound
    margin: float


class CertifiedRuns(Runs):
    """The series, each computed once, and their bounds."""

    def _certify(self, name: str, label: str, cell: str, times, values, bound, resolution=None) -> Certified:
        margin = self.records.bound(f"{name} {cell}", bound, times, values, resolution)
        return Certified(label, np.asarray(times), np.asarray(values), bound, margin)

    def reduced_risk(self) -> list[Certified]:
        """Theorem 5.1: the reduced risk of a density for some lams, unbiased f."""
        start, times = Grid.uniform(CIRCLE, self.preset.cells), _spread(10.0)
        lams = self.preset.bound_lams

        def cell(lam):
            flow = mf.flows.Wasserstein(risk(lam, 0.5, DEGREE), CIRCLE)
            norm = {"norm": SobolevDistance(TEACHER)}
            return mf.Simulation(flow, start, save_at=times, observables=norm, save_measures=False)

        data, rows = self.records.sweep("algebraic", cell, {"lam": lams}), []
        for i, lam in enumerate(lams):
            values = {name: data[name].values[i] for name in ("energy", "norm")}
            bound = eqx.filter_jit(bounds.algebraic_decay)(risk(lam, 0.5, DEGREE), start, values["norm"])
            what = f"lam={lam:g}"
            rows.append(self._certify("algebraic", what, what, _with_zero(times), values["energy"], bound))
        return rows

    def diffusion(self) -> list[Certified]:
        """Theorem 4.3 and Lemma 4.3: chi^2 along ultra-fast diffusion, and by implicit steps of two sizes."""
        data, rows = diffusion(self.records), []
        times, cells = times_of(data)[1:], 4 * self.preset.cells
        start, target = Grid.uniform(CIRCLE, cells), Grid.from_density(CIRCLE, cells, TEACHER)
        energy = mf.energies.PowerDivergence(target, 2.0, 0.5)
        flow, chi = mf.flows.Wasserstein(energy, CIRCLE), {"chi": ChiSquare(target)}
        # The gap of a coarser grid is less, so that its bound is above.
        coarse = mf.energies.PowerDivergence(Grid.from_density(CIRCLE, 128, TEACHER), 2.0, 0.5)
        bound = eqx.filter_jit(bounds.diffusion_decay)(coarse, Grid.uniform(CIRCLE, 128))
        values = data["chi"].values[0]
        rows.append(self._certify("diffusion", "flow", "order=2", _with_zero(times), values, bound, 1e-9))

        def implicit(step):
            stepper = mf.steppers.ImplicitEuler(step)
            return mf.Simulation(flow, start, stepper=stepper, save_at=times, observables=chi)

        steps = (0.1, 0.5)
        data = self.records.sweep("implicit-steps", implicit, {"step": steps})
        for i, step in enumerate(steps):
            bound, what = (
                eqx.filter_jit(bounds.proximal_contraction)(coarse, Grid.uniform(CIRCLE, 128), step),
                f"step={step:g}",
            )
            values = data["chi"].values[i]
            rows.append(self._certify("implicit-steps", what, what, _with_zero(times), values, bound))
        return rows

    def stability(self) -> list[Certified]:
        """Theorem 4.1: W_2 between two flows of five particles."""
        angles = jnp.array([[0.3, 1.0, 2.0, 3.5, 5.0], [0.5, 0.9, 2.1, 3.5, 5.3]])
        starts, times, lams = on_circle(angles), np.arange(1, 17) / 4, (0.1, 0.3, 1.0)

        def cell(lam, start):
            flow = mf.flows.Wasserstein(risk(lam, 0.5, DEGREE), CIRCLE)
            points = {"position": lambda mu, flow: mu.points}
            return mf.Simulation(
                flow, Particles(starts[start]), stepper=mf.steppers.RK4(0.05), save_at=times,
                observables=points, save_measures=False,
            )  # fmt: skip

        data, rows = self.records.sweep("stability", cell, {"lam": lams, "start": (0, 1)}), []
        distance = jax.jit(jax.vmap(lambda a, b: Wasserstein1D(Particles(b), 2, CIRCLE)(Particles(a))))
        for i, lam in enumerate(lams):
            first, second = data["position"].values[i]
            bound = eqx.filter_jit(bounds.stability)(risk(lam, 0.5, DEGREE), CIRCLE, *map(Particles, starts))
            cell_name = f"lam={lam:g} start=0"
            values = np.asarray(distance(first, second))
            rows.append(
                self._certify("stability", f"lam={lam:g}", cell_name, _with_zero(times), values, bound)
            )
        # The other flow of a pair has the same margin.
        for lam in lams:
            row = self.records.certificates
            row[f"stability lam={lam:g} start=1"] |= {
                key: value
                for key, value in row[f"stability lam={lam:g} start=0"].items()
                if key.startswith("margin")
            }
        return rows

    def langevin(self) -> list[Certified]:
        """Log-Sobolev decay of the relative entropy in a quadratic well with a cosine barrier."""
        stiffness, temperature, box = 1.0, 0.5, mf.domains.Interval(-5.0, 5.0)
        cells, times, barriers = 128, np.arange(1, 13) / 4, (0.0, 0.3)

        def energy(barrier):
            well = mf.energies.Potential(lambda x: 0.5 * stiffness * x[0] ** 2)
            cosine = mf.energies.Potential(lambda x: 1 + jnp.cos(2 * x[0]))
            return well + barrier * cosine + temperature * mf.energies.Entropy()

        def law(barrier):
            potential = lambda x: 0.5 * stiffness * x[0] ** 2 + barrier * (1 + jnp.cos(2 * x[0]))
            return Grid.from_density(box, cells, lambda x: jnp.exp(-potential(x) / temperature))

        start = Grid.from_density(box, cells, lambda x: jnp.exp(-0.5 * (x[0] - 0.5) ** 2))

        def cell(barrier):
            flow = mf.flows.Wasserstein(energy(barrier), box)
            return mf.Simulation(flow, start, save_at=times, observables={"kl": KL(law(barrier))})

        data, rows = self.records.sweep("langevin", cell, {"barrier": barriers}), []
        for i, barrier in enumerate(barriers):
            constant = bounds.log_sobolev(
                temperature=temperature, convexity=stiffness, oscillation=2 * barrier
            )
            bound = bounds.entropy_decay(KL(law(barrier))(start), temperature, constant)
            values, what = data["kl"].values[i], f"barrier={barrier:g}"
            rows.append(self._certify("langevin", what, what, _with_zero(times), values, bound))
        return rows


def _spread(last: float) -> np.ndarray:
    return np.geomspace(0.02, last, 16)


def _with_zero(times: np.ndarray) -> np.ndarray:
    return np.append(0.0, times)
