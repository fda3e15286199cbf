"""Variable projection on the circle: figures III.1 to III.7 of the thesis, and what the features cannot see.

Small by default (all figures within two minutes on two cores); `--preset paper` has the published sizes.
"""

from dataclasses import dataclass, replace
from functools import cached_property, partial

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

FIGURES = ("III.1", "III.2", "III.3", "III.4", "III.5", "III.6", "III.7", "identifiability", "overview")
BIASED, UNBIASED = 0.0, 1.0
NAMES = {BIASED: "biased f", UNBIASED: "unbiased f"}
GAMMA = 100.0
# Iterations k at step 2^-10 at which the thesis shows densities (III.2), as flow times.
SNAPSHOTS = tuple(k / 1024 for k in (100, 1000, 5000, 10000))
# MMD^2 to the diffusion of the population flow, biased f, gamma = 10, t = 0.5 (computed independently).
KNOWN = {0.0: {1e-3: 3.7e-4, 1e-4: 4.15e-4, 1e-5: 4.24e-4}, 0.5: {1e-3: 1.4e-5, 1e-4: 7.4e-7, 1e-5: 1.3e-8}}


@dataclass(frozen=True)
class Preset:
    """Sizes of the experiment. `step` and `time` are flow times; t = k step at iteration k."""

    inputs: int
    teacher_width: int
    widths: tuple[int, ...]
    density_width: int
    bandwidth: float
    step: float
    # Sharp teachers, the least lam and the two-timescale flow need smaller steps.
    sharp_step: float
    timescale_step: float
    time: float
    seeds: int
    saves: int
    cells: int
    lams: tuple[float, ...]
    timescale_lams: tuple[float, ...]
    gammas: tuple[float, ...]
    population_lams: tuple[float, ...]
    population_degree: int
    population_width: int
    population_step: float
    precision: str

    @property
    def steps(self) -> int:
        """Iterations of a run."""
        return round(self.time / self.step)

    @property
    def saved(self) -> tuple[int, ...]:
        """The iterations at which runs are recorded."""
        return saved_steps(self.steps, self.saves, [round(t / self.step) for t in SNAPSHOTS])


PAPER = Preset(
    inputs=4096,
    teacher_width=4096,
    widths=(32, 128, 512, 1024),
    density_width=1024,
    bandwidth=0.03,
    step=2**-10,
    sharp_step=2**-10,
    timescale_step=2**-10,
    time=31.25,
    seeds=6,
    saves=112,
    cells=4096,
    lams=(1e-1, 1e-2, 1e-3, 1e-4),
    timescale_lams=(1e-1, 1e-2, 1e-3),
    gammas=(10.0, 100.0, 1000.0),
    population_lams=(1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6),
    population_degree=128,
    population_width=512,
    population_step=2**-12,
    precision="float32",
)
SMALL = replace(
    PAPER,
    inputs=512,
    widths=(16, 48, 128),
    density_width=192,
    bandwidth=0.06,
    step=2**-6,
    sharp_step=2**-7,
    timescale_step=2**-9,
    time=16.0,
    seeds=2,
    saves=32,
    cells=1024,
    # gamma = 1000 needs the published step.
    gammas=(10.0, 100.0, 300.0),
    population_lams=(1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5),
    population_degree=40,
    population_width=128,
    population_step=2**-8,
    precision="float32",
)
TINY = replace(
    SMALL,
    inputs=32,
    teacher_width=64,
    widths=(4, 8),
    density_width=8,
    step=2**-6,
    sharp_step=2**-6,
    time=0.5,
    saves=6,
    cells=64,
    lams=(1e-1, 1e-3, 1e-4),
    timescale_lams=(1e-1, 1e-3),
    gammas=(10.0, 100.0),
    population_lams=(1e-2, 1e-3),
    population_degree=8,
    population_width=32,
    population_step=2**-6,
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

        import mfjax as mf

        self.settings, self.preset = settings, settings.preset
        self.records = Records(settings)
        self.domain = mf.domains.Sphere(1)
        self.dtype = jnp.dtype(settings.precision)
        self.times = [k * self.preset.step for k in self.preset.saved]
        preset, middle = self.preset, 1e-3
        widths, lams, slow = preset.widths, preset.lams, preset.timescale_lams
        others = tuple(lam for lam in lams if lam != middle)
        one = (GAMMA,)
        series = (
            Series("biased-widths", BIASED, (middle,), one, widths),
            Series("unbiased-widths", UNBIASED, slow, one, widths),
            Series("biased-lams", BIASED, others, one, widths[-1:], step=preset.sharp_step),
            Series(
                "unbiased-gammas", UNBIASED, (min(lams),), preset.gammas, widths[-1:], step=preset.sharp_step
            ),
            Series(
                "two-timescale", UNBIASED, slow, one, widths, two_timescale=True, step=preset.timescale_step
            ),
            Series("density", BIASED, (min(lams),), one, (preset.density_width,), step=preset.sharp_step),
        )
        self.series = {one.name: one for one in series}

    # ------------------------------------------------------------------ runs

    @cached_property
    def data(self):
        """The data of all seeds and gammas."""
        import jax
        import jax.numpy as jnp
        import jax.random as jr

        import mfjax as mf
        from mfjax import problems

        preset = self.preset
        most = max(*preset.widths, preset.density_width)

        # One program for all: random numbers are slow to compile, and every series shares these.
        @jax.jit
        @partial(jax.vmap, in_axes=(None, 0))
        @partial(jax.vmap, in_axes=(0, None))
        def draw(seed, gamma):
            for_problem, for_start = jr.split(jr.key(seed))
            problem = problems.circle(
                for_problem,
                gamma=gamma,
                inputs=preset.inputs,
                width=preset.teacher_width,
                dtype=self.dtype,
            )
            start = mf.measures.Particles.sample(self.domain, for_start, most, dtype=self.dtype)
            return problem.x, problem.y, problem.neurons.points, start.points

        x, y, teachers, starts = draw(
            jnp.asarray(self.settings.seeds), jnp.asarray(preset.gammas, self.dtype)
        )
        return Data(x[0], y, teachers, starts[0])

    def runs(self, name: str):
        """The dataset of one series: mmd_squared to the teacher and to the diffusion, energy, angles."""
        import jax.numpy as jnp

        import mfjax as mf

        series, preset, data = self.series[name], self.preset, self.data
        capacity, first = max(series.widths), self.settings.seeds[0]
        gammas = jnp.asarray(preset.gammas)

        def angles(mu, flow):
            angle = jnp.arctan2(mu.points[:, 1], mu.points[:, 0])
            return jnp.pad(angle, (0, capacity - mu.size), constant_values=jnp.nan)

        def cell(lam, gamma, width, seed):
            which, row = jnp.argmin(jnp.abs(gammas - gamma)), seed - first
            energy = mf.energies.ReducedRisk(
                mf.features.ReLU(),
                data.x[row],
                data.y[which, row],
                lam,
                mf.regularizers.Quadratic(series.center),
            )
            if series.two_timescale:
                # The published eta = lam M at the published step, whatever the step here.
                flow = mf.flows.TwoTimescale(energy, self.domain, rate=lam / PAPER.step)
            else:
                flow = mf.flows.Wasserstein(energy, self.domain)
            return mf.Simulation(
                flow,
                mf.measures.Particles(data.starts[row, :width]),
                stepper=mf.steppers.Euler(series.step or preset.step),
                save_at=self.times,
                observables={"angle": angles},
                save_measures=False,
            )

        axes = {
            "lam": series.lams,
            "gamma": series.gammas,
            "width": series.widths,
            "seed": self.settings.seeds,
        }
        return self.records.sweep(name, cell, axes, derive=self.add_distances)

    def diffusion(self):
        """Weighted ultra-fast diffusion from the uniform law: its grid, and masses (gamma, save, cell)."""
        import mfjax as mf

        grid = mf.measures.Grid.uniform(self.domain, self.preset.cells, dtype=self.dtype)

        def cell(gamma):
            from mfjax.teachers import CircleTeacher

            energy = mf.energies.PowerDivergence(CircleTeacher(gamma), order=2, scale=0.5)
            return mf.Simulation(
                mf.flows.Wasserstein(energy, self.domain),
                grid,
                stepper=self.stiff_stepper(),
                save_at=self.times,
                observables={"masses": lambda mu, flow: mu.weights},
                save_measures=False,
            )

        return grid, self.records.sweep("diffusion", cell, {"gamma": self.preset.gammas})

    def stiff_stepper(self):
        """The adaptive scheme of the diffusion, at what the dtype resolves."""
        import mfjax as mf

        return mf.steppers.Rosenbrock(
            *((1e-6, 1e-9) if self.settings.precision == "float64" else (1e-4, 1e-6))
        )

    def add_distances(self, data):
        """MMD^2 of the particles to their teacher, and to the diffusion of the same gamma, time by time."""
        import numpy as np

        _, diffusion = self.diffusion()
        to_teacher = np.full(data.energy.shape, np.nan)
        to_diffusion = np.full(data.energy.shape, np.nan)
        for index in np.ndindex(*to_teacher.shape[:-1]):
            gamma = data.gamma.values[index[1]]
            teacher = self.data.teachers[self.preset.gammas.index(gamma), index[3]]
            angle = self._padded(data.angle.values[index])
            to_teacher[index] = self._mmd_to_points(angle, teacher)
            to_diffusion[index] = self._mmd_to_masses(angle, diffusion.masses.sel(gamma=gamma).values)
        return data.assign(
            mmd_squared=(data.energy.dims, to_teacher),
            mmd_squared_diffusion=(data.energy.dims, to_diffusion),
        )

    def _padded(self, angle):
        """Angles of any width in slots enough for the widest, so that one program measures all."""
        import numpy as np

        slots = max(*self.preset.widths, self.preset.density_width)
        return np.pad(angle, ((0, 0), (0, slots - angle.shape[1])), constant_values=np.nan)

    @cached_property
    def _mmd_to_points(self):
        import jax

        from mfjax.observables import EnergyDistance

        @jax.jit
        def distances(angles, points):
            distance = EnergyDistance(points, self.domain)
            return jax.lax.map(lambda angle: distance(particles(angle)), angles)

        return distances

    @cached_property
    def _mmd_to_masses(self):
        import jax

        import mfjax as mf
        from mfjax.observables import EnergyDistance

        grid = mf.measures.Grid.uniform(self.domain, self.preset.cells, dtype=self.dtype)

        @jax.jit
        def distances(angles, masses):
            one = lambda pair: EnergyDistance(grid.with_weights(pair[1]), self.domain)(particles(pair[0]))
            return jax.lax.map(one, (angles, masses))

        return distances

    def population(self):
        """Fourier moments of the population flows, biased f, gamma = 10, for both feature maps."""
        import jax.numpy as jnp
        import numpy as np

        import mfjax as mf
        from mfjax import problems
        from mfjax.observables import FourierModes

        preset = self.preset
        # Quantile starts: the moments of particles moved by a smooth velocity are then spectrally accurate.
        angle = 2 * np.pi * (np.arange(preset.population_width) + 0.5) / preset.population_width
        start = mf.measures.Particles(jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1))
        modes = FourierModes(min(preset.population_degree, preset.population_width // 2 - 1), self.domain)
        times = [0.5 * (i + 1) / 16 for i in range(16)]

        def cell(bias, lam):
            problem = problems.circle_population(10.0, bias=bias, degree=preset.population_degree)
            return mf.Simulation(
                mf.flows.Wasserstein(problem.risk(lam), self.domain),
                start,
                stepper=mf.steppers.RK4(preset.population_step),
                save_at=times,
                observables={"modes": modes},
                save_measures=False,
            )

        def diffusion(gamma):
            energy = mf.energies.PowerDivergence(problems.CircleTeacher(gamma), order=2, scale=0.5)
            return mf.Simulation(
                mf.flows.Wasserstein(energy, self.domain),
                mf.measures.Grid.uniform(self.domain, 2048),
                stepper=mf.steppers.Rosenbrock(1e-7, 1e-10),
                save_at=times,
                observables={"modes": modes},
                save_measures=False,
            )

        with double_precision():
            reference = self.records.sweep("population-diffusion", diffusion, {"gamma": (10.0,)})
            axes = {"bias": tuple(KNOWN), "lam": preset.population_lams}

            def derive(data):
                gap = np.sum((data["modes"].values - reference["modes"].values[0]) ** 2, axis=-1)
                k = np.arange(gap.shape[-1])
                # |x - y| = 4 / pi - (8 / pi) sum_k cos(k (a - b)) / (4 k^2 - 1) for two points of the circle.
                weight = np.where(k > 0, 8 / np.pi / (4.0 * k**2 - 1), 0)
                return data.assign(mmd_squared_diffusion=(data.energy.dims, gap @ weight))

            return self.records.sweep("population", cell, axes, derive=derive, static=("bias",))

    def report_identifiability(self) -> None:
        """Print which modes of the teacher each feature map cannot see."""
        from mfjax import problems
        from mfjax.certificates import identifiability
        from mfjax.features import ReLU
        from mfjax.teachers import CircleTeacher

        with double_precision():
            x, masses = problems.gaussian_quadrature(16, 64)
            for bias in KNOWN:
                found = identifiability(
                    ReLU(bias), x, self.domain, data_weights=masses, teacher=CircleTeacher(GAMMA), n=64
                )
                lines = found.report().splitlines()
                print(f"identifiability of ReLU(bias={bias:g}), gamma = {GAMMA:g}: " + "; ".join(lines))

    # --------------------------------------------------------------- figures

    @property
    def all_times(self):
        """The saved times of the runs (S,), t = 0 first."""
        import numpy as np

        return np.array([0.0, *self.times])

    def curve(self, data, name: str, **at):
        """(seeds, saves) of one recorded quantity; distances as MMD rather than its square."""
        import numpy as np

        values = data[name].sel(**at).transpose("seed", "save").values
        return np.sqrt(values) if name.startswith("mmd") else values

    @property
    def width_entries(self):
        """Legend entries of the widths."""
        from mfjax import plot

        widths = self.preset.widths
        return [(f"M = {w}", {"color": plot.shade(i, len(widths))}) for i, w in enumerate(widths)]

    def figure_III_1(self):
        import jax
        import jax.numpy as jnp
        import numpy as np

        from mfjax import plot, problems
        from mfjax.features import ReLU
        from mfjax.measures import Particles
        from mfjax.teachers import CircleTeacher

        fig, axes = plot.figure(1, 2, height=2.5)
        angle = np.linspace(-np.pi, np.pi, 1001)
        points = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
        ax = axes[0, 0]
        for i, gamma in enumerate(PAPER.gammas):
            density = jax.jit(jax.vmap(CircleTeacher(gamma)))(points)
            ax.plot(angle, density, color=plot.color(i), label=f"γ = {gamma:g}")
        plot.angle_axis(ax)
        ax.set_ylabel("teacher density [1/rad]")
        plot.legend(ax)
        neurons = Particles(self.data.teachers[self.preset.gammas.index(GAMMA), 0])
        signal = jax.jit(lambda x: problems.signal(ReLU(), neurons, x))
        plot.signal(axes[0, 1], lambda x: signal(x.astype(self.dtype)), cells=81, label="teacher signal Y(x)")
        return fig, "two modes, at 0 and 0.4π, that sharpen with γ; the signal grows along their directions"

    def figure_III_2(self):
        from mfjax import plot

        fig, axes = plot.figure(1, 2, height=2.5, sharey=True)
        self._densities(axes[0])
        return fig, "mass concentrates at the two modes at the same pace; kernel smoothing blunts the peaks"

    def _densities(self, axes) -> None:
        """The diffusion and the mean density of the particles over the seeds, at the snapshots."""
        import jax
        import numpy as np

        from mfjax import plot
        from mfjax.observables import KernelDensity
        from mfjax.teachers import CircleTeacher

        data = self.runs("density")
        grid, diffusion = self.diffusion()
        steps = [0, *self.preset.saved]
        shown = [0, *(k for k in (round(t / self.preset.step) for t in SNAPSHOTS) if k in steps[1:])]
        labels = {k: f"t = {k * self.preset.step:.2g}" for k in shown}
        estimate = KernelDensity(512, self.preset.bandwidth, self.domain)
        kernel = jax.jit(lambda angle: estimate(particles(angle)))
        density = jax.jit(jax.vmap(CircleTeacher(GAMMA)))
        angle, cells = (np.arctan2(*np.asarray(points).T[::-1]) for points in (estimate.points, grid.points))
        angles = data.angle.isel(lam=0, gamma=0, width=0)
        masses = diffusion.masses.sel(gamma=GAMMA).values
        learned, exact = {}, {}
        for k in shown:
            learned[labels[k]] = np.stack([kernel(a) for a in angles.isel(save=steps.index(k)).values])
            exact[labels[k]] = masses[steps.index(k)] / float(grid.volume)
        plot.density_lines(axes[0], cells, exact, target=density(grid.points))
        plot.density_lines(axes[1], angle, learned, target=density(estimate.points))
        plot.title(axes[0], "ultra-fast diffusion")
        lam, width = float(data.lam[0]), int(data.width[0])
        plot.title(axes[1], f"VarPro, M = {width}, λ = {power_of_ten(lam)}, biased f")
        axes[1].set_ylabel("")
        plot.legend(axes[0], loc="upper left")

    def figure_overview(self):
        from mfjax import plot

        fig, axes = plot.figure(2, 2, height=5.0)
        self._densities(axes[0])
        axes[0, 1].sharey(axes[0, 0])
        self._widths(axes[1])
        return (
            fig,
            "densities follow the diffusion to the teacher; distances fall to a floor set by the width",
        )

    def figure_III_3(self):
        from mfjax import plot

        fig, axes = plot.figure(1, 2, height=2.5)
        for ax, center in zip(axes[0], (BIASED, UNBIASED), strict=True):
            data = self.runs("biased-widths" if center == BIASED else "unbiased-widths")
            curves = {
                f"M = {width}": self.curve(data, "energy", lam=1e-3, gamma=GAMMA, width=width)
                for width in self.preset.widths
            }
            colors = {label: plot.shade(i, len(curves)) for i, label in enumerate(curves)}
            plot.distances(
                ax, self.all_times, curves, ylabel="reduced risk", step=self.preset.step, colors=colors
            )
            plot.title(ax, f"{NAMES[center]}, λ = {power_of_ten(1e-3)}")
        plot.legend(axes[0, 1])
        return (
            fig,
            "biased f: one positive limit for every width; unbiased f: a floor that falls with M",
        )

    def figure_III_4(self):
        from mfjax import plot

        fig, axes = plot.figure(1, 2, height=2.7)
        self._widths(axes[0])
        return fig, "unbiased f (plain) falls to a floor set by the width; biased f (dashed) keeps a bias"

    def _widths(self, axes) -> None:
        """Both distances for all widths and both regularisers."""
        from mfjax import plot

        curves, colors, styles = {}, {}, {}
        for i, width in enumerate(self.preset.widths):
            for center in (BIASED, UNBIASED):
                data = self.runs("biased-widths" if center == BIASED else "unbiased-widths")
                label = f"M = {width}, {NAMES[center]}"
                curves[label] = data.sel(lam=1e-3, gamma=GAMMA, width=width)
                colors[label] = plot.shade(i, len(self.preset.widths))
                styles[label] = "--" if center == BIASED else "-"
        self._two_distances(axes, curves, colors, styles)
        plot.legend(axes[0], self.width_entries, loc="lower left")
        plot.legend(axes[1], REGULARIZERS, loc="best")

    def figure_III_5(self):
        from mfjax import plot

        fig, axes = plot.figure(1, 2, height=2.7)
        width = self.preset.widths[-1]
        curves, colors, styles = {}, {}, {}
        for i, lam in enumerate(self.preset.lams):
            for center in (BIASED, UNBIASED):
                data = self._at_lam(center, lam)
                label = f"{lam:g} {NAMES[center]}"
                curves[label] = data.sel(lam=lam, gamma=GAMMA, width=width)
                colors[label] = plot.color(i)
                styles[label] = "--" if center == BIASED else "-"
        self._two_distances(axes[0], curves, colors, styles)
        lams = [
            (f"λ = {power_of_ten(lam)}", {"color": plot.color(i)}) for i, lam in enumerate(self.preset.lams)
        ]
        plot.legend(axes[0, 0], lams, loc="lower left")
        plot.legend(axes[0, 1], REGULARIZERS, loc="best")
        return (
            fig,
            "the bias of f_b (dashed) shrinks with λ; λ = 0.1 is slow; the diffusion is closest at small λ",
        )

    def _at_lam(self, center: float, lam: float):
        """The series that holds the widest network at `lam`."""
        if center == BIASED:
            return self.runs("biased-widths" if lam == 1e-3 else "biased-lams")
        in_widths = lam in self.series["unbiased-widths"].lams
        return self.runs("unbiased-widths" if in_widths else "unbiased-gammas")

    def _two_distances(self, axes, curves, colors, styles) -> None:
        from mfjax import plot

        for ax, name, title in zip(
            axes,
            ("mmd_squared", "mmd_squared_diffusion"),
            ("MMD to teacher", "MMD to diffusion"),
            strict=True,
        ):
            values = {label: self.curve(data, name) for label, data in curves.items()}
            plot.distances(
                ax, self.all_times, values, ylabel=title, step=self.preset.step, colors=colors, styles=styles
            )

    def figure_III_6(self):
        from mfjax import plot

        fig, axes = plot.figure(1, 3, height=2.5)
        data = self.runs("unbiased-gammas")
        lam, width = float(data.lam[0]), int(data.width[0])
        for ax, name, title in zip(
            axes[0],
            ("energy", "mmd_squared", "mmd_squared_diffusion"),
            ("reduced risk", "MMD to teacher", "MMD to diffusion"),
            strict=True,
        ):
            curves = {
                f"γ = {gamma:g}": self.curve(data, name, lam=lam, gamma=gamma, width=width)
                for gamma in self.preset.gammas
            }
            plot.distances(ax, self.all_times, curves, ylabel=title, step=self.preset.sharp_step)
        plot.legend(axes[0, 0], loc="lower left")
        return fig, "convergence slows as the teacher concentrates (γ grows)"

    def figure_III_7(self):
        from mfjax import plot

        lams = self.preset.timescale_lams
        fig, axes = plot.figure(len(lams), 3, height=1.9 * len(lams), sharex=True)
        titles = {
            "energy": "risk / λ",
            "mmd_squared": "MMD to teacher",
            "mmd_squared_diffusion": "MMD to diffusion",
        }
        exact, joint = self.runs("unbiased-widths"), self.runs("two-timescale")
        for row, lam in zip(axes, lams, strict=True):
            for ax, name in zip(row, titles, strict=True):
                curves, colors, styles = {}, {}, {}
                for i, width in enumerate(self.preset.widths):
                    for data, dash in ((exact, "-"), (joint, "--")):
                        label = f"{width} {dash}"
                        curves[label] = self.curve(data, name, lam=lam, gamma=GAMMA, width=width)
                        colors[label], styles[label] = plot.shade(i, len(self.preset.widths)), dash
                plot.distances(ax, self.all_times, curves, ylabel=titles[name], colors=colors, styles=styles)
                ax.set_xlabel("flow time t" if lam == lams[-1] else "")
            plot.title(row[1], f"λ = {power_of_ten(lam)}")
        plot.legend(axes[0, 0], self.width_entries, loc="lower left")
        methods = [("VarPro", {"linestyle": "-"}), ("two-timescale", {"linestyle": "--"})]
        plot.legend(axes[0, 2], methods, loc="lower left")
        return fig, "two-timescale (dashed) follows VarPro at λ = 0.1 and 0.01 and falls behind at λ = 0.001"

    def figure_identifiability(self):
        import numpy as np

        from mfjax import plot

        data = self.population()
        fig, axes = plot.figure(1, 2, height=2.8)
        names = {0.0: "ReLU, no bias", 0.5: "ReLU, bias 1/2"}
        ax = axes[0, 0]
        for i, (bias, label) in enumerate(names.items()):
            values = data.mmd_squared_diffusion.sel(bias=bias).isel(save=-1)
            ax.plot(data.lam, values, color=plot.color(i), marker="o", markersize=3, label=label)
            lams = [lam for lam in KNOWN[bias] if lam >= 0.5 * float(data.lam.min())]
            known = [KNOWN[bias][lam] for lam in lams]
            ax.plot(lams, known, "s", markersize=7, fillstyle="none", color=plot.color(i))
        ax.plot([], [], "s", markersize=7, fillstyle="none", color="0.3", label="independent value")
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("regularisation λ")
        ax.set_ylabel("MMD² to the diffusion at t = 0.5")
        plot.legend(ax)
        times = np.asarray(data.times.values).reshape(-1, data.sizes["save"])[0]
        curves, colors, styles = {}, {}, {}
        shown = [lam for lam in data.lam.values if round(np.log10(lam), 6) == round(np.log10(lam))]
        for i, bias in enumerate(names):
            for j, lam in enumerate(shown):
                label = f"{bias} {lam}"
                curves[label] = data.mmd_squared_diffusion.sel(bias=bias, lam=lam).values[1:]
                colors[label], styles[label] = plot.color(i), plot.DASHES[j % len(plot.DASHES)]
        ax = axes[0, 1]
        plot.distances(
            ax,
            times[1:],
            curves,
            ylabel="MMD² to the diffusion",
            log_time=False,
            colors=colors,
            styles=styles,
        )
        entries = [
            (f"λ = {power_of_ten(lam)}", {"linestyle": plot.DASHES[j % len(plot.DASHES)]})
            for j, lam in enumerate(shown)
        ]
        ax.set_ylim(bottom=0.03 * ax.get_ylim()[0])
        plot.legend(ax, entries, loc="lower right", ncols=2)
        return fig, "without bias the distance stops at a floor as λ falls; with bias 1/2 it falls with λ"


def particles(angle):
    """Particles of equal mass at the angles that are numbers; the other slots are padding."""
    import jax.numpy as jnp

    from mfjax.measures import Particles

    there = jnp.isfinite(angle)
    angle = jnp.where(there, angle, 0)
    points = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    # A failed run has no particle at all: NaN, as its other records.
    return Particles(points, there / jnp.sum(there))


DISTANCES = {"mmd_squared": "MMD to teacher", "mmd_squared_diffusion": "MMD to diffusion"}
REGULARIZERS = [("biased f", {"linestyle": "--"}), ("unbiased f", {"linestyle": "-"})]


if __name__ == "__main__":
    run("sphere", __doc__.splitlines()[0], PRESETS, FIGURES, work)
