"""Figures III.1 to III.7 of the thesis, and two that show the limit and where it fails."""

import jax
import numpy as np

from _lab.records import times_of
from _lab.teachers.figures import Line, TeacherFigures, lam_is
from _lab.teachers.series import GAMMA, UNBIASED
from mfjax import plot
from mfjax.observables import KernelDensity
from mfjax.problems import CircleTeacher

from .population import KNOWN, TIME, population
from .runs import Circle

# The published teachers, shown at every size of the experiment.
TEACHERS = (10.0, 100.0, 1000.0)
BIASES = {0.0: "ReLU, no bias", 0.5: "ReLU, bias 1/2"}


class Figures(TeacherFigures):
    """The figures of the circle."""

    laboratory_type = Circle
    distances = TeacherFigures.distances | {"mmd_squared_diffusion": "MMD to diffusion"}

    def teachers(self):
        """III.1: the densities of the teachers, and the signal of one."""
        fig, axes = plot.figure(1, 2, height=2.5)
        ax = axes[0, 0]
        angle = np.linspace(-np.pi, np.pi, 1001)
        for i, gamma in enumerate(TEACHERS):
            density = teacher_density(gamma, self.laboratory.points(angle))
            ax.plot(angle, density, color=plot.color(i), label=f"γ = {gamma:g}")
        plot.angle_axis(ax)
        ax.set_ylabel("teacher density [1/rad]")
        plot.legend(ax)
        self.draw_signal(axes[0, 1], extent=3.0)
        return fig, "two modes, at 0 and 0.4π, that sharpen with γ; the signal grows along their directions"

    def densities(self):
        """III.2: the law of the features beside the diffusion."""
        fig, axes = plot.figure(1, 2, height=2.5, sharey=True)
        self._draw_densities(axes[0])
        return fig, "mass concentrates at the two modes at the same pace; kernel smoothing blunts the peaks"

    def risks(self):
        """III.3: the risk for all widths."""
        fig, axes = plot.figure(1, 2, height=2.5)
        self.draw_risks(axes[0])
        return (
            fig,
            "biased f: in the end one limit for every width; unbiased f: a floor that falls with M",
        )

    def widths(self):
        """III.4: the distances for all widths."""
        fig, axes = plot.figure(1, 2, height=2.7)
        self.draw_widths(axes[0])
        return fig, "unbiased f (plain) falls to a floor set by the width; biased f (dashed) keeps a bias"

    def lams(self):
        """III.5: the distances for all regularization strengths."""
        fig, axes = plot.figure(1, 2, height=2.7)
        self.draw_lams(axes[0])
        return fig, "the bias of f_b (dashed) shrinks with λ; λ = 0.1 is slow"

    def gammas(self):
        """III.6: risk and distances for all teachers, at the least regularization."""
        fig, axes = plot.figure(1, 3, height=2.5)
        self.draw_gammas(axes[0], min(self.preset.lams), self.preset.sharp_step)
        return fig, "convergence slows as the teacher concentrates (γ grows)"

    def timescales(self):
        """III.7: the two-timescale flow beside variable projection."""
        lams, select = self.preset.timescale_lams, self.laboratory.select
        fig, axes = plot.figure(len(lams), 3, height=1.9 * len(lams), sharex=True)
        methods = {"VarPro": "-", "two-timescale": "--"}
        labels = {"energy": "risk / λ"} | self.distances
        for row, lam in zip(axes, lams, strict=True):
            lines = {
                f"{width} {method}": Line(
                    select(UNBIASED, lam, GAMMA, width, two_timescale=method == "two-timescale"),
                    self.shade(width),
                    dash,
                )
                for width in self.preset.widths
                for method, dash in methods.items()
            }
            for ax, quantity in zip(row, labels, strict=True):
                self.panel(ax, quantity, lines, ylabel=labels[quantity])
                ax.set_xlabel("flow time t" if lam == lams[-1] else "")
            plot.title(row[1], lam_is(lam))
        plot.legend(axes[0, 0], self.width_entries, loc="lower left")
        entries = [(method, {"linestyle": dash}) for method, dash in methods.items()]
        plot.legend(axes[0, 1], entries, loc="lower left")
        return (
            fig,
            "two-timescale (dashed) follows VarPro at λ = 0.1 and 0.01, is slower at 0.001, where wide "
            "networks of the published size end farther from the teacher, and at 0.0001 does not converge",
        )

    def identifiability(self):
        """Distance of the population flow to the diffusion, with and without bias."""
        data = population(self.laboratory.records)
        fig, axes = plot.figure(1, 2, height=3.0)
        self._draw_final_distances(axes[0, 0], data)
        self._draw_distances_in_time(axes[0, 1], data)
        return fig, "without bias the distance stops at a floor as λ falls; with bias 1/2 it falls with λ"

    def overview(self):
        """The densities of III.2 above the distances of III.4."""
        fig, axes = plot.figure(2, 2, height=5.0)
        self._draw_densities(axes[0])
        axes[0, 1].sharey(axes[0, 0])
        self.draw_widths(axes[1])
        return (
            fig,
            "densities follow the diffusion to the teacher; distances fall to a floor set by the width",
        )

    def _draw_densities(self, axes) -> None:
        """The diffusion and the mean density of the particles over the seeds, at the snapshots."""
        lab, preset = self.laboratory, self.preset
        data, diffusion = lab.runs("density"), lab.diffusion()
        snapshots = [round(t / preset.step) for t in preset.snapshots]
        # Where each iteration that is shown stands among the saved ones, t = 0 first.
        saves = {k: i for i, k in enumerate([0, *preset.saved]) if k in (0, *snapshots)}
        estimate = KernelDensity(512, preset.bandwidth, lab.domain)
        kernel = jax.jit(lambda angles: estimate(lab.particles(angles)))
        angles = data.angle.isel(lam=0, gamma=0, width=0)
        masses = diffusion.masses.sel(gamma=GAMMA).values
        learned, exact = {}, {}
        for k, i in saves.items():
            label = f"t = {k * preset.step:.2g}"
            learned[label] = np.stack([kernel(one) for one in angles.isel(save=i).values])
            exact[label] = masses[i] / float(lab.grid.volume)
        for ax, points, densities in zip(
            axes, (lab.grid.points, estimate.points), (exact, learned), strict=True
        ):
            for i, (label, values) in enumerate(densities.items()):
                color = plot.shade(i, len(densities))
                plot.density(ax, (points, values), lab.domain, label=label, color=color)
            dotted = {"color": "0.25", "linestyle": ":", "linewidth": 1.1, "zorder": 3}
            plot.density(ax, CircleTeacher(GAMMA), lab.domain, label="target", **dotted)
        plot.title(axes[0], "ultra-fast diffusion")
        plot.title(axes[1], f"VarPro, M = {int(data.width[0])}, {lam_is(float(data.lam[0]))}, biased f")
        axes[1].set_ylabel("")
        plot.legend(axes[0], loc="upper left")

    def _draw_final_distances(self, ax, data) -> None:
        """The distance at the last time over lam, beside the independent values."""
        square = {"marker": "s", "markersize": 7, "fillstyle": "none", "linestyle": ""}
        for i, (bias, label) in enumerate(BIASES.items()):
            values = data.mmd_squared_diffusion.sel(bias=bias).isel(save=-1)
            ax.plot(data.lam, values, color=plot.color(i), marker="o", markersize=3, label=label)
            known = {lam: value for lam, value in KNOWN[bias].items() if lam >= 0.5 * float(data.lam.min())}
            ax.plot(known.keys(), known.values(), color=plot.color(i), **square)
        ax.plot([], [], color="0.3", label="independent value", **square)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("regularization λ")
        ax.set_ylabel(f"MMD² to the diffusion at t = {TIME:g}")
        plot.legend(ax)

    def _draw_distances_in_time(self, ax, data) -> None:
        """The distance over time at the powers of ten among the lams."""
        lams = [lam for lam in data.lam.values if round(np.log10(lam), 6) == round(np.log10(lam))]
        dashes = {lam: plot.DASHES[i % len(plot.DASHES)] for i, lam in enumerate(lams)}
        curves, colors, styles = {}, {}, {}
        for i, bias in enumerate(BIASES):
            for lam in lams:
                label = f"{bias} {lam}"
                curves[label] = data.mmd_squared_diffusion.sel(bias=bias, lam=lam).values[1:]
                colors[label], styles[label] = plot.color(i), dashes[lam]
        times = times_of(data)
        options = {"log_time": False, "colors": colors, "styles": styles}
        plot.distances(ax, times[1:], curves, ylabel="MMD² to the diffusion", **options)
        entries = [(lam_is(lam), {"linestyle": dash}) for lam, dash in dashes.items()]
        # Above the panel, where no curve can be.
        plot.legend(ax, entries, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=(len(lams) + 1) // 2)


def teacher_density(gamma, points):
    """The density of the teacher at points (B, 2), per radian."""
    return jax.jit(jax.vmap(CircleTeacher(gamma)))(points)
