"""Teachers: target measures with a density, a sampler and, on the circle, closed-form Fourier moments."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Complex, Float, Key, ScalarLike

from mfjax._numerics.arrays import as_floats, count, finite, inner, is_traced, scalar
from mfjax.domains import Domain, Sphere, Torus
from mfjax.measures import Grid, Particles


def concentration(gamma: Any) -> Array:
    """gamma >= 0 as an array leaf; unlike other parameters it may be infinite (an atom).

    **Raises** `ValueError` if it is negative, NaN or not a scalar.
    """
    array = as_floats(gamma, "gamma")
    if array.ndim != 0:
        raise ValueError(f"gamma must be a scalar, got an array of shape {array.shape}")
    if not is_traced(array) and not float(array) >= 0:
        raise ValueError(f"gamma must be at least 0, got {float(array):g}")
    return array


def bump(theta: Float[Array, "..."], gamma: Float[Array, ""]) -> Float[Array, "..."]:
    """pi_gamma(theta) = sqrt(1 + gamma) / (2 pi (1 + gamma sin^2(theta / 2))), of mass one on (-pi, pi].

    This is the Poisson kernel of `poisson_radius(gamma)`.
    """
    gamma = gamma.astype(theta.dtype)
    return jnp.sqrt(1 + gamma) / (2 * jnp.pi * (1 + gamma * jnp.sin(theta / 2) ** 2))


def bump_quantile(v: Float[Array, "..."], gamma: Float[Array, ""]) -> Float[Array, "..."]:
    """The angle below which pi_gamma has mass v in [0, 1]: 2 atan(tan(pi (v - 1/2)) / sqrt(1 + gamma))."""
    gamma = gamma.astype(v.dtype)
    return 2 * jnp.arctan(jnp.tan(jnp.pi * (v - 0.5)) / jnp.sqrt(1 + gamma))


def poisson_radius(gamma: Any) -> Float[Array, ""]:
    """rho = (sqrt(1 + gamma) - 1) / (sqrt(1 + gamma) + 1): pi_gamma has the moments rho^|k|.

    Comparing 2 rho / (1 + rho^2) with gamma / (2 + gamma) identifies the Poisson kernel.

    >>> round(float(poisson_radius(3.0)), 6)
    0.333333
    """
    inverse = 1 / jnp.sqrt(1 + concentration(gamma))
    return (1 - inverse) / (1 + inverse)


class Teacher(eqx.Module):
    """A mixture of bumps, some of which may have negative masses.

    A mixture sum_c masses_c pi_c of bumps; negative masses make it a signed teacher.

    Calling it on one point gives its density with respect to volume, so that it serves as the target of
    `PowerDivergence` and `EnergyDistance`.
    """

    gamma: eqx.AbstractVar[Float[Array, ""]]
    masses: eqx.AbstractVar[Float[Array, " C"]]
    domain: eqx.AbstractVar[Domain]

    @abstractmethod
    def __call__(self, point: Float[Array, " d"]) -> Float[Array, ""]:
        """The density at one point."""

    @abstractmethod
    def draw(self, key: Key[Array, ""], component: Array, dtype: Any) -> Float[Array, " d"]:
        """One point of the bump `component`."""

    def sample(
        self, key: Key[Array, ""], n: int, *, stratified: bool = False, dtype: Any = None
    ) -> Particles:
        """`n` teacher neurons as uniform particles whose mark "u" is their outer weight.

        A neuron falls in bump c with probability |masses_c| / sum |masses| and has outer weight
        sign(masses_c) sum |masses|: one, for a teacher of non-negative masses and total mass one. With
        `stratified=True` bump c gets n |masses_c| / sum |masses| neurons, to within one (public code: one
        third). A neuron of an independent sample depends on (key, i) only, never on n.
        """
        dtype = jnp.result_type(float) if dtype is None else dtype
        points, u = self._neurons(key, count(n, "n"), bool(stratified), dtype)
        return Particles(points, marks={"u": u})

    @eqx.filter_jit
    def _neurons(self, key, n: int, stratified: bool, dtype):
        size = jnp.abs(self.masses).astype(dtype)
        total = jnp.cumsum(size / jnp.sum(size))

        def neuron(i):
            in_bump, which = jr.split(jr.fold_in(key, i))
            level = (i + 0.5) / n if stratified else jr.uniform(which, (), dtype)
            c = jnp.minimum(jnp.searchsorted(total, level, side="right"), total.size - 1)
            return self.draw(in_bump, c, dtype), c

        points, component = jax.vmap(neuron)(jnp.arange(n))
        return points, jnp.sign(self.masses[component]).astype(dtype) * jnp.sum(size)

    def variation(self, n: int | None = None) -> Float[Array, ""]:
        """|nu|_TV = int |density|, midpoint rule on `n` cells per axis (4096, or 512 in two dimensions)."""
        n = (4096 if self.domain.dim == 1 else 512) if n is None else n
        grid = Grid.uniform(self.domain, n)
        return grid.integral(jnp.abs(jax.vmap(self)(grid.points)))

    def absolute(self, n: int | None = None) -> "AbsoluteDensity":
        """|nu| / |nu|_TV: what the features of a signed teacher converge to at lam = 0."""
        return AbsoluteDensity(self, self.variation(n))


class AbsoluteDensity(eqx.Module):
    """|density| / |nu|_TV of a teacher, as a function of one point."""

    teacher: Teacher
    variation: Float[Array, ""]

    def __call__(self, point: Float[Array, " d"]) -> Float[Array, ""]:
        return jnp.abs(self.teacher(point)) / self.variation.astype(point.dtype)


def _plain(numbers):
    """Numbers as one array, unless they are traced: teachers may be differentiated."""
    return numbers if is_traced(numbers) else np.asarray(numbers)


def _mixture(masses, count_: int) -> Array:
    masses = jnp.atleast_1d(as_floats(masses, "masses"))
    if masses.shape != (count_,):
        raise ValueError(f"masses must have shape ({count_},), one per center, got {masses.shape}")
    if not is_traced(masses) and not (np.all(np.isfinite(masses)) and np.any(np.asarray(masses) != 0)):
        raise ValueError(f"masses must be finite and not all zero, got {np.asarray(masses).tolist()}")
    return masses


class CircleTeacher(Teacher):
    """A teacher on the circle whose density is a mixture of bumps.

    The density sum_c masses_c pi_gamma(theta - centers_c) on S^1, with respect to arc length.

    By default 2/3 pi_gamma(theta) + 1/3 pi_gamma(theta - 0.4 pi) (thesis III.6). Fourier moments
    int e^{ik theta} dnu = rho^|k| sum_c masses_c e^{ik centers_c}, rho = `poisson_radius(gamma)`.

    - `gamma` >= 0: concentration; 0 is uniform, the papers use 10, 100, 1000.
    - `centers` (C,) in radians, `masses` (C,): negative ones make a signed teacher.

    **Raises** `ValueError` for gamma negative or infinite (no density), and mismatched shapes.

    >>> teacher = CircleTeacher(0.0)
    >>> round(float(teacher(jnp.array([0.0, 1.0]))) * 2 * np.pi, 6)
    1.0
    """

    gamma: Float[Array, ""]
    centers: Float[Array, " C"]
    masses: Float[Array, " C"]
    domain: Sphere

    def __init__(self, gamma: ScalarLike = 100.0, *, centers=(0.0, 0.4 * np.pi), masses=(2 / 3, 1 / 3)):
        self.gamma = scalar(gamma, "gamma", minimum=0.0)
        self.centers = finite(jnp.atleast_1d(as_floats(_plain(centers), "centers")), "centers")
        self.masses = _mixture(_plain(masses), self.centers.size)
        self.domain = Sphere(1)

    def __call__(self, point):
        angle = jnp.arctan2(point[1], point[0])
        values = bump(angle - self.centers.astype(point.dtype), self.gamma)
        return inner(self.masses.astype(point.dtype), values)

    def draw(self, key, component, dtype):
        offset = bump_quantile(jr.uniform(key, (), dtype), self.gamma)
        angle = self.centers[component].astype(dtype) + offset
        return jnp.stack([jnp.cos(angle), jnp.sin(angle)])

    def fourier(self, degree: int) -> Complex[Array, " K1"]:
        """The moments int e^{ik theta} dnu for k = 0, ..., degree, in closed form."""
        k = jnp.arange(count(degree, "degree", minimum=0) + 1)
        phases = jnp.exp(1j * k[:, None] * self.centers)
        return poisson_radius(self.gamma) ** k * jnp.sum(self.masses * phases, axis=1)


class TorusTeacher(Teacher):
    """A teacher on the 2-torus whose density is a mixture of product bumps.

    A mixture of product bumps on the torus R^2 / 4 Z^2, modes (-1, 0) and (1, 1) by default.

    Around its center each coordinate z has the density proportional to 1 / (1 + gamma sin^2(pi z / 4)),
    which is (pi / 2) pi_gamma(pi z / 2) (thesis III.B). Points are stored in [0, 4)^2, so the mode (-1, 0) is
    at (3, 0). gamma = infinity is the teacher of two atoms: it samples, and has no density.

    - `gamma` in [0, inf]; `centers` (C, 2); `masses` (C,), negative ones for a signed teacher.
    """

    gamma: Float[Array, ""]
    centers: Float[Array, "C 2"]
    masses: Float[Array, " C"]
    domain: Torus

    def __init__(self, gamma: ScalarLike = 100.0, *, centers=((-1.0, 0.0), (1.0, 1.0)), masses=(0.5, 0.5)):
        self.gamma = concentration(gamma)
        self.centers = finite(as_floats(_plain(centers), "centers"), "centers")
        if self.centers.ndim != 2 or self.centers.shape[1] != 2:
            raise ValueError(f"centers must have shape (C, 2), got {self.centers.shape}")
        self.masses = _mixture(_plain(masses), self.centers.shape[0])
        self.domain = Torus(2, 4.0)

    def __call__(self, point):
        if not is_traced(self.gamma) and np.isinf(np.asarray(self.gamma)):
            raise ValueError("atoms have no density: take a finite gamma, or the samples of this teacher")
        angles = 0.5 * jnp.pi * (point - self.centers.astype(point.dtype))
        values = jnp.prod(0.5 * jnp.pi * bump(angles, self.gamma), axis=-1)
        return inner(self.masses.astype(point.dtype), values)

    def draw(self, key, component, dtype):
        offset = bump_quantile(jr.uniform(key, (2,), dtype), self.gamma) * (2 / jnp.pi)
        center = self.centers[component].astype(dtype)
        return self.domain.retract(jnp.zeros_like(center), center + offset)
