"""Variable projection of radial basis functions on the 2-torus: figures III.10 to III.14 of the thesis.

Small by default (all figures within two minutes on two cores); `--preset paper` has the published sizes.
The kernel is the thesis' 8 exp(-|z| / 2); distances are chordal, whose square cannot be negative.
"""

from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import inf

from common import (
    Data,
    Records,
    Series,
    Settings,
    double_precision,
    power_of_ten,
    run,
    saved_steps,
    started_now,
)

FIGURES = ("III.10", "III.11", "III.12", "III.13", "III.14")
BIASED, UNBIASED = 0.0, 1.0
NAMES = {BIASED: "biased f", UNBIASED: "unbiased f"}
REGULARIZERS = [("biased f", {"linestyle": "--"}), ("unbiased f", {"linestyle": "-"})]
GAMMA = 100.0
MIDDLE = 1e-3


@dataclass(frozen=True)
class Preset:
    """Sizes of the experiment. `step` and `time` are flow times; t = k step at iteration k."""

    inputs: int
    teacher_width: int
    widths: tuple[int, ...]
    step: float
    time: float
    seeds: int
    saves: int
    lams: tuple[float, ...]
    scale: float
    amplitude: float
    precision: str

    @property
    def saved(self) -> tuple[int, ...]:
        """The iterations at which runs are recorded."""
        return saved_steps(round(self.time / self.step), self.saves)


PAPER = Preset(
    inputs=4096,
    teacher_width=4096,
    widths=(32, 128, 512, 1024),
    step=2**-10,
    time=31.25,
    seeds=6,
    saves=112,
    lams=(1e-1, 1e-2, 1e-3),
    scale=2.0,
    amplitude=8.0,
    precision="float32",
)
SMALL = replace(
    PAPER,
    inputs=512,
    teacher_width=1024,
    widths=(16, 48, 128),
    step=2**-8,
    time=8.0,
    seeds=2,
    saves=32,
)
TINY = replace(
    SMALL, inputs=32, teacher_width=64, widths=(4, 8), step=2**-10, time=2**-6, saves=4, lams=(1e-1, 1e-3)
)
PRESETS = {"small": SMALL, "paper": PAPER, "tiny": TINY}


def work(settings: Settings) -> None:
    """Compute what the chosen figures need, each series once, and draw them."""
    lab = Laboratory(settings)
    for name in settings.figures:
        started = started_now()
        fig, look_for = getattr(lab, "figure_" + name.replace(".", "_"))()
        lab.records.figure(name, fig, look_for, started)
    lab.report_identifiability()
    if lab.records.certificates:
        lab.records.write_certificates()


class Laboratory:
    """The series of runs behind the figures, and the figures."""

    def __init__(self, settings: Settings):
        import jax.numpy as jnp

        from mfjax.features import RBF
        from mfjax.teachers import TorusTeacher

        self.settings, self.preset = settings, settings.preset
        self.records = Records(settings)
        self.domain = TorusTeacher(GAMMA).domain
        self.period = float(self.domain.period)
        self.features = RBF(self.domain, scale=self.preset.scale, amplitude=self.preset.amplitude)
        self.dtype = jnp.dtype(settings.precision)
        self.times = [k * self.preset.step for k in self.preset.saved]
        self.gammas = (GAMMA, inf)
        widest, others = self.preset.widths[-1:], tuple(x for x in self.preset.lams if x != MIDDLE)
        series = (
            Series("biased-widths", BIASED, (MIDDLE,), (GAMMA,), self.preset.widths),
            Series("unbiased-widths", UNBIASED, (MIDDLE,), (GAMMA,), self.preset.widths),
            Series("biased-lams", BIASED, others, (GAMMA,), widest),
            Series("unbiased-lams", UNBIASED, others, (GAMMA,), widest),
            Series("atoms", UNBIASED, (MIDDLE,), (inf,), widest),
        )
        self.series = {one.name: one for one in series}

    # ------------------------------------------------------------------ runs

    @cached_property
    def data(self):
        """The data of all seeds and gammas."""
        import jax
        import jax.numpy as jnp
        import jax.random as jr

        from mfjax import problems

        preset = self.preset

        # One program for all: random numbers are slow to compile, and every series shares these.
        @jax.jit
        @partial(jax.vmap, in_axes=(None, 0))
        @partial(jax.vmap, in_axes=(0, None))
        def draw(seed, gamma):
            for_problem, for_start = jr.split(jr.key(seed))
            problem = problems.torus(
                for_problem,
                gamma=gamma,
                scale=preset.scale,
                amplitude=preset.amplitude,
                inputs=preset.inputs,
                width=preset.teacher_width,
                dtype=self.dtype,
            )
            start = self.domain.sample(for_start, preset.widths[-1], self.dtype)
            return problem.x, problem.y, problem.neurons.points, start

        x, y, teachers, starts = draw(jnp.asarray(self.settings.seeds), jnp.asarray(self.gammas, self.dtype))
        return Data(x[0], y, teachers, starts[0])

    def runs(self, name: str):
        """The dataset of one series: energy, and mmd_squared to the teacher (chordal)."""
        import jax.numpy as jnp

        import mfjax as mf

        series, preset, data = self.series[name], self.preset, self.data
        capacity, first = max(series.widths), self.settings.seeds[0]

        def points(mu, flow):
            return jnp.pad(mu.points, ((0, capacity - mu.size), (0, 0)), constant_values=jnp.nan)

        def cell(lam, inverse_gamma, width, seed):
            which, row = jnp.where(inverse_gamma == 0, 1, 0), seed - first
            regularizer = mf.regularizers.Quadratic(series.center)
            x, y = data.x[row], data.y[which, row]
            energy = mf.energies.ReducedRisk(self.features, x, y, lam, regularizer)
            return mf.Simulation(
                mf.flows.Wasserstein(energy, self.domain),
                mf.measures.Particles(data.starts[row, :width]),
                stepper=mf.steppers.Euler(preset.step),
                save_at=self.times,
                observables={"position": points},
                save_measures=False,
            )

        axes = {
            "lam": series.lams,
            # An axis holds finite numbers, and the atoms have gamma = infinity.
            "inverse_gamma": tuple(1 / gamma for gamma in series.gammas),
            "width": series.widths,
            "seed": self.settings.seeds,
        }
        return self.records.sweep(name, cell, axes, derive=self.add_distances)

    def add_distances(self, data):
        """MMD^2 of the particles to their teacher, time by time."""
        import numpy as np

        values = np.full(data.energy.shape, np.nan)
        for index in np.ndindex(*values.shape[:-1]):
            which = 1 if data.inverse_gamma.values[index[1]] == 0 else 0
            position = data.position.values[index]
            slots = self.preset.widths[-1] - position.shape[1]
            padded = np.pad(position, ((0, 0), (0, slots), (0, 0)), constant_values=np.nan)
            values[index] = self._mmd(padded, self.data.teachers[which, index[3]])
        return data.assign(mmd_squared=(data.energy.dims, values))

    @cached_property
    def _mmd(self):
        import jax
        import jax.numpy as jnp

        from mfjax.measures import Particles
        from mfjax.observables import EnergyDistance

        @jax.jit
        def distances(positions, teacher):
            distance = EnergyDistance(teacher, self.domain)

            def one(points):
                there = jnp.isfinite(points[:, 0])
                return distance(Particles(jnp.where(there[:, None], points, 0), there / jnp.sum(there)))

            return jax.lax.map(one, positions)

        return distances

    def report_identifiability(self) -> None:
        """Print which share of the teacher the features and the data of the first seed cannot see."""
        import numpy as np

        from mfjax.certificates import identifiability
        from mfjax.teachers import TorusTeacher

        with double_precision():
            x = np.asarray(self.data.x[0], np.float64)
            found = identifiability(self.features, x, self.domain, teacher=TorusTeacher(GAMMA), n=16)
        print(f"identifiability of the RBF, gamma = {GAMMA:g}: " + "; ".join(found.report().splitlines()))

    # --------------------------------------------------------------- figures

    @property
    def all_times(self):
        """The saved times of the runs (S,), t = 0 first."""
        import numpy as np

        return np.array([0.0, *self.times])

    def curve(self, name: str, series: str, **at):
        """(seeds, saves) of one recorded quantity; distances as MMD rather than its square."""
        import numpy as np

        values = self.runs(series)[name].sel(**at).transpose("seed", "save").values
        return np.sqrt(values) if name.startswith("mmd") else values

    def shades(self, labels):
        """Labels to colours of an ordered family."""
        from mfjax import plot

        return {label: plot.shade(i, len(labels)) for i, label in enumerate(labels)}

    def figure_III_10(self):
        import jax

        from mfjax import plot, problems
        from mfjax.measures import Particles

        fig, axes = plot.figure(1, 2, height=2.9)
        neurons = Particles(self.data.teachers[0, 0])
        plot.torus(axes[0, 0], neurons.points, period=self.period, color=plot.color(0))
        plot.title(axes[0, 0], "teacher neurons, γ = 100")
        signal = jax.jit(lambda x: problems.signal(self.features, neurons, x))
        to_signal = lambda x: signal(x.astype(self.dtype))
        plot.signal(axes[0, 1], to_signal, extent=self.period / 2, cells=81, label="teacher signal Y(x)")
        return fig, "neurons gather at (-1, 0) and (1, 1); the signal is their convolution with the kernel"

    def figure_III_11(self):
        from mfjax import plot

        fig, axes = plot.figure(1, 2, height=2.6)
        for ax, center in zip(axes[0], (BIASED, UNBIASED), strict=True):
            name = "biased-widths" if center == BIASED else "unbiased-widths"
            curves = {
                f"M = {w}": self.curve("energy", name, lam=MIDDLE, inverse_gamma=1 / GAMMA, width=w)
                for w in self.preset.widths
            }
            colors, step = self.shades(curves), self.preset.step
            plot.distances(ax, self.all_times, curves, ylabel="reduced risk", step=step, colors=colors)
            plot.title(ax, f"{NAMES[center]}, λ = {power_of_ten(MIDDLE)}")
        plot.legend(axes[0, 1])
        return fig, "biased f: one positive limit; unbiased f: the risk falls further the wider the network"

    def figure_III_12(self):
        from mfjax import plot

        fig, axes = plot.figure(1, 1, width=4.4, height=2.9)
        curves, styles, colors = {}, {}, {}
        for i, width in enumerate(self.preset.widths):
            for center, name, dash in ((BIASED, "biased-widths", "--"), (UNBIASED, "unbiased-widths", "-")):
                label = f"M = {width}, {NAMES[center]}"
                curves[label] = self.curve(
                    "mmd_squared", name, lam=MIDDLE, inverse_gamma=1 / GAMMA, width=width
                )
                styles[label], colors[label] = dash, plot.shade(i, len(self.preset.widths))
        ax, step = axes[0, 0], self.preset.step
        plot.distances(ax, self.all_times, curves, step=step, styles=styles, colors=colors)
        entries = [(f"M = {w}", {"color": c}) for w, c in self.shades(self.preset.widths).items()]
        plot.legend(ax, [*entries, *REGULARIZERS], loc="lower left")
        return fig, "the distance falls to a floor that is lower for wider networks"

    def figure_III_13(self):
        from mfjax import plot

        fig, axes = plot.figure(1, 1, width=4.4, height=2.9)
        curves, styles, colors = {}, {}, {}
        width = self.preset.widths[-1]
        for i, lam in enumerate(self.preset.lams):
            for prefix, dash in (("biased", "--"), ("unbiased", "-")):
                series = f"{prefix}-{'widths' if lam == MIDDLE else 'lams'}"
                label = f"{lam:g} {prefix}"
                curves[label] = self.curve(
                    "mmd_squared", series, lam=lam, inverse_gamma=1 / GAMMA, width=width
                )
                styles[label], colors[label] = dash, plot.color(i)
        ax, step = axes[0, 0], self.preset.step
        plot.distances(ax, self.all_times, curves, step=step, styles=styles, colors=colors)
        entries = [
            (f"λ = {power_of_ten(x)}", {"color": plot.color(i)}) for i, x in enumerate(self.preset.lams)
        ]
        plot.legend(ax, [*entries, *REGULARIZERS], loc="lower left")
        return fig, "λ = 0.1 is slower; the bias of the biased f shrinks with λ"

    def figure_III_14(self):
        from mfjax import plot

        fig, axes = plot.figure(1, 2, height=2.6)
        width = self.preset.widths[-1]
        where = {"γ = 100": ("unbiased-widths", GAMMA), "γ = ∞ (two atoms)": ("atoms", inf)}
        for ax, name, title in zip(
            axes[0], ("energy", "mmd_squared"), ("reduced risk", "MMD to teacher"), strict=True
        ):
            curves = {
                label: self.curve(name, series, lam=MIDDLE, inverse_gamma=1 / gamma, width=width)
                for label, (series, gamma) in where.items()
            }
            plot.distances(ax, self.all_times, curves, ylabel=title, step=self.preset.step)
        plot.legend(axes[0, 0], loc="lower left")
        return fig, "the two-atom teacher is learned more slowly and not at a linear rate"


if __name__ == "__main__":
    run("torus", __doc__.splitlines()[0], PRESETS, FIGURES, work)
