"""Time and peak memory as the number of particles grows: one process for each size, within limits."""

import json
import resource
import subprocess
import sys
from pathlib import Path

from benchmarks.harness import Results, Statistics, exponent

KINDS = ("varpro", "mmd", "sobolev")
SIZES = {
    "varpro": (100, 1_000, 10_000, 100_000),
    "mmd": (1_000, 10_000, 100_000, 1_000_000),
    "sobolev": (1_000, 10_000, 100_000, 1_000_000),
}
MEMORY, SECONDS = 8e9, 150.0
STEPS = 3


def run(quick=False):
    """Sizes beyond the limits of time and memory are listed as such, never extrapolated."""
    results = Results()
    for kind in KINDS:
        done, stopped = [], None
        for size in SIZES[kind][: 1 if quick else None]:
            case = f"scaling {kind} M={size}"
            if stopped is not None:
                results.add(case, "mfjax", note=f"not tried: {stopped} did not finish")
                continue
            found, why = in_process(kind, size)
            if found is None:
                stopped = size
                results.add(case, "mfjax", note=why)
                continue
            seconds = Statistics(**found["seconds"])
            done.append((size, seconds.median, found["peak_bytes"]))
            results.add(case, "mfjax", seconds, unit="step", peak_bytes=found["peak_bytes"])
        # Small sizes are dominated by what does not grow: the last three say how it grows.
        last = done[-3:]
        sizes = [size for size, _, _ in last]
        slopes = {
            "time_exponent": exponent(sizes, [time for _, time, _ in last]),
            "memory_exponent": exponent(sizes, [peak for _, _, peak in last]),
        }
        results.add(f"scaling {kind}", f"fit over {sizes}", **slopes)
        if quick:
            continue
        largest = SIZES[kind][-1]
        at = {size: (time, peak) for size, time, peak in done}.get(largest)
        text = f"{kind}, M = {largest}: finishes; peak memory in GB"
        results.require(
            text, None if at is None else at[1] / 1e9, 8, least=False, note="not finished" * (at is None)
        )
    return results


def in_process(kind, size):
    """(seconds and peak memory, None) of one size, or (None, why it did not finish)."""
    program = Path(__file__).resolve().parents[1] / "run.py"
    command = [sys.executable, str(program), "--size", kind, str(size)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return None, f"did not finish in {SECONDS:g} s"
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        return None, f"failed, with at most {MEMORY / 1e9:g} GB: {last[0][:120]}"
    return json.loads(done.stdout.splitlines()[-1]), None


def one(kind, size):
    """What a process of its own measures."""
    resource.setrlimit(resource.RLIMIT_DATA, (int(MEMORY), int(MEMORY)))
    import jax.random as jr

    import mfjax as mf
    from benchmarks.cases.particles import circle, ours, simulation, varpro
    from benchmarks.harness import peak_memory, race

    if kind == "varpro":
        problem, mu = circle(size, "float32")
        sim = varpro(problem, mu, STEPS)
    else:
        domain = mf.domains.Torus(1)
        mu = mf.measures.Particles.sample(domain, jr.key(0), size, dtype="float32")
        target = mf.measures.Particles.sample(domain, jr.key(1), 1000, dtype="float32")
        energy = {
            "mmd": lambda: mf.energies.MMD(mf.kernels.Gaussian(0.1, domain=domain), target),
            "sobolev": lambda: mf.energies.Sobolev("uniform", order=2.0, domain=domain),
        }[kind]()
        sim = simulation(mf.flows.Wasserstein(energy, domain), mu, STEPS)
    # The evaluation at the start counts as a step.
    contender = ours(sim, STEPS + 1)
    seconds = race([contender], 5, budget=SECONDS / 4)[contender.name]
    return {"seconds": vars(seconds), "peak_bytes": peak_memory()}
