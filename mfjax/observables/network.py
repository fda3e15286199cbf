"""What the network of a flow predicts, and the spectrum of the kernel it learns with."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax._numerics.arrays import as_floats, count, finite, inner, known, safe_sqrt
from mfjax.energies.base import Energy, one_term
from mfjax.energies.data import Data
from mfjax.energies.predictor import labels_of
from mfjax.energies.reduced_risk import ReducedRisk
from mfjax.energies.risk import Risk
from mfjax.flows.base import Flow
from mfjax.losses import Logistic, Loss, Softmax, Square, as_loss
from mfjax.measures import Measure
from mfjax.observables.base import Observable

E = TypeVar("E", bound=Energy)


def risk_of(flow: Flow | None, kinds: tuple[type[E], ...], observable: Observable) -> E:
    """The one term of the energy of `flow` that is a risk."""
    return scaled_risk_of(flow, kinds, observable)[1]


def scaled_risk_of(flow: Flow | None, kinds: tuple[type[E], ...], observable: Observable) -> tuple[Any, E]:
    """(coefficient, risk), the one term of the energy of `flow` that is a risk."""
    names = " or ".join(kind.__name__ for kind in kinds)
    needed = f"{type(observable).__name__} needs a flow whose energy holds one {names}"
    if flow is None:
        raise ValueError(f"{needed}, got no flow")
    return one_term(flow.energy, lambda term: isinstance(term, kinds), needed)


class Prediction(Observable):
    """The output of the network at given inputs.

    F(x_j) = int u phi(., x_j) dmu, the output of the network at inputs `x` (B, k): an array (B,), or (B, c)
    for c outputs.

    The outer weights u are the optimal ones for a `ReducedRisk`, the mark "u" of the particles for
    `TwoTimescale`; for a `Risk` they are part of the particle, or its mark "H". One outer solve, where
    there is one. After a run, `energy.predictor(run.final)` is the same network as a function of inputs.

    **Raises** `ValueError` for inputs that are empty or not finite, and for a flow without a network.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> energy = mf.energies.Risk(mf.features.ReLU(), jnp.ones((1, 1)), jnp.ones(1))
    >>> flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(1))
    >>> mu = mf.measures.Particles(jnp.array([[1.0], [3.0]]))
    >>> Prediction(jnp.array([[1.0], [-1.0]]))(mu, flow).tolist()
    [2.0, 0.0]
    """

    x: Float[Array, "B k"]

    def __init__(self, x: Any):
        self.x = finite(as_floats(x, "x"), "x")
        if self.x.ndim != 2 or 0 in self.x.shape:
            raise ValueError(f"x must have shape (B, k) with B, k >= 1, got {self.x.shape}")

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, "B *c"]:
        energy = risk_of(flow, (ReducedRisk, Risk), self)
        inputs = energy.data.x.shape[-1]
        if self.x.shape[-1] != inputs:
            raise ValueError(
                f"x must have shape (B, {inputs}) as the training inputs have, got {self.x.shape}"
            )
        flow = known(flow)
        if isinstance(energy, ReducedRisk):
            network = energy.predictor(flow.lift(mu), known(flow.outer_weights(mu)))
        else:
            network = energy.predictor(flow.lift(mu))
        return network(self.x.astype(mu.dtype))


def _predicted(data: Data, mu: Measure, flow: Flow) -> jax.ShapeDtypeStruct:
    """What the network of a run from `mu` would make of the inputs, without making it."""
    return eqx.filter_eval_shape(lambda nu: Prediction(data.x)(flow.init(nu).measure, flow), mu)


class HeldOutRisk(Observable):
    """The risk of the network on data that the flow does not see.

    sum_j p_j l(F(x_j), y_j) on data `x` (B, k), `y` (B,) or (B, c) that the flow does not see.

    p_j are `data_weights` (B,), 1/B unless given; F is the network of `Prediction`, with the outer weights
    of the training data. No regularizer is added, and nothing is divided by lam.

    - `loss`: l of prediction and target, one of `mf.losses` or a function of two numbers. Unless given that
      of the flow: the `loss` of a `Risk`, `Square()`, |f - y|^2 / 2, of a `ReducedRisk`.

    **Raises** `ValueError` for data that are empty, not finite or of mismatched shapes, labels that the loss
    does not take, and targets of another width than the network.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> labels = jnp.ones((1, 1)), jnp.ones(1)
    >>> energy = mf.energies.Risk(mf.features.ReLU(), *labels, loss=mf.losses.Logistic())
    >>> flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(1))
    >>> mu = mf.measures.Particles(jnp.array([[1.0], [3.0]]))
    >>> held_out = HeldOutRisk(jnp.ones((1, 1)), -jnp.ones(1))
    >>> round(float(held_out(mu, flow)), 4), round(float(jnp.log(1 + jnp.exp(2.0))), 4)
    (2.1269, 2.1269)
    """

    # Not a test case, whatever its name makes test runners believe.
    __test__ = False

    data: Data
    loss: Loss | None

    def __init__(self, x: Any, y: Any, *, data_weights: Any = None, loss: Loss | Callable | None = None):
        self.data = Data(x, y, data_weights)
        self.loss = None if loss is None else as_loss(loss)
        if self.loss is not None:
            self.loss.validate(self.data.y)

    def validate(self, mu, flow):
        self._loss(flow).validate(self.data.y, _predicted(self.data, mu, flow).shape[1:])

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, ""]:
        prediction, loss = Prediction(self.data.x)(mu, flow), self._loss(flow)
        loss.validate(self.data.y, prediction.shape[1:])
        y, masses = (part.astype(prediction.dtype) for part in (self.data.y, self.data.weights))
        return inner(masses, loss.values(prediction, y))

    def _loss(self, flow: Flow | None) -> Loss:
        loss = self.loss
        if loss is None:
            energy = risk_of(flow, (ReducedRisk, Risk), self)
            loss = energy.loss if isinstance(energy, Risk) else Square()
        return loss


class Accuracy(Observable):
    """The share of inputs that the network puts into their class.

    sum_j p_j [argmax_k F_k(x_j) = y_j] on inputs `x` (B, k) with labels `y` (B,), 0 to c - 1 for c outputs;
    for one output the labels are -1 and +1, and the class is the sign of F. Rows (B, c) are taken by their
    largest entry. p_j are `data_weights` (B,), 1/B unless given; F is the network of `Prediction`.

    **Raises** `ValueError` for data that are empty, not finite or of mismatched shapes, and for labels that
    the network does not have.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> energy = mf.energies.ReducedRisk(mf.features.ReLU(), jnp.eye(2), jnp.eye(2), lam=0.1)
    >>> flow = mf.flows.Wasserstein(energy, mf.domains.Sphere(1))
    >>> float(Accuracy(jnp.eye(2), [0, 0])(mf.measures.Particles(jnp.eye(2)), flow))
    0.5
    """

    data: Data

    def __init__(self, x: Any, y: Any, *, data_weights: Any = None):
        self.data = Data(x, y, data_weights)

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, ""]:
        prediction, y = Prediction(self.data.x)(mu, flow), self.data.y
        self._check(prediction.shape[1:])
        label = y if y.ndim == 1 else jnp.argmax(y, axis=1)
        right = labels_of(prediction) == label.astype(int)
        return inner(self.data.weights.astype(prediction.dtype), right.astype(prediction.dtype))

    def validate(self, mu, flow):
        self._check(_predicted(self.data, mu, flow).shape[1:])

    def _check(self, outputs: tuple[int, ...]) -> None:
        (Softmax() if outputs else Logistic()).validate(self.data.y, outputs)


class KernelSpectrum(Observable):
    """The largest eigenvalues of the kernel that the network learns with.

    The `n` largest eigenvalues, in descending order, of K_mu = (1/N) Phi diag(m) Phi^T: an array (n,).

    Phi (N, M) holds phi(omega_i, x_j) at the training inputs of the `ReducedRisk` of the flow, m the masses;
    data masses p stand for 1/N where the energy has them. The trace of K_mu is the mean of phi^2. Computed
    from the smaller of the N x N and M x M Gram matrices: cost N M min(N, M); eigenvalues beyond
    min(N, M) are zero. An absolute error of rounding times the largest eigenvalue is inherent.

    **Raises** `ValueError` for a flow without a `ReducedRisk`.

    Source: VarPro paper, section 2; thesis III.6 quotes its largest eigenvalue.
    """

    n: int = eqx.field(static=True)

    def __init__(self, n: int):
        self.n = count(n, "n")

    def __call__(self, mu: Measure, flow: Flow | None = None) -> Float[Array, " n"]:
        problem = risk_of(flow, (ReducedRisk,), self).problem(mu)
        root = problem.matrix * safe_sqrt(problem.masses)
        gram = inner(root.T, root) if root.shape[0] >= root.shape[1] else inner(root, root.T)
        values = jnp.linalg.eigvalsh(gram)[::-1][: self.n]
        return jnp.pad(jnp.maximum(values, 0), (0, self.n - values.shape[0]))
