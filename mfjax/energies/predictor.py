"""A trained network on its own, without the data it was trained on."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mfjax._files import exact, write_atomically
from mfjax._numerics.arrays import as_floats, finite, known
from mfjax.energies.second_layer import SecondLayer
from mfjax.features import FeatureMap, check_features, require_features

ENDING = ".npz"


class Predictor(eqx.Module):
    """The network of a measure as a function of new inputs x (B, k), a number or a vector (c,) for each.

    F(x) = sum_i weights_i phi(points_i, x), where weights (K,) or (K, c) are masses times outer weights, for
    c outputs. It holds no data. A `layer`, `energies.SecondLayer`, makes its own output of these.

    `labels(x)` are the classes it puts inputs into, and `loss.probabilities(net(x))`, of `losses.Softmax` or
    `Logistic`, those of the classes.

    `ReducedRisk.predictor(mu)` and `Risk.predictor(mu)` make one. Another map on the same particles, that of
    all data after `mf.compress` say, is `Predictor(phi, net.points, net.weights)`.

    **Raises** `ValueError` for points and weights that do not go together or are not finite, and inputs that
    the features do not take.

    >>> import mfjax as mf
    >>> net = Predictor(mf.features.ReLU(), [[1.0, 0.0], [0.0, 1.0]], [0.5, 2.0])
    >>> net([[1.0, 1.0], [-1.0, 1.0]]).tolist()
    [2.5, 2.0]
    >>> two = Predictor(net.features, net.points, [[0.5, 0.0], [0.0, 2.0]])
    >>> two.labels([[5.0, 1.0], [1.0, 1.0]]).tolist()
    [0, 1]
    """

    features: FeatureMap
    points: Float[Array, "K d"]
    weights: Float[Array, "K *c"]
    layer: SecondLayer | None

    def __init__(self, features: FeatureMap, points: Any, weights: Any, layer: SecondLayer | None = None):
        require_features(features)
        self.features, self.layer = features, layer
        self.points = finite(as_floats(points, "points"), "points")
        self.weights = finite(as_floats(weights, "weights"), "weights")
        if self.points.ndim != 2 or self.weights.ndim not in (1, 2) or len(self.weights) != len(self.points):
            raise ValueError(
                "points and weights must have shapes (K, d) and (K,) or (K, c), "
                f"got {self.points.shape} and {self.weights.shape}"
            )

    def __call__(self, x: Any) -> Float[Array, "B *c"]:
        x = as_floats(x, "x")
        if x.ndim != 2 or 0 in x.shape:
            raise ValueError(f"x must have shape (B, k) with B, k >= 1, got {x.shape}; x[None] is one input")
        shape = check_features(self.features, self.points, x, several=True)
        if shape and self.weights.ndim > 1:
            raise ValueError(
                f"features with {shape[0]} outputs have one weight each, got weights of shape "
                f"{self.weights.shape}"
            )
        ones = jnp.ones(len(x), jnp.result_type(self.points, x))
        operator = self.features.operator(self.points.astype(ones.dtype), x.astype(ones.dtype), ones)
        output = operator.output(self.weights)
        return output if self.layer is None else self.layer.output(output)

    def labels(self, x: Any) -> Int[Array, " B"]:
        """The class of each input: that of the largest of c outputs, 0 to c - 1; the sign of one output."""
        return labels_of(self(x))

    def save(self, path: str | Path) -> Path:
        """Write points, weights and the numbers of the features as one .npz file, which NumPy reads.

        **Raises** `ValueError` for another ending.
        """
        path = Path(path)
        if path.suffix != ENDING:
            raise ValueError(f"a predictor is written as {ENDING}, got {path.name!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {"points": self.points, "weights": self.weights} | _numbers(self.features, self.layer)
        plain = {name: np.asarray(a) for name, a in arrays.items()}
        return write_atomically(path, lambda file: np.savez(file, allow_pickle=False, **plain))

    @staticmethod
    def load(path: str | Path, features: FeatureMap, layer: SecondLayer | None = None) -> "Predictor":
        """The predictor that was saved, bit for bit, given features and layer: a file holds no functions.

        The numbers of the layer are those of the file, which were trained; those of the features must agree.

        **Raises** `ValueError` for a missing file, one of something else, one in double precision where JAX
        has none, features of other numbers, and a layer of other shapes.
        """
        require_features(features)
        stored = _stored(Path(path))
        missing = {"points", "weights"} - set(stored)
        if missing:
            raise ValueError(f"{path} holds no predictor: it has no {min(missing)}")
        points, weights = (exact(stored[name], f"{name} of {path}") for name in ("points", "weights"))
        layer = _trained(layer, stored)
        here = {name: np.asarray(a) for name, a in _numbers(features, layer).items()}
        for name in sorted(set(here) | (set(stored) - {"points", "weights"})):
            there, given = stored.get(name), here.get(name)
            if there is None or given is None or not np.array_equal(there, given, equal_nan=True):
                of_layer = name.startswith("layer.")
                other = "another layer" if of_layer else f"other features than {type(features).__name__}"
                raise ValueError(
                    f"the predictor in {path} has {other}: {name} is "
                    f"{_told(there)} there and {_told(given)} here"
                )
        return Predictor(features, points, weights, layer)


def _stored(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by their names. **Raises** `ValueError` where there are none."""
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:
        # A file of something else fails in as many ways as it has bytes.
        raise ValueError(
            f"{path} holds no predictor: no {ENDING} file can be read there ({error})"
        ) from error


def labels_of(outputs: Float[Array, "B *c"]) -> Int[Array, " B"]:
    """The classes of inputs from the outputs of a network: the largest of c, the sign of one."""
    return jnp.argmax(outputs, axis=1) if outputs.ndim == 2 else jnp.sign(outputs).astype(int)


def _numbers(features: FeatureMap, layer: SecondLayer | None) -> dict[str, Array]:
    """The arrays of a feature map and a second layer by their names."""
    leaves = jax.tree_util.tree_flatten_with_path({"features": features, "layer": layer})[0]
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator=".")
    return {name(path): leaf for path, leaf in leaves if eqx.is_array(leaf)}


def _trained(layer: SecondLayer | None, stored: dict[str, np.ndarray]) -> SecondLayer | None:
    """`layer` with the stored numbers, where they have its shapes."""
    leaves, tree = jax.tree_util.tree_flatten_with_path({"layer": layer})
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator=".")
    fits = lambda there, leaf: eqx.is_array(leaf) and there is not None and there.shape == leaf.shape
    found = ((stored.get(name(path)), leaf) for path, leaf in leaves)
    kept = [exact(known(there), "the layer") if fits(there, leaf) else leaf for there, leaf in found]
    return jax.tree_util.tree_unflatten(tree, kept)["layer"]


def _told(value: np.ndarray | None) -> str:
    """Few numbers, the shape of many, or that there are none."""
    if value is None:
        return "nothing"
    return str(value) if value.size <= 4 else f"of shape {value.shape} with other numbers"
