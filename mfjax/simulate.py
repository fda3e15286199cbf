"""`mf.simulate`: the only loop over time, for one run."""

import warnings
from pathlib import Path
from typing import Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from mfjax import status as codes
from mfjax._engine.devices import divisions, gathered, is_global, together
from mfjax._engine.directory import Directory, ForeignRun, Place, environment
from mfjax._engine.host import drive
from mfjax._engine.identity import closed_over, numbers_of_run, step_program, text_of
from mfjax._engine.loop import trajectory
from mfjax._engine.programs import Programs
from mfjax._engine.progress import progress as shown
from mfjax._engine.simulation import Options, Simulation, spelled_out
from mfjax._numerics.arrays import is_traced
from mfjax._numerics.compiled import program
from mfjax._results.run import Run, assemble
from mfjax.flows import Flow
from mfjax.measures import Measure
from mfjax.status import SimulationError


@spelled_out
def simulate(
    flow: Flow | Simulation,
    measure: Measure | None = None,
    *,
    path: str | Path | None = None,
    resume: bool = False,
    progress: bool | None = None,
    throw: bool = True,
    **options: Unpack[Options],
) -> Run:
    """Run `flow` from `measure` and record it; or run a `Simulation` made before.

    The options that say what a run is, from `stepper` to `checkpoints`, are those of `mf.Simulation`.

    - `path`: a directory to which saved states are streamed, with a checkpoint; `resume=True` continues
      a run that was killed there, bit for bit on the same machine, versions and dtype, or starts it if there
      is none. With more `steps`, or later saved times, it goes on from where it ended. A run is known by the
      program of its step and by its numbers: another one is refused, with what differs. There are about 10 to
      30 checkpoints in a run of that many steps. One to `t1` or through `save_at` has them at its saved
      times only: let `save_at` list some, since a lone `t1` has none before the end.
    - `progress`: a bar of the flow time made, with the time left; by default if stderr is a terminal. It
      moves where checkpoints lie.
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
    that was computed), naming step and likely cause, if the run fails. **Warns** if the energy of a flow that
    lowers it has risen: steps that are too large blow up, or oscillate, long before they overflow. **Warns**
    if an observable is NaN at a time at which the run was fine.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> energy = mf.energies.Potential(lambda x: 0.5 * jnp.sum(x * x))
    >>> flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(1))
    >>> mu = mf.measures.Particles(jnp.ones((1, 1)))
    >>> run = mf.simulate(flow, mu, stepper=mf.steppers.RK4(0.1), steps=10)
    >>> round(float(run.final.points[0, 0]), 4), round(float(run.observables["energy"][0]), 4)
    (0.3679, 0.5)
    """
    if isinstance(flow, Simulation):
        sim = flow
        extra = [*(["measure"] if measure is not None else []), *options]
        if extra:
            raise ValueError(f"a Simulation already holds its {extra[0]}: pass it alone")
    else:
        sim = Simulation(flow, measure, **options)
    if resume and path is None:
        raise ValueError("resume=True needs path=, the directory of the run to continue")
    programs = Programs()
    # What hides a traced number from the leaves of `sim` shows it in the first evaluation.
    if is_traced(sim) or programs.inside_a_trace(sim):
        if path is not None:
            raise ValueError("path= needs a concrete run: inside jit, vmap or grad nothing can be written")
        carry, records = program(trajectory, sim, differentiable=True)(sim)
        return assemble(sim, records, carry)
    run = _driven(sim, programs, path, resume, progress)
    if throw and int(run.status) > codes.OK:
        parts = [] if sim.flow.energy is None else sim.flow.energy.parts()
        names = " + ".join(type(term).__name__ for _, term in parts) or "none"
        raise SimulationError(f"the run {run.describe()} (energy: {names})", run)
    if sim.falls and int(run.status) <= codes.OK and (rise := run.rise):
        warnings.warn(
            f"the run {run.describe()}, but {rise}: {codes.RISE_REMEDY}", RuntimeWarning, stacklevel=2
        )
    if undefined := run.undefined:
        warnings.warn(f"the run {run.describe()}, but {undefined}", RuntimeWarning, stacklevel=2)
    return run


def _driven(sim: Simulation, programs: Programs, path, resume: bool, progress) -> Run:
    """The run, on the host; streamed to `path`, if there is one, and written at its end."""
    if path is None:
        with shown(progress, *_length(sim)) as bar:
            carry, records = drive(programs, sim, sim.times, sim.save_every, update=bar.of(_length(sim)[0]))
        return assemble(sim, records, carry, carry)
    # Of several processes that share a run the first writes, and all read.
    shared = is_global(sim)
    writes = not (shared and jax.process_index())
    step = step_program(lambda sim: sim, sim)
    numbers = numbers_of_run(gathered(sim)) | closed_over(step)
    manifest = {"environment": environment(), "save_every": sim.save_every, "numbers": numbers}
    manifest |= {"divisions": divisions(sim)}
    directory, place, text = Directory(path), Place(path), text_of(step)
    if writes:
        directory.check(manifest, resume)
        directory.check_program(text)
    continued = _continued(sim, place)
    if continued is not sim:
        sim, programs = continued, Programs()

    def claim() -> None:
        if writes:
            directory.claim(manifest, text)
        if shared:
            together("a run directory is open")

    again = f"the same call with resume=True goes on from {place.path}"
    with directory, shown(progress, *_length(sim), again) as bar:
        options = {"place": place, "writes": writes, "claim": claim, "update": bar.of(_length(sim)[0])}
        carry, records = drive(programs, sim, sim.times, sim.save_every, **options)
        run = assemble(sim, records, carry, carry)
        if writes:
            run.save(place.path / "results.nc")
    return run


def _length(sim: Simulation) -> tuple[float, str]:
    """(what a bar counts of a run, its unit)."""
    times = np.asarray(sim.times, float)
    return float(times[-1] - times[0]), "flow time"


def _continued(sim: Simulation, place: Place) -> Simulation:
    """`sim` with the saved times that a run on disk has reached, and its own later ones."""
    kept, asked = place.times(), np.asarray(sim.save_times)
    if kept is None:
        return sim
    if asked[-1] < kept[-1]:
        raise ForeignRun(
            f"{place.path} has reached t = {kept[-1]:g}, beyond t = {asked[-1]:g}: use another path"
        )
    strange = np.setdiff1d(asked[asked <= kept[-1]], kept)
    if strange.size:
        raise ForeignRun(
            f"{place.path} holds another run: it has passed t = {strange[0]:g} without saving it; use "
            "another path"
        )
    times = np.concatenate([kept, asked[asked > kept[-1]]]).astype(asked.dtype)
    return eqx.tree_at(lambda s: s.save_times, sim, jnp.asarray(times))
