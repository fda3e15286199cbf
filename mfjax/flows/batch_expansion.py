"""What random batches do to particles in the mean, to first order in the step."""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from mfjax._numerics.arrays import inner, kind, known
from mfjax.domains import Domain
from mfjax.energies.base import Energy
from mfjax.energies.batches import Batches, GaussianBatches, Sampling
from mfjax.energies.risk import Risk
from mfjax.flows.base import Evaluation, Flow, State
from mfjax.flows.wasserstein import Wasserstein
from mfjax.measures import Measure, Particles


class BatchExpansion(Flow):
    """The flow of a risk with the two terms that stochastic gradient descent of a small step adds to it.

    Of `Euler(eps)` with batches: E x = X + eps "mean" + O(eps^2), Cov x = eps "covariance" + O(eps^2).

    X is the flow X' = b(X) of all data, and b_j the part of datum j, b = mean_j b_j. With batches of B of N
    data, D the derivative in all coordinates of all particles, C the covariance, and m the mean:

        with replacement:  m' = Db m - Db b / 2 + D^2 b : C / 2,  C' = Db C + C Db^T + cov_j(b_j) / B
        in epochs:         m' = Db m - Db b / 2 - a mean_j (Db_j - Db) (b_j - b),  C = 0,
                           a = (N - B + (B^2 - g^2) / (3 N)) / (2 B (N - 1)),  g = gcd(N, B)

    -Db b / 2 is the error of the Euler steps themselves. In epochs each datum counts alike, so that their
    noise cancels; what is left is the order within an epoch: a counts the pairs of data that are in one epoch
    and not in one batch. Where B does not divide N (g < B) some batches take from two epochs. That line holds
    at times that end B / g epochs.

    `GaussianBatches(B)` are as batches with replacement; where each particle draws its own (`independent`),
    the parts of cov_j(b_j) between two particles vanish.

    - `flow`: the `Wasserstein` flow of one `Risk(..., batches=Batches(B))`, with or without other terms, on a
      flat domain; run it from `Particles`. Their marks "mean" (M, d) and "covariance" (M, d, M d) are the
      result, zero at the start.

    **Cost**: M d forward derivatives of the flow of N data, memory (M d)^2: for small networks.

    **Raises** `ValueError` for other flows and domains.

    Source: the modified equation of Q. Li, C. Tai, W. E (ICML 2017), and in epochs that of S. Smith,
    B. Dherin, D. Barrett, S. De (ICLR 2021), both expanded about the flow.

    >>> import mfjax as mf
    >>> neuron, x = mf.features.Weighted(mf.features.Ridge(jnp.tanh)), jnp.array([[1.0], [-0.5], [2.0]])
    >>> risk = mf.energies.Risk(neuron, x, jnp.ones(3), batches=mf.energies.Batches(1, replace=True))
    >>> flow = BatchExpansion(mf.flows.Wasserstein(risk, mf.domains.Euclidean(2)))
    >>> mu = mf.measures.Particles(jnp.array([[1.0, 0.5], [0.2, -1.0]]))
    >>> marks = mf.simulate(flow, mu, stepper=mf.steppers.RK4(0.1), steps=5).final.marks
    >>> marks["mean"].shape, marks["covariance"].shape
    ((2, 2), (2, 2, 4))
    """

    energy: Energy
    domain: Domain
    batches: Batches | GaussianBatches
    count: int = eqx.field(static=True)
    epochs: bool = eqx.field(static=True)
    independent: bool = eqx.field(static=True)
    monotone: ClassVar[bool] = False

    def __init__(self, flow: Wasserstein):
        if not isinstance(flow, Wasserstein):
            raise ValueError(f"BatchExpansion is of a Wasserstein flow, got {kind(flow)}")
        risks = [term for _, term in flow.energy.parts() if term.random]
        if (
            len(risks) != 1
            or not isinstance(risks[0], Risk)
            or not isinstance(risks[0].batches, Batches | GaussianBatches)
        ):
            found = ", ".join(type(term).__name__ for _, term in flow.energy.parts())
            why = "outer weights of a ReducedRisk are no mean over data, and a Stream has no data to sum over"
            raise ValueError(
                f"BatchExpansion needs the flow of one Risk(..., batches=Batches(B)), got {found}: "
                + (f"the {why}" if risks else "give batches= to the risk")
            )
        if flow.stochastic:
            raise ValueError("BatchExpansion is of batches alone: leave the Entropy of the energy out")
        euclidean = flow.domain.euclidean and flow.domain.ambient == flow.domain.dim
        if any(flow.domain.walls) or not euclidean:
            raise ValueError(
                f"BatchExpansion is for flat domains without walls, where steps add up, got {flow.domain!r}"
            )
        self.batches, self.count = risks[0].batches, len(risks[0].data.x)
        self.epochs = isinstance(self.batches, Batches) and not self.batches.replace
        self.independent = risks[0].independent
        if self.independent and self.epochs:
            raise ValueError(
                "BatchExpansion of independent batches is of those with replacement: Batches(B, replace=True)"
            )
        is_leaf = lambda node: isinstance(node, Risk)
        self.energy = jax.tree.map(lambda e: _by_rows(e) if is_leaf(e) else e, flow.energy, is_leaf=is_leaf)
        self.domain = flow.domain

    @property
    def random(self) -> bool:
        """False: this is what the batches do in the mean."""
        return False

    def validate(self, mu: Measure) -> None:
        if not isinstance(mu, Particles):
            raise ValueError(f"BatchExpansion moves Particles, got {type(mu).__name__}")
        super().validate(mu)

    def init(self, mu: Measure) -> State:
        self.validate(mu)
        zeros = {
            "mean": jnp.zeros_like(mu.points),
            "covariance": jnp.zeros((*mu.points.shape, mu.points.size), mu.dtype),
        }
        return State(mu.with_marks(**{name: mu.marks.get(name, value) for name, value in zeros.items()}))

    def evaluate(self, state: State) -> Evaluation:
        mu, shape = state.measure, state.measure.points.shape
        place = lambda z: eqx.tree_at(lambda m: m.points, mu, z.reshape(shape))
        rows = Wasserstein(self.energy, self.domain)

        def part(z, j):
            drawn = rows.draw(jr.key(0), j)
            return known(drawn.evaluate(State(place(z))).tangent.points).ravel()

        data, z, batch = jnp.arange(self.count), mu.points.ravel(), jnp.asarray(self.batches.size, mu.dtype)
        parts = lambda z: jax.vmap(lambda j: part(z, j))(data)
        drift = lambda z: jnp.mean(parts(z), axis=0)
        slope = lambda v: jax.jvp(drift, (z,), (v,))[1]
        b, mean = drift(z), mu.marks["mean"].ravel()
        bending = slope(b)
        rising = slope(mean) - 0.5 * bending
        covariance = mu.marks["covariance"].reshape(z.size, z.size)
        spreading = jnp.zeros_like(covariance)
        each = parts(z)
        if not self.epochs:
            units = jnp.eye(z.size, dtype=z.dtype)
            twice = lambda unit, column: jax.jvp(lambda y: jax.jvp(drift, (y,), (column,))[1], (z,), (unit,))[
                1
            ]
            rising = rising + 0.5 * jnp.sum(jax.vmap(twice)(units, covariance), axis=0)
            stretched = jax.vmap(slope, 1, 1)(covariance)
            apart = each - b
            noise = inner(apart.T, apart) / (self.count * batch)
            if self.independent:
                particle = jnp.arange(z.size) // shape[1]
                noise = jnp.where(particle[:, None] == particle, noise, 0)
            spreading = stretched + stretched.T + noise
        elif self.count > self.batches.size:
            own = jax.vmap(lambda j, v: jax.jvp(lambda y: part(y, j), (z,), (v,))[1])(data, each)
            n, shared = self.count, math.gcd(self.count, self.batches.size)
            order = (n - batch + (batch**2 - shared**2) / (3 * n)) / (2 * batch * (n - 1))
            rising = rising - order * (jnp.mean(own, axis=0) - bending)
        whole = Wasserstein(self.energy, self.domain).evaluate(State(mu))
        rates = {"mean": rising.reshape(shape), "covariance": spreading.reshape(*shape, z.size)}
        return eqx.tree_at(lambda e: e.tangent.marks, whole, rates, is_leaf=lambda leaf: leaf is None)


def _by_rows(risk: Risk) -> Risk:
    """The risk whose step sees one datum for all particles."""
    if not risk.random:
        return risk
    data = risk.data
    options = {"data_weights": data.weights, "batches": _Row(), "layer": risk.layer}
    return Risk(risk.features, data.x, data.y, risk.lam, risk.loss, **options)


class _Row(Sampling):
    """One datum for each step, in the place of all."""

    def draw(self, data, key, step):
        row: Array = jnp.asarray(step)
        n = len(data.x)
        one: Float[Array, 1] = data.weights[row][None] * n
        return eqx.tree_at(lambda d: (d.x, d.y, d.weights), data, (data.x[row][None], data.y[row][None], one))
