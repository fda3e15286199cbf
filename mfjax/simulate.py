"""`mf.simulate`: the only loop over time, for one run."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Key, ScalarLike

from mfjax import status as codes
from mfjax._engine.devices import is_global
from mfjax._engine.host import SOLO, drive
from mfjax._engine.loop import trajectory
from mfjax._engine.run import Run as Run
from mfjax._engine.run import assemble
from mfjax._engine.simulation import Observable, Simulation
from mfjax._numerics.arrays import is_traced
from mfjax._numerics.closures import hides_tracer
from mfjax.flows import Flow
from mfjax.measures import Measure
from mfjax.status import SimulationError
from mfjax.steppers import Stepper

CORE = eqx.filter_jit(trajectory)


def simulate(
    flow: Flow | Simulation,
    measure: Measure | None = None,
    *,
    stepper: Stepper | None = None,
    steps: int | None = None,
    save_every: int = 1,
    t1: ScalarLike | None = None,
    save_at: Any = None,
    observables: Mapping[str, Observable] | None = None,
    key: Key[Array, ""] | None = None,
    save_measures: bool = True,
    max_steps: int = 100_000,
    checkpoints: int | None = None,
    path: str | Path | None = None,
    resume: bool = False,
    progress: bool | None = None,
    throw: bool = True,
) -> Run:
    """Run `flow` from `measure` and record it; or run a `Simulation` made before.

    Time, in one of two forms: `steps` of a fixed stepper, saving every `save_every` of them; or up to
    `t1`, or through the increasing times `save_at`, in flow time. t = 0 and the end are always saved.

    - `stepper`: an `mf.steppers` scheme; `None` is an adaptive one chosen for the measure.
    - `observables`: names to functions of (measure, flow), evaluated at the saved times; `mf.Run`
      lists the names that are taken.
    - `key`: `jax.random.key(seed)`, mandatory for a flow with noise.
    - `save_measures`: whether the measures are kept, or only the observables.
    - `max_steps`: budget of an adaptive scheme between two saved times, and of derivatives there.
    - `checkpoints`: how many states reverse mode keeps on one level, at least 2; see below.
    - `path`: a directory to which saved states are streamed, with a checkpoint; `resume=True` continues
      a run that was killed there, bit for bit on the same machine, versions and dtype, or starts it if there
      is none. There are about 10 to 30 checkpoints in a run that has so many steps. One to `t1` or through
      `save_at` has them at its saved times only: let `save_at` list some, since a lone `t1` has none before
      the end.
    - `progress`: a bar with the time left; by default if stderr is a terminal.
    - `throw`: whether a failed run raises; otherwise look at `run.status`.

    Inside `jit`, `vmap` or `grad` (any input traced) only the pure core runs: no disk, no bar, no exception.
    Runs are differentiable in both modes, in every number that defines them: energy and data, initial
    measure, step, saved times, temperature (at a fixed key). Reverse mode keeps at most c states on each of
    its levels, c = `checkpoints`, and repeats the run once a level: two levels for the default, the square
    root of the number of steps (of `steps`, else of `max_steps`), and one more for several saved times.

    - Through `t1` or `save_at`, the steps between two saved times are constants times the interval, those of
      an adaptive scheme as it chose them, its accepted steps alone: what chooses a size has no derivative,
      and the derivative is exact for the steps taken. `max_steps` bounds the loop: a lower one saves memory.
    - At a kink (ReLU) a derivative is that of one side, zero slope at the kink itself. With finitely many
      data the velocity jumps where a particle crosses the kink of a datum, and a run jumps by O(dt / N);
      derivatives do not see jumps. Smooth features have none.
    - Where a differentiated run fails, value and derivative are NaN, and `status` says why.

    **Raises** `ValueError` for wrong arguments and for the derivative of a run through times that takes more
    than `max_steps` steps of a fixed size between two of them; `mf.SimulationError` (whose `run` holds all
    that was computed), naming step and likely cause, if the run fails.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> energy = mf.energies.Potential(lambda x: 0.5 * jnp.sum(x * x))
    >>> flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(1))
    >>> mu = mf.measures.Particles(jnp.ones((1, 1)))
    >>> run = mf.simulate(flow, mu, stepper=mf.steppers.RK4(0.1), steps=10)
    >>> round(float(run.final.points[0, 0]), 4), round(float(run.observables["energy"][0]), 4)
    (0.3679, 0.5)
    """
    options = {
        "stepper": stepper,
        "steps": steps,
        "save_every": save_every,
        "t1": t1,
        "save_at": save_at,
        "observables": observables,
        "key": key,
        "save_measures": save_measures,
        "max_steps": max_steps,
        "checkpoints": checkpoints,
    }
    if isinstance(flow, Simulation):
        sim = flow
        given = {"measure": measure} | options
        extra = [name for name, value in given.items() if not _is_default(name, value)]
        if extra:
            raise ValueError(f"a Simulation already holds its {extra[0]}: pass it alone")
    elif measure is None:
        raise ValueError("simulate needs an initial measure")
    else:
        sim = Simulation(flow, measure, **options)
    if resume and path is None:
        raise ValueError("resume=True needs path=, the directory of the run to continue")
    started = None if is_traced(sim) or hides_tracer(sim) else SOLO.begin(sim)
    # Whatever else hides a tracer from the leaves of `sim` shows it in the first evaluation.
    if started is None or is_traced(started):
        if path is not None:
            raise ValueError("path= needs a concrete run: inside jit, vmap or grad nothing can be written")
        carry, records = CORE(sim)
        return assemble(sim.times, records, sim.measure, carry)
    saves, every = sim.save_times.shape[0], sim.save_every
    carry, records = drive(
        SOLO, sim, saves, every, path=path, resume=resume, progress=progress, started=started
    )
    run = assemble(sim.times, records, sim.measure, carry)
    if path is not None and not (is_global(sim) and jax.process_index()):
        run.save(Path(path) / "results.nc")
    if throw and int(run.status) != codes.OK:
        raise SimulationError(f"the run {run.describe()}", run)
    return run


def _is_default(name: str, value: Any) -> bool:
    default = inspect.signature(simulate).parameters[name].default
    return value is default or (isinstance(value, (bool, int)) and value == default)
