"""Generic checks for energies, feature maps, domains, flows and steppers, one's own included.

Each check raises `AssertionError` with the numbers that disagree, and returns those it measured. The
tests of the library run the same checks on everything it offers. They run in the precision of the measure
they are given; bars are relative to the largest entry.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key

from mfjax._arrays import safe_norm
from mfjax.domains import Domain
from mfjax.energies import Energy, InternalEnergy
from mfjax.features import FeatureMap
from mfjax.flows import Flow
from mfjax.measures import Grid, Measure, Particles
from mfjax.steppers import Stepper

# Largest relative errors: of two ways to compute one number, and of a central difference.
ROUNDING = {"float32": 5e-3, "float64": 1e-8}
DIFFERENCE = {"float32": 3e-2, "float64": 1e-6}


def _bar(table: Mapping[str, float], dtype: Any, given: float | None) -> float:
    return table[jnp.dtype(dtype).name] if given is None else given


def _error(actual: Any, expected: Any) -> float:
    """Largest difference of two trees, relative to the largest entry of each array."""
    chex.assert_trees_all_equal_shapes(actual, expected)
    worst = 0.0
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        scale = max(np.max(np.abs(b), initial=0), 1e-12)
        gap = np.max(np.abs(a - b), initial=0) / scale
        worst = np.inf if np.isnan(gap) else max(worst, float(gap))
    return worst


class _Errors(dict):
    """Measured errors by name; `require` fails with the name, the number and its bar."""

    def require(self, name: str, error: float, bar: float) -> None:
        self[name] = error
        assert error <= bar, f"{name}: relative error {error:.2e}, above {bar:.0e}"

    def same(self, name: str, actual: Any, expected: Any, bar: float) -> None:
        self.require(name, _error(actual, expected), bar)


def _with(mu: Measure, points=None, weights=None) -> Measure:
    new = (mu.points if points is None else points, mu.weights if weights is None else weights)
    return eqx.tree_at(lambda nu: (nu.points, nu.weights), mu, new)


def _take(mu: Particles, index: Array, weights: Array) -> Particles:
    """The particles at `index`, with other masses."""
    return _with(jax.tree.map(lambda leaf: leaf[index], mu), weights=weights)


class _Counted:
    """`function` compiled, with the number of its traces."""

    def __init__(self, function: Callable):
        self.traces = 0

        def counted(*arguments):
            self.traces += 1
            return function(*arguments)

        self.compiled = eqx.filter_jit(counted)

    def __call__(self, *arguments):
        return self.compiled(*arguments)


def check_traces(function: Callable, calls: Sequence[tuple], *, most: int = 1) -> int:
    """The number of times `function` is traced over `calls`, tuples of arguments. **Raises** if above `most`.

    >>> check_traces(lambda x, y: x + y, [(jnp.array(1.0), jnp.array(k)) for k in (1.0, 2.0, 3.0)])
    1
    """
    counted = _Counted(function)
    for arguments in calls:
        counted(*arguments)
    assert counted.traces <= most, f"{counted.traces} traces over {len(calls)} calls, expected at most {most}"
    return counted.traces


def _values(energy: Energy, mu: Measure) -> dict[str, Array]:
    solution = energy.solve(mu, energy.init(mu))
    values = {"value": solution.value, "first variation": energy.first_variation(mu, solution)}
    if not any(isinstance(term, InternalEnergy) and isinstance(mu, Grid) for _, term in energy.parts()):
        values["gradient field"] = energy.gradient_field(mu, solution)
    if solution.outer_weights is not None:
        values["outer weights"] = solution.outer_weights
    return values


def _slopes(energy: Energy, mu: Measure) -> tuple[Array, Array]:
    value_at = lambda points, weights: energy.solve(_with(mu, points, weights), energy.init(mu)).value
    return jax.grad(value_at, argnums=(0, 1))(mu.points, mu.weights)


def check_energy(
    energy: Energy,
    mu: Measure,
    *,
    variants: Sequence[Energy] = (),
    key: Key[Array, ""] | None = None,
    rtol: float | None = None,
) -> dict[str, float]:
    """The promises of an energy F with potential V, at one measure of positive masses.

    dF/dw_i = V(x_i) up to one constant and dF/dx_i = w_i grad V(x_i), against `jax.grad` and against
    central differences along a random direction; F does not see the order of particles, the splitting
    of one into two of half its mass, nor a particle of mass zero; dtype in is dtype out; jit = eager;
    vmap = loop. Internal energies on a `Grid` have the first identity only.

    - `variants`: the same energy with other parameters, which must share its compiled program.

    >>> import mfjax as mf
    >>> mu = Particles(jnp.array([[0.0], [2.0]]))
    >>> errors = check_energy(mf.energies.Potential(lambda x: jnp.sum(jnp.cos(x))), mu)
    >>> sorted(errors)[:2]
    ['dF/dw, autodiff', 'dF/dw, difference']
    """
    key = jr.key(0) if key is None else key
    bar, rough = _bar(ROUNDING, mu.dtype, rtol), _bar(DIFFERENCE, mu.dtype, rtol)
    errors = _Errors()
    # One program evaluates every measure below: batched, compiled and padded, against single eager values.
    compiled = _Counted(jax.vmap(lambda energy, mu: (_values(energy, mu), _slopes(energy, mu)), (None, 0)))
    eager, plain = _values(energy, mu), mu
    for name, array in eager.items():
        assert array.dtype == mu.dtype, f"{name} has dtype {array.dtype} on a measure of dtype {mu.dtype}"
    if isinstance(mu, Particles):
        # Off the support: at the first point itself a formula that skips coincidences would pass.
        mu = _padded(mu, 0.5 * (mu.points[0] + mu.points[-1]) + 0.1)

    step = float(jnp.finfo(mu.dtype).eps) ** (1 / 3)
    at_weights, at_points = jr.split(key)
    noise = jr.normal(at_weights, mu.weights.shape, mu.dtype)
    exchange = mu.weights * (noise - mu.integrate(noise) / mu.mass)
    motion = jr.normal(at_points, mu.points.shape, mu.dtype)
    measures = {"base": mu, "scaled": _with(mu, weights=1.2 * mu.weights)}
    measures |= {s: _with(mu, weights=mu.weights + s * step * exchange) for s in (1, -1)}
    measures |= {2 * s: _with(mu, mu.points + s * step * motion) for s in (1, -1)}
    if isinstance(mu, Particles):
        measures |= _relabelled(mu)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *measures.values())
    values, slopes = compiled(energy, stacked)
    chex.assert_tree_all_finite((values, slopes))
    at = lambda name: jax.tree.map(lambda v: v[list(measures).index(name)], values)
    base, slopes = at("base"), jax.tree.map(lambda v: v[0], slopes)
    difference = lambda name: (at(name)["value"] - at(-name)["value"]) / (2 * step)

    errors.same("jit, vmap and padding", _follow(base, slice(plain.size)), eager, bar)
    scaled = _values(energy, _with(plain, weights=1.2 * plain.weights))
    errors.same("vmap and loop", _follow(at("scaled"), slice(plain.size)), scaled, bar)
    variation = base["first variation"]
    centred = lambda v: jnp.where(mu.weights > 0, v - mu.integrate(v) / mu.mass, 0)
    # Relative to V, not to its deviation from the constant, which may be nil.
    gap = jnp.max(jnp.abs(centred(slopes[1]) - centred(variation)))
    errors.require("dF/dw, autodiff", float(gap / jnp.maximum(jnp.max(jnp.abs(variation)), 1e-12)), bar)
    scale = jnp.maximum(jnp.abs(exchange) @ jnp.abs(variation), 1e-12)
    gap = jnp.abs(difference(1) - exchange @ variation)
    errors.require("dF/dw, difference", float(gap / scale), rough)
    if "gradient field" in base:
        forces = mu.weights[:, None] * base["gradient field"]
        errors.same("dF/dx, autodiff", slopes[0], forces, bar)
        scale = jnp.maximum(jnp.sum(jnp.abs(motion * forces)), 1e-12)
        gap = jnp.abs(difference(2) - jnp.sum(motion * forces))
        errors.require("dF/dx, difference", float(gap / scale), rough)
    if isinstance(mu, Particles):
        _check_relabelled(errors, at, mu.size, bar)
    for variant in variants:
        compiled(variant, stacked)
    assert compiled.traces == 1, f"{1 + len(variants)} parameter values took {compiled.traces} traces"
    return errors


def _padded(mu: Particles, elsewhere: Array) -> Particles:
    """`mu` and one particle of zero mass at `elsewhere`."""
    index = jnp.append(jnp.arange(mu.size), 0)
    mu = _take(mu, index, mu.weights[index].at[-1].set(0.0))
    return _with(mu, points=mu.points.at[-1].set(elsewhere))


def _follow(values: Any, index: Any) -> Any:
    """Arrays of a leading axis M at `index`; single numbers as they are."""
    return jax.tree.map(lambda v: v if v.ndim == 0 else v[index], values)


def _relabelled(mu: Particles) -> dict[str, Particles]:
    """`mu`, which ends with a particle of zero mass, in another order, and with its first particle split."""
    order = jr.permutation(jr.key(1), mu.size)
    index = jnp.arange(mu.size).at[-1].set(0)
    halved = mu.weights[index].at[jnp.array([0, mu.size - 1])].multiply(0.5)
    return {"permuted": _take(mu, order, mu.weights[order]), "split": _take(mu, index, halved)}


def _check_relabelled(errors: _Errors, at: Callable[[str], Any], size: int, bar: float) -> None:
    """Arrays of the measures of `_relabelled` follow the particles of the base measure."""
    order = jr.permutation(jr.key(1), size)
    errors.same("permutation", at("permuted"), _follow(at("base"), order), bar)
    index = jnp.arange(size).at[-1].set(0)
    errors.same("splitting", at("split"), _follow(at("base"), index), bar)


def check_feature_map(
    features: FeatureMap,
    points: Float[Array, "M d"],
    inputs: Float[Array, "N k"],
    *,
    variants: Sequence[FeatureMap] = (),
) -> dict[str, float]:
    """A feature map: one number per pair, `matrix` = loop, derivative = central difference, dtype kept.

    Where a particle can coincide with an input (equal lengths) the derivative there must be finite.

    >>> import mfjax as mf
    >>> errors = check_feature_map(mf.features.ReLU(), jnp.ones((2, 2)), jnp.ones((3, 2)))
    """
    errors = _Errors()
    bar, rough = _bar(ROUNDING, points.dtype, None), _bar(DIFFERENCE, points.dtype, None)
    one = features(points[0], inputs[0])
    assert one.shape == (), f"a feature must be one number, got shape {one.shape}"
    assert one.dtype == points.dtype, f"dtype {one.dtype} from points of dtype {points.dtype}"
    matrix = eqx.filter_jit(lambda f: f.matrix(points, inputs))(features)
    loop = jnp.stack([jnp.stack([features(w, x) for w in points]) for x in inputs])
    errors.same("matrix and loop", matrix, loop, bar)

    step = float(jnp.finfo(points.dtype).eps) ** (1 / 3)
    along = jr.normal(jr.key(0), points.shape, points.dtype)
    _, slope = jax.jvp(lambda w: features.matrix(w, inputs), (points,), (along,))
    chex.assert_tree_all_finite(slope)
    ahead, behind = (features.matrix(points + s * along, inputs) for s in (step, -step))
    errors.same("derivative", slope, (ahead - behind) / (2 * step), rough)
    if points.shape[1] == inputs.shape[1]:
        chex.assert_tree_all_finite(jax.grad(features)(inputs[0], inputs[0]))
    check_traces(lambda f: f.matrix(points, inputs), [(f,) for f in (features, *variants)])
    return errors


def check_domain(
    domain: Domain, *, cells: int | None = None, volume: float | None = None, dtype: Any = None
) -> dict[str, float]:
    """A domain: samples inside and independent of their number, motion inside and first-order consistent.

    retract(x, 0) = x; `project` is linear, idempotent and self-adjoint; displacement(retract(x, h v), x)
    = h v + O(h^2) for admissible v; derivatives are finite at coincident points. With `cells` per axis, the
    centres lie inside and their volumes add up to `volume`.

    >>> import mfjax as mf
    >>> errors = check_domain(mf.domains.Torus(1), cells=8, volume=1.0)
    """
    dtype = jnp.result_type(float) if dtype is None else jnp.dtype(dtype)
    bar, errors = _bar(ROUNDING, dtype, None), _Errors()
    points = domain.sample(jr.key(0), 64, dtype)
    assert points.shape == (64, domain.ambient) and points.dtype == dtype, (points.shape, points.dtype)
    assert bool(jnp.all(domain.sample(jr.key(0), 5, dtype) == points[:5])), "a sample depends on its size"
    inside = lambda x: bool(jnp.all(jax.vmap(domain.contains)(x)))
    assert inside(points), "a sample lies outside the domain"

    a, b = jr.normal(jr.key(1), (2, *points.shape), dtype)
    project, retract = jax.vmap(domain.project), jax.vmap(domain.retract)
    errors.same("retract by nothing", retract(points, 0 * a), points, bar)
    errors.same("project twice", project(points, project(points, a)), project(points, a), bar)
    product = lambda u, v: jnp.sum(u * v, axis=-1)
    errors.same("self-adjoint", product(project(points, a), b), product(a, project(points, b)), bar)
    for size in (1e-3, 1.0, 10.0):
        for name in ("retract", "diffuse"):
            moved = jax.vmap(getattr(domain, name))(points, size * project(points, a))
            assert inside(moved), f"{name} by displacements of size {size:g} leaves the domain"
            assert moved.dtype == dtype, f"{name} returns {moved.dtype} from {dtype}"

    tangent = project(points, jax.vmap(domain.velocity)(points, a))
    step = float(jnp.finfo(dtype).eps) ** 0.5

    def speed(x, v):
        return domain.displacement(domain.retract(x, step * v), x) / step

    # Rounding and curvature both enter at the square root of the machine precision.
    far = jax.vmap(domain.contains)(points + 2 * step * a) | (domain.ambient != domain.dim)
    measured = jnp.where(far[:, None], jax.vmap(speed)(points, tangent), tangent)
    errors.same("first order", measured, tangent, 40 * step)
    errors.same("back", retract(points, jax.vmap(domain.displacement)(points[::-1], points)), points[::-1], bar)

    distance = lambda x, y: safe_norm(domain.embed(x) - domain.embed(y))
    chex.assert_tree_all_finite(jax.vmap(jax.grad(distance))(points, points))
    chex.assert_tree_all_finite(jax.vmap(jax.jacobian(domain.retract, argnums=(0, 1)))(points, 0 * a))
    if cells is not None:
        grid = domain.cells(cells)
        assert inside(grid.points), "a cell centre lies outside the domain"
        assert len(grid.points) == np.prod(grid.shape), (grid.points.shape, grid.shape)
        if volume is not None:
            total = float(jnp.prod(grid.spacing)) * len(grid.points)
            errors.require("volume", abs(total / volume - 1), 1e-5)
    return errors


def check_flow(flow: Flow, mu: Measure, *, rtol: float | None = None) -> dict[str, float]:
    """A flow: its energy falls at the recorded rate, and labels and padding change nothing; jit = eager.

    (F(state moved by h) - F(state moved by -h)) / 2h = -dissipation, a central difference along the rate.
    On a grid both are discretisations: state `rtol`.

    >>> import mfjax as mf
    >>> energy = mf.energies.Potential(lambda x: jnp.sum(x**2))
    >>> flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(1))
    >>> errors = check_flow(flow, Particles(jnp.array([[1.0], [2.0]])))
    """
    errors = _Errors()
    bar, rough = _bar(ROUNDING, mu.dtype, None), _bar(DIFFERENCE, mu.dtype, rtol)
    recorded = lambda e: {"energy": e.energy, "dissipation": e.dissipation, "rate": e.tangent}
    compiled = eqx.filter_jit(lambda flow, state: recorded(flow.evaluate(state)))
    evaluate = lambda nu: compiled(flow, flow.init(nu))
    plain = flow.init(mu).measure
    if isinstance(mu, Particles):
        mu = _padded(plain, flow.domain.sample(jr.key(0), 1, mu.dtype)[0])
    state = flow.init(mu)
    now = compiled(flow, state)
    for leaf in jax.tree.leaves(now):
        assert leaf.dtype == mu.dtype, f"a rate of dtype {leaf.dtype} on a measure of dtype {mu.dtype}"
    chex.assert_tree_all_finite(now)
    eager = recorded(flow.evaluate(flow.init(plain)))
    errors.same("jit and padding", _follow(now, slice(plain.size)), eager, bar)

    speeds = [float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(now["rate"])]
    step = float(jnp.finfo(mu.dtype).eps) ** (1 / 3) / max(1.0, *speeds)
    ahead, behind = (compiled(flow, flow.move(state, now["rate"], s))["energy"] for s in (step, -step))
    slope, dissipation = float((ahead - behind) / (2 * step)), float(now["dissipation"])
    assert dissipation >= 0, f"dissipation {dissipation:.2e}"
    scale = max(dissipation, 1e-6 * abs(float(now["energy"])), 1e-12)
    errors.require("dissipation", abs(slope + dissipation) / scale, rough)
    if isinstance(mu, Particles):
        measures = {"base": mu, **_relabelled(mu)}
        _check_relabelled(errors, lambda name: evaluate(measures[name]), mu.size, bar)
    return errors


def check_stepper_order(
    make: Callable[[float], Stepper],
    flow: Flow,
    mu: Measure,
    *,
    t1: float = 1.0,
    steps: Sequence[int] = (8, 16, 32),
    exact: Measure | None = None,
    order: float | None = None,
    bar: float = 0.2,
    key: Key[Array, ""] | None = None,
) -> float:
    """The observed order in time of the fixed stepper `make(dt)`, within `bar` of its declared `order`.

    The slope of log error against log dt at `t1` over runs of so many `steps`, against `exact` or, without
    it, a run of the same scheme with eight times the most steps. Use double precision.

    >>> import mfjax as mf
    >>> energy = mf.energies.Potential(lambda x: jnp.sum(x**2))
    >>> flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(1))
    >>> mu = Particles(jnp.array([[1.0]]))
    >>> round(check_stepper_order(mf.steppers.Euler, flow, mu))
    1
    """
    from mfjax.simulate import Simulation, trajectory

    run = eqx.filter_jit(lambda sim: trajectory(sim)[0])

    def end(n):
        carry = run(Simulation(flow, mu, stepper=make(t1 / n), t1=t1, key=key))
        assert int(carry.status) == 0, f"the run of {n} steps ended with status {int(carry.status)}"
        assert int(carry.steps) == n, f"{int(carry.steps)} steps instead of {n}"
        return carry.state.measure

    exact = end(8 * max(steps)) if exact is None else exact
    errors = [_gap(flow.domain, end(n), exact) for n in steps]
    observed = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    expected = make(t1).order if order is None else order
    numbers = ", ".join(f"{n} steps: {e:.2e}" for n, e in zip(steps, errors, strict=True))
    assert abs(observed - expected) <= bar, f"order {observed:.2f} instead of {expected} ({numbers})"
    return float(observed)


def _gap(domain: Domain, a: Measure, b: Measure) -> float:
    """Root mean square distance of two measures, over points, masses and marks."""
    gaps = [jax.vmap(domain.displacement)(a.points, b.points), (a.weights - b.weights) * a.size]
    gaps += [a.marks[name] - b.marks[name] for name in getattr(a, "marks", {}) if name in b.marks]
    return float(np.sqrt(sum(np.mean(np.asarray(g, np.float64) ** 2) for g in gaps)))
