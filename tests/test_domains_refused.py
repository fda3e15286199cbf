"""Whatever takes a domain refuses what is none, by name: every public callable with such a parameter."""

import inspect
import types

import jax.numpy as jnp
import jax.random as jr
import pytest

import mfjax as mf
from mfjax.measures import Grid, Particles

pytestmark = pytest.mark.wrong_calls

B, C, D, E, F, K, W = mf.bounds, mf.certificates, mf.domains, mf.energies, mf.features, mf.kernels, mf.flows
OBS = mf.observables
X, Y = jnp.array([[1.0], [0.0], [0.5]]), jnp.array([1.0, 0.5, 0.0])
LINE = D.Euclidean(1)
MU, CELLS = Particles(X), Grid.uniform(D.Interval(0.0, 1.0), 8)
RUN = CELLS.with_weights(CELLS.weights[None])
WELL = E.Potential(lambda x: 0.5 * jnp.sum(x * x))
RISK = E.ReducedRisk(F.Ridge(jnp.tanh), X, Y, 0.1)
PAIRS = E.Risk(F.Weighted(F.Ridge(jnp.tanh)), X, Y)
LAYERS = E.Risk(F.Weighted(F.Ridge(jnp.tanh), outputs=2), X, Y, layer=E.SecondLayer(jnp.tanh, [1.0, 2.0]))
CURVE = lambda x: jnp.ones(())

# With everything else right.
CALLS = {
    "bounds.entropy_decay_along": lambda d: B.entropy_decay_along(1.0, 0.5, [0.0], RUN, WELL, domain=d),
    "bounds.log_sobolev": lambda d: B.log_sobolev(temperature=1.0, domain=d),
    "bounds.semiconvexity": lambda d: B.semiconvexity(RISK, d, 1.0),
    "bounds.stability": lambda d: B.stability(RISK, d, MU, MU),
    "certificates.identifiability": lambda d: C.identifiability(F.Ridge(jnp.tanh), X, d),
    "certificates.symmetry": lambda d: C.symmetry(F.Ridge(jnp.tanh), CELLS, d),
    "domains.Frozen": D.Frozen,
    "domains.Noiseless": D.Noiseless,
    "domains.Signed": D.Signed,
    "domains.Wrapped": D.Frozen,
    "domains.require_domain": D.require_domain,
    "energies.Blob": lambda d: E.Blob(E.Entropy(), 0.5, d),
    "energies.Quantization": lambda d: E.Quantization(CURVE, d),
    "energies.Sobolev": lambda d: E.Sobolev("uniform", 1.0, d),
    "energies.Spacings": lambda d: E.Spacings(E.PorousMedium(), d),
    "features.RBF": lambda d: F.RBF(d, scale=1.0),
    "flows.OuterMomentum": lambda d: W.OuterMomentum(RISK, d, 0.5, 0.1),
    "flows.PropagationOfChaos": lambda d: W.PropagationOfChaos(PAIRS, d),
    "flows.SeparatedVariables": lambda d: W.SeparatedVariables(PAIRS, d, CURVE),
    "flows.Transported": lambda d: W.Transported(PAIRS, d, labels=(8,)),
    "flows.TwoHiddenLayers": lambda d: W.TwoHiddenLayers(LAYERS, d),
    "flows.TwoTimescale": lambda d: W.TwoTimescale(RISK, d, 1.0),
    "flows.Wasserstein": lambda d: W.Wasserstein(WELL, d),
    "flows.WassersteinFisherRao": lambda d: W.WassersteinFisherRao(WELL, d, blur=0.5),
    "kernels.Distance": lambda d: K.Distance(1.0, d),
    "kernels.Gaussian": lambda d: K.Gaussian(1.0, d, modes=3),
    "kernels.Laplace": lambda d: K.Laplace(1.0, d),
    "kernels.Matern": lambda d: K.Matern(1.5, 1.0, d),
    "kernels.NegativeSobolev": lambda d: K.NegativeSobolev(1.0, d),
    "kernels.Riesz": lambda d: K.Riesz(1.0, 1.0, d),
    "measures.Grid": lambda d: Grid(d, 8),
    "measures.Grid.uniform": lambda d: Grid.uniform(d, 8),
    "measures.Grid.from_density": lambda d: Grid.from_density(d, 8, CURVE),
    "measures.Particles.sample": lambda d: Particles.sample(d, jr.key(0), 8),
    "observables.ClosureDefect": OBS.ClosureDefect,
    "observables.EnergyDistance": lambda d: OBS.EnergyDistance(MU, d),
    "observables.FourierModes": lambda d: OBS.FourierModes(3, d),
    "observables.HeightDistance": lambda d: OBS.HeightDistance(MU.with_marks(H=Y), d),
    "observables.FreeEnergy": lambda d: OBS.FreeEnergy(E.Entropy(), domain=d),
    "observables.HeightMoments": lambda d: OBS.HeightMoments(2, 8, d),
    "observables.KernelDensity": lambda d: OBS.KernelDensity(X, 0.5, d),
    "observables.SinkhornDivergence": lambda d: OBS.SinkhornDivergence(MU, 0.1, domain=d),
    "observables.SlicedEnergyDistance": lambda d: OBS.SlicedEnergyDistance(MU, domain=d),
    "observables.SobolevNorm": lambda d: OBS.SobolevNorm(MU, 1.0, d),
    "observables.Wasserstein1D": lambda d: OBS.Wasserstein1D(MU, 1, d),
    "observables.WassersteinDistance": lambda d: OBS.WassersteinDistance(MU, 1, d),
    "plot.density": lambda d: mf.plot.density(mf.plot.figure()[1][0, 0], CELLS, d),
    "plot.particles": lambda d: mf.plot.particles(mf.plot.figure()[1][0, 0], MU, d),
    "testing.check_domain": mf.testing.check_domain,
}
# Asked by what has checked it, abstract, or given a file first.
ELSEWHERE = {
    "domains.torus_period",
    "features.check_features",
    "flows.HeightFlow",
    "flows.OuterWeightFlow",
    "grids.require_grid",
    "load",
}


def taking(module, prefix="", seen=None):
    """The names of public functions, classes and static methods with a parameter for a domain."""
    seen = set() if seen is None else seen
    for name in module.__all__:
        item, label = getattr(module, name), prefix + name
        if isinstance(item, types.ModuleType):
            if item.__name__.startswith("mfjax") and item not in seen:
                seen.add(item)
                yield from taking(item, f"{label}.", seen)
            continue
        made = {label: item}
        if inspect.isclass(item):
            statics = (key for key, value in vars(item).items() if isinstance(value, staticmethod))
            made |= {f"{label}.{key}": getattr(item, key) for key in statics}
        for where, call in made.items():
            ours = callable(call) and getattr(call, "__module__", "").startswith("mfjax")
            if ours and {"domain", "torus"} & set(inspect.signature(call).parameters):
                yield where


def test_all_of_them_are_here():
    assert set(taking(mf)) == set(CALLS) | ELSEWHERE


@pytest.mark.parametrize("value", [3, D.Torus, "torus"], ids=["number", "class", "text"])
@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_domain_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=r"a Domain|a domains\.Torus") as caught:
        CALLS[name](value)
    text = str(caught.value)
    assert ("Torus" if value is D.Torus else "int" if value == 3 else "str") in text or repr(value) in text, (
        text
    )
