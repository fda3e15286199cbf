"""Variable projection under a schedule lam(t), the schedule learned, and every constant lam beside it."""

from functools import cached_property
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import mfjax as mf
from _lab.records import Records, Runs, times_of
from mfjax import problems
from mfjax._results.datasets import write_dataset

BIAS = 0.5
# Cells of the teacher in the distance: they add about h^2 / 6 int density^2, 3e-5, to MMD^2.
CELLS = 512
# Learned values start here: lam = 0.01 at all times.
START = float(np.log(1e-2))


class Annealed(eqx.Module):
    """t -> the flow of the problem with log lam linear in log t between knots, constant outside of them."""

    problem: problems.Problem
    times: jax.Array
    values: jax.Array

    def __call__(self, t):
        # No derivative of the logarithm at t = 0, before the first knot.
        place = jnp.log(jnp.maximum(t, 0.5 * self.times[0]))
        lam = jnp.exp(jnp.interp(place, jnp.log(self.times), self.values))
        return mf.flows.Wasserstein(self.problem.risk(lam), self.problem.domain)


class Schedules(Runs):
    """ReLU with bias on the circle, seen through all inputs; a seed is a teacher of two bumps and a start."""

    def __init__(self, records: Records):
        super().__init__(records)
        first = self.settings.seed
        self.training = range(first, first + self.preset.seeds)
        self.held_out = range(self.training.stop, self.training.stop + self.preset.held_out)
        self.domain = mf.domains.Sphere(1)
        self.knots = np.geomspace(self.preset.first_knot, self.preset.time, self.preset.knots)
        self.features = mf.features.CircleModes(
            problems.relu_coefficients(BIAS, self.preset.degree, dtype=self.dtype)
        )

    def problem(self, key) -> problems.Problem:
        """Two bumps at random places, of random masses."""
        turn, apart, share = jr.uniform(key, (3,), self.dtype)
        centers = 2 * jnp.pi * turn + jnp.stack([jnp.zeros_like(apart), jnp.pi * (0.3 + 0.7 * apart)])
        mass = 0.3 + 0.4 * share
        teacher = problems.CircleTeacher(
            self.preset.gamma, centers=centers, masses=jnp.stack([mass, 1 - mass])
        )
        y = self.features.image(teacher.fourier(self.preset.degree))
        return problems.Problem(teacher, self.features, self.features.inputs(), y)

    def simulation(self, seed, *, values=None, lam=None, finer: int = 1) -> mf.Simulation:
        """The run of a seed under the schedule with `values` of log lam at the knots, or a constant `lam`."""
        for_teacher, for_start = jr.split(jr.key(seed))
        problem, preset = self.problem(for_teacher), self.preset
        if values is None:
            flow = mf.flows.Wasserstein(problem.risk(lam), self.domain)
        else:
            flow = mf.flows.Scheduled(Annealed(problem, jnp.asarray(self.knots, self.dtype), values))
        start = mf.measures.Particles.sample(self.domain, for_start, preset.width, dtype=self.dtype)
        distance = mf.observables.EnergyDistance(problem.teacher, self.domain, cells=CELLS)
        return mf.Simulation(
            flow,
            start,
            stepper=mf.steppers.Euler(preset.step / finer),
            steps=preset.steps * finer,
            save_every=preset.every * finer,
            observables={"mmd_squared": distance},
            save_measures=False,
        )

    def score(self, times, mmd_squared):
        """Mean over log t, from the first knot on, of log10 of the MMD to the teacher."""
        xp = jnp if isinstance(mmd_squared, jax.Array) else np
        late = times >= self.preset.first_knot
        log_time = np.log(times[late])
        # The trapezoidal rule, whose weights are those of the saved times alone.
        weight = np.zeros_like(log_time)
        weight[1:] += 0.5 * np.diff(log_time)
        weight[:-1] += 0.5 * np.diff(log_time)
        return xp.log10(xp.sqrt(mmd_squared[..., late])) @ (weight / weight.sum()).astype(mmd_squared.dtype)

    @cached_property
    def times(self) -> np.ndarray:
        """Saved times, t = 0 first."""
        return np.arange(self.preset.steps // self.preset.every + 1) * self.preset.every * self.preset.step

    @cached_property
    def losses(self):
        """(loss and gradient, loss) of the values at the knots for given seeds, compiled."""

        def loss(values, seeds):
            run = lambda seed: mf.simulate(self.simulation(seed, values=values)).observables["mmd_squared"]
            return jnp.mean(self.score(self.times, jax.vmap(run)(seeds)))

        return jax.jit(jax.value_and_grad(loss)), jax.jit(loss)

    @cached_property
    def learned(self) -> Any:
        """The dataset of Adam: values at the knots, loss of training and of held-out seeds, by iteration."""
        import xarray as xr

        place = self.settings.out / "results" / "learning.nc"
        if self.settings.resume and place.exists():
            return xr.load_dataset(place)
        both, loss = self.losses
        training, held_out = (jnp.asarray(seeds) for seeds in (self.training, self.held_out))
        rate = optax.cosine_decay_schedule(self.preset.rate, self.preset.iterations)
        optimizer = optax.adam(rate)
        values = jnp.full(self.preset.knots, START, self.dtype)
        memory, rows = optimizer.init(values), []
        for i in range(self.preset.iterations + 1):
            now, slope = both(values, training)
            seen = i % self.preset.look == 0 or i == self.preset.iterations
            other = float(loss(values, held_out)) if seen else np.nan
            rows.append((np.asarray(values), float(now), other, np.asarray(slope)))
            updates, memory = optimizer.update(slope, memory, values)
            values = optax.apply_updates(values, updates)
        columns = [np.stack(column) for column in zip(*rows, strict=True)]
        names = (
            ("values", ("iteration", "knot")),
            ("training", ("iteration",)),
            ("held_out", ("iteration",)),
            ("gradient", ("iteration", "knot")),
        )
        data = xr.Dataset({name: (axes, col) for (name, axes), col in zip(names, columns, strict=True)})
        data = data.assign_coords(knot=("knot", self.knots, {"units": "flow time"}))
        place.parent.mkdir(exist_ok=True)
        write_dataset(data, place)
        return data

    def difference(self) -> tuple[np.ndarray, np.ndarray]:
        """(gradient, central differences) of the loss at the first iteration."""
        data, loss = self.learned.isel(iteration=0), self.losses[1]
        values, h = jnp.asarray(data["values"].values), 1e-5
        move = lambda unit: float(loss(values + h * unit, jnp.asarray(self.training)))
        units = jnp.eye(self.preset.knots, dtype=self.dtype)
        return data.gradient.values, np.array([(move(u) - move(-u)) / (2 * h) for u in units])

    @property
    def best(self) -> np.ndarray:
        """The values at the knots of the iteration with the least loss on the training seeds."""
        data = self.learned
        return data["values"].isel(iteration=int(np.argmin(data.training.values))).values

    def constants(self) -> Any:
        """Runs under constant lam for all lams and seeds."""
        seeds = [*self.training, *self.held_out]

        def cell(lam, seed):
            return self.simulation(seed, lam=lam)

        lams = tuple(float(v) for v in np.geomspace(*self.preset.lams, self.preset.scan))
        return self.records.sweep("constant", cell, {"lam": lams, "seed": seeds}, derive=self.scored)

    def scheduled(self, finer: int = 1) -> Any:
        """Runs under the learned schedule for all seeds."""
        values = jnp.asarray(self.best, self.dtype)
        seeds = [*self.training, *self.held_out]
        name = "learned" if finer == 1 else f"learned-step-{finer}"
        cell = lambda seed: self.simulation(seed, values=values, finer=finer)
        return self.records.sweep(name, cell, {"seed": seeds}, derive=self.scored)

    def constant_finer(self, lam: float, finer: int) -> Any:
        """Runs under one constant lam at a finer step."""
        cell = lambda seed: self.simulation(seed, lam=lam, finer=finer)
        seeds = [*self.training, *self.held_out]
        return self.records.sweep(f"constant-step-{finer}", cell, {"seed": seeds}, derive=self.scored)

    def scored(self, data):
        """`data` with the score of every run."""
        ordered = data.mmd_squared.transpose(..., "save")
        return data.assign(score=(ordered.dims[:-1], self.score(times_of(data), ordered.values)))
