"""Ultra-fast diffusion, gamma = 100: work against precision, beside LSODA on the same semi-discretization."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import mfjax as mf
from benchmarks.baselines.lsoda import Diffusion
from benchmarks.harness import Contender, Results, race, time_at
from benchmarks.machine import cores
from mfjax._engine.loop import trajectory

TIMES = np.array([0.098, 0.977, 4.88, 9.77])
BARS, MEMBERS = (1e-5, 1e-7), 16
# LSODA solves the members one by one: its time for every fifth tells that of all.
STRIDE = 5
compiled = eqx.filter_jit(trajectory)


def problem(cells, gamma=100.0):
    """(flow, uniform start, the same equation for LSODA)."""
    domain = mf.domains.Sphere(1)
    target = mf.measures.Grid.from_density(domain, cells, mf.problems.CircleTeacher(gamma))
    energy = mf.energies.PowerDivergence(target, order=2, scale=0.5)
    mu = mf.measures.Grid.uniform(domain, cells)
    return mf.flows.Wasserstein(energy, domain), mu, Diffusion(target.weights, float(mu.spacing[0]))


def tight(equation, weights):
    """The solution at the saved times by LSODA at a tolerance of 1e-12."""
    return equation.solve(weights, TIMES, 1e-12, 1e-16)[0]


def errors(masses, exact):
    """The greatest over the saved times of the L1 error, for masses (..., S, K)."""
    return np.max(np.sum(np.abs(masses - exact), axis=-1), axis=-1)


def simulation(flow, mu, scheme, rtol):
    """The run at a tolerance."""
    return mf.Simulation(flow, mu, stepper=scheme(rtol, 1e-2 * rtol), save_at=TIMES)


def run(quick=False):
    """Sweeps over tolerances, times at equal error, and a batch over gamma."""
    results = Results()
    flow, mu, equation = problem(256 if quick else 4096)
    weights = np.asarray(mu.weights)
    schemes = {"Rosenbrock": mf.steppers.Rosenbrock, "RosenbrockW": mf.steppers.RosenbrockW}
    solvers: dict[str, Any] = {}
    for rtol in (1e-3, 1e-5) if quick else (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6, 1e-7):
        for name, scheme in schemes.items():
            solvers[f"{name} {rtol:g}"] = partial(ours, simulation(flow, mu, scheme, rtol))
    for rtol in (1e-3, 1e-5) if quick else (1e-2, 1e-3, 3e-4, 1e-4, 1e-5, 1e-6, 1e-7):
        solvers[f"LSODA {rtol:g}"] = partial(equation.solve, weights, TIMES, rtol, 1e-2 * rtol / len(weights))
    contenders = [Contender(name, solve) for name, solve in solvers.items()]
    times = race(contenders, 3 if quick else 7, budget=120)
    exact = tight(equation, weights)
    curves: dict[str, list] = {}
    for name, solve in solvers.items():
        masses, counts = solve()
        error = float(errors(masses, exact))
        results.add(f"diffusion {len(weights)} cells", name, times[name], l1_error=error, **counts)
        curves.setdefault(name.split()[0], []).append((error, times[name].median))
    at = {
        name: {bar: time_at(bar, *zip(*curve, strict=True)) for bar in BARS} for name, curve in curves.items()
    }
    batched(results, quick)
    if quick:
        return results
    for bar in BARS:
        fastest = min((at[n][bar] for n in schemes if at[n][bar] is not None), default=None)
        known = fastest is not None and at["LSODA"][bar] is not None
        ratio = at["LSODA"][bar] / fastest if known else None
        results.require(f"diffusion, 4096 cells, error {bar:g}: times faster than LSODA", ratio, 5)
    return results


def ours(sim):
    """(masses at the saved times, counts); a run that fails is an error, not a time."""
    carry, ((masses, _), _) = jax.block_until_ready(compiled(sim))
    if int(carry.status):
        raise RuntimeError(f"mfjax: {mf.status.describe(int(carry.status))}")
    return np.asarray(masses)[1:], {"steps": int(carry.steps), "rejected": int(carry.rejected)}


def arrays(sim):
    """The leaves of a simulation."""
    return eqx.filter(sim, eqx.is_array)


def batched(results, quick):
    """A batch of members with gammas about 100, each against LSODA on the same equations, at equal error."""
    cells, members = (128, 2) if quick else (4096, MEMBERS)
    gammas = np.geomspace(50, 200, members)
    made = [problem(cells, gamma) for gamma in gammas]
    weights = np.asarray(made[0][1].weights)
    exact = np.stack([tight(equation, weights) for _, _, equation in made])
    # As a sweep has it: what varies is one array axis, the rest is shared.
    sims = lambda rtol: [simulation(flow, mu, mf.steppers.Rosenbrock, rtol) for flow, mu, _ in made]
    frame = eqx.filter(sims(1e-4)[0], eqx.is_array, inverse=True)
    varies = jax.tree.map(lambda *same: bool(np.any(np.stack(same) != same[0])), *map(arrays, sims(1e-4)))
    axes = jax.tree.map(lambda varying: 0 if varying else None, varies)
    every = eqx.filter_jit(
        lambda batch: jax.vmap(lambda leaves: trajectory(eqx.combine(leaves, frame)), in_axes=(axes,))(batch)
    )
    found, contenders = {}, []

    def solve(batch):
        carry, ((masses, _), _) = jax.block_until_ready(every(batch))
        if np.any(carry.status):
            raise RuntimeError(f"mfjax: {mf.status.describe(int(np.max(carry.status)))}")
        return np.asarray(masses)[:, 1:]

    for rtol in (1e-4,) if quick else (1e-3, 1e-4, 1e-5, 1e-6):
        stacked = lambda varying, *same: jnp.stack(same) if varying else same[0]
        batch = jax.tree.map(stacked, varies, *map(arrays, sims(rtol)))
        ways = {
            "vmap": partial(solve, batch),
            "loop": partial(looped, sims(rtol), 1),
            "threads": partial(looped, sims(rtol), cores()),
        }
        for way, call in ways.items():
            name = f"Rosenbrock {way} {rtol:g}"
            found[name] = np.max(errors(call(), exact))
            contenders.append(Contender(name, call, members))
    for rtol in (1e-4,) if quick else (1e-3, 1e-4, 1e-5, 1e-6, 1e-7):
        some = [equation for _, _, equation in made[::STRIDE]]
        solve_some = lambda some=some, rtol=rtol: np.stack(
            [equation.solve(weights, TIMES, rtol, 1e-2 * rtol / cells)[0] for equation in some]
        )
        found[f"LSODA each {rtol:g}"] = np.max(errors(solve_some(), exact[::STRIDE]))
        contenders.append(Contender(f"LSODA each {rtol:g}", solve_some, len(some)))
    spent = race(contenders, 3, budget=60)
    for name, error in found.items():
        case = f"diffusion {cells} cells, {members} members"
        results.add(case, name, spent[name], unit="member", l1_error=float(error))
    if quick:
        return
    for bar in BARS:
        at = {}
        for name in found:
            kind = name.rsplit(" ", 1)[0]
            names = [other for other in found if other.startswith(f"{kind} ")]
            at[kind] = time_at(bar, [found[n] for n in names], [spent[n].median for n in names])
        theirs = at.pop("LSODA each")
        fastest = min((time for time in at.values() if time is not None), default=None)
        ratio = theirs / fastest if None not in (theirs, fastest) else None
        results.require(
            f"diffusion, batch of 16, error {bar:g}: times faster per member than LSODA", ratio, 8
        )


def looped(sims, workers):
    """The masses of all members, run one after another or in threads."""
    with ThreadPoolExecutor(workers) as pool:
        return np.stack([masses for masses, _ in pool.map(ours, sims)])
