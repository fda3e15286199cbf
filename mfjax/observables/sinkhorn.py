"""The Sinkhorn divergence: an approximate squared Wasserstein distance inside compiled programs."""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int, ScalarLike

from mfjax._numerics.arrays import count, frozen, inner, scalar
from mfjax.domains import Domain
from mfjax.flows.base import Flow
from mfjax.measures import Measure
from mfjax.observables.base import Observable, as_measure, check_dimension
from mfjax.observables.transport import check_connected, check_lengths, distances

# Iterations of conjugate gradients in a Newton step, and the shares of it that are tried.
CONJUGATE, SHARES = 100, (0.0, 2.0**-6, 2.0**-4, 2.0**-2, 1.0)
# Total variation of the first marginal below which the square of the blur falls by half.
NEAR = 1e-2


class SinkhornDivergence(Observable):
    """An approximation of the squared 2-Wasserstein distance, blurred by entropy.

    S = W_b(mu, nu) - W_b(mu, mu) / 2 - W_b(nu, nu) / 2, which tends to W_2(mu, nu)^2 as b -> 0, where

        W_b(mu, nu) = min over couplings pi of int d^2 dpi + 2 b^2 KL(pi | mu x nu).

    d is `domain.distance`, as for `WassersteinDistance`, and b the `blur`, a length, below which
    differences are not resolved: as b grows S tends to the squared distance of the means. In flat space S
    >= 0, and zero at the target alone. Clouds are told from densities where b is below the distance of
    neighbors.

    - `target`, `domain`, `cells`: as for `WassersteinDistance`. Both measures are scaled to mass one.
    - `blur` > 0, a leaf. `rtol`: the total variation by which a marginal of a coupling may be off, 1e-9
      unless given, in float32 1e-4. Until then its potentials are improved, in the domain of logarithms and
      for a blur that falls by steps: by Sinkhorn and Newton steps in turn, for the coupling of a measure with
      itself by means of two Sinkhorn steps.

    **Fails**: NaN where `max_iterations` do not meet `rtol`, as happens to clouds whose neighbors are further
    apart than the blur: take a larger one, or `rtol` = 1e-2.

    Memory M K; 20 to 30 iterations where the blur is as wide as the distance of neighbors, each of some ten
    sums over all pairs and up to a hundred products with a matrix. Derivatives are those of the equation
    that the coupling solves, to second order. **Good values** blur: from the distance of neighbors to a
    tenth of the diameter.

    **Raises** `ValueError` for blur <= 0, and as `WassersteinDistance` does.

    Source: J. Feydy, T. Sejourne, F.-X. Vialard, S. Amari, A. Trouve, G. Peyre, AISTATS 2019.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> mu = mf.measures.Particles(jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    >>> round(float(SinkhornDivergence(mu.points + jnp.array([0.3, 0.4]), blur=0.05)(mu)), 4)
    0.25
    """

    target: Measure
    domain: Domain | None
    blur: Float[Array, ""]
    rtol: Float[Array, ""] | None
    # W_b(nu, nu) of the target, in its own precision.
    own: Float[Array, ""]
    max_iterations: int = eqx.field(static=True)

    def __init__(
        self,
        target: Any,
        blur: ScalarLike,
        domain: Domain | None = None,
        *,
        cells: int | None = None,
        rtol: ScalarLike | None = None,
        max_iterations: int = 200,
    ):
        check_connected(domain)
        self.target, self.domain = as_measure(target, domain, cells), domain
        self.blur = scalar(blur, "blur", above=0)
        self.rtol = None if rtol is None else scalar(rtol, "rtol", above=0)
        self.max_iterations = count(max_iterations, "max_iterations")
        self.own = self._cost(self.target, self.target, True, self.target.dtype)

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, ""]:
        check_dimension(mu, self.target.points.shape[-1])
        check_lengths(flow, self.domain)
        target, dtype = self.target, mu.dtype
        own = self.own if self.own.dtype == dtype else self._cost(target, target, True, dtype)
        return self._cost(mu, target, False, dtype) - 0.5 * (self._cost(mu, mu, True, dtype) + own)

    def _cost(self, mu: Measure, nu: Measure, mirrored: bool, dtype: Any) -> Float[Array, ""]:
        """W_b(mu, nu) in a precision; `mirrored` where the two are one."""
        tolerance = (1e-9 if dtype == jnp.float64 else 1e-4) if self.rtol is None else self.rtol
        a, b = (measure.weights.astype(dtype) for measure in (mu, nu))
        problem = _Entropic(
            distances(self.domain, mu.points.astype(dtype), nu.points.astype(dtype)) ** 2,
            a / jnp.sum(a),
            b / jnp.sum(b),
            2 * self.blur.astype(dtype) ** 2,
        )
        return _value(mirrored, self.max_iterations, problem, jnp.asarray(tolerance, dtype))


class _Entropic(NamedTuple):
    """The dual of an entropic coupling pi = a b e^{(f + g - cost) / strength} of masses a (M,) and b (K,)."""

    cost: Float[Array, "M K"]
    a: Float[Array, " M"]
    b: Float[Array, " K"]
    strength: Float[Array, ""]

    def other(self, f: Float[Array, " M"]) -> Float[Array, " K"]:
        """The potential g that gives the second marginal for a first potential f."""
        return -self.strength * logsumexp((f[:, None] - self.cost) / self.strength, b=self.a[:, None], axis=0)

    def potential(self, f: Float[Array, " M"]) -> Float[Array, " M"]:
        """The next f of Sinkhorn's iteration; at the solution it stays."""
        g = self.other(f)
        return -self.strength * logsumexp((g - self.cost) / self.strength, b=self.b, axis=1)

    def dual(self, f: Float[Array, " M"]) -> Float[Array, ""]:
        """What f maximizes; the cost at its maximum."""
        return inner(self.a, f) + inner(self.b, self.other(f))

    def newton(self, f: Float[Array, " M"], lack: Float[Array, " M"]) -> Float[Array, " M"]:
        """df of (1 - P) df = lack, P stochastic and self-adjoint in L^2(a); its constants are taken out."""
        root = jnp.sqrt(self.a)
        there = root > 0
        # The coupling over the roots of both masses.
        exponent = (f[:, None] + self.other(f) - self.cost) / self.strength
        half = root[:, None] * jnp.exp(exponent) * jnp.sqrt(self.b)
        matrix = lambda z: z - inner(half, inner(half.T, z)) + root * inner(root, z)
        tolerance = 1e-10 if f.dtype == jnp.float64 else 1e-5
        z, _ = cg(matrix, root * lack, tol=tolerance, maxiter=CONJUGATE)
        df = jnp.where(there, z / jnp.where(there, root, 1), 0)
        # Points without mass follow the others.
        share = inner(jnp.exp(exponent) * self.b, inner(half.T, z))
        return jnp.where(there, df, lack + share)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _maximum(mirrored: bool, most: int, problem: _Entropic, tolerance: Array) -> Float[Array, ""]:
    """The maximum of the dual, whose derivative is that at a fixed maximizer."""
    return problem.dual(_maximizer(mirrored, most, problem, tolerance))


@_maximum.defjvp
def _maximum_rule(mirrored, most, primals, tangents):
    f = _maximizer(mirrored, most, *primals)
    return jax.jvp(lambda problem: problem.dual(f), primals[:1], tangents[:1])


# Compiled once for all calls outside of compiled programs.
_value = jax.jit(_maximum, static_argnums=(0, 1))


def _maximizer(mirrored: bool, most: int, problem: _Entropic, tolerance: Array) -> Float[Array, " M"]:
    """The potential f that does not change, with the derivative of this equation."""
    still = frozen(problem)
    f = _maximize(still, mirrored, frozen(tolerance), most)
    lack = problem.potential(f) - f
    # Zero, with a derivative. The system is held: its change appears in third derivatives of the value alone.
    return f + still.newton(f, lack - frozen(lack))


class _Now(NamedTuple):
    f: Float[Array, " M"]
    strength: Float[Array, ""]
    change: Float[Array, ""]
    count: Int[Array, ""]


def _maximize(problem: _Entropic, mirrored: bool, tolerance: Array, most: int) -> Float[Array, " M"]:
    """The maximizer f, the blur falling by steps; NaN where it is not met.

    Of a measure with itself (`mirrored`) by the mean of f and the next one, which halves the error at
    every blur; otherwise by Sinkhorn and Newton steps in turn.
    """

    def running(now):
        return (now.change > tolerance) & (now.count < most)

    def improve(now):
        at = problem._replace(strength=now.strength)
        f = 0.5 * (now.f + at.other(now.f)) if mirrored else _ascent(at, now.f)
        # What the first marginal is off by.
        change = jnp.sum(at.a * jnp.abs(jnp.expm1((f - at.potential(f)) / now.strength)))
        fallen = jnp.where(change < NEAR, jnp.maximum(problem.strength, 0.5 * now.strength), now.strength)
        # What was reached at another blur is no end.
        change = jnp.where(now.strength > problem.strength, jnp.inf, change)
        return _Now(f, fallen, change, now.count + 1)

    widest = jnp.maximum(jnp.max(problem.cost), problem.strength)
    start = _Now(jnp.zeros_like(problem.a), widest, jnp.full_like(widest, jnp.inf), jnp.zeros((), jnp.int32))
    end = jax.lax.while_loop(running, improve, start)
    return jnp.where(end.change <= tolerance, end.f, jnp.nan)


def _ascent(problem: _Entropic, f: Float[Array, " M"]) -> Float[Array, " M"]:
    """A step of Sinkhorn and the share of a Newton step that raises the dual most."""
    f = problem.potential(f)
    step = problem.newton(f, problem.potential(f) - f)
    tried = f + jnp.asarray(SHARES, f.dtype)[:, None] * step
    values = jax.lax.map(problem.dual, tried)
    return tried[jnp.argmax(jnp.where(jnp.isnan(values), -jnp.inf, values))]
