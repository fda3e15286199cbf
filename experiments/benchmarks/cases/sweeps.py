"""A sweep of 4 lam x 6 seeds by every method, against its own compiled program called in sequence."""

import jax
import jax.random as jr
import numpy as np

import mfjax as mf
from benchmarks.cases.particles import CENTER, circle, compiled, simulation
from benchmarks.harness import Contender, Results, race
from mfjax._engine.layout import METHODS

LAMS = (1e-1, 1e-2, 1e-3, 1e-4)


def run(quick=False):
    """Seconds a step and cell. Runs of two lengths are timed: the difference is free of compilation."""
    results = Results()
    methods = [name for name in METHODS if name not in ("auto", "measure")]
    lams, seeds, inputs = (LAMS[:2], range(2), 64) if quick else (LAMS, range(6), 4096)
    best = {}
    for width in (8,) if quick else (32, 128, 512):
        lengths = (4, 12) if quick else {32: (200, 1000), 128: (100, 400), 512: (20, 60)}[width]
        problem, _ = circle(width, "float32", inputs)
        cell = lambda lam, seed, steps, width=width, problem=problem: simulation(
            mf.flows.Wasserstein(problem.risk(lam, CENTER), problem.domain),
            mf.measures.Particles.sample(problem.domain, jr.key(seed), width, dtype="float32"),
            steps,
        )
        contenders = []
        for steps in lengths:
            # What the loop of a sweep sees: cells that share one program.
            cells = [cell(np.float32(lam), seed, steps) for lam in lams for seed in seeds]
            call = lambda cells=cells: [jax.block_until_ready(compiled(sim)[0]) for sim in cells]
            contenders.append(Contender(f"solo {steps}", call))
            for method in methods:
                fn = lambda lam, seed, steps=steps, cell=cell: cell(lam, seed, steps)
                call = lambda fn=fn, method=method: mf.sweep(
                    fn, method=method, progress=False, lam=list(lams), seed=seeds
                )
                contenders.append(Contender(f"{method} {steps}", call))
        times = race(contenders, 3 if quick else 5, budget=90)
        count, (short, long) = len(lams) * len(seeds), lengths
        rate = {}
        for method in ("solo", *methods):
            rate[method] = (times[f"{method} {long}"].median - times[f"{method} {short}"].median) / (
                count * (long - short)
            )
            for steps in lengths:
                ratio = times[f"solo {steps}"].median / times[f"{method} {steps}"].median
                whole = times[f"{method} {steps}"]
                results.add(
                    f"sweep of {count}, M={width}",
                    f"{method}, {steps} steps",
                    whole,
                    unit="sweep",
                    speed=ratio,
                )
        for method in methods:
            # Noise can make the difference of two lengths vanish: then nothing is known.
            ratio = rate["solo"] / rate[method] if min(rate["solo"], rate[method]) > 0 else None
            results.add(
                f"sweep of {count}, M={width}", f"{method}, marginal", step_seconds=rate[method], speed=ratio
            )
            if not quick:
                results.require(f"sweep, M = {width}, method {method}: throughput over solo runs", ratio, 1)
            if ratio is not None:
                best[width] = max(best.get(width, 0.0), ratio)
    if not quick:
        results.require("sweep, M = 128, best method: throughput over solo runs", best.get(128), 2)
    return results
