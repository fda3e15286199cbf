"""Predicted rates: the spectrum of a flow linearized at a stationary measure."""

from collections.abc import Callable
from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import is_traced, known
from mfjax._numerics.compiled import compiled
from mfjax.flows.base import Flow, State
from mfjax.flows.fisher_rao import WassersteinFisherRao
from mfjax.flows.wasserstein import Wasserstein
from mfjax.measures import Grid, Measure, Particles, Tangent


class Spectrum(eqx.Module):
    """Decay rates of the modes of a linearized flow, slowest first.

    - `rates` (n,): minus the real parts of the eigenvalues, in inverse flow time; a perturbation in the
      direction of mode i decays like e^{-rates_i t}, its square (energy, chi^2, MMD^2) at twice the rate.
    - `frequencies` (n,): the imaginary parts, zero for a gradient flow.
    - `modes`: a `Tangent` with leading axis n, the real parts of the eigenvectors: displacements of
      points (n, K, d), of masses (n, K), of log masses of particles as its `growth`, of marks.
    - `speed`: the largest velocity left at the measure, 0 for an exactly stationary one.
    - `note`: what was linearized and in which coordinates.
    """

    rates: Float[Array, " n"]
    frequencies: Float[Array, " n"]
    modes: Tangent
    speed: Float[Array, ""]
    note: str = eqx.field(static=True)

    def gap(self, floor: ScalarLike | None = None) -> Float[Array, ""]:
        """The slowest rate above `floor` (1e-9, in float32 1e-5, of the fastest rate unless given).

        The rates below are those of directions that the energy does not see: symmetries, modes
        invisible to the features. It is infinite if there is no other.
        """
        if floor is None:
            relative = 1e-9 if self.rates.dtype == jnp.float64 else 1e-5
            floor = relative * jnp.max(jnp.abs(self.rates))
        return jnp.min(jnp.where(self.rates > floor, self.rates, jnp.inf))


def linearize(flow: Flow, mu_star: Measure, *, tolerance: float | None = 1e-3) -> Spectrum:
    """The rates and modes of a flow near a stationary measure.

    Rates r_i and modes h_i with A h_i = -r_i h_i, A the derivative of the flow at a stationary `mu_star`.

    A is the Jacobian of `flow.rate` by forward differentiation, so it is exact for the flow as
    declared: for particles in coordinates of the tangent space at each point (and of the marks, and of
    log masses that grow), for a grid in the masses of the cells, restricted to perturbations of mass zero
    unless masses grow. Near a uniform teacher
    with isotropic data of kernel kappa = sum_k c_k e^{iks} on S^1 the mode k has the rate

    - k^2 c_k / (c_k + lam) for the reduced risk with f = (t - 1)^2 / 2, times (c_0 / (c_0 + lam))^2 with
      f = t^2 / 2: between ultra-fast diffusion (k^2) at small and the MMD flow (k^2 c_k / lam) at large lam;
    - k^2 c_k for `MMD(kappa, target)`, the half squared discrepancy, and (alpha k^2 + beta) c_k by
      `WassersteinFisherRao`; M particles have 2 M coordinates there, and a rate 0 for
      each beyond the modes that the kernel sees.

    Near any teacher, ultra-fast diffusion `PowerDivergence(target, order, scale)` has order * scale times
    the eigenvalues of h -> -div(target grad h) / target, the least of which is the spectral gap.

    A flow that sees batches of data is linearized with all of them, a scheduled one as it is at t = 0.

    Particles without mass follow the others and move none: the rates are those without them and, for each,
    those of -Hess V at its place (its block of the matrix; the modes of the others leave it where it is).

    Evenly spaced particles have exactly these rates for |k| < M / 2 if kappa has no mode beyond M / 2; other
    modes alias, k with k + M. A grid of n cells has k replaced by sin(pi k / n) n / pi, and other flows on
    grids have their rates to second order in the cells as well: rate j, j a, of the Ornstein-Uhlenbeck flow
    of stiffness a at temperature T is low by (j + 1) a h^2 / (12 T), relatively.

    - `tolerance`: `mu_star` is refused if its largest velocity exceeds this many (in units of the
      domain; for a grid, of the mean cell mass) times the fastest rate; `None` accepts anything.

    **Raises** `ValueError` for a measure that is not stationary, and for a flow with noise on particles
    (it has no stationary particles: use a `Grid`) or whose state holds fields beside the measure.

    Rates may be differentiated where they are simple; modes are then held.

    **Fails** to mean anything where the flow has a kink: particles at a face of a box, or inputs exactly on
    the kink of a feature. Dense: n^2 memory and n^3 work; n up to about 1000.

    Source: the flow (27) of the VarPro paper expanded at its minimizer; its Theorem 4.3 states lam = 0.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> flow = mf.flows.Wasserstein(mf.energies.Potential(lambda x: 1.5 * x[0] ** 2), mf.domains.Euclidean(1))
    >>> [round(float(r), 6) for r in linearize(flow, mf.measures.Particles(jnp.zeros((2, 1)))).rates]
    [3.0, 3.0]
    """
    state = flow.init(mu_star)
    mu = state.measure
    if state.fields:
        raise ValueError(
            f"the state of {type(flow).__name__} also holds {', '.join(state.fields)}, "
            "which are not at rest with the measure: linearize "
            + ("the flow of one time, flow.at()" if flow.timed else "a flow of the measure alone")
            + (", such as its density on a Grid" if isinstance(mu, Particles) else "")
        )
    if isinstance(mu, Particles) and flow.stochastic:
        raise ValueError(
            "a flow with noise (temperature > 0) has no stationary particles: linearize it on a Grid"
        )
    # A gradient flow of points is symmetric in the mass-weighted product.
    symmetric = isinstance(flow, Wasserstein) and isinstance(mu, Particles)
    rates, frequencies, modes, speed = _decompose(flow, state, symmetric)
    _check_stationary(speed, rates, tolerance)
    if isinstance(flow, WassersteinFisherRao):
        what = "cell masses" if isinstance(mu, Grid) else "particles, tangent coordinates and log masses"
    else:
        what = "cell masses, total mass fixed" if isinstance(mu, Grid) else "particles, tangent coordinates"
    energies = [] if flow.energy is None else [type(term).__name__ for _, term in flow.energy.parts()]
    of = f" of {' + '.join(energies)}" if energies else ""
    note = f"{type(flow).__name__} flow{of} at {mu.size} {what}"
    return Spectrum(rates, frequencies, modes, speed, note)


@compiled
def _decompose(flow: Flow, state: State, symmetric: bool):
    mu = state.measure
    on_grid = isinstance(mu, Grid)
    size, rate, embed = (_grid_chart if on_grid else _particle_chart)(flow, state)
    zero = jnp.zeros((size,), mu.dtype)
    at_rest, jacobian = rate(zero), jax.jacfwd(rate)(zero)
    if symmetric:
        each = size // mu.size
        real = jnp.repeat(mu.weights > 0, each)
        root = jnp.sqrt(jnp.where(real, jnp.repeat(mu.weights, each), 1))
        # A particle without mass follows the others and moves none: the matrix is triangular, and its
        # eigenvalues are those of the particles with mass and of each one without.
        own = jnp.repeat(jnp.arange(mu.size), each)
        kept = (real[:, None] & real) | (own[:, None] == own)
        values, vectors = jnp.linalg.eigh(_symmetric(jnp.where(kept, root[:, None] * jacobian / root, 0)))
        rates, frequencies, vectors = -values, jnp.zeros_like(values), vectors / root[:, None]
    else:
        values, vectors = _eigen(jacobian)
        rates, frequencies, vectors = -values.real, values.imag, vectors.real
    order = jnp.argsort(rates)
    if on_grid:
        speed = jnp.max(jnp.abs(at_rest)) * mu.size / mu.mass
    else:
        # Where a particle without mass is, and how fast, is no property of the measure.
        moved = flow.domain.tangent_dim * mu.size
        still = jnp.repeat(mu.weights == 0, flow.domain.tangent_dim)
        at_rest = at_rest.at[:moved].set(jnp.where(still, 0, at_rest[:moved]))
        speed = jnp.max(jnp.abs(at_rest))
    return rates[order], frequencies[order], jax.vmap(embed)(vectors.T[order]), speed


@jax.custom_jvp
def _eigen(matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors; the derivatives of simple eigenvalues are known, vectors are held."""
    values, vectors = jnp.linalg.eig(matrix)
    return values, vectors


@_eigen.defjvp
def _eigen_rule(primals, tangents):
    values, vectors = _eigen(*primals)
    change = jnp.linalg.solve(vectors, tangents[0].astype(vectors.dtype) @ vectors)
    return (values, vectors), (jnp.diagonal(change), jnp.zeros_like(vectors))


def _symmetric(matrix: Array) -> Array:
    return 0.5 * (matrix + matrix.T)


def _check_stationary(speed: Array, rates: Array, tolerance: float | None) -> None:
    if tolerance is None or is_traced((speed, rates)):
        return
    fastest = float(jnp.max(jnp.abs(rates)))
    # Written so that a NaN is refused too.
    if not float(speed) <= tolerance * max(fastest, 1e-30):
        raise ValueError(
            f"mu_star is not stationary: its largest velocity is {float(speed):.1e} and the fastest rate "
            f"{fastest:.1e}; run the flow to its end first, or pass tolerance=None"
        )


def _grid_chart(flow: Flow, state: State) -> tuple[int, Callable, Callable]:
    """(dimension, rate, embedding) in the masses; unless they grow, of changes of sum zero, and the marks."""
    mu = cast(Grid, state.measure)
    n = mu.size

    def mass_rate(weights):
        tangent = flow.rate(State(mu.with_weights(weights), state.carry))
        return tangent.weights if tangent.growth is None else tangent.weights + tangent.growth * weights

    if flow.rate(state).growth is not None:
        return n, lambda change: mass_rate(mu.weights + change), lambda change: Tangent(weights=change)

    # The reflection that exchanges the constant unit vector and the first axis: its other columns are
    # orthonormal and sum to zero.
    mirror = jnp.full((n,), n**-0.5, mu.dtype).at[0].add(-1)
    scale = 2 / jnp.sum(mirror**2)
    reflect = lambda vector: vector - scale * jnp.sum(mirror * vector) * mirror

    shapes = {name: mu.marks[name].shape for name in flow.rate(state).marks or {}}

    def embed(coordinates):
        masses, begin, marks = coordinates[: n - 1], n - 1, {}
        for name, shape in shapes.items():
            size = mu.marks[name].size
            marks[name] = coordinates[begin : begin + size].reshape(shape)
            begin += size
        weights = reflect(jnp.concatenate([jnp.zeros((1,), mu.dtype), masses]))
        return Tangent(weights=weights, marks=marks or None)

    def rate(coordinates):
        moved = mu.move(flow.domain, embed(coordinates), 1)
        tangent = flow.rate(State(moved, state.carry))
        marks = tangent.marks or {}
        return jnp.concatenate([reflect(tangent.weights)[1:], *(marks[name].ravel() for name in shapes)])

    return n - 1 + sum(mu.marks[name].size for name in shapes), rate, embed


def _particle_chart(flow: Flow, state: State) -> tuple[int, Callable, Callable]:
    """(dimension, rate, embedding) in bases of the tangent spaces, log masses that grow, the marks."""
    mu, domain = state.measure, flow.domain
    basis = jax.vmap(domain.tangent_basis)(mu.points)
    at_rest = flow.rate(state)
    moving = [name for name, value in (at_rest.marks or {}).items() if value is not None]
    k, growing = mu.size * domain.tangent_dim, 0 if at_rest.growth is None else mu.size

    def embed(coordinates):
        points = jnp.einsum("kda,ka->kd", basis, coordinates[:k].reshape(mu.size, domain.tangent_dim))
        growth = coordinates[k : k + growing] if growing else None
        marks, begin = {}, k + growing
        for name in moving:
            value = mu.marks[name]
            marks[name] = coordinates[begin : begin + value.size].reshape(value.shape)
            begin += value.size
        return Tangent(points=points, growth=growth, marks=marks)

    def rate(coordinates):
        shift = embed(coordinates)
        points = jax.vmap(domain.retract)(mu.points, known(shift.points))
        marks = {name: value + known(shift.marks).get(name, 0) for name, value in mu.marks.items()}
        weights = mu.weights * jnp.exp(known(shift.growth)) if growing else mu.weights
        moved = eqx.tree_at(lambda m: (m.points, m.weights, m.marks), mu, (points, weights, marks))
        tangent = flow.rate(State(moved, state.carry))
        # Projected at the moved points: a flow that keeps the radial part would otherwise add it here.
        velocity = jax.vmap(domain.project)(points, known(tangent.points))
        parts = [jnp.einsum("kda,kd->ka", basis, velocity).ravel()]
        if growing:
            # A particle without mass has no mass to grow.
            parts.append(jnp.where(mu.weights > 0, known(tangent.growth), 0))
        rates = tangent.marks or {}
        return jnp.concatenate(parts + [rates[name].ravel() for name in moving])

    return k + growing + sum(mu.marks[name].size for name in moving), rate, embed
