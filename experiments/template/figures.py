"""The model, its sweep, and the figure."""

import jax.random as jr

import mfjax as mf
from _lab.figures import Gallery
from _lab.records import times_of


class Figures(Gallery):
    """A method for each figure returns it and what to look for in it."""

    def model(self, lam, seed):
        """One cell of the sweep: ReLU neurons on the circle, their outer weights solved for at all times."""
        sizes, (for_data, for_start) = self.preset, jr.split(jr.key(seed))
        problem = mf.problems.circle(for_data, gamma=10.0, inputs=sizes.inputs, width=1024)
        flow = mf.flows.Wasserstein(problem.risk(lam, mf.regularizers.Quadratic(1.0)), problem.domain)
        start = mf.measures.Particles.sample(problem.domain, for_start, sizes.width)
        mmd = {"mmd_squared": mf.observables.EnergyDistance(problem.neurons, problem.domain)}
        steps = {"steps": 32 * sizes.saves, "save_every": 32}
        return mf.Simulation(flow, start, stepper=mf.steppers.Euler(sizes.step), observables=mmd, **steps)

    def distance(self):
        """The distance of the particles to their teacher over time, with bands over the seeds."""
        axes = {"lam": self.preset.lams, "seed": self.settings.seeds}
        data = self.records.sweep("distances", self.model, axes)
        curves = {f"λ = {lam:g}": data.mmd_squared.sel(lam=lam) ** 0.5 for lam in self.preset.lams}
        fig, ((ax,),) = mf.plot.figure(1, 1, height=3.0)
        mf.plot.distances(ax, times_of(data), curves, step=self.preset.step)
        return fig, "weak regularization is faster; all end at a floor of width and data"
