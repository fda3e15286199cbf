"""Linear models and kernel machines of scikit-learn on the same inputs, splits and hold-outs."""

import time
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from .runs import Training

# Axes of the searches: inverse strengths of regularization, strengths, and inverse squared widths of kernels.
INVERSE, STRENGTHS, KERNELS = (1.0, 10.0, 100.0, 1000.0), (1e-4, 1e-3, 1e-2, 1e-1, 1.0), (0.1, 0.3, 1.0)


class Fitted(NamedTuple):
    """Test scores (seed,), predictions of the test rows of every split, and the seconds of one fit."""

    title: str
    score: np.ndarray
    predicted: list[np.ndarray]
    seconds: float


class Model(NamedTuple):
    """One estimator: how to make it, its grid, and whether it is shown rows (n, c) for labels."""

    title: str
    make: Callable[..., Any]
    grid: dict[str, tuple[float, ...]]
    rows: bool = False


def models(classes: bool) -> Iterator[Model]:
    """The estimators for classes or for numbers."""
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.svm import SVC

    kernel = lambda alpha, gamma: KernelRidge(alpha=alpha, gamma=gamma, kernel="rbf")
    if classes:
        # The ones beside the inputs are the bias.
        linear = lambda C: LogisticRegression(C=C, fit_intercept=False, max_iter=2000)
        yield Model("logistic regression", linear, {"C": INVERSE})
        yield Model("kernel machine (SVC)", SVC, {"C": INVERSE[:3], "gamma": KERNELS})
    else:
        linear = lambda alpha: Ridge(alpha=alpha, fit_intercept=False)
        yield Model("ridge regression", linear, {"alpha": STRENGTHS}, True)
    yield Model("kernel ridge", kernel, {"alpha": STRENGTHS[1:4], "gamma": KERNELS}, True)


def fit(training: Training, model: Model) -> Fitted:
    """`model` on every split, its parameters those of the best mean score on the hold-outs of that split."""
    classes, splits = bool(training.table.classes), training.splits
    grid = [dict(zip(model.grid, values, strict=True)) for values in product(*model.grid.values())]

    def score(part, options) -> tuple[float, np.ndarray, float]:
        fitted, seen = training.learned(part)
        x, rows, new = (np.asarray(a, float) for a in (fitted.x, fitted.rows, seen.x))
        target = rows if model.rows else np.asarray(fitted.labels)
        started = time.perf_counter()
        estimator = model.make(**options).fit(x, target)
        seconds = time.perf_counter() - started
        predicted = np.asarray(estimator.predict(new)).reshape(len(new), -1)
        if not classes:
            truth = np.asarray(seen.rows, float)
            return 1 - np.mean((predicted - truth) ** 2) / np.var(truth), predicted[:, 0], seconds
        labels = predicted.argmax(axis=1) if model.rows else predicted[:, 0]
        return float(np.mean(labels == np.asarray(seen.labels))), labels, seconds

    results = []
    for index in range(len(splits.final.fit)):
        holdouts = [splits.search.at(index, h) for h in range(training.preset.holdouts)]
        means = [np.mean([score(part, options)[0] for part in holdouts]) for options in grid]
        results.append(score(splits.final.at(index), grid[int(np.argmax(means))]))
    scores, predicted, seconds = zip(*results, strict=True)
    return Fitted(model.title, np.array(scores), list(predicted), float(np.mean(seconds)))
