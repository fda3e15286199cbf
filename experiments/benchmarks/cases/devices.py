"""Work that grows with the number of virtual CPU devices: ideal is constant time up to as many as cores.

JAX fixes the number of its devices when it starts, so that each needs a process of its own.
"""

from benchmarks.harness import Contender, Results, Statistics, part, race


def run(quick=False):
    """Cells of a sweep and particles of a run, in proportion to the devices."""
    results, base = Results(), {}
    for number in (1,) if quick else (1, 2):
        found, why = part("devices", number, int(quick), environment={"JAX_NUM_CPU_DEVICES": str(number)})
        if found is None:
            raise RuntimeError(why)
        for name, seconds in found.items():
            seconds = Statistics(**seconds)
            base.setdefault(name, seconds.median)
            efficiency = base[name] / seconds.median
            case = f"weak scaling, {name}"
            results.add(case, f"{number} devices", seconds, unit="run", efficiency=efficiency)
    return results


def one(number, quick):
    """Seconds of each with the number of devices that this process has."""
    import jax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    import mfjax as mf
    from benchmarks.cases.particles import CENTER, LAM, circle, simulation, start

    number, quick = int(number), bool(int(quick))
    mesh = jax.make_mesh((number,), ("devices",), axis_types=(AxisType.Auto,))
    # Compilation, once a sweep, is small beside its steps.
    steps, width, cells, inputs = (8, 8, 1, 64) if quick else (1000, 128, 2, 4096)
    problem, _ = circle(width, "float32", inputs)
    flow = mf.flows.Wasserstein(problem.risk(LAM, CENTER), problem.domain)

    def cell(seed):
        mu = mf.measures.Particles.sample(problem.domain, jax.random.key(seed), width, dtype="float32")
        return simulation(flow, mu, steps)

    def swept():
        mf.sweep(cell, method="map", mesh=mesh, progress=False, seed=range(cells * number))

    contenders = [Contender("cells, VarPro", swept)]
    few, large = (4, 16) if quick else (20, 4096)
    domain = mf.domains.Torus(1)
    target = mf.measures.Particles.sample(domain, jax.random.key(9), large, dtype="float32")
    mmd = mf.flows.Wasserstein(mf.energies.MMD(mf.kernels.Gaussian(0.1, domain), target), domain)
    line = mf.measures.Particles.sample(domain, jax.random.key(0), large * number, dtype="float32")
    ring = start(problem, 8 * width * number, "float32")
    for name, flow_of, mu in (("particles, MMD", mmd, line), ("particles, VarPro", flow, ring)):
        placed = jax.device_put(mu, NamedSharding(mesh, PartitionSpec("devices")))
        sim = simulation(flow_of, placed, few)
        contenders.append(
            Contender(name, lambda sim=sim: jax.block_until_ready(mf.simulate(sim).final.points))
        )
    return {name: vars(seconds) for name, seconds in race(contenders, 3 if quick else 5).items()}
