"""The energy distance of two samples of the circle: by sorting, against the tensor of all differences."""

import equinox as eqx
import jax
import jax.random as jr
import numpy as np

import mfjax as mf
from benchmarks.baselines import direct_energy, torch_varpro
from benchmarks.cases.particles import is_double
from benchmarks.harness import Contender, Results, race


@eqx.filter_jit
def distance(observable, mu):
    """The observable, compiled."""
    return observable(mu)


def samples(n, dtype):
    """(measure, target points): uniform, and the two-bump teacher."""
    domain = mf.domains.Sphere(1)
    mu = mf.measures.Particles.sample(domain, jr.key(0), n, dtype=dtype)
    return mu, mf.problems.CircleTeacher(100.0).sample(jr.key(1), n, dtype=dtype).points


def run(quick=False):
    """4096 points against 4096, then a million against a million."""
    results, dtype = Results(), "float64" if is_double() else "float32"
    small(results, 512 if quick else 4096, dtype)
    large(results, 10_000 if quick else 1_000_000, dtype)
    return results


def small(results, n, dtype):
    """Against the direct tensors."""
    mu, target = samples(n, dtype)
    observable = mf.observables.EnergyDistance(target, mf.domains.Sphere(1))
    x, y = np.array(mu.points), np.array(target)
    contenders = [
        Contender("mfjax", lambda: jax.block_until_ready(distance(observable, mu))),
        Contender("numpy", lambda: direct_energy.energy_distance(x, y)),
        Contender("numpy by sorting", lambda: sorted_difference(x, y, x.dtype)),
    ]
    if torch_varpro.torch is not None:
        a, b = map(torch_varpro.torch.from_numpy, (x, y))
        contenders.append(Contender("torch", lambda: torch_varpro.energy_distance(a, b)))
    times = race(contenders, 7, budget=40)
    exact = direct_energy.energy_distance(x.astype(np.float64), y.astype(np.float64))
    error = abs(float(distance(observable, mu)) / exact - 1)
    errors = {"mfjax": error, "numpy by sorting": abs(sorted_difference(x, y, x.dtype) / exact - 1)}
    for method, seconds in times.items():
        relative = {"relative_error": errors[method]} if method in errors else {}
        results.add(f"energy distance {n} x {n} {dtype}", method, seconds, **relative)
    if torch_varpro.torch is None:
        results.add(f"energy distance {n} x {n} {dtype}", "torch", note=torch_varpro.ABSENT)
    if n == 4096:
        fastest = min(s.median for m, s in times.items() if m in ("numpy", "torch"))
        text = f"energy distance, 4096 x 4096, {dtype}: times faster than the faster direct tensor"
        results.require(text, fastest / times["mfjax"].median, 150)


def large(results, n, dtype):
    """Beside NumPy by sorting: the direct tensor would have n^2 entries. Errors to extended precision."""
    mu, target = samples(n, dtype)
    observable = mf.observables.EnergyDistance(target, mf.domains.Sphere(1))
    call = lambda: jax.block_until_ready(distance(observable, mu))
    x, y = np.array(mu.points), np.array(target)
    by_sorting = lambda: sorted_difference(x, y, x.dtype)
    times = race([Contender("mfjax", call), Contender("numpy by sorting", by_sorting)], 5)
    exact = sorted_difference(x.astype(np.float64), y.astype(np.float64), np.longdouble)
    for method, value in (("mfjax", float(call())), ("numpy by sorting", by_sorting())):
        case = f"energy distance {n} x {n} {dtype}"
        results.add(case, method, times[method], relative_error=abs(value / float(exact) - 1))
    if n == 1_000_000:
        text = f"energy distance, 10^6 x 10^6, {dtype}: seconds"
        results.require(text, times["mfjax"].median, 2, least=False)


def sorted_difference(x, y, dtype):
    """The same value in NumPy, from prefix sums over sorted angles in `dtype`.

    The chord of sorted angles a < b is 2 sin((b - a) / 2) = 2 (sin b/2 cos a/2 - cos b/2 sin a/2).
    """
    angle = np.concatenate([np.arctan2(p[:, 1], p[:, 0]) for p in (x, y)])
    sign = np.concatenate([np.full(len(x), 1 / len(x)), np.full(len(y), -1 / len(y))])
    order = np.argsort(angle)
    angle, sign = angle[order].astype(dtype), sign[order].astype(dtype)
    c, s = sign * np.cos(angle / 2), sign * np.sin(angle / 2)
    before_c, before_s = np.cumsum(c) - c, np.cumsum(s) - s
    return float(-4 * np.sum(s * before_c - c * before_s))
