"""The reduced risk of infinitely many data, whose kernel is known in closed form."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, ScalarLike

from mfjax import status as codes
from mfjax._numerics.arrays import along, inner, kind, pairing, safe_sqrt, scalar, shown
from mfjax._numerics.linalg import shifted_solver
from mfjax.energies.base import Solution
from mfjax.energies.convolution import check_kernel
from mfjax.energies.reduced import Reduced, ReducedPotential, Score
from mfjax.features import FeatureMap
from mfjax.kernels import kernel_sums
from mfjax.kernels.sums import row_sum
from mfjax.measures import Measure, Particles
from mfjax.outer.base import graded, relative, tolerance
from mfjax.regularizers import Quadratic


class PopulationReducedRisk(Reduced):
    """The reduced risk of infinitely many data, from the kernel that the law of the inputs defines.

    L(mu) = min over u of E |F(z) - F*(z)|^2 / (2 lam) + int f(u) dmu, over the law of the inputs z itself.

    F(z) = int u phi(., z) dmu is the network and F*(z) = int phi(., z) dnu the teacher. Of the law only
    k(x, y) = E phi(x, z) phi(y, z) matters: with lam s(x) = int k(x, .) dnu - int k(x, .) u dmu, the optimum
    is u = (f*)'(s) = c + s, and the first variation V = -f*(s), defined for every x. It is the limit of
    `ReducedRisk` for N -> infinity data, without their noise.

    - `kernel(x, y)`: `kernels.ArcCosine()` for ReLU, `ArcSine()` for erf, `SmoothedGaussian(scale)` for
      Gaussian bumps, all with standard normal inputs in any dimension; or any positive definite function.
    - `teacher` nu: a measure of any mass, or points (K, d) of masses 1/K. It enters by its kernel sums, K
      for a teacher of K points. Its mark "u", (K,) or (K, c), if it has one, holds the outer weights v of
      the teacher, F* = int v phi dnu; with c columns the network has c outputs, over which |.|^2 and f are
      sums, and one factorization.
    - `lam` > 0, and `regularizer`, `Quadratic(c)`, as for `ReducedRisk`. Both are leaves.

    **Cost**: M K + M^2 kernels and one Cholesky factorization of M x M a solve, with one step of refinement.
    `residual` is that of (K diag(m) + lam) s = int k(., y) d(nu - c mu)(y), relative to its right side.
    Differentiable in everything.

    **Fails** to resolve values far below E |F*|^2 / (2 lam) times the machine precision, of which they are
    differences; forces do not suffer from it while lam is far above the machine precision times k(x, x).

    **Raises** `ValueError` for another regularizer, lam <= 0, or a teacher of another dimension.

    Source: VarPro paper (15) to (17), (27), with the expectation in place of the data.

    >>> import mfjax as mf
    >>> teacher, mu = (mf.measures.Particles(jnp.array([[1.0, x]])) for x in (0.0, 1.0))
    >>> energy = PopulationReducedRisk(mf.kernels.ArcCosine(), teacher, lam=0.1)
    >>> [round(float(v), 3) for v in (energy.outer_weights(mu)[0], energy(mu))]
    [0.486, 1.203]
    """

    kernel: Callable[[Array, Array], Array]
    teacher: Measure
    lam: Float[Array, ""]
    regularizer: Quadratic
    square: Float[Array, ""]

    def __init__(self, kernel: Callable, teacher: Any, lam: ScalarLike, regularizer: Quadratic | None = None):
        if not callable(kernel) or isinstance(kernel, type | FeatureMap):
            raise ValueError(
                f"kernel must be a function of two points, such as kernels.ArcCosine(), got {kind(kernel)}"
            )
        if not isinstance(teacher, Measure):
            if np.ndim(teacher) != 2:
                raise ValueError(f"teacher must be a measure or points (K, d), got {shown(teacher)}")
            teacher = Particles(teacher)
        self.kernel, self.teacher = kernel, teacher
        self.lam = scalar(lam, "lam", above=0)
        self.regularizer = Quadratic() if regularizer is None else regularizer
        if not isinstance(self.regularizer, Quadratic):
            raise ValueError(
                "PopulationReducedRisk needs the regularizer Quadratic, got "
                f"{type(self.regularizer).__name__}; take ReducedRisk on sampled data"
            )
        weights = taught_weights(teacher)
        sums = kernel_sums(kernel, teacher.points, teacher.points, weights)
        # E |F*|^2.
        self.square = pairing(weights, sums)

    @property
    def outputs(self) -> tuple[int, ...]:
        return taught_weights(self.teacher).shape[1:]

    def validate(self, mu, domain=None):
        check_kernel(self.kernel, domain, mu.points[0])
        if mu.points.shape[-1] != self.teacher.points.shape[-1]:
            raise ValueError(
                f"the teacher has points of dimension {self.teacher.points.shape[-1]} and the measure "
                f"{mu.points.shape[-1]}"
            )

    def solve(self, mu, carry=None):
        dtype, masses = mu.dtype, mu.weights
        lam, f = self.lam.astype(dtype), self.regularizer
        gram = jax.vmap(lambda x: jax.vmap(lambda y: self.kernel(x, y))(mu.points))(mu.points)
        weights = taught_weights(self.teacher)
        signal = kernel_sums(self.kernel, mu.points, self.teacher.points, weights).astype(dtype)
        center = f.conjugate_derivative(jnp.zeros((), dtype))
        right = signal - along(center * inner(gram, masses), signal)
        s = ridge(gram, masses, lam, right)
        u = f.conjugate_derivative(s)
        value, score = self._at(mu, u, signal, inner(gram, along(masses, u) * u))
        residual = relative(right - inner(gram, along(masses, s) * s) - lam * s, right)
        return Solution(
            value=value,
            potential=ReducedPotential(score, f),
            outer_weights=u,
            residual=residual,
            status=graded(residual, tolerance(dtype, None), codes.OUTER_SOLVE),
        )

    def at_weights(self, mu, outer_weights, prepared=None):
        sums = lambda nu, weights: kernel_sums(self.kernel, mu.points, nu.points, weights).astype(mu.dtype)
        fitted = along(mu.weights, outer_weights) * outer_weights
        return self._at(mu, outer_weights, sums(self.teacher, taught_weights(self.teacher)), sums(mu, fitted))

    def _at(self, mu: Measure, u: Array, signal: Array, learned: Array) -> tuple[Float[Array, ""], Score]:
        """E(mu, u) and s, from what the kernel makes of the teacher and of the network at the particles."""
        lam, fitted = self.lam.astype(mu.dtype), along(mu.weights, u) * u
        error = self.square.astype(mu.dtype) - 2 * pairing(signal, fitted) + pairing(learned, fitted)
        value = error / (2 * lam) + jnp.sum(mu.integrate(self.regularizer(u)))
        return value, PopulationScore(self.kernel, mu.points, fitted, self.teacher, lam)


def taught_weights(teacher: Measure) -> Float[Array, "K *c"]:
    """The masses of a teacher times its outer weights, the mark "u"; these are one where it has none."""
    u = teacher.marks.get("u")
    return teacher.weights if u is None else along(teacher.weights, u) * u


def ridge(
    gram: Float[Array, "M M"], masses: Float[Array, " M"], lam: Float[Array, ""], right: Float[Array, "M *c"]
) -> Float[Array, "M *c"]:
    """s with (K diag(m) + lam) s = b, for masses that may be zero; derivatives are those of the system."""
    fixed, m, strength = jax.lax.stop_gradient((gram, masses, lam))
    root = safe_sqrt(m)
    m, scale, weights = along(m, right), along(root, right), along(masses, right)
    inverse = shifted_solver(root[:, None] * fixed * root[None, :], strength)

    def once(b):
        # sqrt(m) s by the symmetric matrix, then s where the mass is zero, too.
        return (b - inner(fixed, scale * inverse(scale * b))) / strength

    def solve(_, b):
        s = once(b)
        return s + once(b - inner(fixed, m * s) - strength * s)

    def transposed(_, b):
        # (diag(m) K + lam) t = b by r = K t, which solves the system of K b.
        return (b - m * solve(None, inner(fixed, b))) / strength

    return jax.lax.custom_linear_solve(
        lambda s: inner(gram, weights * s) + lam * s, right, solve, transpose_solve=transposed
    )


class PopulationScore(Score):
    """s(x), lam s(x) = int k(x, .) dnu - sum_i weights_i k(x, points_i)."""

    kernel: Callable
    points: Float[Array, "M d"]
    weights: Float[Array, "M *c"]
    teacher: Measure
    lam: Float[Array, ""]

    def __call__(self, point):
        taught = row_sum(self.kernel, point, self.teacher.points, taught_weights(self.teacher))
        learned = row_sum(self.kernel, point, self.points, self.weights)
        return (taught - learned) / self.lam

    def at(self, points):
        sums = lambda sources, weights: kernel_sums(self.kernel, points, sources, weights)
        taught = sums(self.teacher.points, taught_weights(self.teacher)).astype(points.dtype)
        return (taught - sums(self.points, self.weights)) / self.lam
