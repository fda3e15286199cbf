"""The benchmarks compare equal computations: baselines agree with mfjax, and what is reported is sane."""

import json
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import pytest

import mfjax as mf
from mfjax._engine.loop import trajectory

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
RUN = EXPERIMENTS / "benchmarks" / "run.py"
LAM, STEP, STEPS = 1e-3, 2.0**-10, 3
CENTER = mf.regularizers.Quadratic(center=1.0)
TOLERANCE = {"float64": 1e-10, "float32": 2e-3}

compiled = eqx.filter_jit(trajectory)


@pytest.fixture(autouse=True, scope="module")
def benchmarks_importable():
    """The folder of the experiments on the path, as the programs in it have it."""
    sys.path.insert(0, str(EXPERIMENTS))
    yield
    sys.path.remove(str(EXPERIMENTS))


def ours(flow, mu):
    """(points, energy before the last step) of a few steps."""
    sim = mf.Simulation(flow, mu, stepper=mf.steppers.Euler(STEP), steps=STEPS, save_every=1)
    carry, (_, values) = compiled(sim)
    assert int(carry.status) == 0
    return carry.state.measure, float(values["energy"][-2])


def problem(make, width, dtype):
    problem = make(jr.key(0), inputs=40, width=16, dtype=dtype)
    return problem, mf.measures.Particles.sample(problem.domain, jr.key(1), width, dtype=dtype)


def close(ours, theirs, dtype):
    np.testing.assert_allclose(np.asarray(ours), theirs, atol=TOLERANCE[dtype], rtol=0)


# --- baselines --------------------------------------------------------------------------------------------


@pytest.mark.slow_cases("float32-primal", "float64-primal", "float64-dual")
@pytest.mark.parametrize("width", [12, 60], ids=["primal", "dual"])
def test_numpy_varpro(width, dtype):
    """Steps of the NumPy baseline, from the smaller side, beside ours."""
    from benchmarks.baselines.numpy_varpro import VarPro

    circle, mu = problem(mf.problems.circle, width, dtype)
    moved, energy = ours(mf.flows.Wasserstein(circle.risk(LAM, CENTER), circle.domain), mu)
    baseline = VarPro(np.asarray(circle.x), np.asarray(circle.y), LAM)
    points = baseline.run(np.array(mu.points), STEPS - 1)
    points, risk = baseline(points)
    assert points.dtype == dtype
    close(moved.points, points, dtype)
    assert abs(energy / risk - 1) < TOLERANCE[dtype]


@pytest.mark.parametrize("name", ["circle", "torus"])
def test_torch_varpro(name):
    """Steps of LU and autograd beside ours."""
    torch = pytest.importorskip("torch")
    from benchmarks.baselines import torch_varpro as baseline

    found, mu = problem(getattr(mf.problems, name), 12, "float64")
    moved, energy = ours(mf.flows.Wasserstein(found.risk(LAM, CENTER), found.domain), mu)
    if name == "circle":
        features, move = baseline.relu, baseline.on_circle
    else:
        features = baseline.laplace(4.0, float(found.features.scale), float(found.features.amplitude))
        move = baseline.on_torus(4.0)
    step = baseline.VarPro(features, move, np.array(found.x), np.array(found.y), LAM)
    points = step.run(torch.from_numpy(np.array(mu.points)), STEPS - 1)
    points, risk = step(points)
    close(moved.points, points.numpy(), "float64")
    assert abs(energy / float(risk) - 1) < 1e-10


def test_torch_two_timescale():
    """Both updates from the old state, at the published eta."""
    torch = pytest.importorskip("torch")
    from benchmarks.baselines import torch_varpro as baseline

    circle, mu = problem(mf.problems.circle, 12, "float64")
    flow = mf.flows.TwoTimescale(circle.risk(LAM, CENTER), circle.domain, rate=LAM / STEP)
    first = flow.init(mu).measure
    moved, energy = ours(flow, first)
    data = np.array(circle.x), np.array(circle.y)
    step = baseline.TwoTimescale(baseline.relu, baseline.on_circle, *data, LAM, rate=LAM / STEP)
    state = tuple(torch.from_numpy(np.array(a)) for a in (mu.points, first.marks["u"]))
    (points, u), risk = step(step.run(state, STEPS - 1))
    close(moved.points, points.numpy(), "float64")
    close(moved.marks["u"], u.numpy(), "float64")
    assert abs(energy / float(risk) - 1) < 1e-10


@pytest.mark.slow_cases("32")
@pytest.mark.parametrize("cells", [32, 33])
def test_lsoda_solves_the_same_equation(cells):
    """Equal right-hand sides to rounding, a Jacobian that is its derivative, equal solutions."""
    from benchmarks.cases.diffusion import TIMES, errors, problem, simulation, tight

    flow, mu, equation = problem(cells, 10.0)
    masses = np.asarray(mu.weights) * (1 + 0.3 * np.cos(np.arange(cells)))
    rate = flow.evaluate(flow.init(mu.with_weights(masses))).tangent.weights
    np.testing.assert_allclose(equation.rate(masses), rate, atol=1e-12 * float(np.max(np.abs(rate))))
    folded = masses[equation.permutation]
    bands, dense = equation.bands(folded), np.zeros((cells, cells))
    for row, values in enumerate(bands):
        for column, value in enumerate(values):
            if 0 <= row + column - 2 < cells:
                dense[row + column - 2, column] = value
            else:
                assert value == 0
    direction = np.sin(np.arange(cells)) / cells
    change = equation.folded_rate(folded + 1e-6 * direction) - equation.folded_rate(folded - 1e-6 * direction)
    np.testing.assert_allclose(dense @ direction, change / 2e-6, atol=1e-6 * np.max(np.abs(dense)) / cells)
    carry, ((found, _), _) = compiled(simulation(flow, mu, mf.steppers.Rosenbrock, 1e-6))
    assert int(carry.status) == 0 and len(TIMES) + 1 == len(found)
    assert errors(np.asarray(found)[1:], tight(equation, np.asarray(mu.weights))) < 1e-6


@pytest.mark.slow
def test_energy_distances_agree():
    """The sorted value, the direct tensors and the long-double prefix sums of the error column."""
    from benchmarks.baselines import direct_energy, torch_varpro
    from benchmarks.cases.energy_distance import samples, sorted_difference

    mu, target = samples(50, "float64")
    value = float(mf.observables.EnergyDistance(target, mf.domains.Sphere(1))(mu))
    x, y = np.array(mu.points), np.array(target)
    assert abs(direct_energy.energy_distance(x, y) / value - 1) < 1e-12
    assert abs(sorted_difference(x, y, np.float64) / value - 1) < 1e-11
    if torch_varpro.torch is not None:
        a, b = map(torch_varpro.torch.from_numpy, (x, y))
        assert abs(torch_varpro.energy_distance(a, b) / value - 1) < 1e-12


def test_roofline_counts_what_it_does():
    """The operations are those of the name."""
    from benchmarks.baselines.roofline import Copy, Product, Triad

    product, copy, triad = Product(8, "float64"), Copy(10), Triad(10, block=4)
    for work in (product, copy, triad):
        work()
    np.testing.assert_allclose(product.out, product.a @ product.b, rtol=1e-14)
    assert product.operations == 1024 and copy.bytes == 160 and triad.bytes == 240
    assert np.all(copy.b == 1) and np.all(triad.c == 7)


# --- harness ----------------------------------------------------------------------------------------------


def test_contenders_take_turns():
    """Every contender is warmed up once, then called in turn."""
    from benchmarks.harness import Contender, race

    calls = []
    names = ("a", "b")
    found = race([Contender(name, lambda name=name: calls.append(name), 2) for name in names], repeats=4)
    assert calls == ["a", "b"] + ["a", "b", "b", "a"] * 2
    for seconds in found.values():
        assert seconds.repeats == 4 and seconds.compile >= 0
        assert 0 < seconds.least <= seconds.lower_quartile <= seconds.median
        assert seconds.median <= seconds.upper_quartile <= seconds.greatest


def test_statistics():
    """Per unit, the first call apart; nothing of nothing."""
    from benchmarks.harness import summary

    found = summary([2.0, 4.0, 6.0, 8.0, 10.0], first=16.0, units=2)
    assert (found.least, found.median, found.greatest, found.compile) == (1.0, 3.0, 5.0, 10.0)
    assert (found.lower_quartile, found.upper_quartile) == (2.0, 4.0)
    with pytest.raises(ValueError, match="repeats"):
        summary([], first=1.0)


def test_times_at_equal_error():
    """Log interpolation, never extrapolation; a cheaper point that is more accurate counts."""
    from benchmarks.harness import exponent, time_at

    assert time_at(1e-3, [1e-2, 1e-4], [1.0, 4.0]) == pytest.approx(2.0)
    assert time_at(1e-5, [1e-2, 1e-4], [1.0, 4.0]) is None
    assert time_at(1e-1, [1e-2, 1e-4], [1.0, 4.0]) == 1.0
    assert time_at(1e-3, [1e-2, 1e-4, 1e-5], [1.0, 4.0, 0.5]) == 0.5
    assert exponent([10, 100, 1000], [3.0, 300.0, 30000.0]) == pytest.approx(2.0)
    assert exponent([10], [1.0]) is None


def test_requirements_are_judged():
    """At least, at most, and not measured, in the text too."""
    from benchmarks.harness import Results
    from benchmarks.report import requirements

    results = Results()
    results.require("fast", 6.0, 5.0)
    results.require("small", 6.0, 5.0, least=False)
    results.require("unknown", None, 5.0)
    results.require("given up", None, 5.0, note="not finished", finished=False)
    assert [entry["met"] for entry in results.requirements] == [True, False, None, False]
    lines = requirements({"x": {"requirements": results.requirements}}).splitlines()[2:]
    assert [line.split()[-1] for line in lines] == ["yes", "NO", "measured", "NO"]


# --- the program ------------------------------------------------------------------------------------------


def call(*arguments):
    command = [sys.executable, str(RUN), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("arguments", [["--only", "circle"], ["--only", ","], ["--onyl", "diffusion"]])
def test_wrong_names_are_refused(arguments, tmp_path):
    """One line, exit status 2, and nothing is run."""
    done = call(*arguments, "--out", tmp_path / "out.json")
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
    if arguments == ["--only", "circle"]:
        assert "circle-float32" in done.stderr


def test_a_benchmark_writes_what_it_prints(tmp_path):
    """JSON with machine and versions, equal to what was measured."""
    out = tmp_path / "deep" / "found.json"
    done = call("--quick", "--only", "roofline", "--out", out)
    assert done.returncode == 0, done.stderr
    content = json.loads(out.read_text())
    machine, found = content["machine"], content["benchmarks"]["roofline"]
    assert (
        machine["cores"] >= 1
        and machine["memory_bytes"] > 0
        and machine["versions"]["jax"] == jax.__version__
    )
    assert content["quick"] and len(machine["load_average"]) == 3 and found["peak_bytes"] > 0
    assert [row["method"] for row in found["rows"]] == ["product float32", "product float64", "copy", "triad"]
    assert all(row["method"] in done.stdout for row in found["rows"])
    assert json.loads(json.dumps(content, allow_nan=False)) == content


@pytest.mark.slow
def test_every_benchmark_runs(tmp_path):
    """At tiny sizes; none fails, each finds something, and nothing is judged."""
    out = tmp_path / "found.json"
    command = [sys.executable, str(RUN), "--quick", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(out.read_text())["benchmarks"]
    from benchmarks.run import BENCHMARKS

    assert found.keys() == BENCHMARKS.keys()
    assert all(entry["rows"] and not entry["requirements"] for entry in found.values())
