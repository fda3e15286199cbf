"""The figures of the experiment on kernel mean discrepancies."""

import numpy as np

import mfjax as mf
from _lab.figures import Gallery
from mfjax import plot
from mfjax.plot.canvas import colorbar

from .runs import FAMILIES, KERNELS, ORDERS, PAIRS, SHAPES, Discrepancies, two_bumps

S_IS = {1.0: "s = 1", 1.5: "s = 3/2", 2.0: "s = 2"}
TO_UNIFORM, FROM_UNIFORM = range(3), range(3, 6)


class Figures(Gallery):
    """Decay on the circle, measured rates, the 2-torus, and kernels that stick."""

    def __init__(self, settings):
        super().__init__(settings)
        self.runs = Discrepancies(self.records)

    def _panels(self, ylabel):
        fig, axes = plot.figure(2, 3, height=4.3, sharex="col")
        for row, words in enumerate(("ν uniform", "μ₀ uniform")):
            for ax, order in zip(axes[row], ORDERS, strict=True):
                plot.title(ax, f"{S_IS[order]}, {words}")
        for ax in axes[:, 0]:
            ax.set_ylabel(ylabel)
        for ax in axes[1]:
            ax.set_xlabel("flow time t")
        for ax in axes[:, 1:].flat:
            ax.set_xscale("log")
        return fig, axes

    def decay(self):
        """E over time by PDE and by particles, with predicted slopes."""
        density, cloud = self.runs.densities(), self.runs.clouds()
        fig, axes = self._panels("energy E")
        for row, pairs in enumerate((TO_UNIFORM, FROM_UNIFORM)):
            for ax, order in zip(axes[row], ORDERS, strict=True):
                times = np.asarray(self.runs.times(order))
                for pair in pairs:
                    here = {"pair": pair, "order": order}
                    values = resolved(density.energy.sel(here).values)
                    ax.plot(times, values, color=plot.color(pair % 3))
                    dots = cloud.energy.sel(here).values[1:]
                    ax.plot(times[::3], dots[::3], "o", color=plot.color(pair % 3), markersize=2.5)
                    slope = predicted(pair, order, self.runs)
                    if slope is not None:
                        guide = tangent(times, values, slope, order)
                        ax.plot(times, guide, **GUIDE | {"color": plot.color(pair % 3)})
                ax.set_yscale("log")
                lowest = np.nanmin(density.energy.sel(order=order).values[list(pairs)])
                ax.set_ylim(bottom=max(lowest / 10, 1e-18))
        shapes = [(shape.name, {"color": plot.color(i)}) for i, shape in enumerate(SHAPES)]
        methods = [("PDE", {}), (f"{self.preset.width} particles", DOTS), ("predicted", GUIDE)]
        plot.legend(axes[0, 0], shapes, loc="lower left", title="μ₀ (below: ν)", title_fontsize=8)
        plot.legend(axes[1, 0], methods, loc="lower left")
        return (
            fig,
            "PDE follows the predicted lines; particles follow it until their floor zeta(2s) / (2 pi N)^2s",
        )

    def rates(self):
        """The local rate of the energy over time beside the predicted one."""
        density = self.runs.densities()
        fig, axes = self._panels("")
        for row, pairs in enumerate((TO_UNIFORM, FROM_UNIFORM)):
            axes[row, 0].set_ylabel("rate −d log E / dt")
            axes[row, 1].set_ylabel("exponent −d log E / d log t")
            for ax, order in zip(axes[row], ORDERS, strict=True):
                times = np.asarray(self.runs.times(order))
                tops = [0.0]
                for pair in pairs:
                    values = resolved(density.energy.sel(pair=pair, order=order).values)
                    ax.plot(times, local_rate(times, values, order), color=plot.color(pair % 3))
                    slope = predicted(pair, order, self.runs)
                    if slope is not None:
                        ax.axhline(slope, **GUIDE | {"color": plot.color(pair % 3)})
                        tops.append(slope)
                ax.set_ylim(0, 2.2 if order == 1 else 1.5 * max(tops))
        shapes = [(shape.name, {"color": plot.color(i)}) for i, shape in enumerate(SHAPES)]
        plot.legend(axes[0, 0], [*shapes, ("predicted", GUIDE)], loc="lower left")
        return (
            fig,
            "s = 1: towards 2 min ν; s > 1: towards (r + s) / (s − 1), r = 3/2 (kink), 1/2 (jump)",
        )

    def torus(self):
        """The 2-torus: particles over the density at two times, and both energies."""
        grid, cloud = self.runs.two_dimensional()
        times, n, side = self.runs.torus_times, self.preset.torus_cells, 2 * np.pi
        fig, axes = plot.figure(1, 3, height=2.3)
        centers = (np.arange(n) + 0.5) * side / n
        target = np.array([[float(two_bumps(np.array([a, b]))) for a in centers] for b in centers])
        states = grid.state.values[0].reshape(-1, n, n) / (side / n) ** 2
        points = cloud.state.values[0]
        early = int(np.argmin(np.abs(times - 0.03 * times[-1])))
        for ax, save in ((axes[0, 0], early), (axes[0, 1], -1)):
            mesh = ax.pcolormesh(
                centers, centers, states[save].T, cmap="cividis", vmin=0, vmax=target.max(), rasterized=True
            )
            ax.contour(centers, centers, target, levels=4, colors="white", linewidths=0.6)
            ax.plot(*points[save].T, "o", color=plot.color(5), markersize=1.3)
            plot.title(ax, f"s = 2, t = {round(times[save], 1):g}")
            ax.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal", xlim=(0, side), ylim=(0, side))
        colorbar(axes[0, 1], mesh, "density")
        ax = axes[0, 2]
        ax.loglog(times[1:], grid.energy.values[0, 1:], color=plot.color(0), label=f"grid, {n} × {n}")
        ax.loglog(
            times[1:],
            cloud.energy.values[0, 1:],
            color=plot.color(5),
            linestyle="--",
            label=f"{self.preset.torus_width**2} particles",
        )
        ax.set(xlabel="flow time t", ylabel="energy E")
        plot.legend(ax, loc="lower left")
        return fig, "the particles sit where the density is, and their energy falls with it to their floor"

    def kernels(self):
        """Where MMD flows end, kernel by kernel, and the distance that is left."""
        data, (_, target) = self.runs.mmd_flows(), self.runs.clusters
        times = self.runs.kernel_times
        fig, axes = plot.figure(2, 3, height=4.2)
        for i, (name, _, _) in enumerate(KERNELS):
            ax, points = axes.flat[i], data[i].position.values
            for path in np.moveaxis(points, 1, 0):
                ax.plot(*path.T, color="0.8", linewidth=0.4, zorder=0)
            ax.plot(*target.T, "x", color="0.35", markersize=3, markeredgewidth=0.7, label="target")
            ax.plot(*points[0].T, ".", color="black", markersize=1.5, label="start")
            ax.plot(*points[-1].T, "o", color=plot.color(i), markersize=2.2, label=f"t = {times[-1]:g}")
            plot.title(ax, name)
            ax.set(aspect="equal", xlim=(-0.9, 4.0), ylim=(-0.8, 2.6), xlabel="$x_1$", ylabel="$x_2$")
        ax = axes.flat[len(KERNELS)]
        for i, (name, _, _) in enumerate(KERNELS):
            ax.loglog(times[1:], data[i].distance.values[1:], color=plot.color(i), label=name)
        ax.set(xlabel="flow time t", ylabel="squared energy distance")
        plot.legend(axes.flat[0], loc="lower right", fontsize=7, handletextpad=0.2)
        plot.legend(ax, loc="lower left", fontsize=7)
        return fig, "short Gaussians lose sight of far clusters and stop; Riesz kernels pull from everywhere"

    def identify(self):
        """What the kernels of the runs cannot see, sections k(x, .) taken as features."""
        found, find = {}, mf.certificates.identifiability
        modes, circle = np.arange(1, 33), mf.domains.Sphere(1)
        for order in ORDERS:
            # The coefficients of the Sobolev kernel, with none for the mean, which all laws share.
            seen = mf.features.CircleModes(np.append(0.0, (2 * np.pi * modes) ** (-2 * order)))
            found[f"the Sobolev kernel, {S_IS[order]}"] = find(seen, seen.inputs(), circle, n=64)
        box = mf.domains.Box([-0.9, -0.8], [4.0, 2.6])
        x = mf.measures.Grid.uniform(box, 12).points
        for name, family, number in KERNELS:
            found[name] = find(Section(FAMILIES[family](number)), x, box, n=12)
        return found

    def report(self):
        """Rates of the linearized flow beside the predicted ones."""
        for order, rates in self.runs.linear_rates().items():
            exact = (2 * np.pi * np.arange(1, 4)) ** (2 - 2 * order)
            shown = ", ".join(f"{rate:.6g} ({value:.6g})" for rate, value in zip(rates, exact, strict=True))
            print(f"{S_IS[order]}: linear rates of modes 1, 2, 3 at the uniform measure (predicted): {shown}")


class Section(mf.features.FeatureMap):
    """phi(omega, x) = k(omega, x): what a discrepancy sees of a measure is its potential."""

    kernel: mf.kernels.Kernel

    def __call__(self, omega, x):
        return self.kernel(omega, x)


GUIDE = {"color": "0.3", "linestyle": ":", "linewidth": 1.1}
DOTS = {"linestyle": "", "marker": "o", "markersize": 2.5}


def predicted(pair, order, runs):
    """The rate (s = 1) or exponent (s > 1) of the energy, or `None` where no power law is known."""
    first, last = PAIRS[pair]
    if order == 1:
        return runs.rate(pair)
    # Proved for nu uniform; the same exponent is drawn where nu is the rough one.
    roughness = SHAPES[first if last is None else last].roughness
    return (roughness + order) / (order - 1) if np.isfinite(roughness) else None


def resolved(values):
    """The energies after t = 0, down to 1e-11 of the first: below it the tolerance of the steps shows."""
    return np.where(np.minimum.accumulate(values) > 1e-11 * values[0], values, np.nan)[1:]


def tangent(times, values, slope, order):
    """The predicted decay through three times the last value, over the later part of the run."""
    last = np.flatnonzero(np.isfinite(values))[-1]
    decay = np.exp(-slope * (times - times[last])) if order == 1 else (times / times[last]) ** -slope
    late = (times >= (0.4 if order == 1 else 0.05) * times[last]) & (times <= times[last])
    return np.where(late, 3 * values[last] * decay, np.nan)


def local_rate(times, values, order):
    """-d log E / dt at s = 1, -d log E / d log t otherwise, by differences of neighbors."""
    values = np.where(values > 0, values, np.nan)
    return -np.gradient(np.log(values), times if order == 1 else np.log(times))
