"""lam -> 0: flows and minimizers tend to those of the power divergence, and what theory asks of the flows."""

from typing import Any

import jax.numpy as jnp
import numpy as np

import mfjax as mf
from _lab.records import Runs
from mfjax.measures import Grid
from mfjax.observables import DualNorm, FourierModes, MaxLogRatio, SourceNorm
from mfjax.problems import CircleTeacher
from mfjax.regularizers import Power

from .model import CIRCLE, TEACHER, coefficients, decades, lattice, mmd_squared

SIGNED = CircleTeacher(3.0, masses=(1.0, -0.5))
# Orders r of f = |t|^r / (r - 1). Mode k of the limit decays at about r k^2: all are as far at 1 / r.
ORDERS, PROGRESS = (1.5, 2.0, 3.0), 3 / 8
TIMES = np.geomspace(0.01, 4.0, 24)


class Vanishing(Runs):
    """The series over lam, each computed once."""

    def _risk(self, lam: Any, order: Any, teacher: CircleTeacher) -> Any:
        """The reduced risk with f of that order, of the kernel up to four times the degree of the others."""
        degree = 4 * self.preset.degree
        features = mf.features.CircleModes(coefficients(degree)[0.5])
        y = features.image(teacher.fourier(degree))
        return mf.energies.ReducedRisk(features, features.inputs(), y, lam, Power(order))

    def _modes(self) -> FourierModes:
        return FourierModes(4 * self.preset.degree, CIRCLE)

    def distances(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """lam and `mmd_squared` of variable projection to its diffusion, by teacher and order."""
        found = {}
        for name, teacher, orders in (("", TEACHER, ORDERS), ("signed teacher, ", SIGNED, (2.0,))):
            series = "vanishing-signed" if name else "vanishing"
            limit, flows = self._limit(series, teacher, orders), self._flows(series, teacher, orders)
            for i, order in enumerate(orders):
                gaps = mmd_squared(flows["modes"].values[i, :, -1], limit["modes"].values[i, -1])
                found[f"{name}r = {order:g}"] = flows.lam.values, gaps
        return found

    def _limit(self, series: str, teacher: CircleTeacher, orders: tuple[float, ...]) -> Any:
        """Ultra-fast diffusion over the order r: target |nu| / |nu|_TV, scale |nu|_TV^r."""
        cells, variation = 4 * self.preset.cells, float(teacher.variation())
        target = Grid.from_density(CIRCLE, cells, lambda point: jnp.abs(teacher(point)))

        def cell(order):
            energy = mf.energies.PowerDivergence(target, order, variation**order)
            return mf.Simulation(
                mf.flows.Wasserstein(energy, CIRCLE), Grid.uniform(CIRCLE, cells),
                stepper=mf.steppers.Rosenbrock(1e-7, 1e-10), save_at=PROGRESS / order * jnp.ones(1),
                observables={"modes": self._modes()}, save_measures=False,
            )  # fmt: skip

        return self.records.sweep(f"{series}-limit", cell, {"order": orders})

    def _flows(self, series: str, teacher: CircleTeacher, orders: tuple[float, ...]) -> Any:
        """Variable projection of a lattice over the order and lam."""
        preset = self.preset

        def cell(order, lam):
            flow, time = mf.flows.Wasserstein(self._risk(lam, order, teacher), CIRCLE), PROGRESS / order
            return mf.Simulation(
                flow, lattice(2 * preset.lattice), stepper=mf.steppers.RK4(time / 32),
                save_at=time * jnp.ones(1), observables={"modes": self._modes()}, save_measures=False,
            )  # fmt: skip

        axes = {"order": orders, "lam": decades(preset.vanishing_lams)}
        return self.records.sweep(series, cell, axes)

    def minimizers(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """lam and `mmd_squared` of the minimizer of the reduced risk to |nu| / |nu|_TV, by teacher."""
        modes, cells = self._modes(), Grid.uniform(CIRCLE, 4 * self.preset.cells)
        lams, found = np.asarray(decades(self.preset.vanishing_lams)), {}
        for name, teacher in (("positive teacher", TEACHER), ("signed teacher", SIGNED)):
            exact = modes(Grid.from_density(CIRCLE, 4096, teacher.absolute()))
            minima = [mf.minimize_reduced_risk(self._risk(lam, 2.0, teacher), cells) for lam in lams]
            found[name] = lams, np.array([mmd_squared(modes(each.measure), exact) for each in minima])
        return found

    def hypotheses(self) -> Any:
        """Variable projection of a density over lam, with |alpha|, its bound, and sup |log density|."""
        cells = self.preset.cells

        def cell(lam):
            return mf.Simulation(
                mf.flows.Wasserstein(self._risk(lam, 2.0, TEACHER), CIRCLE), Grid.uniform(CIRCLE, cells),
                save_at=TIMES, observables=_monitors(), save_measures=False,
            )  # fmt: skip

        return self.records.sweep("hypotheses", cell, {"lam": decades(self.preset.vanishing_lams)[1:]})


def _monitors() -> dict[str, Any]:
    return {"alpha": DualNorm(), "source": SourceNorm(TEACHER), "log": MaxLogRatio(lambda point: 1.0)}
