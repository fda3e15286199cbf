"""Time and peak memory as the number of particles grows: one process for each size, within limits."""

import resource

from benchmarks.harness import Results, Statistics, exponent, part

WIDTHS = (100, 1_000, 10_000, 100_000)
SIZES = {
    "VarPro, ReLU on the circle": WIDTHS,
    "VarPro, tanh on the circle": WIDTHS,
    "VarPro, tanh, compressed data": WIDTHS,
    "MMD, Gaussian, all pairs": (1_000, 10_000, 100_000),
    "MMD, Gaussian, 32 modes": (1_000, 10_000, 100_000, 1_000_000),
    "MMD, Gaussian, 2-torus, 32 modes": (10_000, 100_000, 1_000_000),
    "Sobolev s=2, circle": (1_000, 10_000, 100_000, 1_000_000),
    "energy distance, circle": (1_000, 10_000, 100_000, 1_000_000),
}
MEMORY, SECONDS = 8e9, 240.0
# Steps by size: enough that the start of a run, which prepares what the steps use, is a small part of them.
STEPS = {100: 100, 1_000: 100, 10_000: 30, 100_000: 10, 1_000_000: 3}
SLOW = ("VarPro, tanh on the circle", "MMD, Gaussian, all pairs")


def run(quick=False):
    """Sizes beyond the limits of time and memory are listed as such, never extrapolated."""
    results = Results()
    for kind, all_sizes in SIZES.items():
        done, stopped = [], None
        for size in all_sizes[: 1 if quick else None]:
            case = f"{kind}, M={size}"
            if stopped is not None:
                results.add(case, "mfjax", note=f"not tried: {stopped} did not finish")
                continue
            found, why = part("scaling", kind, size, seconds=SECONDS)
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
        results.add(kind, f"fit over {sizes}", **slopes)
        if quick:
            continue
        largest = all_sizes[-1]
        at = {size: peak for size, _, peak in done}.get(largest)
        text = f"{kind}, M = {largest}: finishes; peak memory in GB"
        if at is None:
            results.require(text, None, 8, least=False, note="not finished", finished=False)
        else:
            results.require(text, at / 1e9, 8, least=False)
    return results


def one(kind, size):
    """What a process of its own measures: an evaluation and a step or more."""
    resource.setrlimit(resource.RLIMIT_DATA, (int(MEMORY), int(MEMORY)))
    from benchmarks.cases.particles import ours
    from benchmarks.harness import peak_memory, race

    size = int(size)
    steps = 1 if kind in SLOW and size >= 100_000 else STEPS[size]
    make = varpro_run if kind.startswith("VarPro") else kernel_run
    # The evaluation at the start counts as a step.
    contender = ours(make(kind, size, steps), steps + 1)
    seconds = race([contender], 5, budget=SECONDS / 4)[contender.name]
    return {"seconds": vars(seconds), "peak_bytes": peak_memory()}


def varpro_run(kind, size, steps):
    """Variable projection of N = 4096 data."""
    import jax.numpy as jnp
    import jax.random as jr

    import mfjax as mf
    from benchmarks.cases.particles import CENTER, INPUTS, LAM, circle, simulation, varpro

    problem, mu = circle(size, "float32")
    if "ReLU" in kind:
        return varpro(problem, mu, steps)
    features, x = mf.features.Ridge(jnp.tanh), problem.x
    teacher = problem.domain.sample(jr.key(2), 20, "float32")
    y = jnp.mean(features.matrix(teacher, x), axis=1)
    data = (features, x, y, jnp.full(INPUTS, 1 / INPUTS, x.dtype))
    if "compressed" in kind:
        small = mf.compress(*data[:3], problem.domain, tolerance=1e-5)
        data = (small.features, small.x, small.y, small.data_weights)
    energy = mf.energies.ReducedRisk(*data[:3], LAM, CENTER, data_weights=data[3])
    return simulation(mf.flows.Wasserstein(energy, problem.domain), mu, steps)


def kernel_run(kind, size, steps):
    """A kernel discrepancy to as many particles as move, or to the uniform measure."""
    import jax.random as jr

    import mfjax as mf
    from benchmarks.cases.particles import simulation

    domain = mf.domains.Torus(2 if "2-torus" in kind else 1)
    mu, nu = (mf.measures.Particles.sample(domain, jr.key(i), size, dtype="float32") for i in (0, 1))
    if kind.startswith("Sobolev"):
        energy = mf.energies.Sobolev("uniform", order=2.0, domain=domain)
    elif kind.startswith("energy"):
        energy = mf.energies.MMD(mf.kernels.Distance(domain=domain), nu)
    else:
        modes = 32 if "modes" in kind else None
        energy = mf.energies.MMD(mf.kernels.Gaussian(0.05, domain, modes=modes), nu)
    return simulation(mf.flows.Wasserstein(energy, domain), mu, steps)
