"""The figures of Wasserstein-Fisher-Rao flows."""

from functools import partial

import jax
import numpy as np

from _lab.cli import Settings
from _lab.figures import Gallery
from _lab.identifiability import relu_on_circle
from _lab.records import times_of
from mfjax import plot
from mfjax.domains import Sphere
from mfjax.problems import CircleTeacher, relu_coefficients
from mfjax.theory import fit_rate

from .runs import (
    BETAS,
    DIMS,
    GAMMA,
    ROUGH,
    SHOWN,
    SIGNED,
    Neurons,
    circle_points,
    sphere_coefficients,
)

SEEN, HIDDEN = (0, 1, 2, 4), (3, 5)
DOT = {"marker": "o", "markersize": 3, "linestyle": "", "fillstyle": "none"}


def rates_of(space, beta):
    """(alpha k^2 + beta) c_k on the circle, (alpha l (l + 1) + beta) c_l on the sphere, alpha = 1."""
    k = np.arange(SHOWN + 1)
    if space == "circle":
        return (k**2 + beta) * np.asarray(relu_coefficients(0.0, SHOWN))
    return (k * (k + 1) + beta) * sphere_coefficients()


def deviations(run, axis="save"):
    """The modes of a run less those of the uniform law, relative to their start: (save, mode)."""
    values = run["modes"].values - np.eye(1, SHOWN + 1)
    return values / values[0]


def measured(times, decay, rate):
    """The rate by which a mode decays over its first two lifetimes, where it is not yet of second order."""
    return fit_rate(times, np.abs(decay), window=(0.0, 2 / rate)).rate


def exponent(kind, dim):
    """(r + s) / (s - 1), s = (d + 3) / 2: the exponent of decay of arXiv 2603.01977."""
    s = (dim + 3) / 2
    return (ROUGH[kind] + s) / (s - 1)


def local_slopes(times, values):
    """(times, -d log(values) / d log(t)) over half a decade about each time that has one."""
    x, y = np.log(times), np.log(values)
    half = np.log(10) / 4
    inner = x[(x - half >= x[0]) & (x + half <= x[-1])]
    return np.exp(inner), -(np.interp(inner + half, x, y) - np.interp(inner - half, x, y)) / (2 * half)


class Figures(Gallery):
    """The figures, each from its series of runs."""

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self.runs = Neurons(self.records)

    def modes(self):
        """Modes of a small perturbation of the uniform law, beside the linear rates."""
        fig, axes = plot.figure(1, 3, height=2.8, sharey=True)
        smallest = min(self.preset.amplitudes)
        circle = [self.runs.circle_series(on_grid).sel(amplitude=smallest) for on_grid in (False, True)]
        self._draw_modes(axes[0, 0], "circle", BETAS[0], *circle)
        self._draw_modes(axes[0, 1], "circle", BETAS[1], *circle)
        self._draw_modes(axes[0, 2], "sphere", BETAS[0], self.runs.sphere_series().sel(amplitude=smallest))
        axes[0, 0].set_ylabel("deviation of mode k / start")
        names = [(f"k = {k}", {"color": plot.color(k)}) for k in range(SHOWN + 1)]
        plot.legend(axes[0, 0], names, loc="lower left", handlelength=1.2)
        kinds = [("particles", {}), ("density", DOT), ("linear rate", {"linestyle": ":", "color": "0"})]
        plot.legend(axes[0, 1], kinds, loc="lower left")
        return fig, "each seen mode decays at its linear rate; modes 3 and 5 stay at 1 up to second order"

    def _draw_modes(self, ax, space, beta, particles, density=None):
        """Decay of every mode over time, as measured and as predicted."""
        particles = particles.sel(beta=beta).isel(amplitude=0, missing_dims="ignore")
        times = times_of(particles)
        decay, rates = deviations(particles), rates_of(space, beta)
        cells = None if density is None else deviations(density.sel(beta=beta))
        for k in range(SHOWN + 1):
            color = {"color": plot.color(k)}
            shown = np.abs(decay[:, k]) > 1e-3
            # Modes 3 and 5 lie on each other.
            ax.plot(times[shown], decay[shown, k], linewidth=3.2 if k == 3 else 1.3, **color)
            ax.plot(times, np.exp(-rates[k] * times), color="0", linestyle=":", linewidth=0.9, zorder=3)
            if cells is not None:
                every = slice(k % 2, None, 3)
                ax.plot(times[every], np.abs(cells[every, k]), **DOT, **color)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlim(times[1], times[-1])
        ax.set_ylim(1e-2, 2)
        ax.set_xlabel("flow time t")
        plot.title(ax, f"{'S¹' if space == 'circle' else 'S², degree k'}, α = 1, β = {beta:g}")

    def invisible(self):
        """What the network cannot see: hidden modes of a small perturbation, and of a teacher."""
        fig, axes = plot.figure(1, 3, height=2.6)
        self._draw_second_order(axes[0, 0])
        data = self.runs.teacher_series().sel(beta=BETAS[0])
        self._draw_spectrum(axes[0, 1], data)
        angle = np.asarray(self.runs.angles(self.preset.cells))
        angle = (angle + np.pi) % (2 * np.pi) - np.pi
        width = 2 * np.pi / self.preset.cells
        teacher = np.asarray(jax.vmap(CircleTeacher(GAMMA))(circle_points(angle)))
        last = f"t = {self.preset.teacher_time:g}"
        final = data.masses.values[-1] / width
        points = circle_points(angle)
        plot.density(axes[0, 2], (points, final), Sphere(1), label=last, color=plot.shade(0, 1))
        dotted = {"color": "0.25", "linestyle": ":", "linewidth": 1.1, "zorder": 3}
        plot.density(axes[0, 2], (points, teacher), Sphere(1), label="target", **dotted)
        axes[0, 2].set_ylim(0, 1.35 * max(teacher.max(), final.max()))
        plot.legend(axes[0, 2], loc="upper left")
        return (
            fig,
            "changes of modes 3, 5 collapse over ε²; odd modes k >= 3 of the teacher are not learnt",
        )

    def _draw_second_order(self, ax):
        data = self.runs.circle_series(False).sel(beta=BETAS[0])
        times = times_of(data)
        # The curves lie on each other.
        widths = (4.5, 2.2, 0.8)
        for k in HIDDEN:
            for amplitude, width in zip(self.preset.amplitudes, widths, strict=False):
                modes = data.sel(amplitude=amplitude)["modes"].values[:, k]
                change = np.abs(modes - modes[0]) / amplitude**2
                thick = {"alpha": 0.35} if width > 3 else {"color": "0.2"} if width < 1 else {}
                ax.plot(times[1:], change[1:], **({"color": plot.color(k), "linewidth": width} | thick))
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("flow time t")
        ax.set_ylabel("change of mode k / ε²")
        names = [(f"k = {k}", {"color": plot.color(k)}) for k in HIDDEN]
        sizes = [
            (f"ε = {a:g}", {"linewidth": w}) for a, w in zip(self.preset.amplitudes, widths, strict=False)
        ]
        plot.legend(ax, names + sizes, loc="lower right")

    def _draw_spectrum(self, ax, data):
        moments = np.asarray(CircleTeacher(GAMMA).fourier(self.preset.degree)).real
        times = times_of(data)
        degree = data["modes"].shape[-1] - 1
        k = np.arange(degree + 1)
        picks = [0] + [int(np.argmin(np.abs(times - t))) for t in times[-1] / np.array([100.0, 10.0, 1.0])]
        for i, pick in enumerate(picks):
            gap = np.abs(data["modes"].values[pick] - moments[: degree + 1])
            color, marker = plot.shade(i, len(picks)), "os^D"[i]
            ax.plot(
                k, np.maximum(gap, 1e-7), color=color, marker=marker, markersize=3.2, linewidth=0.7,
                label=f"t = {round(times[pick], 0 if times[pick] > 50 else 1):g}",
            )  # fmt: skip
        ax.set_yscale("log")
        ax.set_ylim(0.5e-7, 20)
        ax.set_xlabel("mode k")
        ax.set_xticks(k[:: 2 if degree > 8 else 1])
        ax.set_ylabel("error of mode k, at least 1e-7")
        plot.legend(ax, loc="upper right", ncols=2, columnspacing=0.8)

    def neurons(self):
        """Neurons integrated by themselves on the flow of their measure."""
        data = self.runs.neuron_series()
        fig, axes = plot.figure(1, 3, height=2.5)
        times = times_of(data)
        for ax, beta in zip(axes[0], BETAS, strict=False):
            run = data.sel(beta=beta)
            path = np.sqrt(run.masses.values)[..., None] * run.place.values
            for i in range(path.shape[1]):
                ax.plot(*path[:, i].T, color=plot.color(0), linewidth=0.9)
                ax.plot(*run.neurons.values[::4, i].T, color=plot.color(1), **(DOT | {"markersize": 2.5}))
            ax.set_aspect("equal")
            ax.set_xlabel("b₁")
            ax.set_ylabel("b₂")
            plot.title(ax, f"(α, β) = (1, {beta:g}): a {'trained' if beta == 2 else '= |b|'}")
        entries = [
            ("√m θ, flow", {"color": plot.color(0)}),
            ("b, neurons", {"color": plot.color(1)} | DOT),
        ]
        below = {"loc": "upper left", "bbox_to_anchor": (0.0, -0.3), "ncols": 2}
        plot.legend(axes[0, 0], entries, handlelength=1.2, **below)
        ax = axes[0, 2]
        for i, beta in enumerate(BETAS):
            gap = np.maximum(data.sel(beta=beta).gap.values[1:], 1e-17)
            ax.plot(times[1:], gap, color=plot.color(i), label=f"(1, {beta:g})")
        ax.axhline(1e-8, color="0.4", linestyle=":", linewidth=1)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_ylim(1e-14, 1e-6)
        ax.set_xlabel("flow time t")
        ax.set_ylabel("largest difference in m, θ")
        plot.legend(ax, loc="upper left")
        return fig, "the flow and the neurons agree to 1e-8 (dotted) for (1, 2) and (1, 4)"

    def signed(self):
        """A teacher of both signs, learnt by positive and negative neurons."""
        fig, axes = plot.figure(1, 3, height=2.6)
        angle = np.asarray(self.runs.angles(self.preset.cells))
        angle = (angle + np.pi) % (2 * np.pi) - np.pi
        order = np.argsort(angle)
        width = 2 * np.pi / self.preset.cells
        density, particles = (self.runs.signed_series(on_grid).isel(beta=0) for on_grid in (True, False))
        minus, plus = np.split(density.masses.values[-1] / width, 2)
        species, net, risk = axes[0]
        species.plot(angle[order], plus[order], color=plot.color(0), label="positive neurons")
        species.plot(angle[order], -minus[order], color=plot.color(1), label="negative neurons")
        teacher = np.asarray(jax.vmap(SIGNED)(circle_points(angle)))
        net.plot(angle[order], (plus - minus)[order], color=plot.color(2), label="learnt, net")
        net.plot(angle[order], teacher[order], color="0.25", linestyle=":", label="teacher")
        for ax in (species, net):
            ax.axhline(0, color="0.7", linewidth=0.6, zorder=0)
            plot.angle_axis(ax)
            low, high = ax.get_ylim()
            ax.set_ylim(low, high + 0.45 * (high - low))
            ax.set_ylabel("signed density [1/rad]")
            plot.legend(ax, loc="upper left")
        times = times_of(density)
        risk.plot(times[1:], density.energy.values[1:], color=plot.color(2), label="density")
        risk.plot(times[1:], particles.energy.values[1:], color="0", label="particles", **DOT)
        risk.set_xscale("log")
        risk.set_yscale("log")
        risk.set_xlabel("flow time t")
        risk.set_ylabel("population risk")
        plot.legend(risk)
        return (
            fig,
            "the signs part; their difference has the teacher's even modes and k = 1, not its odd ones",
        )

    def births(self):
        """Births and deaths beside masses that grow."""
        data, exact = self.runs.birth_series(), self.runs.masses_series().isel(beta=0)
        times = times_of(data)
        fig, axes = plot.figure(1, 3, height=2.5)
        shades = {w: plot.shade(i, data.sizes["width"]) for i, w in enumerate(data.width.values)}
        for width, color in shades.items():
            runs = data.sel(width=width)
            label = {"label": f"M = {width}", "color": color}
            plot.band(axes[0, 0], times, runs.mass.transpose("seed", "save").values, **label)
            plot.band(axes[0, 1], times, runs.energy.transpose("seed", "save").values, **label)
        for ax, quantity, name in zip(
            axes[0], ("mass", "energy"), ("total mass", "population risk"), strict=False
        ):
            ax.plot(times, exact[quantity].values, color="0", linestyle="--", label="masses grow")
            ax.set_xlabel("flow time t")
            ax.set_ylabel(name)
        axes[0, 1].set_yscale("log")
        plot.legend(axes[0, 0])
        gap = data["modes"].transpose("width", "seed", "save", ...).values - exact["modes"].values
        error = np.sqrt(np.mean(np.sum(gap**2, axis=-1)[:, :, -1], axis=1))
        ax, widths = axes[0, 2], data.width.values
        ax.plot(widths, error, color=plot.color(0), marker="o", markersize=3.5, label="modes 0 to 2")
        ax.plot(
            widths, error[0] * np.sqrt(widths[0] / widths), color="0.4", linestyle=":", label="~ M$^{-1/2}$"
        )
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xticks(widths, [str(w) for w in widths])
        ax.set_xticks([], minor=True)
        ax.set_xlabel("particles M")
        ax.set_ylabel(f"rms error of modes at t = {self.preset.birth_time:g}")
        plot.plain_log_ticks(ax.yaxis)
        plot.legend(ax)
        return fig, "births and deaths follow the growing masses; their error falls like M^(-1/2)"

    def decay(self):
        """Algebraic decay on the zones of S^d, beside the linear theory and its exponents."""
        fig, axes = plot.figure(1, 4, height=2.6)
        for column, kind in enumerate(ROUGH):
            energy, slope = axes[0, 2 * column], axes[0, 2 * column + 1]
            for i, dim in enumerate(DIMS):
                data = self.runs.zone_series(kind, dim).isel(beta=0)
                times, values = times_of(data)[1:], data.energy.values[1:]
                linear = self.runs.zones(kind, dim).linear_energy(times)
                style = {"color": plot.color(i)}
                energy.plot(times, values, label=f"d = {dim}", **style)
                energy.plot(times, linear, linestyle=":", **style)
                slope.plot(*local_slopes(times, values), **style)
                slope.plot(*local_slopes(times, linear), linestyle=":", **style)
                slope.axhline(exponent(kind, dim), linestyle="--", linewidth=0.8, zorder=0, **style)
            energy.set_yscale("log")
            energy.set_ylabel(f"population risk, {kind}")
            slope.set_ylabel("local exponent")
            slope.set_ylim(0, 4.5)
            for ax in (energy, slope):
                ax.set_xscale("log")
                ax.set_xlabel("flow time t")
        plot.legend(axes[0, 0], loc="upper right")
        kinds = [("flow", {"color": "0.3"}), ("linear", {"linestyle": ":", "color": "0.3"})]
        plot.legend(axes[0, 2], [*kinds, ("limit", {"linestyle": "--", "color": "0.3"})], loc="upper right")
        return fig, "exponents tend to those of the smoothness of the teacher, later in higher dimensions"

    def _print_exponents(self):
        for kind in ROUGH:
            for dim in DIMS:
                data = self.runs.zone_series(kind, dim).isel(beta=0)
                times, values = times_of(data)[1:], data.energy.values[1:]
                ends = np.array([times[-1] / 10, times[-1]])
                last = [
                    -np.diff(np.interp(np.log(ends), np.log(times), np.log(v)))[0] / np.log(10)
                    for v in (values, self.runs.zones(kind, dim).linear_energy(times))
                ]
                print(
                    f"S^{dim}, {kind}: exponent over the last decade {last[0]:.3f}, "
                    f"linearized {last[1]:.3f}, in the limit {exponent(kind, dim):.3f}"
                )

    def report(self) -> None:
        """Linear rates and exponents beside measured ones."""
        if "decay" in self.settings.figures:
            self._print_exponents()
        if "modes" in self.settings.figures:
            self._print_rates()
        print(
            "bounds: algebraic decay by growth for the density that learns a teacher; "
            "a rate of decay is known only near the target"
        )

    def identify(self):
        """What ReLU cannot see of a measure on the circle, with and without bias."""
        return relu_on_circle((0.0, 0.5), GAMMA)

    def _print_rates(self):
        pick = {"amplitude": min(self.preset.amplitudes)}
        series = {
            "S^1 particles": ("circle", partial(self.runs.circle_series, False)),
            "S^1 density": ("circle", partial(self.runs.circle_series, True)),
            "S^2 particles": ("sphere", self.runs.sphere_series),
        }
        for name, (space, runs) in series.items():
            for beta in BETAS:
                data = runs().sel(beta=beta, **pick)
                times, decay, rates = times_of(data), deviations(data), rates_of(space, beta)
                found = [f"{k}: {measured(times, decay[:, k], rates[k]):.4g} ({rates[k]:.4g})" for k in SEEN]
                still = [f"{k}: {decay[-1, k] - 1:+.1e}" for k in HIDDEN]
                print(
                    f"{name}, beta = {beta:g}: rate of mode measured (linear) {', '.join(found)}; "
                    f"relative change of mode {', '.join(still)}"
                )
