"""Wrong calls across the public interface: the exception, and a message naming value and remedy."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import mfjax as mf
from mfjax import observables as OBS

F, R, D, E, S = mf.features, mf.regularizers, mf.domains, mf.energies, mf.steppers
K = mf.kernels
P, G = mf.measures.Particles, mf.measures.Grid

X, Y = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), jnp.array([1.0, 0.5, 0.0])
CIRCLE, TORUS, LINE = D.Sphere(1), D.Torus(1), D.Euclidean(1)
LAYERS, HALF_NOISY = D.Product(D.Frozen(D.Interval(0.0, 1.0)), TORUS), D.Product(TORUS, D.Noiseless(TORUS))
UNIT = jnp.array([[1.0, 0.0], [0.0, 1.0]])
pytestmark = pytest.mark.wrong_calls
NOT_A_NUMBER = jnp.array([[1.0, 0.0], [jnp.nan, 1.0]])


def risk(**changes):
    arguments = {"features": F.ReLU(), "x": X, "y": Y, "lam": 0.1} | changes
    return E.ReducedRisk(**arguments)


def flow(energy=None, domain=CIRCLE):
    return mf.flows.Wasserstein(risk() if energy is None else energy, domain)


def well(x):
    return 0.5 * jnp.sum(x * x)


def langevin():
    return mf.flows.Wasserstein(E.Potential(well) + 0.5 * E.Entropy(), D.Euclidean(2))


def run(the_flow=None, mu=None, **arguments):
    the_flow = flow(E.Potential(well), D.Euclidean(2)) if the_flow is None else the_flow
    return mf.simulate(the_flow, P(UNIT) if mu is None else mu, **arguments)


def several(outputs, y, loss=None, layer=None):
    """The risk of a network with some outputs."""
    features = F.Weighted(F.ReLU(), outputs=outputs)
    return E.Risk(features, X, y, loss=loss, layer=layer)(P(jnp.ones((2, 2 + (outputs or 1)))))


def zonal_risk(dim):
    """The risk of zonal harmonics on a sphere."""
    features = F.ZonalModes([1.0, 0.5, 0.2], dim)
    return E.Risk(features, features.inputs(), jnp.ones(3))


def euler(**arguments):
    return run(stepper=S.Euler(0.1), **arguments)


def axes():
    return mf.plot.figure()[1]


CASES = {
    # Figures
    "all axes of a figure": (
        lambda: mf.plot.density(axes(), lambda x: x[0] ** 2, D.Interval(0, 1)),
        r"ax must be the axes of one panel, such as axes\[0, 0\], got an array of shape \(1, 1\)",
    ),
    "dots on a figure": (lambda: mf.plot.particles(mf.plot.figure()[0], UNIT, CIRCLE), "got ShownFigure"),
    "density of a run": (
        lambda: mf.plot.density(axes()[0, 0], euler(steps=1, save_every=1), D.Euclidean(2)),
        r"source must be a Grid, .*got Run; of a run, draw run.final or run.measure\(k\)",
    ),
    "curves without labels": (
        lambda: mf.plot.distances(axes()[0, 0], np.arange(3.0), np.ones(3)),
        'curves must map labels to arrays, {"M = 32": values}, got ndarray',
    ),
    # Domains
    "sphere of dimension 0": (lambda: D.Sphere(0), "dim must be at least 1, got 0"),
    "torus of fractional dimension": (lambda: D.Torus(1.5), "dim must be a whole number, got 1.5"),
    "torus of period 0": (lambda: D.Torus(1, 0.0), "period must be greater than 0, got 0"),
    "torus of infinite period": (lambda: D.Torus(1, np.inf), "period must be finite, got inf"),
    "interval upside down": (lambda: D.Interval(1.0, 0.0), "lower must lie below upper .*got .*1.* and .*0"),
    "box of one side": (lambda: D.Box([0.0, 0.0], [1.0]), r"vectors of one length, got \(2,\) and \(1,\)"),
    "box with a NaN side": (lambda: D.Box([0.0], [np.nan]), "upper must be finite, got nan at index"),
    "grid on a 2-sphere of one number too few": (lambda: D.Sphere(2).cells((8,)), r"2 numbers, got \(8,\)"),
    "orbits of a sphere of dimension 0": (lambda: D.Zonal(0), "sphere_dim must be at least 1, got 0"),
    "cells too small for single precision": (
        lambda: G.uniform(D.Zonal(40), 64, dtype="float32"),
        r"float32 cannot hold the volume .* of a cell of Zonal\(sphere_dim=40\) at n = 64: take fewer",
    ),
    "heat kernel of orbits": (
        lambda: mf.observables.KernelDensity(16, 0.1, D.Zonal(2)),
        r"no Gaussian is known on Zonal\(sphere_dim=2\): estimate the density of angles",
    ),
    "spectral derivatives on a sphere": (
        lambda: mf.flows.Wasserstein(E.Entropy(), D.Sphere(2), mf.grids.Spectral()).init(
            G.uniform(D.Sphere(2), 8)
        ),
        r"Spectral needs cells of one size, and those of Sphere\(dim=2\) differ: use grids.FiniteVolume",
    ),
    "Sinkhorn steps on a sphere": (
        lambda: mf.Simulation(
            flow(E.Entropy(), D.Zonal(2)),
            G.uniform(D.Zonal(2), 8),
            stepper=S.EntropicProximal(0.1, blur=0.2),
            steps=1,
        ),
        r"blurs along axes of boxes, and the cells of Zonal\(sphere_dim=2\) are none: use steppers.Implicit",
    ),
    "zones of another sphere": (
        lambda: flow(E.Entropy(), D.Zonal(2)).init(G.uniform(D.Zonal(3), 8)),
        "the measure lives on another grid than Zonal",
    ),
    "Fourier modes of zones": (
        lambda: E.Sobolev("uniform", domain=D.Zonal(1)),
        "a Sobolev discrepancy lives on a Torus",
    ),
    "grid on the plane": (lambda: G.uniform(D.Euclidean(2), 8), "Euclidean has no grid of cells; use .*Box"),
    "grid of three cells": (lambda: G.uniform(TORUS, 3), "n must be at least 4, got 3"),
    "grid of one n for two axes": (
        lambda: G.uniform(D.Torus(2), (8,)),
        r"one number or 2 numbers, got \(8,\)",
    ),
    "a product of nothing": (lambda: D.Product(), r"a Product needs factors: Product\(Sphere\(1\), "),
    "a factor that is no domain": (
        lambda: D.Product(TORUS, 2),
        "a factor of a Product must be a Domain, got int",
    ),
    "factors in a list": (lambda: D.Product([TORUS, TORUS]), "must be a Domain, got list"),
    "a class as a factor": (
        lambda: D.Product(TORUS, D.Sphere),
        r"got the class Sphere: write Sphere\(\.\.\.",
    ),
    "a number that is frozen": (lambda: D.Frozen(0.5), "domain must be a Domain, got float"),
    "noise of a number": (lambda: D.Noiseless(0.5), "domain must be a Domain, got float"),
    "grid of an unbounded factor": (
        lambda: G.uniform(D.Product(LINE, CIRCLE), 8),
        "Euclidean has no grid of cells; use .*Product of these",
    ),
    "grid of a product of copies": (
        lambda: G.uniform(D.Product(TORUS, D.Signed(TORUS)), 8),
        r"a factor has copies: make those of the product, as in Signed\(Product",
    ),
    "grid of a product of one n too few": (
        lambda: G.uniform(D.Product(TORUS, D.Sphere(2)), (8, 8)),
        r"one number or 3 numbers, got \(8, 8\)",
    ),
    "points beside a factor": (
        lambda: D.Product(CIRCLE, D.Interval(0.0, 1.0)).validate(jnp.array([[1.0, 0.0, 2.0]])),
        r"points\[0\] = \[1.0, 0.0, 2.0\] does not lie on Product",
    ),
    "a flow on what is frozen": (
        lambda: flow(E.Potential(well), D.Product(D.Frozen(TORUS), D.Frozen(TORUS))).init(
            G.uniform(D.Torus(2), 8)
        ),
        "nothing moves on Product.*leave a factor of it free, or let masses grow",
    ),
    "cells that are not frozen": (
        lambda: flow(E.Potential(well), LAYERS).init(G.uniform(D.Torus(2), 8)),
        "another grid than Product",
    ),
    "spectral derivatives between layers": (
        lambda: mf.flows.Wasserstein(E.Entropy(), HALF_NOISY, mf.grids.Spectral()).init(
            G.uniform(HALF_NOISY, 8)
        ),
        "lets mass move in another way along some axes: use grids.FiniteVolume",
    ),
    "Sinkhorn steps without noise": (
        lambda: mf.Simulation(
            flow(E.Entropy(), HALF_NOISY),
            G.uniform(HALF_NOISY, 8),
            stepper=S.EntropicProximal(0.1, blur=0.2),
            steps=1,
        ),
        "noise does not reach all of Product.*use stepper=None",
    ),
    "a Gibbs measure without noise": (
        lambda: mf.gibbs(E.Potential(well) + E.Entropy(), G.uniform(HALF_NOISY, 8)),
        "no equilibrium is known: run its flow to its end",
    ),
    "lengths between layers": (
        lambda: OBS.WassersteinDistance(G.uniform(LAYERS, 4), 2, LAYERS),
        "differ in a sign or a frozen coordinate of Product.*infinitely far apart",
    ),
    "lengths between signs": (
        lambda: OBS.SinkhornDivergence(G.uniform(D.Signed(D.Torus(1)), 4), 0.1, D.Signed(D.Torus(1))),
        "differ in a sign or a frozen coordinate of Signed.*infinitely far apart",
    ),
    "an elliptic solve between layers": (
        lambda: OBS.SobolevDistance(G.uniform(LAYERS, 4))(G.uniform(LAYERS, 4)),
        "nor along a frozen axis",
    ),
    "a line that is frozen": (
        lambda: OBS.Wasserstein1D(jnp.zeros((1, 1)), 1, D.Frozen(D.Interval(0.0, 1.0))),
        "needs a line or a circle, got Frozen",
    ),
    # Measures
    "points without axis": (lambda: P(jnp.zeros(3)), r"points must have shape \(M, d\).*got \(3,\)"),
    "no points": (lambda: P(jnp.zeros((0, 2))), r"M, d >= 1, got \(0, 2\)"),
    "NaN points": (lambda: P(NOT_A_NUMBER), r"points must be finite, got nan at index \(1, 0\)"),
    "complex points": (lambda: P(1j * UNIT), "points must be real, got dtype complex"),
    "text as points": (lambda: P([["a", "b"]]), "points must be numeric, got"),
    "weights of another length": (
        lambda: P(UNIT, jnp.ones(3)),
        r"weights must have shape \(2,\), got \(3,\)",
    ),
    "negative weights": (
        lambda: P(UNIT, jnp.array([1.5, -0.5])),
        "non-negative, got -0.5; a signed measure is",
    ),
    "NaN weights": (lambda: P(UNIT, jnp.array([1.0, jnp.nan])), "weights must be finite, got nan"),
    "marks of another length": (
        lambda: P(UNIT, marks={"u": jnp.ones(3)}),
        "mark 'u' must have leading axis 2",
    ),
    "half-precision grid": (
        lambda: G(TORUS, 4, np.full(4, 0.25), dtype=jnp.float16),
        "dtype must be float32 or float64, got float16",
    ),
    "two copies of an unresolved interval": (
        lambda: mf.Simulation(
            flow(E.Potential(lambda x: x[1] ** 2), D.Signed(D.Interval(1e6, 1e6 + 1))),
            P(jnp.array([[1.0, 1e6]], "float32")),
            steps=1,
            stepper=S.Euler(0.1),
        ),
        "too coarse for a side of 1",
    ),
    "array as a potential": (
        lambda: E.Potential(np.arange(100.0)),
        r"function must be callable on one point, got ndarray of shape \(100,\)",
    ),
    "array as a target": (
        lambda: E.Sobolev(np.ones((9, 9, 9)), domain=TORUS),
        r"got ndarray of shape \(9, 9, 9\)",
    ),
    "array as a convex function": (
        lambda: mf.regularizers.ConvexRegularizer(np.ones((9, 9))),
        r"got ndarray of shape \(9, 9\)",
    ),
    "second layer without a function": (
        lambda: mf.energies.SecondLayer(1.0, jnp.ones(3)),
        "sigma must be a function of one number, got 1.0",
    ),
    "second layer of no neurons": (
        lambda: mf.energies.SecondLayer(jnp.tanh, []),
        r"weights must be \(N_2,\), or \(N_2, c\) for c outputs, got \(0,\)",
    ),
    "neurons without mass": (
        lambda: mf.energies.SecondLayer(jnp.tanh, jnp.ones(2), [1.0, 0.0]),
        "masses of the second layer must be positive, got 0: leave neurons out",
    ),
    "second layer as a loss": (
        lambda: several(3, Y, layer=mf.losses.Square()),
        "layer must be an energies.SecondLayer, got Square",
    ),
    "second layer after too few outputs": (
        lambda: several(2, Y, layer=mf.energies.SecondLayer(jnp.tanh, jnp.ones(3))),
        r"3 neurons follows a first one of as many .*Weighted\(phi, outputs=3\), got 2 outputs",
    ),
    "negative distances in HWI": (
        lambda: mf.bounds.hwi([0.0, 1.0], [1.0, -2.0], [1.0, 1.0], convexity=0.0),
        "distances must not be negative, got -2",
    ),
    "tangent kernel of a reduced risk": (
        lambda: OBS.TangentKernel(X)(P(UNIT), flow()),
        "TangentKernel needs a flow whose energy holds one Risk",
    ),
    "tangent kernel at no inputs": (
        lambda: OBS.TangentKernel(jnp.ones(3)),
        r"x must have shape \(B, k\) with B, k >= 1, got \(3,\)",
    ),
    "path norm of neurons without outer weights": (
        lambda: OBS.PathNorm()(P(UNIT), flow(E.Risk(F.ReLU(), X, Y))),
        r"needs neurons with outer weights, features.Weighted\(phi\), got ReLU",
    ),
    "decay by kernels of several outputs": (
        lambda: mf.bounds.tangent_decay(1.0, [0.0, 1.0], jnp.ones((2, 3, 2, 3, 2))),
        r"kernels must be \(S, N, N\), those of one output, got \(2, 3, 2, 3, 2\)",
    ),
    "decay by weights of other data": (
        lambda: mf.bounds.tangent_decay(1.0, [0.0, 1.0], jnp.ones((2, 3, 3)), jnp.ones(2)),
        r"data_weights must have shape \(3,\), one for each datum, got \(2,\)",
    ),
    "decay by norms of zero": (
        lambda: mf.bounds.convex_decay(1.0, jnp.zeros(3)),
        "norms are all zero: the run began at",
    ),
    "tangent kernel of births": (
        lambda: OBS.TangentKernel(X)(
            P(UNIT), mf.flows.WassersteinFisherRao(E.Risk(F.ReLU(), X, Y), D.Euclidean(2))
        ),
        "those of WassersteinFisherRao do not",
    ),
    "constant of laws that noise does not reach": (
        lambda: mf.bounds.log_sobolev(convexity=1.0, domain=D.Product(D.Noiseless(LINE), LINE)),
        "noise does not reach all of it",
    ),
    "gap of an empty cell": (
        lambda: mf.bounds.spectral_gap(G(CIRCLE, 8, jnp.arange(8.0))),
        "a positive density, got one with empty cells",
    ),
    "coupling of other shapes": (
        lambda: mf.theory.optimal_coupling(jnp.ones((2, 3)), jnp.ones(2), jnp.ones(2)),
        r"costs \(M, K\) go with masses \(M,\) and \(K,\), got \(2, 3\), \(2,\) and \(2,\)",
    ),
    "coupling of negative masses": (
        lambda: mf.theory.optimal_coupling(jnp.ones((2, 2)), jnp.array([-0.5, 1.5]), jnp.full(2, 0.5)),
        "masses must not be negative",
    ),
    "bound of distances at other times": (
        lambda: mf.bounds.hwi([0.0, 1.0], [2.0, 1.0], [4.0], convexity=1.0),
        r"distances and information must be \(S,\) alike, got \(2,\) and \(1,\)",
    ),
    "what features see to a negative tolerance": (
        lambda: mf.certificates.identifiability(F.ReLU(), X, CIRCLE, tolerance=-1.0),
        "tolerance must be greater than 0",
    ),
    "what features see by masses of NaN": (
        lambda: mf.certificates.identifiability(F.ReLU(), X, CIRCLE, data_weights=jnp.full(3, jnp.nan)),
        "data_weights must be 3 non-negative masses",
    ),
    "what features see of no number": (
        lambda: mf.certificates.identifiability(F.ReLU(), X, CIRCLE, teacher=lambda p: p),
        "the teacher must return one number for a point of shape",
    ),
    "what features see of nothing": (
        lambda: mf.certificates.identifiability(F.ReLU(), X, CIRCLE, teacher=lambda p: 0.0 * p[0]),
        "the teacher is zero",
    ),
    "gap of particles": (
        lambda: mf.bounds.spectral_gap(P(UNIT)),
        "spectral_gap is that of a density on a Grid, got Particles",
    ),
    "gap of layers": (
        lambda: mf.bounds.spectral_gap(G.uniform(LAYERS, (2, 8))),
        "zero where nothing flows between species or along a frozen axis",
    ),
    "decay by negative norms": (
        lambda: mf.bounds.convex_decay(1.0, jnp.array([1.0, -1.0])),
        "norms must be non-negative",
    ),
    "array as a loss": (lambda: mf.losses.ConvexLoss(np.ones((9, 9))), r"got ndarray of shape \(9, 9\)"),
    "array as a neuron": (lambda: mf.features.Function(np.ones((9, 9))), r"got ndarray of shape \(9, 9\)"),
    "array as an activation": (lambda: mf.features.Ridge(np.ones((9, 9))), r"got ndarray of shape \(9, 9\)"),
    "array as a schedule": (lambda: mf.flows.Scheduled(np.ones((9, 9))), r"got ndarray of shape \(9, 9\)"),
    "array as an observable": (
        lambda: euler(steps=1, observables={"a": np.ones((9, 9))}),
        r"got 'a': ndarray of shape \(9, 9\)",
    ),
    "array as steps": (lambda: euler(steps=np.ones((9, 9))), r"whole number, got ndarray of shape \(9, 9\)"),
    "data without weight": (
        lambda: E.ReducedRisk(mf.features.ReLU(), X, Y, 0.1, data_weights=np.zeros(3)),
        "data_weights must have a positive sum, got zeros",
    ),
    "observable with nothing beside something": (
        lambda: euler(steps=1, observables={"pair": lambda mu, flow: {"a": mu.mass, "b": None}}),
        "the observable 'pair' returned",
    ),
    "function that returns nothing beside something": (
        lambda: mf.sweep(lambda a: {"x": a, "y": None}, a=[1.0, 2.0]),
        "fn must return arrays or a Simulation, got None as 'y'",
    ),
    "bound of another energy": (
        lambda: mf.bounds.algebraic_decay(E.Potential(well), P(UNIT), [1.0]),
        "bounds.algebraic_decay is that of a reduced risk, got Potential",
    ),
    "bound of another diffusion": (
        lambda: mf.bounds.diffusion_decay(E.Entropy(), G.uniform(TORUS, 8)),
        "this bound is that of a PowerDivergence, got Entropy",
    ),
    "marks without names": (
        lambda: P(UNIT, marks=[jnp.ones(2)]),
        r'marks must map names to arrays, \{"u": values\}, got list',
    ),
    "width 0": (lambda: P.sample(CIRCLE, jr.key(0), 0), "width must be at least 1, got 0"),
    "width above capacity": (lambda: P.sample(CIRCLE, jr.key(0), 9, capacity=8), "1 and capacity = 8, got 9"),
    "fractional width": (lambda: P.sample(CIRCLE, jr.key(0), 2.5), "width must be a whole number, got 2.5"),
    "density of two numbers": (
        lambda: G.from_density(TORUS, 8, lambda x: jnp.stack([x[0], x[0]])),
        "one number",
    ),
    "negative density": (
        lambda: G.from_density(TORUS, 8, lambda x: jnp.cos(7 * x[0])),
        "non-negative, got -",
    ),
    # Several outputs
    "targets for other data": (
        lambda: risk(y=jnp.ones((2, 3))),
        r"y must have shape \(3,\), or \(3, c\) for c outputs, to match x, got \(2, 3\)",
    ),
    "targets without columns": (lambda: risk(y=jnp.ones((3, 0))), r"y must have shape .*got \(3, 0\)"),
    "targets of three axes": (lambda: risk(y=jnp.ones((3, 2, 2))), r"y must have shape .*got \(3, 2, 2\)"),
    "target that is NaN": (
        lambda: risk(y=jnp.ones((3, 2)).at[1, 0].set(jnp.nan)),
        r"y must be finite, got nan at index \(1, 0\)",
    ),
    "features with outputs of their own in a reduced risk": (
        lambda: risk(features=F.Weighted(F.ReLU(), outputs=2), y=jnp.ones((3, 2)))(P(jnp.ones((2, 4)))),
        r"features must return one number, got shape \(2,\)",
    ),
    "outputs that are no number": (
        lambda: F.Weighted(F.ReLU(), outputs=1.5),
        "outputs must be a whole number",
    ),
    "outputs of neurons that have them": (
        lambda: F.Weighted(F.Weighted(F.ReLU(), outputs=2), outputs=2)(jnp.ones(6), jnp.ones(2)),
        r"return one number, got shape \(2,\): leave outputs out",
    ),
    "no outputs": (lambda: F.Weighted(F.ReLU(), outputs=0), "outputs must be at least 1, got 0"),
    "network of too few outputs": (
        lambda: several(2, jnp.ones((3, 3))),
        r"targets must have shape \(3, 2\) for a network with 2 outputs, got \(3, 3\), which is for 3 "
        r"outputs: features.Weighted\(phi, outputs=3\)",
    ),
    "network of one output": (
        lambda: several(None, jnp.ones((3, 2))),
        r"for a network with one output, got \(3, 2\), .*features.Weighted\(phi, outputs=2\)",
    ),
    "labels of the squared loss": (
        lambda: several(2, jnp.array([0, 1, 1])),
        r"targets must have shape \(3, 2\) .*losses.Softmax takes labels, others rows, as jax.nn.one_hot",
    ),
    "softmax of one output": (
        lambda: several(None, jnp.array([0, 1, 1]), mf.losses.Softmax()),
        r"the network has one: take losses.Logistic\(\)",
    ),
    "label out of range": (
        lambda: several(2, jnp.array([0, 1, 2]), mf.losses.Softmax()),
        r"labels of the softmax loss are 0 to 1 for 2 outputs, got y\[2\] = 2.0",
    ),
    "label that is no whole number": (
        lambda: several(2, jnp.array([0, 0.5, 1]), mf.losses.Softmax()),
        r"labels of the softmax loss are 0, 1, 2, \.\.\., got y\[1\] = 0.5",
    ),
    "negative label": (
        lambda: several(2, jnp.array([0, -1, 1]), mf.losses.Softmax()),
        r"labels of the softmax loss are 0, 1, 2, \.\.\., got y\[1\] = -1.0",
    ),
    "row that is no law": (
        lambda: several(2, jnp.array([[0.5, 0.5], [0.7, 0.7], [1.0, 0.0]]), mf.losses.Softmax()),
        r"probabilities, with sum 1, got y\[1\] = \[0.7",
    ),
    "sign of one of the outputs": (
        lambda: several(2, jnp.array([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), mf.losses.Logistic()),
        r"labels of the logistic loss are -1 and \+1, got y\[1, 1\] = 0.0",
    ),
    "loss of each output": (
        lambda: several(2, jnp.ones((3, 2)), lambda f, y: (f - y) ** 2),
        r"a loss must return one number, got shape \(2,\) .*: sum over the outputs",
    ),
    "held-out data of other outputs": (
        lambda: mf.observables.HeldOutRisk(X, jnp.ones((3, 2)))(P(UNIT), flow()),
        r"targets must have shape \(3,\) for a network with one output, got \(3, 2\)",
    ),
    "classes that the network does not have": (
        lambda: mf.observables.Accuracy(X, [0, 1, 5])(P(UNIT), flow(risk(y=jnp.ones((3, 2))))),
        r"labels .* are 0 to 1 for 2 outputs, got y\[2\] = 5.0",
    ),
    "classes of one output": (
        lambda: mf.observables.Accuracy(X, [0, 1, 1])(P(UNIT), flow()),
        r"labels of the logistic loss are -1 and \+1, got y\[0\] = 0.0",
    ),
    "probabilities of a squared loss": (
        lambda: mf.losses.Square().probabilities(jnp.ones((2, 3))),
        "Square is no loss of probabilities: Softmax and Logistic are",
    ),
    "probabilities of the classes of one output": (
        lambda: mf.losses.Softmax().probabilities(jnp.ones(2)),
        r"probabilities of rows \(N, c\), got shape \(2,\)",
    ),
    "weights of other particles": (
        lambda: E.Predictor(F.ReLU(), UNIT, jnp.ones((3, 2))),
        r"\(K, d\) and \(K,\) or \(K, c\), got \(2, 2\) and \(3, 2\)",
    ),
    "several weights of features with outputs": (
        lambda: E.Predictor(F.Weighted(F.ReLU(), outputs=2), jnp.ones((2, 4)), jnp.ones((2, 2)))(X),
        r"features with 2 outputs have one weight each, got weights of shape \(2, 2\)",
    ),
    "minimizing movements without a value": (
        lambda: mf.simulate(
            mf.flows.Wasserstein(
                E.Risk(F.Weighted(F.ReLU()), X, Y, batches=E.Batches(1), independent=True),
                mf.domains.Euclidean(3),
            ),
            P(jnp.ones((2, 3))),
            stepper=mf.steppers.Proximal(0.1),
            steps=1,
            key=jax.random.key(0),
        ),
        "Proximal minimizes, and this energy has forces and no value: use Euler",
    ),
    "least risk over particles": (
        lambda: mf.minimize_reduced_risk(risk(), P(UNIT)),
        "minimize_reduced_risk is over the masses of cells, got Particles: give a measures.Grid",
    ),
    "least risk without atoms": (
        lambda: mf.minimize_reduced_risk(risk(), G.uniform(CIRCLE, 8), max_atoms=0),
        "max_atoms must be at least 1, got 0",
    ),
    "least risk to a negative gap": (
        lambda: mf.minimize_reduced_risk(risk(), G.uniform(CIRCLE, 8), tolerance=-1e-8),
        "tolerance must be greater than 0, got -1e-08",
    ),
    "least risk of several outputs": (
        lambda: mf.minimize_reduced_risk(
            risk(y=jnp.ones((3, 2)), regularizer=mf.regularizers.Power(3.0)), G.uniform(CIRCLE, 8)
        ),
        "total variation of 2 outputs is known for Quadratic, got Power",
    ),
    "sheets of several heights": (
        lambda: OBS.ClosureDefect(LINE)(P(UNIT[:, :1], marks={"H": jnp.ones((2, 3))})),
        r"sheets have one height at a point, got the mark 'H' \(2, 3\)",
    ),
    "minimizing movements of pairs": (
        lambda: mf.simulate(
            mf.flows.PropagationOfChaos(E.Risk(F.Weighted(F.ReLU()), X, Y), mf.domains.Euclidean(2)),
            P(UNIT, marks={"H": jnp.ones(2)}),
            stepper=S.Proximal(0.1),
            steps=1,
        ),
        r"past crossings is no pair: run flows.Wasserstein of the same energy on flow.lift\(mu\)",
    ),
    "several heights": (
        lambda: mf.simulate(
            mf.flows.PropagationOfChaos(
                E.Risk(F.Weighted(F.ReLU(), outputs=2), X, jnp.ones((3, 2))), mf.domains.Euclidean(2)
            ),
            P(UNIT, marks={"H": jnp.ones(2)}),
            stepper=S.Euler(0.1),
            steps=1,
        ),
        r"the mark 'H' of Weighted\(outputs=2\) has shape \(2, 2\), got \(2,\)",
    ),
    "labels of a run's accuracy": (
        lambda: run(
            flow(risk(y=jnp.ones((3, 2)))),
            stepper=S.Euler(0.1),
            steps=1,
            observables={"a": OBS.Accuracy(X, [0, 1, 2])},
        ),
        r"labels of the softmax loss are 0 to 1 for 2 outputs, got y\[2\] = 2",
    ),
    "targets held out of a run": (
        lambda: run(
            mf.flows.Averaged(flow()),
            stepper=S.Euler(0.1),
            steps=1,
            observables={"a": OBS.AtAverage(OBS.HeldOutRisk(X, jnp.ones((3, 2))))},
        ),
        r"targets must have shape \(3,\) for a network with one output",
    ),
    "labels in a column": (lambda: several(2, [[0.0], [1.0], [0.0]], mf.losses.Softmax()), r"take y\[:, 0\]"),
    "outer weights of other outputs": (
        lambda: run(
            mf.flows.TwoTimescale(risk(), CIRCLE, rate=1.0),
            P(UNIT, marks={"u": jnp.ones((2, 3))}),
            stepper=S.Euler(0.1),
            steps=1,
        ),
        r"the mark 'u' has shape \(2,\), a number for each particle and output, got \(2, 3\)",
    ),
    "a predictor of other outputs": (
        lambda: risk().predictor(P(UNIT), jnp.ones((2, 3))),
        r"outer_weights must have shape \(2,\), got \(2, 3\)",
    ),
    # Batches
    "batch beyond the data": (
        lambda: risk(batches=E.Batches(4)),
        "a batch has at most the N = 3 rows of the data, got 4",
    ),
    "batch of half a row": (lambda: E.Batches(0.5), "size must be a whole number, got 0.5"),
    "empty batch": (lambda: E.Batches(0), "size must be at least 1, got 0"),
    "size for batches": (lambda: risk(batches=2), r"batches must be energies.Batches\(size\) .*, got int"),
    "stream of an array": (lambda: E.Stream(X), "sample must be a function of a key"),
    "stream of other inputs": (
        lambda: risk(batches=E.Stream(lambda key: (jr.normal(key, (4, 3)), jnp.ones(4)))),
        r"sample must return inputs \(B, 2\) and targets \(B,\).*got \(4, 3\) and \(4,\)",
    ),
    "stream of inputs alone": (
        lambda: risk(batches=E.Stream(lambda key: jr.normal(key, (4,)))),
        "sample must return inputs",
    ),
    "batches without a key": (
        lambda: run(flow(risk(batches=E.Batches(2))), stepper=S.Euler(0.1), steps=2),
        r"this flow has noise .*or batches.*: pass key=jax.random.key\(seed\)",
    ),
    "batches without a step": (
        lambda: run(flow(risk(batches=E.Batches(2))), t1=1.0, key=jr.key(0)),
        r"a flow that sees batches of data has no adaptive default: pass stepper=steppers.Euler\(dt\)",
    ),
    "batches with adaptive steps": (
        lambda: run(flow(risk(batches=E.Batches(2))), stepper=S.Adaptive(), t1=1.0, key=jr.key(0)),
        "Adaptive finds its steps by differences that batches of data disturb",
    ),
    "batches with an implicit scheme": (
        lambda: run(
            flow(E.Risk(F.ReLU(), X, Y, batches=E.Batches(2)) + 0.1 * E.Entropy()),
            G.uniform(CIRCLE, 8),
            stepper=S.RosenbrockW(),
            t1=1.0,
            key=jr.key(0),
        ),
        "RosenbrockW finds its steps by differences that batches of data disturb",
    ),
    "a target on a longer interval": (
        lambda: run(
            flow(E.PowerDivergence(G.uniform(D.Interval(0.0, 2.0), 8)), D.Interval(0.0, 1.0)),
            G.uniform(D.Interval(0.0, 1.0), 8),
            t1=0.1,
        ),
        r"the target lives on open axes with cells of size \[0\.25\] from \[0\.125\] on, and the measure on",
    ),
    "a divergence from a torus": (
        lambda: OBS.KL(G.uniform(TORUS, 8))(G.uniform(D.Interval(0.0, 1.0), 8)),
        "the target lives on closed axes with cells of size .*, and the measure on open axes",
    ),
    "a divergence in a run, from elsewhere": (
        lambda: run(
            flow(E.Entropy(), D.Interval(0.0, 1.0)),
            G.uniform(D.Interval(0.0, 1.0), 8),
            t1=0.1,
            observables={"kl": OBS.KL(G.uniform(D.Interval(1.0, 2.0), 8))},
        ),
        "the target lives on open axes .* from .1.0625. on",
    ),
    "spacings of zones": (
        lambda: E.Spacings(E.PorousMedium(), D.Zonal(2)),
        r"neighbors need one dimension.*, got Zonal\(sphere_dim=2\)",
    ),
    "quantization of zones": (
        lambda: E.Quantization(lambda x: jnp.ones(()), D.Zonal(1)),
        r"neighbors need one dimension.*, got Zonal\(sphere_dim=1\)",
    ),
    "free energy of zones": (
        lambda: OBS.FreeEnergy(E.Entropy())(
            P(jnp.linspace(0.1, 3.0, 8)[:, None]), flow(E.Entropy(), D.Zonal(2))
        ),
        r"distances on Zonal\(sphere_dim=2\) are not those of the sphere: use a Grid",
    ),
    "harmonics of zones in a product": (
        lambda: OBS.SobolevNorm(lambda x: jnp.ones(()), 1.0, D.Product(D.Zonal(2), TORUS), degree=3),
        "no harmonics are known on Product",
    ),
    "synchronous copies of zones": (
        lambda: mf.bounds.contraction_rate(
            flow(E.Potential(well) + E.Entropy(), D.Zonal(2)), P(jnp.array([[0.5], [1.0]]))
        ),
        "copies under one noise are compared on flat domains, got Zonal",
    ),
    "labels of zones": (
        lambda: mf.flows.Transported(E.Potential(well), D.Zonal(2), labels=(8,)),
        "labels must hold one number per axis of a flat domain",
    ),
    "bumps of another torus": (
        lambda: run(
            flow(E.ReducedRisk(F.RBF(TORUS, scale=0.2), X[:, :1], Y, 0.1), D.Torus(1, 4.0)), P(X[:, :1])
        ),
        r"these features take distances on Torus.* moves on Torus.*: pass it as torus=",
    ),
    "modes of the circle on the sphere": (
        lambda: run(
            flow(E.Risk(F.CircleModes([1.0, 0.5]), F.CircleModes([1.0, 0.5]).inputs(), Y), D.Sphere(2)),
            P.sample(D.Sphere(2), jr.key(0), 3),
        ),
        r"these are features on Sphere\(1\), and the measure moves on Sphere\(dim=2\)",
    ),
    "a density of mass zero": (
        lambda: G.from_density(TORUS, 8, lambda x: jnp.ones(()), mass=0.0),
        "mass must be greater than 0, got 0",
    ),
    "neurons that are no features": (lambda: F.Weighted(jnp.tanh), "features must be a FeatureMap"),
    "rates of two hidden layers": (
        lambda: mf.linearize(
            mf.flows.TwoHiddenLayers(
                E.Risk(
                    F.Weighted(F.Ridge(jnp.tanh), outputs=2), X, Y, layer=E.SecondLayer(jnp.tanh, [1.0, 2.0])
                ),
                D.Box([-1.0, -1.0], [1.0, 1.0]),
            ),
            G.uniform(D.Box([-1.0, -1.0], [1.0, 1.0]), 8).with_marks(H=jnp.zeros((64, 2))),
        ),
        r"also holds w, which are not at rest with the measure: linearize a flow of the measure alone$",
    ),
    "steps that begin with zero": (
        lambda: S.Euler(lambda n: 0.1 * n),
        "dt of the first step must be greater than 0, got 0",
    ),
    "steps that turn back": (
        lambda: run(stepper=S.Euler(lambda n: 0.1 * (2.5 - n)), steps=5),
        "dt must be positive, got -0.05.* for step number 3",
    ),
    "Gaussian batches of no row": (lambda: E.GaussianBatches(0.0), "size must be greater than 0, got 0"),
    "variable projection of negative masses": (
        lambda: risk(batches=E.GaussianBatches(2)),
        r"GaussianBatches gives some data a negative mass, .*: take energies.Batches\(size, replace=True\)",
    ),
    "independent batches of nothing": (
        lambda: E.Risk(F.ReLU(), X, Y, independent=True),
        r"independent=True is about batches: give them by batches=energies.Batches\(size\)",
    ),
    "independent batches of a density": (
        lambda: flow(E.Risk(F.ReLU(), X, Y, batches=E.Batches(2), independent=True)).init(
            G.uniform(CIRCLE, 8)
        ),
        "a density has no particles with batches of their own: take independent=False",
    ),
    "separated variables of batches": (
        lambda: mf.flows.SeparatedVariables(
            E.Risk(F.Weighted(F.ReLU()), X, Y, batches=E.Batches(2)), D.Euclidean(2), jnp.sum
        ).init(P(UNIT)),
        "a closed form in the duals of all data, not of batches: take flows.Transported",
    ),
    "variance of no noise": (
        lambda: mf.flows.VarianceReduced(flow(), 4),
        "needs a flow that sees batches of data: give batches= to its energy",
    ),
    "variance reduced of an energy": (
        lambda: mf.flows.VarianceReduced(risk(), 4),
        r"VarianceReduced is of another flow, such as flows.Wasserstein\(...\), got ReducedRisk",
    ),
    "a snapshot every 0 steps": (
        lambda: mf.flows.VarianceReduced(flow(risk(batches=E.Batches(2))), 0),
        "every must be at least 1, got 0",
    ),
    "variance reduced of a stream": (
        lambda: mf.flows.VarianceReduced(flow(risk(batches=E.Stream(lambda key: (X, Y)))), 4),
        "and a Stream has none: take energies.Batches",
    ),
    "variance reduced by steps in the space around": (
        lambda: mf.simulate(
            mf.flows.VarianceReduced(flow(risk(batches=E.Batches(2))), 4),
            P(UNIT),
            stepper=S.NormalizedEuler(0.1),
            steps=2,
            key=jr.key(0),
        ),
        "keeps rates of its own domain.*take steppers.Euler",
    ),
    "variance reduced of what depends on time": (
        lambda: mf.flows.VarianceReduced(
            mf.flows.Scheduled(lambda t: flow((1 + t) * risk(batches=E.Batches(2)))), 4
        ),
        "VarianceReduced keeps rates at a snapshot, and Scheduled depends on time",
    ),
    "variance reduced of a density": (
        lambda: mf.flows.VarianceReduced(flow(risk(batches=E.Batches(2))), 4).init(G.uniform(CIRCLE, 8)),
        "VarianceReduced is of the points of Particles, got a Grid",
    ),
    "averages of outer weights": (
        lambda: mf.flows.Averaged(mf.flows.TwoTimescale(risk(), CIRCLE, 1.0)).init(P(UNIT)),
        "Averaged is of flows of points alone, and TwoTimescale moves marks, too",
    ),
    "averages before the start": (
        lambda: mf.flows.Averaged(flow(), since=-1.0),
        "since must be at least 0, got -1",
    ),
    "averages without memory": (
        lambda: mf.flows.Averaged(flow(), memory=0.0),
        "memory must be greater than 0, got 0",
    ),
    # Data and energies
    "data without axis": (lambda: risk(x=X[:, 0]), r"x must have shape \(N, k\).*got \(3,\)"),
    "empty data": (lambda: risk(x=X[:0], y=Y[:0]), r"N, k >= 1, got \(0, 2\)"),
    "targets of another length": (
        lambda: risk(y=Y[:2]),
        r"y must have shape \(3,\), .* to match x, got \(2,\)",
    ),
    "NaN targets": (lambda: risk(y=Y.at[1].set(jnp.nan)), r"y must be finite, got nan at index \(1,\)"),
    "NaN inputs": (lambda: risk(x=X.at[2, 0].set(jnp.inf)), r"x must be finite, got inf at index \(2, 0\)"),
    "complex inputs": (lambda: risk(x=1j * X), "x must be real, got dtype complex"),
    "negative data weights": (lambda: risk(data_weights=-Y), "data_weights must be non-negative"),
    "data weights of another length": (
        lambda: risk(data_weights=Y[:2]),
        r"data_weights must have shape \(3,\)",
    ),
    "negative lam": (lambda: risk(lam=-0.1), "lam must be at least 0, got -0.1"),
    "NaN lam": (lambda: risk(lam=np.nan), "lam must be finite, got nan"),
    "lam as a list": (lambda: risk(lam=[0.1, 0.2]), r"lam must be a scalar, got .*shape \(2,\)"),
    "lam as text": (lambda: risk(lam="small"), "lam must be numeric, got 'small'"),
    "a plain function as features": (
        lambda: flow(risk(features=jnp.dot)).init(P(UNIT)),
        "wrap .*features.Function",
    ),
    "features that return a vector": (
        lambda: flow(risk(features=F.Function(lambda w, x: w * x))).init(P(UNIT)),
        r"features must return one number, got shape \(2,\)",
    ),
    "features of another dimension": (
        lambda: flow(domain=D.Sphere(2)).init(P(jnp.array([[0.0, 0.0, 1.0]]))),
        r"particle of shape \(3,\) and an input of shape \(2,\)",
    ),
    "a plain function as regularizer": (
        lambda: risk(regularizer=well),
        "wrap .*ConvexRegularizer",
    ),
    "power of order 1": (lambda: R.Power(1.0), "order must be greater than 1, got 1"),
    "concave regularizer": (lambda: R.ConvexRegularizer(lambda t: -(t**2)), "strictly convex"),
    "RBF of scale 0": (lambda: F.RBF(TORUS, scale=0.0), "scale must be greater than 0, got 0"),
    "unknown RBF profile": (
        lambda: F.RBF(TORUS, scale=1.0, profile="box"),
        "'laplace' or 'gaussian', got 'box'",
    ),
    "kernel of negative scale": (lambda: mf.kernels.Gaussian(-1.0), "scale must be greater than 0, got -1"),
    "MMD to a name": (lambda: E.MMD(mf.kernels.Gaussian(), "circle"), "points must be numeric, got 'circle'"),
    "MMD across dimensions": (
        lambda: flow(E.MMD(mf.kernels.Gaussian(), P(UNIT)), LINE).init(P(jnp.ones((1, 1)))),
        "target has points of dimension 2 and the measure 1",
    ),
    "teacher of the sphere for its zones": (
        lambda: E.PopulationReducedRisk(K.ZonalKernel(K.ArcCosine(), 2), P(jnp.eye(3)), 0.1),
        r"points of Zonal\(sphere_dim=2\) are angles \(theta,\), got a point of shape \(3,\)",
    ),
    "kernel of the zones of another sphere": (
        lambda: flow(E.MMD(K.ZonalKernel(K.ArcCosine(), 3), P(jnp.ones((2, 1)))), D.Zonal(2)).init(
            G.uniform(D.Zonal(2), 8)
        ),
        r"between the orbits of Zonal\(sphere_dim=3\) and the measure moves on Zonal\(sphere_dim=2\)",
    ),
    "kernel of zones on an interval": (
        lambda: flow(E.Interaction(K.ZonalKernel(K.Gaussian(), 1)), LINE).init(P(jnp.ones((2, 1)))),
        r"between the orbits of Zonal\(sphere_dim=1\) and the measure moves on",
    ),
    "zonal kernel without nodes": (
        lambda: K.ZonalKernel(K.ArcCosine(), 2, nodes=0),
        "nodes must be at least 1, got 0",
    ),
    "zonal kernel of a class": (lambda: K.ZonalKernel(K.ArcCosine, 2), "the class ArcCosine: write"),
    "harmonics of another sphere": (
        lambda: flow(zonal_risk(3), D.Zonal(2)).init(G.uniform(D.Zonal(2), 8)),
        r"features on Zonal\(sphere_dim=3\) and the measure moves on Zonal\(sphere_dim=2\)",
    ),
    "harmonics of the line": (
        lambda: OBS.SobolevNorm(jnp.ones((2, 1)), -1.0, LINE),
        r"no harmonics are known on Euclidean\(dim=1\): a domain that has them overrides `harmonics`",
    ),
    "harmonics of the sphere S^3": (
        lambda: OBS.SobolevNorm(jnp.eye(4), -1.0, D.Sphere(3)),
        r"no harmonics are known on Sphere\(dim=3\)",
    ),
    "harmonics of no kernel": (lambda: F.ZonalModes([1.0, -1.0], 2), "coefficients must be non-negative"),
    "harmonics of one degree": (lambda: F.ZonalModes([1.0], 2), "coefficients must be a vector"),
    "spectrum of biased ReLU on a sphere": (
        lambda: mf.problems.relu_coefficients(0.5, 8, dim=2),
        "on spheres of dimension 2 coefficients are known at bias 0, got 0.5",
    ),
    "negative factor of an energy": (lambda: -1.0 * risk(), "factor of an energy must be at least 0, got -1"),
    "a sum with a number": (lambda: risk() + 1.0, TypeError, "unsupported operand"),
    "a potential that is no function": (lambda: E.Potential(3.0), "callable on one point, got 3.0"),
    "divergence of order 1": (
        lambda: E.PowerDivergence(well, order=1),
        "order must be greater than 1, got 1",
    ),
    "divergence of scale 0": (
        lambda: E.PowerDivergence(well, scale=0),
        "scale must be greater than 0, got 0",
    ),
    "divergence on particles": (
        lambda: flow(E.PowerDivergence(well)).init(P(UNIT)),
        "particles do not have: .*Grid",
    ),
    "quantization of an array": (
        lambda: E.Quantization(np.ones(3), CIRCLE),
        r"density must be a function of one point, got array\(\[1., 1., 1.\]\)",
    ),
    "quantization of order 1/2": (
        lambda: E.Quantization(well, CIRCLE, 0.5),
        "order must be at least 1, got 0.5",
    ),
    "quantization on a line": (
        lambda: E.Quantization(well, LINE),
        r"the outer cells of Euclidean\(dim=1\) have no end: take an Interval",
    ),
    "quantization on a sphere": (
        lambda: E.Quantization(well, D.Sphere(2)),
        r"neighbors need one dimension, .*got Sphere\(dim=2\)",
    ),
    "quantization of a vector": (
        lambda: E.Quantization(lambda x: x, CIRCLE)(P(UNIT)),
        r"the density must return one number .*got shape \(2,\)",
    ),
    "quantization of a negative density": (
        lambda: E.Quantization(lambda x: x[0] - 0.5, CIRCLE)(P(UNIT)),
        "must not be negative, got -0.5 at particle 1",
    ),
    "quantization on a grid": (
        lambda: flow(E.Quantization(well, CIRCLE)).init(G.uniform(CIRCLE, 8)),
        "Quantization is for Particles, got Grid: there use PowerDivergence itself, its .energy",
    ),
    "quantization on another domain": (
        lambda: flow(E.Quantization(well, TORUS), D.Torus(1, 2.0)).init(P(jnp.array([[0.1], [0.5]]))),
        "this Quantization lives on Torus.* and the measure moves on",
    ),
    "spacings on a sphere": (
        lambda: E.Spacings(E.Entropy(), D.Sphere(2)),
        r"neighbors need one dimension, .*got Sphere\(dim=2\)",
    ),
    "vanishing target": (
        lambda: flow(E.PowerDivergence(lambda x: jnp.maximum(x[0] - 0.5, 0)), TORUS).init(
            G.uniform(TORUS, 8)
        ),
        "target must be positive in every cell",
    ),
    "no interpolant": (
        lambda: E.ReducedRisk(F.ReLU(), jnp.ones((2, 1)), jnp.array([0.0, 1.0]), lam=0.0)(
            P(jnp.ones((1, 1)))
        ),
        RuntimeError,
        "no|none exists.*Use lam > 0",
    ),
    "outer weights of a potential": (
        lambda: E.Potential(well).outer_weights(P(UNIT)),
        "has no outer weights",
    ),
    # Flows
    "a flow of a function": (
        lambda: mf.flows.Wasserstein(well, CIRCLE),
        "energy must be an Energy, got function",
    ),
    "a flow on a name": (lambda: mf.flows.Wasserstein(risk(), "sphere"), "domain must be a Domain, got str"),
    "points off the sphere": (
        lambda: flow().init(P(2 * UNIT)),
        r"points\[0\] = \[2.0, 0.0\].*domain.retract",
    ),
    "points off the torus": (lambda: flow(E.Potential(well), TORUS).init(P(jnp.array([[1.5]]))), r"\[1.5\]"),
    "points of another dimension": (
        lambda: flow().init(P(jnp.ones((2, 3)))),
        r"shape \(M, 2\).*got \(2, 3\)",
    ),
    "an array as measure": (lambda: run(mu=UNIT, stepper=S.Euler(0.1), steps=1), "Particles or Grid, got"),
    "two timescales at lam 0": (
        lambda: mf.flows.TwoTimescale(risk(lam=0.0), CIRCLE, 1.0),
        "greater than 0, got 0",
    ),
    "two timescales at rate 0": (
        lambda: mf.flows.TwoTimescale(risk(), CIRCLE, 0.0),
        "rate must be greater than 0",
    ),
    "two timescales of a potential": (
        lambda: mf.flows.TwoTimescale(E.Potential(well), CIRCLE, 1.0),
        "needs a ReducedRisk or PopulationReducedRisk, one alone, got Potential",
    ),
    "two timescales of two risks": (
        lambda: mf.flows.TwoTimescale(risk() + risk(), CIRCLE, 1.0),
        "one alone, got ReducedRisk, ReducedRisk",
    ),
    "pairs with two outer weights": (
        lambda: mf.flows.TwoTimescale(risk(), CIRCLE, rate=2.0).of_pairs(D.Euclidean(2)),
        r"outer must be a Domain of 1 coordinates, one for each output, got Euclidean\(dim=2\)",
    ),
    "pairs of two temperatures": (
        lambda: mf.flows.TwoTimescale(
            risk() + 0.1 * E.Entropy(), CIRCLE, rate=2.0, outer_temperature=0.3
        ).of_pairs(LINE),
        "outer weights of temperature 0.3 and features of 0.1: pairs have a flow where both are the same",
    ),
    "two timescales with noise on a grid": (
        lambda: mf.flows.TwoTimescale(risk() + E.Entropy(), CIRCLE, 1.0).init(G.uniform(CIRCLE, 8)),
        "one outer weight in each cell, and noise would spread them: use Particles",
    ),
    "noise of outer weights on a grid": (
        lambda: mf.flows.TwoTimescale(risk(), CIRCLE, 1.0, outer_temperature=0.1).init(G.uniform(CIRCLE, 8)),
        "noise would spread them: use Particles",
    ),
    "outer weights with negative noise": (
        lambda: mf.flows.TwoTimescale(risk(), CIRCLE, 1.0, outer_temperature=-0.1),
        "outer_temperature must be at least 0, got -0.1",
    ),
    "the expansion of a flow without batches": (
        lambda: mf.flows.BatchExpansion(flow()),
        r"needs the flow of one Risk\(..., batches=Batches\(B\)\), got",
    ),
    "the expansion of independent epochs": (
        lambda: mf.flows.BatchExpansion(
            flow(E.Risk(F.ReLU(), X, Y, batches=E.Batches(2), independent=True), D.Euclidean(2))
        ),
        r"of those with replacement: Batches\(B, replace=True\)",
    ),
    "the expansion on a circle": (
        lambda: mf.flows.BatchExpansion(
            mf.flows.Wasserstein(E.Risk(mf.features.ReLU(), X, Y, batches=E.Batches(2)), CIRCLE)
        ),
        "flat domains without walls, where steps add up, got Sphere",
    ),
    "outer momentum of one": (
        lambda: mf.flows.OuterMomentum(risk(), CIRCLE, 1.0, 0.1),
        "momentum must be less than 1, got 1",
    ),
    "outer momentum without a step": (
        lambda: mf.flows.OuterMomentum(risk(), CIRCLE, 0.5, 0.0),
        "dt must be greater than 0, got 0",
    ),
    "a grid of another domain": (
        lambda: flow(E.Potential(well), D.Interval(0.0, 1.0)).init(G.uniform(TORUS, 8)),
        "another grid than .*Grid.uniform",
    ),
    # Steppers
    "negative step": (lambda: S.Euler(-0.1), "dt must be greater than 0, got -0.1"),
    "zero step": (lambda: S.EulerMaruyama(0), "dt must be greater than 0, got 0"),
    "step as text": (lambda: S.RK4("small"), "dt must be numeric, got 'small'"),
    "tolerance 0": (lambda: S.Adaptive(rtol=0.0), "rtol must be greater than 0, got 0"),
    "noise with a deterministic stepper": (
        lambda: run(langevin(), stepper=S.Euler(0.1), steps=1, key=jr.key(0)),
        "Euler is deterministic.*use steppers.EulerMaruyama",
    ),
    "noise on a grid": (
        lambda: run(
            flow(E.Potential(well), TORUS), G.uniform(TORUS, 8), stepper=S.EulerMaruyama(0.1), steps=1
        ),
        "got a Grid",
    ),
    "an optimizer without its numbers": (
        lambda: S.Optax(optax.adam, dt=0.1),
        "could not be built.*learning_rate",
    ),
    # Simulate
    "no measure": (lambda: mf.simulate(flow()), "needs an initial measure, or start="),
    "an energy for a flow": (lambda: run(risk(), steps=1), "flow must be a Flow, got ReducedRisk"),
    "a class for an energy": (
        lambda: flow(E.Entropy, TORUS),
        r"energy must be an Energy, got the class Entropy: write Entropy\(",
    ),
    "a class for features": (
        lambda: E.ReducedRisk(mf.features.ReLU, X, Y, 0.1),
        r"features must be a FeatureMap, got the class ReLU: write ReLU\(...\)",
    ),
    "a function for features": (
        lambda: E.ReducedRisk(lambda omega, x: omega @ x, X, Y, 0.1),
        "features must be a FeatureMap, got function;.*wrap a function .* in features.Function",
    ),
    "a Gibbs measure for a measure": (
        lambda: flow(E.Entropy(), TORUS).init(mf.gibbs(E.Entropy(), G.uniform(TORUS, 8))),
        "must be Particles or Grid, got GibbsMeasure; pass its .measure",
    ),
    "masses apart under a conditional kernel": (
        lambda: run(flow(E.MMD(mf.kernels.Distance(), P(UNIT, [1.0, 1.0])), D.Euclidean(2)), t1=1.0),
        "compares measures of one mass, got 1 and a target of 2",
    ),
    "points outside a box": (
        lambda: run(flow(E.Potential(well), D.Box([0.0, 0.0], [0.5, 0.5])), t1=1.0),
        r"does not lie on Box\(lower=\[0.0, 0.0\], upper=\[0.5, 0.5\]\): jax.vmap\(domain.retract\)",
    ),
    "a number for a stepper": (lambda: run(stepper=0.1, steps=1), "stepper must be a Stepper, got float"),
    "no length": (lambda: euler(), "pass either steps= .* or t1="),
    "two lengths": (lambda: euler(steps=1, t1=1.0), "pass either steps= .* or t1="),
    "zero steps": (lambda: euler(steps=0), "steps must be at least 1, got 0"),
    "steps as a float": (lambda: euler(steps=10.0), "steps must be a whole number, got 10.0"),
    "steps not a multiple": (
        lambda: euler(steps=10, save_every=3),
        "steps = 10 is not a multiple of save_every = 3",
    ),
    "too many steps": (lambda: euler(steps=2**31), r"fewer than 2\*\*31 steps, got"),
    "too many steps to t1": (
        lambda: run(stepper=S.Euler(1e-10), t1=1.0),
        r"fewer than 2\*\*31 steps, got 1e\+10",
    ),
    "steps of an adaptive scheme": (lambda: run(steps=10), "Adaptive chooses its own: pass t1="),
    "save_every with t1": (lambda: euler(t1=1.0, save_every=2), "save_every = 2 counts steps: .*save_at"),
    "negative end": (lambda: run(t1=-1.0), "t1 must be greater than 0, got -1"),
    "infinite end": (lambda: run(t1=np.inf), "t1 must be finite, got inf"),
    "decreasing times": (lambda: run(save_at=[0.5, 0.2]), r"positive and increasing .*got \[0.5, 0.2"),
    "repeated times": (lambda: run(save_at=[0.5, 0.5]), r"positive and increasing .*got \[0.5, 0.5"),
    "negative times": (lambda: run(save_at=[-0.5, 0.5]), r"positive and increasing .*got \[-0.5, 0.5"),
    "NaN times": (lambda: run(save_at=[0.5, np.nan]), r"save_at must be finite, got nan at index \(1,\)"),
    "only t = 0": (lambda: run(save_at=[0.0]), "save_at holds only t = 0.*add later times"),
    "a number as times": (lambda: run(save_at=0.5), r"save_at must be a list of times, got shape \(\)"),
    "times after the end": (lambda: run(save_at=[0.5, 2.0], t1=1.0), "save_at ends at 2, after t1 = 1"),
    "times merged by the dtype": (
        lambda: run(mu=P(UNIT.astype(jnp.float32)), save_at=[0.5, 0.5 + 1e-10]),
        "increasing in float32",
    ),
    "noise without a key": (
        lambda: run(langevin(), stepper=S.EulerMaruyama(0.1), steps=1),
        r"jax.random.key\(seed\)",
    ),
    "a raw key": (
        lambda: run(langevin(), stepper=S.EulerMaruyama(0.1), steps=1, key=jax.random.PRNGKey(0)),
        r"must be a typed key, jax.random.key\(seed\)",
    ),
    "many keys": (
        lambda: euler(steps=1, key=jr.split(jr.key(0), 3)),
        r"one key, got an array of shape \(3,\)",
    ),
    "noise without a stepper": (
        lambda: run(langevin(), t1=1.0, key=jr.key(0)),
        "no adaptive default: pass stepper=",
    ),
    "observables that are numbers": (lambda: euler(steps=1, observables={"a": 1.0}), "'a': 1.0"),
    "observables without names": (
        lambda: euler(steps=1, observables=[well]),
        "observables must be a mapping",
    ),
    "a reserved name": (
        lambda: euler(steps=1, observables={"energy": well}),
        "'energy' is recorded .*choose another",
    ),
    "an observable of one argument": (
        lambda: euler(steps=1, observables={"a": lambda mu: mu.mass}),
        "the observable 'a' must be a function of two arguments",
    ),
    "a zero budget": (lambda: run(t1=1.0, max_steps=0), "max_steps must be at least 1, got 0"),
    "resume from nowhere": (lambda: euler(steps=1, resume=True), "resume=True needs path="),
    # Sweeps
    "a sweep over nothing": (lambda: mf.sweep(lambda: 1.0), "needs at least one axis"),
    "an empty axis": (lambda: mf.sweep(lambda a: a, a=[]), "the axis a is empty"),
    "an axis of one number": (
        lambda: mf.sweep(lambda a: a, a=0.1),
        "the axis a must be a sequence .*got 0.1",
    ),
    "an axis of one word": (
        lambda: mf.sweep(lambda a: a, a="bc"),
        "the axis a must be a sequence .*got 'bc'",
    ),
    "a repeated value": (lambda: mf.sweep(lambda a: a, a=[0.1, 1, 1.0]), "the axis a repeats a value"),
    "a NaN value": (lambda: mf.sweep(lambda a: a, a=[0.1, np.nan]), "the axis a must be finite"),
    "an unknown method": (
        lambda: mf.sweep(lambda a: a, a=[1], method="scan"),
        "auto, loop, map, vmap, measure, got 'scan'",
    ),
    "an unknown static axis": (lambda: mf.sweep(lambda a: a, a=[1], static=["b"]), "static names no axis: b"),
    "a batch of 0": (
        lambda: mf.sweep(lambda a: a, a=[1], batch_size=0),
        "batch_size must be at least 1, got 0",
    ),
    "no workers": (lambda: mf.sweep(lambda a: a, a=[1], workers=0), "workers must be at least 1, got 0"),
    "a sweep resumed from nowhere": (
        lambda: mf.sweep(lambda a: a, a=[1], resume=True),
        "resume=True needs path=",
    ),
    "a function of nothing": (lambda: mf.sweep(lambda a: None, a=[1]), "must return arrays or a Simulation"),
    "an axis named as a result": (
        lambda: mf.sweep(lambda a: {"a": a}, a=[1]),
        "'a' names both an axis and a result",
    ),
    "a negative lam inside a sweep": (
        lambda: mf.sweep(lambda lam: risk(lam=lam)(P(UNIT)), lam=[-1.0], static=["lam"]),
        "lam must be at least 0, got -1",
    ),
    # Observables
    "a target of another dimension": (
        lambda: euler(steps=1, observables={"d": OBS.EnergyDistance(jnp.ones((2, 3)))}),
        "dimension 3 and the measure 2",
    ),
    "a density without domain": (lambda: OBS.EnergyDistance(well), "needs domain="),
    "an unknown metric": (
        lambda: OBS.EnergyDistance(UNIT, metric="taxi"),
        "'chordal' or 'wrapped', got 'taxi'",
    ),
    "a NaN target": (lambda: OBS.EnergyDistance(NOT_A_NUMBER), "target must be finite, got nan"),
    "moments of order 0": (lambda: OBS.Moments(0), "order must be at least 1, got 0"),
    "averages that no flow has made": (
        lambda: OBS.AtAverage(OBS.Moments())(P(UNIT)),
        r"this measure has no averages: run flows.Averaged\(flow\)",
    ),
    "averages of a number": (lambda: OBS.AtAverage(1.0), r"a function of \(measure, flow\), got 1.0"),
    "a histogram of one edge": (lambda: OBS.Histogram([0.0]), r"edges must have shape \(B \+ 1,\) .*\(1,\)"),
    "a histogram of falling edges": (
        lambda: OBS.Histogram([1.0, 0.0]),
        r"edges must increase, got \[1.0, 0.0\]",
    ),
    "a histogram of a coordinate too many": (
        lambda: OBS.Histogram([0.0, 1.0], 2)(P(UNIT)),
        "points have the coordinates 0 to 1, got coordinate = 2",
    ),
    # Causes by their names
    "a potential of a vector": (
        lambda: run(flow(E.Potential(lambda x: x), D.Euclidean(2)), t1=1.0),
        r"the potential must return one number for a point of shape \(2,\), got shape \(2,\)",
    ),
    "a potential of shape (1,)": (
        lambda: E.Potential(lambda x: x[:1])(P(UNIT)),
        r"the potential must return one number .*got shape \(1,\)",
    ),
    "a potential of another dimension": (
        lambda: E.Potential(lambda x: jnp.ones(3) @ x)(P(UNIT)),
        r"the potential cannot be applied to a point of shape \(2,\)",
    ),
    "an interaction of a vector": (
        lambda: E.Interaction(lambda x, y: x - y)(P(UNIT)),
        r"the kernel must return one number .*got shape \(2,\)",
    ),
    "a kernel of a vector": (
        lambda: E.MMD(lambda x, y: (x - y)[:1], P(UNIT))(P(UNIT)),
        r"the kernel must return one number .*got shape \(1,\)",
    ),
    "a bounded slope": (
        lambda: R.ConvexRegularizer(lambda t: jnp.sqrt(1 + t**2)),
        "slope of the regularizer stays near 1 for large t, and its conjugate is infinite",
    ),
    "a slope bounded on one side": (lambda: R.ConvexRegularizer(jax.nn.softplus), "conjugate is infinite"),
    "log cosh": (lambda: R.ConvexRegularizer(lambda t: jnp.log(jnp.cosh(t))), "conjugate is infinite"),
    "a bounded slope of a class": (lambda: risk(regularizer=Bounded()), "conjugate is infinite beyond"),
    "a density of other cells": (
        lambda: G.from_density(TORUS, 256, np.ones(100)),
        r"values in the \(256,\) cells, got an array of shape \(100,\): interpolate",
    ),
    "an empty cell under a power divergence": (
        lambda: flow(E.PowerDivergence(lambda x: 1.0 + 0 * x[0]), TORUS).init(G(TORUS, 4, [0, 1, 1, 1])),
        "empty in cell 0, where this energy is infinite: start from a positive density",
    ),
    "a population risk to be minimized": (
        lambda: mf.minimize_reduced_risk(population(), G.uniform(CIRCLE, 8)),
        "minimize_reduced_risk needs a ReducedRisk, got PopulationReducedRisk: sample inputs",
    ),
    "semiconvexity of a population risk": (
        lambda: mf.bounds.semiconvexity(population(), CIRCLE, 1.0),
        "bounds.semiconvexity needs a ReducedRisk, got PopulationReducedRisk",
    ),
    "stability of a population risk": (
        lambda: mf.bounds.stability(population(), CIRCLE, P(UNIT), P(UNIT)),
        "bounds.stability needs a ReducedRisk, got PopulationReducedRisk",
    ),
    "a periodic box": (
        lambda: D.Box([0.0], [1.0], periodic=True),
        r"Box has walls on all sides and no option 'periodic': .*Torus",
    ),
    "boundary of an interval": (
        lambda: D.Interval(0.0, 1.0, boundary="reflecting"),
        "Interval has walls on all sides and no option 'boundary'",
    ),
    # Arrays of other programs
    "masked points": (
        lambda: P(np.ma.masked_array(np.ones((2, 2)), [[False, False], [True, False]])),
        r"points is masked at index \(1, 0\)",
    ),
    "masked numbers of an axis": (
        lambda: mf.sweep(lambda a: a, a=np.ma.masked_array([1.0, 2.0], [False, True])),
        r"the axis a is masked at index \(1,\)",
    ),
    "half precision": (
        lambda: P(UNIT.astype(jnp.bfloat16)),
        "points must be float32 or float64, got bfloat16",
    ),
    "half precision of data": (
        lambda: risk(x=X.astype(jnp.float16)),
        "x must be float32 or float64, got float16",
    ),
    "no mass": (lambda: P(UNIT, jnp.zeros(2)), "weights must have a positive sum, got zero mass"),
    "no mass on a grid": (
        lambda: G.from_density(TORUS, 8, lambda x: 0 * x[0]),
        "weights must have a positive",
    ),
    "a side that float32 cannot resolve": (
        lambda: flow(E.Potential(well), D.Interval(1e6, 1e6 + 1)).init(P(np.full((1, 1), 1e6, np.float32))),
        "float32 numbers near 1e.06 lie 0.1 apart, too coarse for a side of 1: move the origin",
    ),
    "masses that cannot be coupled": (
        lambda: mf.theory.optimal_coupling(jnp.ones((2, 2)), jnp.ones(2), 0.5 * jnp.ones(2)),
        "masses of sum 2 and 1 have no coupling: rescale one",
    ),
    "a Wasserstein distance of order 3": (
        lambda: OBS.WassersteinDistance(UNIT, 3),
        "order must be 1 or 2, got 3",
    ),
    "a Wasserstein distance to points elsewhere": (
        lambda: OBS.WassersteinDistance(2 * UNIT, 2, CIRCLE),
        r"target\[0\] = \[2.0, 0.0\] does not lie on",
    ),
    "a Wasserstein distance on a torus without it": (
        lambda: OBS.WassersteinDistance(UNIT)(P(UNIT), flow(E.Potential(well), D.Torus(2))),
        "moves on a Torus, whose shortest paths are no straight lines: pass domain=",
    ),
    "no blur": (lambda: OBS.SinkhornDivergence(UNIT, 0.0), "blur must be greater than 0, got 0"),
    "a Sobolev distance between species": (
        lambda: OBS.SobolevDistance(G.uniform(D.Signed(TORUS), 8))(G.uniform(D.Signed(TORUS), 8)),
        "no mass can move from one species to another",
    ),
    "contraction of a density": (
        lambda: mf.bounds.contraction_rate(langevin(), G.uniform(TORUS, 8)),
        "synchronous copies are those of particles under a Wasserstein flow, got Grid",
    ),
    "contraction on a circle": (
        lambda: mf.bounds.contraction_rate(flow(E.Potential(well)), P(UNIT)),
        r"compared on flat domains, got Sphere\(dim=1\)",
    ),
    "a threshold outside its bracket": (
        lambda: mf.bounds.contraction_threshold(lambda sigma: langevin(), P(UNIT), 0.1, 1.0),
        "the rate must change its sign between 0.1 and 1, where it is 1 and 1: take other ends",
    ),
    "a recorded bound of two lengths": (
        lambda: mf.bounds.Recorded([0.0, 1.0], [1.0], "H"),
        r"times and values must be \(S,\) alike, got \(2,\) and \(1,\)",
    ),
    "an observable of nothing": (
        lambda: euler(steps=1, observables={"n": lambda mu, flow: None}),
        "the observable 'n' returned None: return an array",
    ),
    "an observable of text": (
        lambda: euler(steps=1, observables={"n": lambda mu, flow: "far"}),
        "the observable 'n' returned what is no number",
    ),
    # Steppers of one's own
    "a float for a step": (lambda: Own(0.1), r"the dt of Own must be an array, got 0.1: .*step_size\(dt\)"),
    "no order": (lambda: WithoutOrder(jnp.ones(())), "WithoutOrder has no order: write order"),
    "a step without key": (
        lambda: WithoutKey(jnp.ones(())),
        r"WithoutKey.step must take \(flow, .*memory\), got",
    ),
    "a step that returns a state": (
        lambda: run(stepper=Own(jnp.ones(())), steps=1),
        "Own.step must return a steppers.Step, as steppers.settle makes it, got State",
    ),
}


class Bounded(R.Regularizer):
    def __call__(self, t):
        return jnp.sqrt(1 + t**2)


class Own(S.Stepper):
    order = 1
    dt: jax.Array

    def step(self, flow, state, evaluation, dt, key, memory):
        return state


class WithoutOrder(S.Stepper):
    dt: jax.Array

    def step(self, flow, state, evaluation, dt, key, memory):
        return state


class WithoutKey(S.Stepper):
    order = 1
    dt: jax.Array

    def step(self, flow, state, evaluation, dt, memory):
        return state


def population():
    return E.PopulationReducedRisk(mf.kernels.ArcCosine(), P(UNIT), lam=0.1)


@pytest.mark.parametrize("name", CASES)
def test_wrong_call(name):
    call, *rest = CASES[name]
    kind, message = rest if len(rest) == 2 else (ValueError, rest[0])
    with pytest.raises(kind, match=message) as caught:
        call()
    text = str(caught.value)
    print(f"{name}: {kind.__name__}: {text}")
    # One message a person can read: no dump of arrays or of a traced program.
    assert len(text) < 400 and text.count("\n") <= 3


def test_the_table_is_long_enough():
    assert len(CASES) >= 40
