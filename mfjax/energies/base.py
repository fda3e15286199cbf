"""The abstract energy, what solving it returns, and the algebra of energies."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, Key

from mfjax import status as codes
from mfjax._numerics.arrays import is_traced, known, scalar
from mfjax.energies.dual import CombinedDual, Dual
from mfjax.energies.field import Field, slopes_at, values_at
from mfjax.measures import Measure


def require_number(name: str, function: Callable, *points: Array) -> None:
    """**Raises** `ValueError` unless `function` makes one number of such points."""
    places = " and ".join(f"a point of shape {p.shape}" for p in points)
    try:
        out = jax.eval_shape(lambda *points: function(*points), *points)
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(f"{name} cannot be applied to {places}: {str(error).splitlines()[0]}") from error
    if getattr(out, "shape", None) != ():
        found = f"shape {out.shape}" if hasattr(out, "shape") else type(out).__name__
        raise ValueError(f"{name} must return one number for {places}, got {found}")


class Solution(eqx.Module):
    """An energy at one measure.

    `value` F(mu), or `None` where it is not known, of a target known by its score say; `potential`, the first
    variation as a function of ONE point, defined off the support; `outer_weights` (K,), or (K, c) for c
    outputs, `None` for an energy without an inner problem; `residual` of that problem, relative; `status`, a
    code of `mfjax.status` or one of its own from `mfjax.status.OWN` = 100 on; `carry`, what the next solve
    may start from; `terms`, the solutions of the energies that a sum is made of.
    """

    value: Float[Array, ""] | None
    potential: Callable[[Array], Array]
    outer_weights: Float[Array, "K *c"] | None = None
    residual: Float[Array, ""] | float = 0.0
    status: Int[Array, ""] | int = codes.OK
    carry: Any = None
    terms: tuple["Solution", ...] = ()

    def __check_init__(self):
        if not callable(self.potential):
            raise ValueError(
                f"the potential of a Solution is a function of one point, got {type(self.potential).__name__}"
            )
        if self.value is not None and np.shape(self.value) != ():
            raise ValueError(f"the value of a Solution is one number, got shape {np.shape(self.value)}")


class Energy(eqx.Module):
    """F(mu). The author of a new energy writes `solve`: its value and its potential at one point.

    Two identities tie the two together and are checked by `mfjax.testing.check_energy` for every energy:
    dF/dw_i = V(x_i), up to one constant, and dF/dx_i = w_i grad V(x_i).

    What `solve` finds by iterations is differentiated by the equation that it satisfies, not through them nor
    past them: `jax.lax.custom_root` for a nonlinear equation, `jax.lax.custom_linear_solve` for a linear one.
    A `stop_gradient` leaves value and force right, and makes derivatives of whole runs wrong.
    """

    @abstractmethod
    def solve(self, mu: Measure, carry: Any = None) -> Solution:
        """Value, potential and diagnostics at `mu`. Never raises on values: sets `status`."""

    def init(self, mu: Measure) -> Any:
        """The `carry` before the first solve."""
        return None

    def validate(self, mu: Measure, domain=None) -> None:
        """**Raises** `ValueError` if this energy cannot be evaluated at measures shaped like `mu`."""

    @property
    def temperature(self) -> Float[Array, ""] | float:
        """T such that, on particles, this energy acts as Brownian noise of variance 2 T per unit time."""
        return 0.0

    @property
    def random(self) -> bool:
        """Whether each step of a run sees another energy, drawn by `draw`."""
        return False

    @property
    def divisible(self) -> bool:
        """Whether a particle may be split into two at its place: not where the energy counts neighbors."""
        return True

    def draw(self, key: Key[Array, ""], step: Int[Array, ""]) -> "Energy":
        """The energy that one step of a run sees: `key` is the same all along a run, `step` counts.

        All have one structure, and solutions without a carry: nothing is handed from one to the next. What a
        run records is this energy, not those that its steps have seen.
        """
        return self

    def parts(self) -> tuple[tuple[Any, "Energy"], ...]:
        """The terms (coefficient, energy) that this energy is a sum of."""
        return ((1.0, self),)

    def dual(self, mu: Measure) -> Dual | None:
        """This energy as a supremum of linear ones on the support of `mu`; `None` where none is known."""
        return None

    def first_variation(self, mu: Measure, solution: Solution | None = None) -> Float[Array, " K"]:
        """The potential at the support of `mu`."""
        solution = self.solve(mu) if solution is None else solution
        return values_at(solution.potential, mu.points, mu.size)

    def gradient_field(self, mu: Measure, solution: Solution | None = None) -> Float[Array, "K d"]:
        """grad V at the support of `mu`, in ambient coordinates; nothing divides by weights."""
        solution = self.solve(mu) if solution is None else solution
        return slopes_at(solution.potential, mu.points, mu.size)

    def __call__(self, mu: Measure) -> Float[Array, ""]:
        """F(mu). **Raises** `RuntimeError` if the inner problem could not be solved."""
        value = self._solved(mu).value
        if value is None:
            raise ValueError(f"{type(self).__name__} has no value, only a potential")
        return value

    def potential(self, mu: Measure) -> Callable[[Array], Array]:
        """The first variation at `mu` as a function of one point."""
        return self._solved(mu).potential

    def outer_weights(self, mu: Measure) -> Float[Array, "K *c"]:
        """The inner minimizer u at the support. **Raises** `ValueError` if this energy has none."""
        weights = self._solved(mu).outer_weights
        if weights is None:
            raise ValueError(f"{type(self).__name__} has no outer weights")
        return weights

    def _solved(self, mu: Measure) -> Solution:
        self.validate(mu)
        solution = solved(self, mu)
        if not is_traced(solution.status) and int(solution.status) != codes.OK:
            raise RuntimeError(
                f"{type(self).__name__} could not be evaluated: {codes.describe(int(solution.status))} "
                f"(relative residual {float(solution.residual):.1e})"
            )
        return solution

    def __add__(self, other: Any) -> "Energy":
        if isinstance(other, Energy):
            return Sum(self.parts() + other.parts())
        if _is_zero(other):
            return self
        return NotImplemented

    # sum() starts from the integer 0.
    __radd__ = __add__

    def __mul__(self, factor: Any) -> "Energy":
        if not _is_scalar(factor):
            return NotImplemented
        return _scaled(factor, self)

    __rmul__ = __mul__
    # NumPy scalars otherwise try to broadcast over the energy from the left.
    __array_priority__ = 1000
    __array_ufunc__ = None


def solved(energy: Energy, mu: Measure, carry: Any = None) -> Solution:
    """`energy.solve`. **Raises** `ValueError` where it returns no `Solution`."""
    solution = energy.solve(mu, carry)
    if not isinstance(solution, Solution):
        raise ValueError(
            f"{type(energy).__name__}.solve must return an energies.Solution(value, potential), got "
            f"{type(solution).__name__}"
        )
    return solution


def one_term(energy: Energy | None, wanted: Callable[[Energy], bool], needed: str) -> tuple[Any, Any]:
    """(coefficient, term), the one term of a sum that is `wanted`.

    **Raises** `ValueError`, "`needed`, got ..." with the terms there are, where not one of them is.
    """
    terms = () if energy is None else energy.parts()
    found = [pair for pair in terms if wanted(pair[1])]
    if len(found) != 1:
        names = ", ".join(type(term).__name__ for _, term in terms) or "no energy"
        raise ValueError(f"{needed}, got {names}" + (f": {len(found)} of these are" if found else ""))
    return found[0]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _is_zero(value: Any) -> bool:
    """Whether `value` is a zero known before any array is computed."""
    return _is_number(value) and value == 0


def _is_scalar(value: Any) -> bool:
    return _is_number(value) or (isinstance(value, (jax.Array, np.ndarray)) and value.ndim == 0)


def _scaled(factor: Any, energy: Energy) -> "Sum":
    """`factor` times `energy`, for a non-negative number or traced scalar."""
    factor = scalar(factor, "the factor of an energy", minimum=0.0)
    return Sum(tuple((factor * c, term) for c, term in energy.parts()))


class _WeightedPotential(Field):
    """The sum of potentials, each by its own way to many points; `width` is the size of their measure."""

    coefficients: tuple
    potentials: tuple
    width: int = eqx.field(static=True)

    def __call__(self, point):
        return self._sum(lambda potential: potential(point), jnp.zeros((), point.dtype))

    def at(self, points):
        zero = jnp.zeros((len(points),), points.dtype)
        return self._sum(lambda potential: values_at(potential, points, self.width), zero)

    def slopes(self, points):
        return self._sum(lambda potential: slopes_at(potential, points, self.width), jnp.zeros_like(points))

    def _sum(self, evaluate: Callable[[Callable], Array], zero: Array) -> Array:
        pairs = zip(self.coefficients, self.potentials, strict=True)
        return sum((jnp.asarray(c).astype(zero.dtype) * evaluate(v) for c, v in pairs), zero)


class Sum(Energy):
    """A sum of energies with coefficients.

    sum_k c_k F_k, as made by `F + 0.1 * G` and `sum([...])`.
    """

    terms: tuple[tuple[Any, Energy], ...]

    def parts(self):
        return self.terms

    @property
    def temperature(self):
        # Terms without noise stay out: a coefficient times zero is an array, and looks like noise.
        noisy = [(c, term.temperature) for c, term in self.terms if not _is_zero(term.temperature)]
        return sum((c * temperature for c, temperature in noisy), 0.0)

    @property
    def random(self):
        return any(term.random for _, term in self.terms)

    @property
    def divisible(self):
        return all(term.divisible for _, term in self.terms)

    def draw(self, key, step):
        keys = [jr.fold_in(key, k) if term.random else key for k, (_, term) in enumerate(self.terms)]
        drawn = [(c, term.draw(k, step)) for (c, term), k in zip(self.terms, keys, strict=True)]
        return Sum(tuple(drawn))

    def init(self, mu):
        return tuple(term.init(mu) for _, term in self.terms)

    def validate(self, mu, domain=None):
        for _, term in self.terms:
            term.validate(mu, domain)

    def solve(self, mu, carry=None):
        carry = (None,) * len(self.terms) if carry is None else carry
        solutions = [solved(term, mu, state) for (_, term), state in zip(self.terms, carry, strict=True)]
        coefficients = tuple(jnp.asarray(c).astype(mu.dtype) for c, _ in self.terms)
        zero = jnp.zeros((), mu.dtype)
        value = None
        if all(s.value is not None for s in solutions):
            value = sum((c * known(s.value) for c, s in zip(coefficients, solutions, strict=True)), zero)
        weights = [s.outer_weights for s in solutions if s.outer_weights is not None]
        residual, status = zero, jnp.zeros((), jnp.int32)
        for s in solutions:
            residual = jnp.maximum(residual, s.residual)
            status = codes.first(status, s.status)
        return Solution(
            value=value,
            potential=_WeightedPotential(coefficients, tuple(s.potential for s in solutions), mu.size),
            # Of two terms with inner problems, neither's weights are those of the sum.
            outer_weights=weights[0] if len(weights) == 1 else None,
            residual=residual,
            status=status,
            carry=tuple(s.carry for s in solutions),
            terms=tuple(solutions),
        )

    def outer_weights(self, mu):
        solution = self._solved(mu)
        owners = [
            type(e).__name__ for (_, e), s in self._solved_terms(solution) if s.outer_weights is not None
        ]
        if len(owners) != 1:
            found = f"several terms with their own: {', '.join(owners)}" if owners else "no term that has any"
            raise ValueError(f"no outer weights of this sum: it has {found}")
        return solution.outer_weights

    def dual(self, mu):
        duals = [term.dual(mu) for _, term in self.terms]
        if any(dual is None for dual in duals):
            return None
        return CombinedDual([c for c, _ in self.terms], duals, mu.size, mu.dtype)

    # Term by term: an internal energy has a first variation on a grid without having a potential, and a
    # layered measure a gradient field of its own.
    def first_variation(self, mu, solution=None):
        solution = self.solve(mu) if solution is None else solution
        fields = (term.first_variation(mu, s) for (_, term), s in self._solved_terms(solution))
        return self._combined(fields, jnp.zeros((mu.size,), mu.dtype))

    def gradient_field(self, mu, solution=None):
        solution = self.solve(mu) if solution is None else solution
        fields = (term.gradient_field(mu, s) for (_, term), s in self._solved_terms(solution))
        return self._combined(fields, jnp.zeros_like(mu.points))

    def _solved_terms(self, solution):
        return zip(self.terms, solution.terms, strict=True)

    def _combined(self, fields, zero):
        coefficients = (jnp.asarray(c).astype(zero.dtype) for c, _ in self.terms)
        return sum((c * field for c, field in zip(coefficients, fields, strict=True)), zero)
