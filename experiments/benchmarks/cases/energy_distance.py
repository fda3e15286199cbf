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
    ]
    if torch_varpro.torch is not None:
        a, b = map(torch_varpro.torch.from_numpy, (x, y))
        contenders.append(Contender("torch", lambda: torch_varpro.energy_distance(a, b)))
    times = race(contenders, 7, budget=40)
    exact = direct_energy.energy_distance(x.astype(np.float64), y.astype(np.float64))
    error = abs(float(distance(observable, mu)) / exact - 1)
    for method, seconds in times.items():
        relative = {"relative_error": error} if method == "mfjax" else {}
        results.add(f"energy distance {n} x {n} {dtype}", method, seconds, **relative)
    if torch_varpro.torch is None:
        results.add(f"energy distance {n} x {n} {dtype}", "torch", note=torch_varpro.ABSENT)
    if n == 4096:
        fastest = min(s.median for m, s in times.items() if m != "mfjax")
        text = f"energy distance, 4096 x 4096, {dtype}: times faster than the faster direct tensor"
        results.require(text, fastest / times["mfjax"].median, 150)


def large(results, n, dtype):
    """Ours alone: the direct tensor would have n^2 entries. The error is that to float64, same numbers."""
    mu, target = samples(n, dtype)
    observable = mf.observables.EnergyDistance(target, mf.domains.Sphere(1))
    call = lambda: jax.block_until_ready(distance(observable, mu))
    times = race([Contender("mfjax", call)], 5)["mfjax"]
    error = sorted_difference(np.array(mu.points, np.float64), np.array(target, np.float64))
    error = abs(float(call()) / error - 1)
    results.add(f"energy distance {n} x {n} {dtype}", "mfjax", times, relative_error=error)
    if n == 1_000_000:
        results.require(f"energy distance, 10^6 x 10^6, {dtype}: seconds", times.median, 2, least=False)


def sorted_difference(x, y):
    """The same value in NumPy, float64, from prefix sums over sorted angles, for the error only.

    The chord of sorted angles a < b is 2 sin((b - a) / 2) = 2 (sin b/2 cos a/2 - cos b/2 sin a/2).
    """
    angle = np.concatenate([np.arctan2(p[:, 1], p[:, 0]) for p in (x, y)])
    sign = np.concatenate([np.full(len(x), 1 / len(x)), np.full(len(y), -1 / len(y))])
    order = np.argsort(angle)
    angle, sign = angle[order].astype(np.longdouble), sign[order].astype(np.longdouble)
    c, s = sign * np.cos(angle / 2), sign * np.sin(angle / 2)
    before_c, before_s = np.cumsum(c) - c, np.cumsum(s) - s
    return float(-4 * np.sum(s * before_c - c * before_s))
