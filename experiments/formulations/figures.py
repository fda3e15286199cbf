"""The figures of networks as pairs (rho, H)."""

import numpy as np

import mfjax as mf
from _lab.cli import Settings
from _lab.figures import Gallery
from _lab.records import times_of
from mfjax import plot

from .runs import SYSTEMS, Pairs

DASHES = {"separated": "-", "transported": "--", "chaos": "-."}
COLORS = {name: plot.color(i) for i, name in enumerate(SYSTEMS)}


class Figures(Gallery):
    """The figures, and the runs behind them."""

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self.pairs = Pairs(self.records)

    def identify(self):
        """What the neurons of height one cannot see."""
        pairs = self.pairs
        find = mf.certificates.identifiability
        return {"tanh(θ x + 1/2)": find(pairs.features, pairs.x, pairs.domain, n=64)}

    def report(self):
        """What theory says of the energies."""
        print(
            "bounds: the energies of (3.19) and (3.23) never rise; (3.21) has no bound above |∇H| = 2; "
            "no rate of decay is known for any of the three"
        )

    def line(self, name):
        """How a system is drawn."""
        return {"color": COLORS[name], "linestyle": DASHES[name]}

    def centers(self, cells):
        """Centers of the cells and their width."""
        width = 6 / cells
        return -3 + width * (np.arange(cells) + 0.5), width

    def systems(self):
        """Energies, densities and heights of the three systems and of gradient descent."""
        fig, axes = plot.figure(1, 3, height=2.6)
        energy, rho, heights = axes[0]
        centers, width = self.centers(self.preset.cells)
        for name, (_, label) in SYSTEMS.items():
            data = self.pairs.systems(name).isel(steepness=0)
            energy.plot(times_of(data), data.energy, label=label.split(" (")[0], **self.line(name))
            masses, height = data.masses.values[-1], data.height.values[-1]
            rho.plot(centers, masses / width, **self.line(name))
            support = masses / width > 1e-3
            heights.plot(centers[support], height[support], **self.line(name))
        data = self.pairs.particles().isel(steepness=0)
        path = self.pairs.descent(data)
        energy.plot(times_of(data)[::4], data.energy[::4], "k.", markersize=4, label="gradient descent")
        heights.plot(path[-1, 0, ::4], path[-1, 1, ::4], "k.", markersize=4)
        start = self.pairs.grid(self.preset.cells, self.preset.steepness[0])
        rho.plot(centers, start.density, color="0.7")
        support = np.asarray(start.density) > 1e-3
        heights.plot(centers[support], start.marks["H"][support], color="0.7")
        energy.set(xlabel="flow time t", ylabel="energy G", ylim=(0, None))
        rho.set(xlabel="feature θ", ylabel="density ρ [1 / unit of θ]", xlim=(-3, 3))
        heights.set(xlabel="feature θ", ylabel="height H on the support")
        _legend_below(fig, energy)
        plot.title(rho, f"at t = {self.preset.time:g} (gray: t = 0)")
        return fig, "three different flows of one energy; gradient descent lies on propagation of chaos"

    def descent(self):
        """(3.23) on particles is gradient descent, and its grid converges to particles."""
        fig, (row,) = plot.figure(1, 2, height=2.5)
        data = self.pairs.particles().isel(steepness=0)
        path = self.pairs.descent(data)
        ours = np.stack([data.theta.values, data.height.values], axis=1)
        gap = np.max(np.abs(ours - path), axis=(1, 2))
        row[0].semilogy(times_of(data)[1:], np.maximum(gap[1:], 1e-17), color=COLORS["chaos"])
        row[0].axhline(1e-10, color="0.6", linestyle=":")
        row[0].set(xlabel="flow time t", ylabel="largest difference of (θ, H)", ylim=(1e-17, 1e-9))
        plot.title(row[0], "particles of (3.23) less gradient descent")
        meshes = np.array(self.preset.meshes)
        errors = self.pairs.convergence()
        row[1].loglog(meshes, errors, marker="o", markersize=4, **self.line("chaos"))
        row[1].loglog(meshes, 0.3 * errors[0] * (meshes[0] / meshes) ** 2, color="0.6", label="slope −2")
        row[1].set_xticks(meshes, [str(n) for n in meshes])
        row[1].minorticks_off()
        row[1].set(xlabel="cells", ylabel="largest error of a moment")
        plot.title(row[1], "grids of (3.23) against particles")
        plot.legend(row[1])
        return fig, "the difference is rounding, far below the dotted 1e-10; grids converge at second order"

    def increase(self):
        """Where the energy of (3.21) rises: steep heights."""
        fig, (row,) = plot.figure(1, 2, height=2.5)
        slope = 3 * np.array(self.preset.steepness)
        for name, (_, label) in SYSTEMS.items():
            data = self.pairs.systems(name)
            steep = data.isel(steepness=-1)
            row[0].plot(times_of(steep), steep.energy / steep.energy[0], label=label, **self.line(name))
            rate = -data.dissipation.isel(save=0) / data.energy.isel(save=0)
            row[1].plot(slope, rate, marker="o", markersize=4, **self.line(name))
        early = self.preset.time / 10
        row[0].set(xlabel="flow time t", ylabel="energy, relative to t = 0", xlim=(0, early), ylim=(0.2, 1.1))
        row[0].axhline(1, color="0.6", linewidth=0.8)
        rise = self.pairs.systems("transported").isel(steepness=-1)
        inset = row[0].inset_axes([0.55, 0.52, 0.43, 0.36])
        inset.plot(times_of(rise), rise.energy / rise.energy[0], **self.line("transported"))
        inset.axhline(1, color="0.6", linewidth=0.8)
        inset.set(xlim=(0, early / 16), ylim=(0.998, 1.002), xticks=(0, early / 16), yticks=(0.998, 1, 1.002))
        inset.tick_params(labelsize=7)
        plot.title(inset, "the rise of (3.21)")
        row[1].axhline(0, color="0.6", linewidth=0.8)
        row[1].axvspan(0, 2, color="0.92", zorder=0)
        row[1].set(xlabel="largest slope |∇H| of the start", ylabel="(dG/dt) / G at t = 0", xlim=(0, None))
        plot.title(row[0], f"from the steepest start, |∇H| = {slope[-1]:g}")
        row[1].set_yscale("symlog", linthresh=1)
        _legend_below(fig, row[0])
        return (
            fig,
            "only the transported system rises, and never in the gray band |∇H| ≤ 2 where theory forbids it",
        )

    def regularized(self):
        """Stationary densities with heat and porous-medium regularization."""
        fig, axes = plot.figure(2, 2, height=4.6, sharex="col")
        centers, width = self.centers(self.preset.regularized_cells)
        taus = self.preset.temperatures
        for row, kind in zip(axes, ("heat", "porous"), strict=True):
            for name in self.preset.regularized_systems:
                data = self.pairs.regularized(kind, name)
                for i in range(len(taus)):
                    spread = data.spread.isel(temperature=i)
                    row[1].semilogy(
                        times_of(data)[1:], np.maximum(spread[1:], 1e-16), **_shaded(i, taus, DASHES[name])
                    )
            for i, tau in enumerate(taus):
                last = data.isel(temperature=i, save=-1)
                row[0].plot(centers, last.masses / width, label=f"τ = {tau:g}", **_shaded(i, taus, "-"))
                exact = _stationary(kind, tau, last.potential.values, last.masses.values / width, width)
                row[0].plot(centers, exact, "k.", markersize=2.5)
            row[0].set_ylabel("stationary ρ [1 / unit of θ]")
            row[1].set_ylabel("spread of δG/δρ")
            words = {
                "heat": "entropy: ρ = exp(−V/τ)/Z (dots)",
                "porous": "porous medium: ρ = (c − V)₊/τ (dots)",
            }
            plot.title(row[0], words[kind])
        axes[1, 0].set_xlabel("feature θ")
        axes[1, 1].set_xlabel("flow time t")
        plot.legend(axes[0, 0])
        lines = [(SYSTEMS[name][1], {"linestyle": DASHES[name]}) for name in self.preset.regularized_systems]
        plot.legend(axes[0, 1], lines)
        return (
            fig,
            "each system rests on the density that its own potential predicts; porous supports are compact",
        )


def _legend_below(fig, ax):
    """One legend for all panels, where it covers nothing."""
    fig.legend(
        *ax.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8
    )


def _shaded(i, taus, dash):
    return {"color": plot.shade(i, len(taus)), "linestyle": dash}


def _stationary(kind, tau, potential, density, width):
    """The density that the potential V of the last state predicts: of a Gibbs law, or of a free boundary."""
    if kind == "heat":
        gibbs = np.exp(-(potential - potential.min()) / tau)
        return gibbs / (gibbs.sum() * width)
    # V + tau rho = c on the support, at the mean of the state; off it the density is zero.
    support = density > 1e-6
    level = np.mean((potential + tau * density)[support])
    return np.where(support, np.maximum(level - potential, 0) / tau, 0)
