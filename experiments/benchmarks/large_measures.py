"""Kernel flows of up to 10^6 particles on tori: seconds per step and peak memory.

    python experiments/benchmarks/large_measures.py [--size 1000000] [--steps 4] [--dtype float64] [NAME ...]

Compile time is apart: a run of as many steps is made first. Peak memory is that of the process so far, so
one NAME at a time gives its own.
"""

import argparse
import os
import resource
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jax.numpy as jnp
import jax.random as jr

import mfjax as mf

LINE, PLANE = mf.domains.Torus(1), mf.domains.Torus(2)


def bump(x):
    """A density on a torus of any dimension."""
    return 1 + 0.5 * jnp.prod(jnp.cos(2 * jnp.pi * x))


def target(domain, size, dtype):
    return mf.measures.Particles(domain.sample(jr.key(1), size, dtype))


# name: (domain, energy of (particles, dtype), stepper)
CASES = {
    "circle, Sobolev s=1, uniform": (
        LINE,
        lambda n, d: mf.energies.Sobolev("uniform", 1.0),
        mf.steppers.Euler,
    ),
    "circle, Sobolev s=2, particles": (
        LINE,
        lambda n, d: mf.energies.Sobolev(target(LINE, n, d), 2.0),
        mf.steppers.Euler,
    ),
    "circle, energy distance, particles": (
        LINE,
        lambda n, d: mf.energies.MMD(mf.kernels.Energy(domain=LINE), target(LINE, n, d)),
        mf.steppers.Euler,
    ),
    "circle, Sobolev s=3/2, 128 modes": (
        LINE,
        lambda n, d: mf.energies.Sobolev(bump, 1.5, modes=128),
        mf.steppers.Heun,
    ),
    "2-torus, Sobolev s=2, 32 modes": (
        PLANE,
        lambda n, d: mf.energies.Sobolev(bump, 2.0, PLANE, modes=32),
        mf.steppers.Euler,
    ),
    "2-torus, Sobolev s=2, 32 modes, Heun": (
        PLANE,
        lambda n, d: mf.energies.Sobolev(bump, 2.0, PLANE, modes=32),
        mf.steppers.Heun,
    ),
}


def seconds_per_step(name: str, size: int, steps: int, dtype: str) -> tuple[float, float, float]:
    """(seconds per step, seconds of the first call, last energy over first) of a case."""
    domain, energy, stepper = CASES[name]
    flow = mf.flows.Wasserstein(energy(size, dtype), domain)
    mu = mf.measures.Particles(domain.sample(jr.key(0), size, dtype) ** 2)

    def timed():
        begin = time.perf_counter()
        run = mf.simulate(
            flow,
            mu,
            stepper=stepper(1e-2),
            steps=steps,
            save_every=steps,
            save_measures=False,
            progress=False,
        )
        energies = jax.block_until_ready(run.observables["energy"])
        return time.perf_counter() - begin, float(energies[-1] / energies[0])

    first, _ = timed()
    again, ratio = timed()
    return again / steps, first, ratio


def main():
    """Print one line for each case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=list(CASES), metavar="NAME")
    parser.add_argument("--size", type=int, default=10**6)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    options = parser.parse_args()
    if options.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    for name in options.names:
        step, first, ratio = seconds_per_step(name, options.size, options.steps, options.dtype)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{name:38} M={options.size:.0e} {options.dtype} {step:.3f} s/step, first call {first:.1f} s, "
            f"energy x {ratio:.4f}, peak {peak:.2f} GiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
