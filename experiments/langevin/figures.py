"""The figures of mean-field Langevin dynamics, and the table of rates beside them."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import mfjax as mf
from _lab.cli import Settings
from _lab.figures import Gallery
from _lab.records import times_of
from mfjax import plot
from mfjax.plot.canvas import colorbar
from mfjax.theory import fit_rate

from .model import TEACHER
from .runs import Langevin

LINEARIZED, BOUND = {"linestyle": ":", "color": "0.2"}, {"linestyle": "--"}


class Figures(Gallery):
    """The figures; `rates` collects what the decay figure fits."""

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self.runs = Langevin(self.records)
        self.rates: list[dict[str, Any]] = []

    def identify(self):
        """What the inner features of both networks cannot see with their inputs."""
        find = mf.certificates.identifiability
        line, plane = (self.runs.networks[name] for name in ("one neuron", "two layers"))
        inner, axis = mf.features.Ridge(jnp.tanh), mf.domains.Interval(-4.0, 4.0)
        return {
            "one tanh neuron": find(line.features, line.x, line.domain, n=64),
            "two layers, tanh(θ x) without its outer weight": find(inner, plane.x, axis, n=64),
        }

    def decay(self):
        """The excess of V^sigma over its minimum, with the rates of theory."""
        preset, data = self.preset, self.runs.densities()
        fig, axes = plot.figure(1, 3, height=2.6, sharey=True)
        gains = {0.0: "no data (Gaussian)", preset.gain: "one tanh neuron"}
        for ax, (gain, label) in zip(axes[0], gains.items(), strict=False):
            for sigma in preset.sigmas:
                runs = data.sel(gain=gain, sigma=sigma, start=preset.start)
                run = f"fokker-planck gain={gain:g} sigma={sigma:g} start={preset.start:g}"
                self._draw_decay(ax, label, "one neuron", sigma, gain, runs, run)
            plot.title(ax, label)
        for sigma in preset.plane_sigmas:
            runs = self.runs.plane().sel(sigma=sigma)
            run = f"fokker-planck-plane sigma={sigma:g}"
            self._draw_decay(axes[0, 2], "two layers", "two layers", sigma, None, runs, run)
        plot.title(axes[0, 2], "two layers")
        for ax in axes[0]:
            plot.legend(ax, loc="lower left")
            ax.set_yscale("log")
            ax.set_ylim(1e-11, 10)
            ax.set_xlabel("flow time t")
        rates = axes[0, 0].get_legend()
        entries = [("log-Sobolev bound", BOUND), ("2 × linearized gap", LINEARIZED)]
        plot.legend(axes[0, 0], entries, loc="upper right")
        axes[0, 0].add_artist(rates)
        axes[0, 0].set_ylabel("$V^σ(m_t) - V^σ(m^*)$")
        return (
            fig,
            "straight lines of the linearized slope; sharp log-Sobolev bound only in the Gaussian case",
        )

    def _draw_decay(self, ax, label, name, sigma, gain, runs, run) -> None:
        """One curve with its fit, the slope of the linearized flow and the log-Sobolev bound of the run."""
        network, grid = self.runs.network(name, gain), self.runs.grid(name)
        linearized = self.runs.spectrum(name, sigma, gain)
        times = np.asarray(runs.times.values, float)
        excess = np.asarray(runs.energy.values, float) - float(self.runs.gibbs(name, sigma, gain).found.value)
        shown = np.where(excess > 1e-11, excess, np.nan)
        floor = 1e-13 * abs(excess[0])
        try:
            fit = fit_rate(times, excess, transient=1e-2, floor=floor)
            rate, middle = f"{fit.rate:.2g}", 0.5 * sum(fit.window)
        except ValueError:
            rate, middle = "not resolved", 0.75 * times[-1]
        color = self.color(sigma)
        ax.plot(times, shown, color=color, label=f"σ = {sigma:g}: rate {rate}")
        bound = log_sobolev_bound(network, grid, sigma, excess[0], times, runs.masses.values)
        ax.plot(times, np.asarray(bound(times)), color=color, **BOUND)
        margin = self.records.bound(run, bound, times, excess, 100 * floor)
        anchor = min(np.searchsorted(times, middle), times.size - 1)
        slope = excess[anchor] * np.exp(-linearized * (times - times[anchor]))
        ax.plot(times, 3 * slope, **LINEARIZED, linewidth=0.9)
        self.rates.append(
            {
                "network": label,
                "sigma": sigma,
                "fitted": rate,
                "linearized": f"{linearized:.2g}",
                "log-Sobolev, end": f"{float(bound.rates[-1]):.2g}",
                "margin": f"{margin:.2g}",
            }
        )

    def color(self, sigma: float) -> str:
        """The color of a noise, the same in all figures."""
        return plot.color(sorted({*self.preset.sigmas, *self.preset.plane_sigmas}, reverse=True).index(sigma))

    def densities(self):
        """Particles, Fokker-Planck and the Gibbs measure of one neuron."""
        preset, grid = self.preset, self.runs.grid("one neuron")
        data, particles = self.runs.densities(), self.runs.particles()
        fig, axes = plot.figure(1, len(preset.sigmas), height=2.5)
        x, volume = np.asarray(grid.points[:, 0]), float(grid.volume)
        times = times_of(data)
        early = int(np.searchsorted(times, 1.0))
        for ax, sigma in zip(axes[0], preset.sigmas, strict=True):
            masses = data.masses.sel(gain=preset.gain, sigma=sigma, start=preset.start).values
            points = particles.position.sel(sigma=sigma, start=preset.start).values[..., 0]
            star = np.asarray(self.runs.gibbs("one neuron", sigma).found.measure.weights) / volume
            seen = np.maximum(star, masses[early] / volume)
            reach = np.max(np.abs(x[seen > 5e-3 * seen.max()]))
            for k, save in enumerate((early, -1)):
                color = plot.color(k)
                pooled, bins = points[:, save].ravel(), np.linspace(-reach, reach, 41)
                heights = np.histogram(pooled, bins)[0] / pooled.size / np.diff(bins)
                ax.stairs(heights, bins, fill=True, color=color, alpha=0.25)
                ax.plot(x, masses[save] / volume, color=color, label=f"t = {times[save]:.2g}")
            ax.plot(x, star, color="0.1", linestyle=":", linewidth=1.6, label="Gibbs $m^*$")
            ax.set_xlim(-reach, reach)
            ax.set_ylim(bottom=0)
            ax.set_xlabel("neuron parameter θ")
            plot.title(ax, f"σ = {sigma:g}")
        axes[0, 0].set_ylabel("density [1 / unit of θ]")
        plot.legend(axes[0, 0], loc="upper left", handlelength=1.0)
        return fig, "bars (particles) follow lines (Fokker-Planck), which end on the dotted Gibbs measure"

    def contraction(self):
        """W2 between runs from two starts: densities, clouds, and particles with the same noise."""
        preset, grid = self.preset, self.runs.grid("one neuron")
        data, particles = self.runs.densities(), self.runs.particles()
        fig, axes = plot.figure(1, len(preset.sigmas), height=2.5, sharey=True)
        times = times_of(data)
        for ax, sigma in zip(axes[0], preset.sigmas, strict=True):
            masses = data.masses.sel(gain=preset.gain, sigma=sigma)
            pair = [masses.sel(start=start).values for start in self.runs.starts]
            w2 = np.asarray(wasserstein(grid, *pair))
            both = [particles.position.sel(sigma=sigma, start=s).values[..., 0] for s in self.runs.starts]
            coupled = np.sqrt(np.mean((both[0] - both[1]) ** 2, axis=-1))
            clouds = np.sqrt(np.mean((np.sort(both[0], -1) - np.sort(both[1], -1)) ** 2, axis=-1))
            curves = {"$W_2$ of densities": w2, "same noise, r.m.s.": coupled, "$W_2$ of particles": clouds}
            styles = dict(zip(curves, ("-", "-", "--"), strict=True))
            plot.distances(ax, times, curves, ylabel="", log_time=False, styles=styles, legend=False)
            rate = 0.5 * self.runs.spectrum("one neuron", sigma)
            anchor = int(np.searchsorted(times, 0.5 * times[-1]))
            line = lambda rate, height, at=anchor: height * np.exp(-rate * (times - times[at]))
            ax.plot(times, line(rate, 0.4 * w2[anchor]), **LINEARIZED, label="linearized gap")
            above = line(preset.lam, 2 * coupled.mean(0)[anchor])
            ax.plot(times, above, color="0.5", linestyle="-.", linewidth=0.9, label="$e^{-λt}$")
            ax.set_ylim(1e-7, 10)
            plot.title(ax, f"σ = {sigma:g}")
        axes[0, 0].set_ylabel("distance of the two runs (units of θ)")
        plot.legend(axes[0, -1], loc="lower left")
        return (
            fig,
            "densities contract at the linearized rate, particles under one noise at that of far neurons",
        )

    def vanishing_noise(self):
        """F at the Gibbs measure as sigma vanishes, and where the measures concentrate."""
        preset = self.preset
        fig, axes = plot.figure(1, 3, height=2.6)
        ax, noises = axes[0, 0], np.asarray(preset.noises)
        for k, (name, marker) in enumerate({"one neuron": "o", "two layers": "s"}.items()):
            cells = preset.noise_cells if name == "two layers" else None
            minima = [self.runs.gibbs(name, sigma, cells=cells) for sigma in preset.noises]
            risk, least = np.array([float(m.risk) for m in minima]), max(float(m.least) for m in minima)
            # Gibbs measures about as wide as a cell see the mesh: they have the width sigma / (2 lam)^(1/2).
            width = noises / np.sqrt(2 * self.runs.networks[name].lam)
            seen = width > float(minima[0].found.measure.spacing[0])
            line = {"color": plot.color(k), "marker": marker, "markersize": 3}
            ax.plot(noises[seen], (risk - least)[seen], **line, label=name)
        ax.plot(noises, 0.5 * noises**2, color="0.5", linewidth=0.8, label="σ²/2")
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("noise σ")
        ax.set_ylabel("$F(m^{*,σ}) - $ lower bound of inf F")
        plot.legend(ax)
        ax, grid = axes[0, 1], self.runs.grid("one neuron")
        chosen = range(0, len(noises), max(1, len(noises) // 4))
        for k, i in enumerate(chosen):
            star = self.runs.gibbs("one neuron", preset.noises[i]).found.measure
            density = np.asarray(star.density)
            ax.plot(
                grid.points[:, 0], density, color=plot.shade(k, len(chosen)), label=f"σ = {noises[i]:.2g}"
            )
        ax.set_yscale("log")
        ax.set_ylim(1e-3, 100 * density.max())
        ax.set_xlim(-4, 4)
        ax.set_xlabel("neuron parameter θ")
        ax.set_ylabel("Gibbs density [1 / unit of θ]")
        plot.legend(ax, loc="upper center", ncols=2, handlelength=0.9, columnspacing=0.6)
        self._draw_annealing(axes[0, 2])
        return (
            fig,
            "F falls to its infimum like σ² (up to a logarithm); the Gibbs measure concentrates; a run "
            "under falling noise stays close to the minimum of its time",
        )

    def _draw_annealing(self, ax) -> None:
        """F along densities whose noise stays, and along one whose noise falls, over the bound of inf F."""
        data, sigmas = self.runs.annealed(), self.preset.sigmas
        least = max(float(self.runs.gibbs("one neuron", sigma).least) for sigma in self.preset.noises)
        times = times_of(data)
        for k, (name, run) in enumerate(data.groupby("halving")):
            falls = name < 10 * times[-1]
            label = f"σ = {sigmas[0]:g}, halved in {name:g} t" if falls else f"σ = {sigmas[0]:g} throughout"
            ax.plot(times, run.risk.values.ravel() - least, color=plot.color(k), label=label)
        ax.set_yscale("log")
        ax.set_xlabel("flow time t")
        ax.set_ylabel("$F(m_t) - $ lower bound of inf F")
        plot.title(ax, "annealing, one neuron")
        # Room for the legend.
        ax.set_ylim(top=30)
        plot.legend(ax, loc="upper right")

    def chaos(self):
        """Squared distance of N particles to the density: slope in N, constant in time."""
        preset, data = self.preset, self.runs.chaos().sel(sigma=self.preset.chaos_sigma)
        fig, axes = plot.figure(1, 2, height=2.6)
        widths = np.asarray(preset.chaos_widths, float)
        times = times_of(data)
        squares = data.mmd_squared.transpose("width", "seed", "save").values
        ax = axes[0, 0]
        late = times >= 0.5 * times[-1]
        moments = {"t = 0": times == 0, "t = 1": np.arange(times.size) == np.searchsorted(times, 1.0)}
        moments[f"t in [{times[late][0]:.2g}, {times[-1]:.2g}]"] = late
        for k, (label, chosen) in enumerate(moments.items()):
            # One number per seed: the saved times of a run are not independent.
            values = squares[:, :, chosen].mean(2)
            mean, error = values.mean(1), values.std(1) / np.sqrt(preset.chaos_seeds)
            slope = np.polyfit(np.log(widths), np.log(mean), 1)[0]
            line = {"color": plot.color(k), "marker": "o", "markersize": 3}
            ax.errorbar(widths * 1.06**k, mean, error, **line, label=f"{label}: slope {slope:.2f}")
        ax.plot(widths, 0.4 * squares[0, :, late].mean() * widths[0] / widths, **LINEARIZED, label="slope -1")
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xticks(widths, [f"{w:g}" for w in widths])
        ax.minorticks_off()
        # Room for the legend.
        ax.set_ylim(top=10 * squares[0].mean(0).max())
        ax.set_xlabel("number of particles N")
        ax.set_ylabel("MMD² to the density")
        plot.legend(ax)
        ax = axes[0, 1]
        for k, width in enumerate(preset.chaos_widths):
            scaled, shown = width * squares[k], plot.shade(k, len(widths))
            mean, error = scaled.mean(0), scaled.std(0) / np.sqrt(preset.chaos_seeds)
            ax.plot(times, mean, color=shown, label=f"N = {width}")
            ax.fill_between(times, mean - error, mean + error, color=shown, alpha=0.18, linewidth=0)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("flow time t")
        ax.set_ylabel("N × MMD² to the density")
        plot.legend(ax)
        return fig, "slope -1 at every time, and a constant that stays bounded as time goes on"

    def two_layers(self):
        """Teacher and student with two layers: Gibbs measure, particles, and what they predict."""
        preset, network = self.preset, self.runs.networks["two layers"]
        sigma, grid = preset.plane_sigmas[-1], self.runs.grid("two layers")
        particles, density = self.runs.plane_particles().sel(sigma=sigma), self.runs.plane().sel(sigma=sigma)
        minimizer = np.asarray(self.runs.gibbs("two layers", sigma).found.measure.weights)
        fig, axes = plot.figure(1, 3, height=2.5)
        star = minimizer / float(grid.volume)
        panels = {"Fokker-Planck": density.masses.values[-1] / float(grid.volume), "Gibbs $m^*$": star}
        w, theta = (np.unique(np.asarray(grid.points[:, k])) for k in (0, 1))
        for ax, (label, values) in zip(axes[0], panels.items(), strict=False):
            mesh = ax.pcolormesh(
                theta, w, values.reshape(grid.shape), cmap="cividis", vmin=0, vmax=star.max(), rasterized=True
            )
            ax.scatter(
                [t[1] for t in TEACHER],
                [t[0] for t in TEACHER],
                marker="*",
                s=45,
                color="w",
                edgecolor="k",
                label="teacher",
            )
            ax.set_xlabel("inner weight θ")
            plot.title(ax, f"{label}, σ = {sigma:g}")
        cloud = particles.position.isel(seed=0).values[-1]
        axes[0, 0].scatter(
            cloud[:, 1], cloud[:, 0], s=2, color="w", alpha=0.7, linewidth=0, label="particles"
        )
        plot.legend(axes[0, 0], loc="lower left", labelcolor="w", handletextpad=0.2)
        colorbar(axes[0, 1], mesh, "density [1 / unit of (w, θ)]")
        axes[0, 0].set_ylabel("outer weight w")
        ax, x = axes[0, 2], np.asarray(network.x[:, 0])
        ax.plot(x, network.y, color="0.1", linestyle="", marker="*", markersize=4, label="teacher")
        features = np.asarray(network.features.matrix(grid.points, network.x))
        ax.plot(x, features @ minimizer, color=plot.color(0), label="Gibbs $m^*$")
        points = particles.position.values[:, -1]
        outputs = np.mean(points[..., :1] * np.tanh(points[..., 1:] * x), axis=1)
        plot.band(ax, x, outputs, label=f"N = {preset.width}", color=plot.color(1), linestyle="--")
        ax.set_xlabel("input x")
        ax.set_ylabel("output")
        plot.legend(ax)
        return (
            fig,
            "density, particles (dots) and Gibbs measure agree; noise and λ keep off the stars (teacher)",
        )

    def report(self) -> None:
        """The rates, and how well the Gibbs equation was solved."""
        found = [minimum.found for minimum in self.runs.minima]
        if found:
            worst, most = (max(float(getattr(f, n)) for f in found) for n in ("residual", "iterations"))
            print(f"{len(found)} Gibbs measures: residual <= {worst:.1e}, at most {most:g} Newton iterations")
        if self.rates:
            print(
                "\nrates of V^sigma: fitted, linearized, guaranteed at the end, and the margin of that bound"
            )
            for row in self.rates:
                name = f"{row.pop('network')}, sigma = {row.pop('sigma'):g}"
                print(f"{name}: {', '.join(f'{key} {value}' for key, value in row.items())}")
            print()


@eqx.filter_jit
def wasserstein(grid, first, second):
    """W2 between two series of masses (S, K) on the cells of a line, spread evenly within each cell.

    With atoms at the centers a change below a cell would cost the root of itself.
    """

    def one(pair):
        distance = mf.observables.Wasserstein1D(grid.with_weights(pair[1]), order=2, spread=True)
        return distance(grid.with_weights(pair[0]))

    return jax.lax.map(one, (jnp.asarray(first), jnp.asarray(second)))


def log_sobolev_bound(network, grid, sigma, excess, times, masses):
    """The decay that the measures of a run guarantee: V is lam |xi|^2 / 2 plus a part that sees the data."""
    measures = grid.with_weights(jnp.asarray(masses))
    smooth = network.smooth()
    data = eqx.tree_at(lambda risk: risk.lam, smooth, jnp.zeros_like(smooth.lam))
    return mf.bounds.entropy_decay_along(
        excess, 0.5 * sigma**2, times, measures, data, convexity=network.lam, domain=network.domain
    )
