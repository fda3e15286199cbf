"""Steps of variable projection and of two-timescale learning: their time, and the accuracy they keep."""

from functools import partial

import jax.numpy as jnp
import jax.random as jr
import numpy as np

import mfjax as mf
from benchmarks.baselines import numpy_varpro, torch_varpro
from benchmarks.cases import particles
from benchmarks.cases.particles import INPUTS, LAM, STEP, arrays, circle, is_double, ours, varpro
from benchmarks.harness import Contender, Results, race

TORCH = torch_varpro.torch


def torch_contenders(step, start, steps):
    """PyTorch with all its threads and with one, which small sizes prefer; none where it is not installed."""

    def call(threads):
        TORCH.set_num_threads(threads)
        step.run(start, steps)

    if TORCH is None:
        return []
    threads = {"torch": TORCH.get_num_threads(), "torch, 1 thread": 1}
    return [Contender(name, partial(call, count), steps) for name, count in threads.items()]


def ratio(times, other):
    """How many times faster than `other`, at its best number of threads, we are."""
    theirs = [seconds.median for method, seconds in times.items() if method.startswith(other)]
    return min(theirs) / times["mfjax"].median if theirs else None


def rows(results, case, times, **columns):
    """A row for each contender; one for PyTorch even where it is absent."""
    for method, seconds in times.items():
        results.add(case, method, seconds, unit="step", **(columns.get(method) or {}))
    if TORCH is None:
        results.add(case, "torch", note=torch_varpro.ABSENT)


def circle_steps(quick=False):
    """ReLU on the circle, N = 4096, by width."""
    results, dtype = Results(), "float64" if is_double() else "float32"
    widths = (32, 128) if quick else (32, 128, 512, 1024)
    for width in widths:
        problem, mu = circle(width, dtype)
        x, y, points = arrays(problem, mu)
        steps = 20 if quick else 200
        few = 3 if width >= 512 else 20
        dense = numpy_varpro.VarPro(x, y, LAM)
        contenders = [
            ours(varpro(problem, mu, steps), steps),
            Contender("numpy", lambda dense=dense, points=points, few=few: dense.run(points, few), few),
        ]
        if TORCH is not None:
            lu = torch_varpro.VarPro(torch_varpro.relu, torch_varpro.on_circle, x, y, LAM)
            contenders += torch_contenders(lu, TORCH.from_numpy(points), few)
        times = race(contenders, 5 if quick else 9)
        case = f"circle M={width} {dtype}"
        error = None if quick and width > 32 else deviation(problem, mu, 50 if quick else 1000)
        work = {method: {"dense_gflops": dense_work(width) / s.least / 1e9} for method, s in times.items()}
        work["mfjax"]["risk_error"] = error
        rows(results, case, times, **work)
        state_bars(results, width, dtype, times, error)
    return results


def dense_work(width, inputs=INPUTS):
    """Operations of a dense step: half of the Gram matrix, Cholesky, seven products with N x M matrices.

    A time that would need more of them than the roofline was reached without them.
    """
    small = min(width, inputs)
    return inputs * width * small + small**3 / 3 + 14 * inputs * width


def deviation(problem, mu, steps):
    """Relative difference of the risk after `steps` steps to Cholesky in float64, from the same numbers."""
    x, y, points = arrays(problem, mu, np.float64)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    reference = numpy_varpro.VarPro(x, y, LAM)
    exact = reference(reference.run(points, steps))[1]
    return abs(particles.risk_after(varpro(problem, mu, steps)) / exact - 1)


def state_bars(results, width, dtype, times, error):
    """The requirements that these rows speak to."""
    if width == 1024 and dtype == "float32":
        results.require("circle, M = 1024, float32: times faster than PyTorch LU", ratio(times, "torch"), 12)
        results.require(
            "circle, M = 1024, float32: times faster than NumPy Cholesky", ratio(times, "numpy"), 20
        )
        text = "circle, M = 1024, float32: relative error of the risk after 1000 steps"
        results.require(text, error, 1e-4, least=False)
    if width == 1024 and dtype == "float64":
        results.require(
            "circle, M = 1024, float64: times faster than NumPy Cholesky", ratio(times, "numpy"), 10
        )
    if width == 32 and dtype == "float32":
        results.require("circle, M = 32, float32: times faster than PyTorch LU", ratio(times, "torch"), 2)


def torus_steps(quick=False):
    """Laplace features on the 2-torus, N = 4096, through the path of any feature map."""
    results, dtype = Results(), "float64" if is_double() else "float32"
    width, steps, few = (64, 5, 2) if quick else (1024, 30, 1)
    problem, mu = particles.torus(width, dtype)
    x, y, points = arrays(problem, mu)
    contenders = [ours(varpro(problem, mu, steps), steps)]
    if TORCH is not None:
        period, features = float(problem.domain.period), problem.features
        matrix = torch_varpro.laplace(period, float(features.scale), float(features.amplitude))
        lu = torch_varpro.VarPro(matrix, torch_varpro.on_torus(period), x, y, LAM)
        contenders += torch_contenders(lu, TORCH.from_numpy(points), few)
    times = race(contenders, 3 if quick else 7)
    rows(results, f"torus RBF M={width} {dtype}", times)
    if width == 1024 and dtype == "float32":
        text = "2-torus RBF, M = 1024, float32, generic path: times faster than PyTorch LU"
        results.require(text, ratio(times, "torch"), 4)
    return results


def timescale_steps(quick=False):
    """Two-timescale learning on the circle at the published eta = lam M."""
    results, dtype = Results(), "float64" if is_double() else "float32"
    for width in (32,) if quick else (32, 128, 512, 1024):
        steps, few = (20, 5) if quick else (200, 10)
        problem, mu = circle(width, dtype)
        x, y, points = arrays(problem, mu)
        energy = problem.risk(LAM, mf.regularizers.Quadratic(center=1.0))
        flow = mf.flows.TwoTimescale(energy, problem.domain, rate=LAM / STEP)
        first = flow.init(mu).measure
        contenders = [ours(particles.simulation(flow, first, steps), steps)]
        if TORCH is not None:
            relu, move = torch_varpro.relu, torch_varpro.on_circle
            plain = torch_varpro.TwoTimescale(relu, move, x, y, LAM, rate=LAM / STEP)
            u = TORCH.from_numpy(np.array(first.marks["u"]))
            contenders += torch_contenders(plain, (TORCH.from_numpy(points), u), few)
        rows(results, f"two-timescale circle M={width} {dtype}", race(contenders, 3 if quick else 9))
    return results


# Times as long as the step of one output that a step of ten may take.
SHARED = {"tanh": 1.5, "relu": 4.0}


def output_steps(quick=False):
    """Steps with ten outputs, which share the features and every factorization, beside those with one."""
    results, dtype = Results(), "float64" if is_double() else "float32"
    width, steps = (64, 5) if quick else (512, 100)
    problem, mu = circle(width, dtype)
    directions = problem.domain.sample(jr.key(2), 10, dtype)
    targets = jnp.maximum(problem.x @ directions.T, 0)
    for name, features in (("tanh", mf.features.Ridge(jnp.tanh)), ("relu", mf.features.ReLU())):
        contenders = []
        for outputs in (1, 10):
            energy = mf.energies.ReducedRisk(features, problem.x, targets[:, :outputs], LAM, particles.CENTER)
            flow = mf.flows.Wasserstein(energy, problem.domain)
            label = f"mfjax, {outputs} output{'s' * (outputs > 1)}"
            contenders.append(ours(particles.simulation(flow, mu, steps), steps, label))
        times = race(contenders, 3 if quick else 9)
        for method, seconds in times.items():
            results.add(f"circle {name} M={width} {dtype}", method, seconds, unit="step")
        one, ten = (seconds.median for seconds in times.values())
        if not quick:
            text = f"circle {name}, M = {width}, {dtype}: times as long with ten outputs as with one"
            results.require(text, ten / one, SHARED[name], least=False)
    return results
