"""Work that grows with the devices, and sweeps against the same program called in sequence.

Each number of virtual CPU devices needs a process of its own, since JAX fixes it when it starts. Ideal weak
scaling keeps the seconds constant until there are as many devices as cores. `--throughput` compares the
layouts of a sweep of 4 lambda x 6 seeds with solo runs, at several widths.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

LAMS, SEEDS = (1e-4, 1e-3, 1e-2, 1e-1), range(6)


def median_seconds(go: Callable[[], Any], repeats: int) -> float:
    """Median wall time of `go`, after one call that compiles."""
    go()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        go()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def varpro(width: int, inputs: int, steps: int) -> Callable[..., Any]:
    """A function of lam and seed: variable projection on the circle."""
    import jax.numpy as jnp
    import jax.random as jr

    import mfjax as mf

    x = jr.normal(jr.key(1), (inputs, 2))
    domain = mf.domains.Sphere(1)

    def cell(lam, seed):
        energy = mf.energies.ReducedRisk(mf.features.ReLU(), x, jnp.maximum(x[:, 0], 0), lam=lam)
        mu = mf.measures.Particles.sample(domain, jr.key(seed), width)
        stepper = mf.steppers.Euler(2**-8)
        flow = mf.flows.Wasserstein(energy, domain)
        return mf.Simulation(flow, mu, stepper=stepper, steps=steps, save_every=steps // 8)

    return cell


def on_devices(cells: int, width: int, inputs: int, steps: int, repeats: int) -> dict[str, float]:
    """Seconds of one sweep with `cells` per device, and of two runs with `width` particles per device."""
    import jax
    import jax.random as jr
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    import mfjax as mf

    number = jax.device_count()
    mesh = jax.make_mesh((number,), ("devices",), axis_types=(AxisType.Auto,))
    cell = varpro(width, inputs, steps)

    def sweep():
        # The figure is that of the sweep as called, its compilation included once, from the cache.
        mf.sweep(cell, method="map", mesh=mesh, lam=[1e-2], seed=range(cells * number))

    domain = mf.domains.Sphere(1)
    target = mf.measures.Particles.sample(domain, jr.key(9), width)
    mmd = mf.flows.Wasserstein(mf.energies.MMD(mf.kernels.Gaussian(0.5), target), domain)
    mu = mf.measures.Particles.sample(domain, jr.key(0), width * number)
    mu = jax.device_put(mu, NamedSharding(mesh, PartitionSpec("devices")))
    options = {
        "stepper": mf.steppers.Euler(2**-8),
        "steps": steps,
        "save_every": steps,
        "save_measures": False,
    }
    runs = {"particles, VarPro": cell(1e-2, 0).flow, "particles, MMD": mmd}
    figures = {"cells, VarPro": median_seconds(sweep, repeats)}
    for name, flow in runs.items():
        go = lambda flow=flow: jax.block_until_ready(mf.simulate(flow, mu, **options).final.points)
        figures[name] = median_seconds(go, repeats)
    return figures


def throughput(widths: Sequence[int], inputs: int, steps: int, repeats: int) -> dict[int, dict[str, Any]]:
    """For each width the seconds of solo runs in sequence and of sweeps by each layout, as ratios to it."""
    import mfjax as mf

    table = {}
    for width in widths:
        cell = varpro(width, inputs, steps)

        def solo(cell=cell):
            for lam in LAMS:
                for seed in SEEDS:
                    mf.simulate(cell(lam, seed))

        base = median_seconds(solo, repeats)
        row: dict[str, Any] = {"solo seconds": base}
        for method in ("loop", "map", "vmap", "auto"):
            kept = []

            def go(method=method, cell=cell, kept=kept):
                kept.append(mf.sweep(cell, method=method, lam=LAMS, seed=SEEDS))

            row[method] = base / median_seconds(go, repeats)
            if method == "auto":
                row["taken"] = kept[-1].attributes["layout"]["all"]["method"]
                row["why"] = kept[-1].attributes["layout"]["all"]["reason"]
        table[width] = row
        print(width, row, flush=True)
    return table


def main(
    devices: Sequence[int] = (1, 2),
    cells: int = 4,
    width: int = 128,
    inputs: int = 1024,
    steps: int = 128,
    repeats: int = 3,
) -> dict[int, dict[str, float]]:
    """Seconds for each number of devices, the work growing with it; printed and returned."""
    figures = {}
    for number in devices:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={number}"
        environment = os.environ | {"XLA_FLAGS": flags, "OPENBLAS_NUM_THREADS": "1"}
        child = [sys.executable, __file__, "--child", *map(str, (cells, width, inputs, steps, repeats))]
        done = subprocess.run(child, env=environment, check=True, capture_output=True, text=True)
        figures[number] = json.loads(done.stdout.splitlines()[-1])
        efficiency = {n: figures[devices[0]][n] / s for n, s in figures[number].items()}
        for name, seconds in figures[number].items():
            print(
                f"{number} devices  {name:20s} {seconds:8.3f} s  efficiency {efficiency[name]:.2f}",
                flush=True,
            )
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", nargs=5, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--devices", nargs="+", type=int, default=(1, 2))
    parser.add_argument("--throughput", action="store_true")
    parser.add_argument("--widths", nargs="+", type=int, default=(32, 128, 512))
    parser.add_argument("--inputs", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(on_devices(*given.child)))
    elif given.throughput:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        throughput(given.widths, given.inputs, given.steps, given.repeats)
    else:
        main(given.devices, inputs=given.inputs, steps=given.steps, repeats=given.repeats)
