"""The figures of the regimes: one diagram, rates, distances to the limits, bounds, and minima."""

from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

import mfjax as mf
from _lab.cli import Settings
from _lab.figures import Gallery
from _lab.identifiability import relu_on_circle
from _lab.jax_settings import double_precision
from _lab.records import times_of
from mfjax import plot
from mfjax.plot.canvas import colorbar

from .certified import CertifiedRuns
from .limits import TIMESCALE_LAM, Limits
from .minimum import GAUSSIAN, LAM, SPIKES, SPIKES_LAM, TORUS, Minima, spike_inputs
from .model import BIASES, GAMMA
from .rates import DEGREE, MODES, coefficients, predicted, timescale_rates, varpro_rates
from .vanishing import PROGRESS, Vanishing

NAMES = {0.0: "no bias", 0.5: "bias 1/2"}
# Squared distance of a sample of n to its law, times n: the mean chord of the circle.
SAMPLING = 4 / np.pi


class Figures(Gallery):
    """The figures of the regimes."""

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self.limits_, self.minima = Limits(self.records), Minima(self.records)
        self.certified, self.vanishing_ = CertifiedRuns(self.records), Vanishing(self.records)

    def draw(self, methods) -> None:
        with double_precision():
            super().draw(methods)

    def identify(self):
        """What ReLU cannot see of a teacher on the circle, and a Gaussian of spikes on the 2-torus."""
        found = mf.certificates.identifiability(GAUSSIAN, spike_inputs(), TORUS, n=12)
        return relu_on_circle(BIASES, GAMMA) | {"Gaussians on the 2-torus": found}

    def regimes(self):
        """One diagram over lam, gamma, M and the bias."""
        fig, axes = plot.figure(2, 2, height=5.6)
        self._draw_rates(axes[0, 0], 0.5)
        plot.title(axes[0, 0], "rates of modes k, VarPro, bias 1/2")
        self._draw_timescales(axes[0, 1])
        for ax, bias in zip(axes[1], reversed(BIASES), strict=True):
            self._draw_widths(ax, bias)
        return (
            fig,
            "k² for small λ, k²c/λ for large λ; γ limits the rate where it is small; M only up to the line",
        )

    def rates(self):
        """Rates without bias, and how far measured ones are from the formula."""
        fig, axes = plot.figure(1, 2, height=2.8)
        self._draw_rates(axes[0, 0], 0.0)
        plot.title(axes[0, 0], "VarPro, no bias: k = 3 does not move")
        self._draw_rate_errors(axes[0, 1])
        return fig, "no odd mode k ≥ 3 without bias; measured rates meet the formula where it is exact"

    def limits(self):
        """Distances to the four limits, with the order that theory gives."""
        fig, axes = plot.figure(2, 2, height=4.8)
        self._draw_small_lam(axes[0, 0])
        limits = self.limits_
        large, fast, widths = limits.slow_varpro(), limits.timescales(), limits.widths()
        _points(axes[0, 1], large.lam, large.mmd_squared, "to the MMD flow, time λ t")
        _slope(axes[0, 1], large.lam, large.mmd_squared, -2, "∝ λ⁻²")
        axes[0, 1].set_xlabel("regularization λ")
        _points(axes[1, 0], fast.gamma, fast.mmd_squared, f"to VarPro, λ = {TIMESCALE_LAM:g}")
        _slope(axes[1, 0], fast.gamma, fast.mmd_squared, -2, "∝ γ⁻²")
        axes[1, 0].set_xlabel("timescale γ [1 / flow time]")
        self._draw_sampling(axes[1, 1], widths)
        for ax in axes.flat:
            ax.set_ylabel("MMD²")
            plot.legend(ax)
        return fig, "second order in 1/λ and 1/γ, first in 1/M; a floor without bias as λ falls"

    def bounds(self):
        """Measured curves and the bounds above them."""
        fig, axes = plot.figure(2, 2, height=4.8)
        runs = self.certified
        panels = {
            "reduced risk (Theorem 5.1)": (runs.reduced_risk, "reduced risk L", True),
            "ultra-fast diffusion (4.3; Lemma 4.3)": (runs.diffusion, "χ²(teacher | μ)", False),
            "two flows (Theorem 4.1)": (runs.stability, "W₂ [rad]", False),
            "Langevin (log-Sobolev)": (runs.langevin, "relative entropy", False),
        }
        for ax, (title, (rows, label, log_time)) in zip(axes.flat, panels.items(), strict=True):
            self._draw_bounds(ax, rows(), label, log_time)
            plot.title(ax, title)
        return fig, "every curve (plain) stays below its bound (dashed)"

    def minimum(self):
        """Flows above the floor of the convex program, and sparse deconvolution."""
        fig, axes = plot.figure(1, 3, height=2.6, width_ratios=[1, 1.2, 1])
        self._draw_floor(axes[0, 0])
        self._draw_spikes(axes[0, 1], axes[0, 2])
        return (
            fig,
            "risks fall to the floor, or to that of their clusters' masses; atoms at certificate ±1",
        )

    def vanishing(self):
        """lam -> 0 for orders of f and a signed teacher; minimizers; the hypotheses of the limit."""
        fig, axes = plot.figure(2, 2, height=4.8)
        runs = self.vanishing_
        for i, (name, (lams, gaps)) in enumerate(runs.distances().items()):
            _points(axes[0, 0], lams, gaps, name, i)
        plot.title(axes[0, 0], f"VarPro to its diffusion, t = {PROGRESS:g} / r")
        for i, (name, (lams, gaps)) in enumerate(runs.minimizers().items()):
            _points(axes[0, 1], lams, gaps, name, i)
            # The last point of a rate is the least lam, which comes first.
            power, label = ((2, "∝ λ²"), (0.8, "∝ λ^(4/5)"))[i]
            axes[0, 1].plot(
                lams, gaps[0] * (lams / lams[0]) ** power, color="0.4", linestyle=("--", ":")[i], label=label,
                zorder=0,
            )  # fmt: skip
        plot.title(axes[0, 1], "minimizer of L to the teacher")
        for ax in axes[0]:
            ax.set_xlabel("regularization λ")
            ax.set_ylabel("MMD²")
            plot.legend(ax)
        self._draw_hypotheses(axes[1])
        return (
            fig,
            "distances fall with lam for every f; |alpha| stays below its bound, log-densities stay bounded",
        )

    def _draw_hypotheses(self, axes) -> None:
        data = self.vanishing_.hypotheses()
        times, count = times_of(data), data.sizes["lam"]
        for i, lam in enumerate(data.lam.values):
            color = plot.shade(i, count)
            axes[0].plot(times, data["alpha"].values[i], color=color)
            axes[0].plot(times, data["source"].values[i], color=color, linestyle="--")
            axes[1].plot(times, data["log"].values[i], color=color, label=_lam_is(lam))
        for ax in axes:
            ax.set_xscale("symlog", linthresh=float(times[1]))
            ax.set_xlabel("flow time t")
        axes[0].set_ylabel("norm")
        # Room for the legend.
        low, high = axes[0].get_ylim()
        axes[0].set_ylim(top=high + 0.6 * (high - low))
        entries = [("|α|", {}), ("of f'(ν/μ): its bound", {"linestyle": "--"})]
        entries += [(_lam_is(lam), {"color": plot.shade(i, count)}) for i, lam in enumerate(data.lam.values)]
        plot.legend(axes[0], entries, ncols=2, columnspacing=1.0)
        plot.title(axes[0], "source condition (Theorem 5.2)")
        axes[1].set_ylabel("sup |log density|")
        plot.legend(axes[1])
        plot.title(axes[1], "log-densities (Theorem 5.1)")

    def _draw_rates(self, ax, bias) -> None:
        data, c = varpro_rates(self.records), coefficients(DEGREE)[bias]
        lams = np.geomspace(float(data.lam.min()), float(data.lam.max()), 200)
        for i, k in enumerate(MODES):
            if c[k] == 0:
                worst = float(np.max(np.abs(data.rate.sel(bias=bias).values[:, i])))
                ax.plot(
                    [], [], color=plot.color(i), marker="x", linestyle="", label=f"k = {k}: ≤ {worst:.0e}"
                )
                continue
            measured = data.rate.sel(bias=bias).values[:, i]
            ax.plot(lams, predicted(bias, k, lams), color=plot.color(i))
            ax.plot(
                data.lam,
                measured,
                color=plot.color(i),
                marker="o",
                markersize=3.5,
                linestyle="",
                label=f"k = {k}",
            )
            ax.plot(lams, k**2 + 0 * lams, color=plot.color(i), linestyle=":", linewidth=0.8)
            ax.plot(lams, k**2 * c[k] / lams, color=plot.color(i), linestyle="--", linewidth=0.8)
        ax.set_ylim(3e-5 if bias else 1e-4, 60)
        _log(ax, "regularization λ", "rate [1 / flow time]")
        lines = [
            (f"k = {k}" + ("" if c[k] else ": 0"), {"color": plot.color(i)}) for i, k in enumerate(MODES)
        ]
        lines += [("k²", {"linestyle": ":"}), ("k² c / λ", {"linestyle": "--"})]
        lines += [("measured", {"marker": "o", "linestyle": "", "markersize": 3.5})]
        plot.legend(ax, lines, loc="lower left", ncols=2, columnspacing=1.0)

    def _draw_rate_errors(self, ax) -> None:
        data, slow = varpro_rates(self.records), timescale_rates(self.records)
        for j, bias in enumerate(BIASES):
            for i, k in enumerate(MODES):
                exact = predicted(bias, k, data.lam.values)
                if np.all(exact > 0):
                    error = np.abs(data.rate.sel(bias=bias).values[:, i] / exact - 1)
                    marker = {"marker": "os"[j], "markersize": 3.5, "linestyle": ""}
                    ax.plot(data.lam, np.maximum(error, 1e-16), color=plot.color(i), **marker)
        lam, gamma = np.meshgrid(slow.lam, slow.gamma, indexing="ij")
        error = np.abs(slow.rate.values / predicted(0.5, 1, lam, gamma) - 1)
        ax.plot(lam.ravel(), error.ravel(), color="0.2", marker="+", markersize=5, linestyle="")
        _log(ax, "regularization λ", "|measured / predicted - 1|")
        # Room for the legend.
        ax.set_ylim(top=ax.get_ylim()[1] * 1e2)
        kinds = (("VarPro, no bias", "o"), ("VarPro, bias 1/2", "s"), ("two-timescale", "+"))
        entries = [(name, {"marker": marker, "linestyle": "", "markersize": 4}) for name, marker in kinds]
        plot.legend(ax, entries)

    def _draw_timescales(self, ax) -> None:
        """The rate of mode 1 over lam and gamma: predicted as color, measured as dots of the same color."""
        data, c = timescale_rates(self.records), coefficients(DEGREE)[0.5][1]
        low, high = float(data.lam.min()) / 2, float(data.lam.max()) * 2
        lams = np.geomspace(low, high, 120)
        gammas = np.geomspace(float(data.gamma.min()) / 2, float(data.gamma.max()) * 2, 120)
        lam, gamma = np.meshgrid(lams, gammas)
        levels = {"vmin": -2.5, "vmax": 0, "cmap": "cividis"}
        mesh = ax.pcolormesh(
            lams,
            gammas,
            np.log10(predicted(0.5, 1, lam, gamma)),
            shading="gouraud",
            rasterized=True,
            **levels,
        )
        x, y = np.meshgrid(data.lam, data.gamma, indexing="ij")
        ax.scatter(x, y, c=np.log10(data.rate.values), s=26, edgecolors="white", linewidths=0.8, **levels)
        ax.plot(lams, c / (c + lams), color="white", linestyle="--", linewidth=1.0)
        above = gammas > c / (2 * c)
        ax.plot(np.full(above.sum(), c), gammas[above], color="white", linestyle=":", linewidth=1.0)
        top, bottom = np.sqrt(gammas[-1]) * 1.05, gammas[0] * 5
        _label(ax, np.sqrt(low * c), top, "ultra-fast diffusion:\nrate k²")
        _label(ax, np.sqrt(high * c), top, "MMD:\nrate k²c/λ")
        _label(ax, np.sqrt(low * c), bottom, "outer weights lag:\nrate γ")
        _log(ax, "regularization λ", "timescale γ [1 / flow time]")
        plot.title(ax, "rate of k = 1, bias 1/2; dots measured")
        colorbar(ax, mesh, "log₁₀ rate [1 / flow time]")

    def _draw_widths(self, ax, bias) -> None:
        """MMD^2 to the diffusion over lam and width: predicted as color, measured as dots."""
        data = self.limits_.widths().mmd_squared.sel(bias=bias).isel(seed=slice(-1)).mean("seed")
        gaps = self.limits_.varpro().sel(bias=bias)
        low, high = float(data.lam.min()), float(data.lam.max())
        lams, widths = np.geomspace(low / 2, high * 2, 100), np.geomspace(4, 1e6, 100)
        gap = np.exp(np.interp(np.log(lams), np.log(gaps.lam), np.log(gaps)))
        sampling = self.limits_.sampling(bias, lams)
        levels = {"vmin": -6, "vmax": -1, "cmap": "cividis"}
        total = np.log10(sampling / widths[:, None] + gap)
        mesh = ax.pcolormesh(lams, widths, total, shading="gouraud", rasterized=True, **levels)
        x, y = np.meshgrid(data.lam, data.particles, indexing="ij")
        color = np.log10(data.transpose("lam", "particles").values)
        ax.scatter(x, y, c=color, s=26, edgecolors="white", linewidths=0.8, **levels)
        ax.plot(lams, sampling / gap, color="white", linestyle="--", linewidth=1.2)
        ax.set_xlim(lams[0], lams[-1])
        ax.set_ylim(widths[0], widths[-1])
        _label(ax, np.sqrt(low * high), 300, "width: S(λ) / M")
        _label(ax, high / 8, 1e5, "λ")
        if bias == 0:
            _label(ax, low * 20, 2e5, "invisible modes")
        _log(ax, "regularization λ", "particles M")
        plot.title(ax, f"MMD² to the diffusion, {NAMES[bias]}; dots measured")
        colorbar(ax, mesh, "log₁₀ MMD²")

    def _draw_small_lam(self, ax) -> None:
        data = self.limits_.varpro()
        for i, bias in enumerate(BIASES):
            _points(ax, data.lam, data.sel(bias=bias), f"to the diffusion, {NAMES[bias]}", i)
        ax.set_xlabel("regularization λ")

    def _draw_sampling(self, ax, data) -> None:
        least, sizes = float(data.lam.min()), data.particles.values
        values = data.mmd_squared.sel(bias=0.5, lam=least).isel(seed=slice(-1))
        plot.band(
            ax, sizes, values.transpose("seed", "particles").values,
            label=f"to the diffusion, {_lam_is(least)}", color=plot.color(0), marker="o", markersize=3.5,
        )  # fmt: skip
        for factor, dash, label in (
            (SAMPLING, ":", "4 / (π M): at the start"),
            (float(self.limits_.sampling(0.5, least)), "--", "S / M: linearized flow"),
        ):
            ax.plot(sizes, factor / sizes, color="0.4", linestyle=dash, label=label)
        _log(ax, "particles M", "MMD²")
        ax.set_xticks(sizes, [str(m) for m in sizes])
        ax.minorticks_off()
        # Room for the legend.
        ax.set_ylim(top=3 * ax.get_ylim()[1])

    def _draw_bounds(self, ax, rows, label, log_time) -> None:
        for i, row in enumerate(rows):
            shown = row.times > 0 if log_time else row.times >= 0
            fine = np.linspace(row.times[shown][0], row.times[-1], 200)
            if log_time:
                fine = np.geomspace(row.times[shown][0], row.times[-1], 200)
            floor = 1e-12 * row.values[0]
            values = np.where(row.values > floor, row.values, np.nan)
            ax.plot(row.times[shown], values[shown], color=plot.color(i), marker="o", markersize=2.5)
            ax.plot(fine, np.asarray(row.bound(fine)), color=plot.color(i), linestyle="--")
        ax.set_yscale("log")
        if log_time:
            ax.set_xscale("log")
        ax.set_xlabel("flow time t")
        ax.set_ylabel(label)
        entries = [(_pretty(row.label), {"color": plot.color(i)}) for i, row in enumerate(rows)]
        plot.legend(ax, [*entries, ("bound", {"linestyle": "--"})], loc="best")

    def _draw_floor(self, ax) -> None:
        data, found = self.minima.circle()
        floor = found.value
        for i, width in enumerate(data.particles.values):
            risk = data.energy.sel(particles=width).values
            times = np.broadcast_to(data.times.values, data.energy.shape)[i]
            ax.plot(times[1:], risk[1:], color=plot.shade(i, data.sizes["particles"]), label=f"M = {width}")
        ax.axhline(floor, color="0.2", linestyle="--", label=f"minimum {floor:.4f}")
        ax.set_xscale("log")
        ax.set_xlabel("flow time t")
        ax.set_ylabel("reduced risk L")
        # Room for the legend.
        ax.set_ylim(top=1.4 * float(data.energy.values[:, 1].max()))
        plot.legend(ax, loc="upper right")
        plot.title(ax, f"signed teacher, {_lam_is(LAM)}")

    def _draw_spikes(self, left, right) -> None:
        data, found = self.minima.spikes()
        times, risk = times_of(data), data.energy.values[0]
        n = self.preset.spikes_cells
        certificate = (found.weights / found.variation).reshape(n, n).T
        edges = np.linspace(0, 4, n + 1)
        mesh = left.pcolormesh(edges, edges, certificate, cmap="PuOr", vmin=-1, vmax=1, rasterized=True)
        end = data["position"].values[0, -1]
        left.scatter(*end.T, s=14, facecolors="none", edgecolors="black", linewidths=0.8, label="particles")
        left.scatter(
            *np.asarray(SPIKES.points).T, s=30, marker="+", color="black", linewidths=1.0, label="spikes"
        )
        left.set_aspect("equal")
        left.set_xlabel("ω₁")
        left.set_ylabel("ω₂")
        plot.legend(left, loc="lower center", ncols=2, bbox_to_anchor=(0.5, 0.98), columnspacing=0.8)
        with matplotlib.rc_context(plot.STYLE):
            left.figure.colorbar(mesh, ax=left, label="certificate u(ω) / |ν|", shrink=0.62)
        # The optimum over the continuum lies between these two.
        lower = found.value - found.gap_over(jnp.asarray(_fine_points(found)))
        right.plot(times[1:], risk[1:], color=plot.color(0), label=f"VarPro, M = {self.preset.spikes_width}")
        right.axhline(found.value, color="0.2", linestyle="--", label=f"minimum, {n}² cells")
        right.axhline(lower, color="0.2", linestyle=":", label="lower bound")
        right.set_xscale("log")
        right.set_xlabel("flow time t")
        right.set_ylabel("reduced risk L")
        right.set_ylim(top=1.35 * float(risk[1]))
        plot.legend(right, loc="upper right")
        plot.title(right, f"three spikes, {_lam_is(SPIKES_LAM)}")


def _fine_points(found) -> np.ndarray:
    """Points between the cells around the atoms, where the certificate may exceed one."""
    atoms = np.asarray(found.measure.points)[found.atoms]
    side = float(found.measure.spacing[0])
    offsets = np.stack(np.meshgrid(*[np.linspace(-1, 1, 17) * side] * 2), axis=-1).reshape(-1, 2)
    points = jnp.asarray((atoms[:, None] + offsets).reshape(-1, 2))
    return jax.vmap(TORUS.retract)(points, jnp.zeros_like(points))


def _points(ax: Any, x: Any, y: Any, label: str, index: int = 0) -> None:
    ax.plot(x, y, color=plot.color(index), marker="o", markersize=3.5, label=label)
    _log(ax, "", "MMD²")


def _slope(ax: Any, x: Any, y: Any, power: float, label: str) -> None:
    """A power law through the last point."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    ax.plot(x, y[-1] * (x / x[-1]) ** power, color="0.4", linestyle="--", label=label, zorder=0)


def _label(ax: Any, x: float, y: float, text: str) -> None:
    """The name of a regime, readable on every color."""
    box = {"facecolor": "black", "alpha": 0.45, "edgecolor": "none", "pad": 1.5}
    ax.text(x, y, text, bbox=box, color="white", fontsize=6.5, ha="center", va="center")


def _log(ax: Any, xlabel: str, ylabel: str) -> None:
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)


def _lam_is(lam: float) -> str:
    return f"λ = {lam:g}"


def _pretty(label: str) -> str:
    return label.replace("lam", "λ").replace("=", " = ")
