"""Figures III.10 to III.14 of the thesis."""

import numpy as np

import mfjax as mf
from _lab.teachers.figures import TeacherFigures, lam_is
from _lab.teachers.series import GAMMA, LAM
from mfjax import plot

from .runs import SMOOTH, TIMES, FlatTorus

# The times at which densities are drawn.
SHOWN = (0.1, 0.5, 1.0)


class Figures(TeacherFigures):
    """The figures of the torus."""

    laboratory_type = FlatTorus

    def teachers(self):
        """III.10: the neurons of the teacher and its signal."""
        lab = self.laboratory
        period = float(lab.domain.period)
        fig, axes = plot.figure(1, 2, height=2.9)
        neurons = lab.data.teachers[lab.gammas.index(GAMMA), 0]
        square = 2 * [(-period / 2, period / 2)]
        plot.particles(axes[0, 0], neurons, lab.domain, extent=square, symbol="ω", color=plot.color(0))
        plot.title(axes[0, 0], f"teacher neurons, γ = {GAMMA:g}")
        self.draw_signal(axes[0, 1], extent=period / 2)
        return fig, "neurons gather at (-1, 0) and (1, 1); the signal is their convolution with the kernel"

    def risks(self):
        """III.11: the risk for all widths."""
        fig, axes = plot.figure(1, 2, height=2.6)
        self.draw_risks(axes[0])
        return fig, "biased f: one positive limit; unbiased f: the risk falls further the wider the network"

    def widths(self):
        """III.12: the distance for all widths."""
        fig, axes = plot.figure(1, 1, width=4.4, height=2.9)
        self.draw_widths(axes[0])
        return fig, "the distance falls to a floor that is lower for wider networks"

    def lams(self):
        """III.13: the distance for all regularization strengths."""
        fig, axes = plot.figure(1, 1, width=4.4, height=2.9)
        self.draw_lams(axes[0])
        return fig, "λ = 0.1 is slower; the bias of the biased f shrinks with λ"

    def gammas(self):
        """III.14: risk and distance for the smooth teacher and for two atoms."""
        fig, axes = plot.figure(1, 2, height=2.6)
        self.draw_gammas(axes[0], LAM, self.preset.step)
        return fig, "the two-atom teacher is learned more slowly and not at a linear rate"

    def diffusions(self):
        """The diffusion with the particles on it, and the distance between the two."""
        lab, masses = self.laboratory, self.laboratory.diffusion().masses.values[0]
        data, times = lab.limit(), [0.0, *TIMES]
        fig, axes = plot.figure(2, 2, height=5.4)
        half, least = float(lab.domain.period) / 2, float(data.lam.min())
        positions = data.position.sel(lam=least).isel(seed=0).values
        for ax, t in zip(axes.ravel(), SHOWN, strict=False):
            i = times.index(t)
            square = {"extent": 2 * [(-half, half)], "symbol": "ω"}
            plot.density(ax, lab.grid.with_weights(masses[i]), lab.domain, **square)
            plot.particles(ax, mf.measures.Particles(positions[i]), lab.domain, **square)
            plot.title(ax, f"t = {t:g}")
        ax, curves, colors = axes[1, 1], {}, {}
        for i, lam in enumerate(data.lam.values):
            label = lam_is(float(lam))
            values = data.mmd_squared_diffusion.sel(lam=lam).transpose("seed", "save").values[:, 1:]
            curves[label], colors[label] = values, plot.color(i)
        plot.distances(
            ax, np.array(TIMES), curves, ylabel="MMD² to the diffusion", log_time=False, colors=colors
        )
        plot.title(ax, f"γ = {SMOOTH:g}, M = {self.preset.lattice**2}")
        return fig, "the particles (dots, least λ) gather where the diffusion does; the distance falls with λ"
