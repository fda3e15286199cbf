"""The dynamics that are compared, each an energy of the same particles and data seen through a geometry."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import jax.random as jr

import mfjax as mf
from mfjax.energies import Batches, Entropy, ReducedRisk, Risk
from mfjax.features import Ridge, Weighted
from mfjax.losses import Loss, Softmax, Square
from mfjax.measures import Particles
from mfjax.steppers import Euler, EulerMaruyama

TANH = Ridge(jnp.tanh)


class Learned(NamedTuple):
    """Inputs (n, k + 1) and targets of one part: rows (n, c), and labels (n,) where there are classes."""

    x: Any
    rows: Any
    labels: Any

    def targets(self, loss: Loss) -> Any:
        """What a loss compares outputs with."""
        return self.labels if isinstance(loss, Softmax) else self.rows


class Network(NamedTuple):
    """Inner weights omega (M, k + 1) and outer weights u (M, c) of M neurons of mass 1/M."""

    omega: Any
    u: Any

    @classmethod
    def drawn(cls, key: Any, width: int, inputs: int, outputs: int, gain: Any, dtype: Any) -> "Network":
        """Independent normal weights, inner ones of size `gain`: the same for all dynamics of a seed."""
        for_omega, for_u = jr.split(key)
        omega = gain * jr.normal(for_omega, (width, inputs), dtype)
        return cls(omega.astype(dtype), jr.normal(for_u, (width, outputs), dtype))

    def predictor(self) -> mf.energies.Predictor:
        """The network as a function of inputs."""
        return mf.energies.Predictor(TANH, self.omega, self.u / len(self.u))


class Method(NamedTuple):
    """One of the dynamics: what moves the particles, with `step` and `time` of those names in the preset.

    `declare(data, lam, start, preset)` returns a flow and the measure that it starts from. Variable
    projection and two timescales are flows of risk / lam, whose time is lam times shorter: `by_lam`.
    """

    title: str
    loss: Loss
    step: str
    time: str
    declare: Callable[..., tuple[mf.flows.Flow, Particles]]
    by_lam: bool = False
    scheme: Callable[[Any], mf.steppers.Stepper] = Euler

    def neurons(self, mu: Particles, flow: mf.flows.Flow, outputs: int) -> Network:
        """The network of a measure that moves by these dynamics."""
        if self.by_lam:
            return Network(mu.points, flow.outer_weights(mu))
        return Network(mu.points[:, outputs:], mu.points[:, :outputs])


def projection(data, lam, start, preset):
    """Inner weights move, outer ones are optimal at all times."""
    risk = ReducedRisk(TANH, data.x, data.rows, lam, outer=mf.outer.Cholesky())
    return mf.flows.Wasserstein(risk, plane(data.x.shape[1])), Particles(start.omega)


def timescales(data, lam, start, preset):
    """Outer weights move faster than inner ones, from the same start, on batches."""
    risk = ReducedRisk(TANH, data.x, data.rows, lam, batches=some(data, preset))
    flow = mf.flows.TwoTimescale(risk, plane(data.x.shape[1]), rate=preset.rate)
    return flow, Particles(start.omega, marks={"u": start.u})


def some(data, preset):
    """What a step sees of the data: a batch, or all of a small table."""
    return Batches(min(preset.batch, len(data.x)))


def together(data, lam, start, loss, batches=None):
    """The risk of networks all of whose weights are coordinates of a particle, and their particles."""
    phi = Weighted(TANH, outputs=start.u.shape[1])
    risk = Risk(phi, data.x, data.targets(loss), lam, loss, batches=batches)
    return risk, Particles(jnp.concatenate([start.u, start.omega], axis=1))


def descent(loss):
    """Stochastic gradient descent: all weights move, each step sees a batch."""

    def declare(data, lam, start, preset):
        risk, mu = together(data, lam, start, loss, some(data, preset))
        return mf.flows.Wasserstein(risk, plane(mu.points.shape[1])), mu

    return declare


def langevin(loss):
    """All weights move by the gradient of all data, with noise of their own."""

    def declare(data, lam, start, preset):
        risk, mu = together(data, lam, start, loss)
        flow = mf.flows.Wasserstein(risk + preset.temperature * Entropy(), plane(mu.points.shape[1]))
        return flow, mu

    return declare


def plane(dim: int) -> mf.domains.Domain:
    """Where weights of neurons live, without walls."""
    return mf.domains.Euclidean(dim)


def methods(classes: bool) -> dict[str, Method]:
    """The dynamics by the names of their series, for classes or for numbers."""
    square, softmax = Square(), Softmax()
    small, large = ("square_step", "time"), ("softmax_step", "softmax_time")
    found = {
        "projection": Method(
            "variable projection", square, "projection_step", "time", projection, by_lam=True
        ),
        "timescales": Method("two timescales", square, "timescale_step", "time", timescales, by_lam=True),
        "sgd-square": Method("SGD", square, *small, descent(square)),
    }
    if classes:
        found["sgd-softmax"] = Method("SGD, softmax", softmax, *large, descent(softmax))
        noisy = Method("Langevin, softmax", softmax, *large, langevin(softmax), scheme=EulerMaruyama)
    else:
        noisy = Method("Langevin", square, *small, langevin(square), scheme=EulerMaruyama)
    return found | {"langevin": noisy}
