"""Real data: tables as users have them, their splits, and trained networks beside those of scikit-learn."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import mfjax as mf
from mfjax.energies import ReducedRisk, Risk
from mfjax.features import Function, Ridge
from mfjax.losses import Softmax
from mfjax.measures import Particles
from mfjax.steppers import Euler

EXPERIMENTS = str(Path(__file__).resolve().parents[1] / "experiments")
TANH = Ridge(jnp.tanh)


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    from digits import tables

    return tables


@pytest.fixture
def splits(tables):
    from digits import splits

    return splits


def written(path, text):
    path.write_text(text)
    return str(path)


def lines(*rows, header="a,b,c", times=8):
    return "\n".join([header, *(rows * times)]) + "\n"


@pytest.mark.parametrize(
    ("text", "target", "classes", "columns", "y"),
    [
        (lines("1,2,red", '3,-4e1,"blue"'), "", ("blue", "red"), ("a", "b"), [1, 0]),
        (lines("1,2,7", "3,4,-2"), "", ("-2", "7"), ("a", "b"), [1, 0]),
        (lines("1,2,0.5", "3,4,7"), "", (), ("a", "b"), [0.5, 7]),
        (lines("1,2,0.5", "3,4,7"), "a", ("1", "3"), ("b", "c"), [0, 1]),
        ("\ufeff" + lines(" 1 , 2,x", "3,4,y", "", header=" a , b,c "), "b", ("2", "4"), None, None),
    ],
    ids=["words", "whole numbers", "numbers", "named target", "byte order mark, blanks"],
)
def test_tables_of_text(tables, tmp_path, text, target, classes, columns, y):
    if columns is None:
        with pytest.raises(tables.Refused, match=r"line 2 of .* has the text 'x' as 'c'"):
            tables.load(written(tmp_path / "data.csv", text), target)
        text = text.replace("x", "5").replace("y", "6")
        columns, y = ("a", "c"), [0, 1]
    found = tables.load(written(tmp_path / "data.csv", text), target)
    assert (found.classes, found.columns, found.outputs) == (classes, columns, len(classes) or 1)
    assert found.x.shape == (16, 2) and found.x.dtype == float
    np.testing.assert_array_equal(found.y, y * 8)


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (["b", "a"], ("a", "b")),
        ([3, 1], ("1", "3")),
        ([True, False], ("0", "1")),
        (np.array([1, 2], np.uint8), ("1", "2")),
        (np.array([0.5, 2], np.float32), ()),
    ],
    ids=["words", "whole numbers", "truth values", "bytes", "numbers"],
)
def test_tables_of_arrays(tables, tmp_path, y, classes):
    x = np.arange(16.0).reshape(8, 2)
    np.savez(tmp_path / "data.npz", x=np.repeat(x, 2, axis=0), y=np.tile(y, 8))
    found = tables.load(str(tmp_path / "data.npz"), "")
    assert found.classes == classes and found.x.shape == (16, 2) and found.y.shape == (16,)
    if classes:
        assert [classes[label] for label in found.y[:2]] == [
            str(int(v) if v is True or v is False else v) for v in y
        ]


WRONG = {
    "no value": (lines("1,2,x", "3,,y"), "", "line 3 of .* has no value of 'b': fill it in"),
    "not a number": (lines("1,2,x", "3,nan,y"), "", "line 3 of .* has no value of 'b'"),
    "no target": (lines("1,2,0.5", "3,4,NA"), "", "line 3 of .* has no value of 'c'"),
    "infinite": (lines("1,2,x", "3,inf,y"), "", "line 3 .* the text 'inf' as 'b': inputs are finite"),
    "text": (lines("1,2,x", "3,red,y"), "", "line 3 .* has the text 'red' as 'b'.* columns of 0 and 1"),
    "one class": (lines("1,2,x", "3,4,x"), "", "has one class, x"),
    "constant": (lines("1,2,0.5", "3,4,0.5"), "", "is 0.5 everywhere"),
    "rare class": (lines("1,2,x", times=9) + "1,2,y\n", "", "class y of .* has 1 data, at least 8 .*decimal"),
    "unknown target": (lines("1,2,x"), "d", "argument --target: .* has no column 'd'; there are a, b, c"),
    "short line": (lines("1,2,x", "3,y"), "", "line 3 of .* has 2 values, the first 3"),
    "long line": (lines("1,2,x", "3,4,5,y"), "", "line 3 of .* has 4 values, the first 3"),
    "no names": (lines("1,2,3", header="4,5,6"), "", "first line of .* must name the columns, got 4"),
    "a first line of data": (lines("1,2,x", header="5.1,3.5,y"), "", "must name the columns, got 5.1"),
    "semicolons": (lines("1;2;x", header="a;b;c"), "", "separated by commas"),
    "two of a name": (lines("1,2,x", header="a,a,c"), "", "two columns 'a'"),
    "names alone": ("a,b,c\n", "", "holds no data"),
    "nothing": ("", "", "holds no data"),
    "few numbers": (lines("1,2,0.5", "1,2,1.5", times=2), "", "has 4 data, at least 8"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_tables_of_text(tables, tmp_path, case):
    text, target, message = WRONG[case]
    with pytest.raises(tables.Refused, match=message):
        tables.load(written(tmp_path / "data.csv", text), target)


ONES = np.ones((16, 2))
HALVES = np.arange(16) % 2
ARRAYS = {
    "no y": ({"x": ONES}, "has no array 'y'; there are x"),
    "other length": (
        {"x": ONES, "y": HALVES[:9]},
        r"x must be \(N, k\) and y \(N,\), got \(16, 2\) and \(9,\)",
    ),
    "rows": ({"x": ONES, "y": np.ones((16, 3))}, r"got \(16, 2\) and \(16, 3\)"),
    "one input": ({"x": ONES[:, 0], "y": HALVES}, r"got \(16,\) and \(16,\)"),
    "complex": ({"x": ONES * 1j, "y": HALVES}, "x must be real numbers, got complex128"),
    "no value": ({"x": np.where(np.eye(16, 2), np.nan, 1), "y": HALVES}, r"x\[0, 0\] = nan .*: fill it in"),
    "no target": ({"x": ONES, "y": np.where(HALVES, np.nan, 1)}, r"y\[1\] = nan .*: leave out"),
    "dates": ({"x": ONES, "y": HALVES.astype("datetime64[s]")}, "y must be numbers or texts, got datetime64"),
    "objects": ({"x": ONES, "y": np.array(list(HALVES), object)}, "holds no arrays of numbers and texts"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_wrong_tables_of_arrays(tables, tmp_path, case):
    arrays, message = ARRAYS[case]
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(tables.Refused, match=message):
        tables.load(str(tmp_path / "data.npz"), "")


def test_files_that_are_no_tables(tables, tmp_path, monkeypatch):
    (tmp_path / "broken.npz").write_text("x")
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04")
    (tmp_path / "broken.csv").write_bytes(b"\xff\xfe\x00")
    np.savez(tmp_path / "good.npz", x=ONES, y=HALVES)
    for name, target, message in (
        ("none.csv", "", "cannot read .*none.csv: No such file"),
        ("data.xlsx", "", "a table is a .csv or .npz file, got .*data.xlsx"),
        ("broken.npz", "", "broken.npz holds no arrays"),
        ("torn.npz", "", "torn.npz holds no arrays"),
        ("broken.csv", "", "broken.csv is no text of comma-separated values"),
        ("good.npz", "c", "names a column of a .csv file; the target of .*good.npz is its array y"),
    ):
        with pytest.raises(tables.Refused, match=message):
            tables.load(str(tmp_path / name), target)
    with pytest.raises(tables.Refused, match="names a column of --table, which is not given"):
        tables.load("", "c")
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(tables.Refused, match=r'pip install "mfjax\[experiments\]"'):
        tables.load("", "")


def test_splits_are_stratified_and_never_see_test_data(splits, tables):
    table = tables.load("", "")
    found = splits.split(table, range(3), 0.25, 0.2, 2)
    final, search = found
    assert final.fit.shape == (3, 1347) and search.seen.shape == (3, 2, 270)
    shares = np.bincount(table.y) / 1797
    for i in range(3):
        np.testing.assert_array_equal(np.sort([*final.fit[i], *final.seen[i]]), np.arange(1797))
        for rows in (final.seen[i], *search.seen[i]):
            assert np.max(np.abs(np.bincount(table.y[rows]) - shares * len(rows))) < 1.5
        for fit, seen in zip(search.fit[i], search.seen[i], strict=True):
            np.testing.assert_array_equal(np.sort([*fit, *seen]), np.sort(final.fit[i]))
    assert len({rows.tobytes() for rows in (*final.seen, *search.seen.reshape(6, -1))}) == 9
    # What is not trained on may be anything.
    other = np.where(np.isin(np.arange(1797), search.fit[1, 0])[:, None], table.x, 1e3)
    part = search.at(1, 0)
    x = np.asarray(part.inputs(jnp.asarray(other), part.fit))
    np.testing.assert_allclose(x[:, :-1].mean(axis=0), 0, atol=1e-13)
    varies = np.ptp(table.x[search.fit[1, 0]], axis=0) > 0
    np.testing.assert_allclose(x[:, :-1].std(axis=0), varies / 8, rtol=1e-12)
    np.testing.assert_array_equal(x[:, -1], 1)


def test_a_share_that_leaves_no_part_is_refused(splits, tables):
    with pytest.raises(tables.Refused, match=r"a share of 0\.001 of 1797 data is no part"):
        splits.split(tables.load("", ""), range(1), 0.001, 0.2, 1)


def test_conditioned_tables_have_the_same_inputs(splits, tables):
    """A year or a time in seconds keeps its digits in single precision."""
    table = tables.load("", "")._replace(classes=(), y=np.arange(1797.0))
    far = table._replace(x=1e9 + table.x, y=1e9 + table.y)
    rows = splits.split(table, range(1), 0.25, 0.2, 1).final.at(0).fit
    inputs = []
    for each in (table, far):
        each = splits.conditioned(each)
        part = splits.standardized(each.x, rows, rows)
        inputs.append(part.inputs(jnp.asarray(each.x, "float32"), rows))
        np.testing.assert_allclose([each.y.mean(), each.y.std()], [0, 1], atol=1e-6)
    np.testing.assert_allclose(*inputs, atol=2e-6)


def digits(number):
    """The first digits, standardized, and their labels."""
    from sklearn.datasets import load_digits

    x, labels = load_digits(return_X_y=True)
    x = (x[:number] - x[:number].mean(axis=0)) / np.maximum(x[:number].std(axis=0), 1e-3) / 8
    return x, labels[:number]


@pytest.mark.slow
def test_the_projection_of_trained_features_is_ridge_regression():
    """|Phi u / M - y|^2 / 2N + lam |u|^2 / 2M: alpha of scikit-learn is lam N M, for weights u / M."""
    from sklearn.linear_model import Ridge as RidgeRegression

    x, labels = digits(200)
    rows = jax.nn.one_hot(labels, 10)
    lam, width = 1e-3, 24
    energy = ReducedRisk(TANH, x, rows, lam, outer=mf.outer.Cholesky())
    mu = Particles(0.5 * jr.normal(jr.key(0), (width, 64)))
    flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(64))
    run = mf.simulate(flow, mu, stepper=Euler(10 * lam), steps=10)
    assert run.observables["energy"][-1] < 0.9 * run.observables["energy"][0]
    phi = np.tanh(x @ np.asarray(run.final.points).T)
    model = RidgeRegression(alpha=lam * len(x) * width, fit_intercept=False, solver="cholesky").fit(phi, rows)
    np.testing.assert_allclose(energy.outer_weights(run.final) / width, model.coef_.T, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(energy.predict(run.final, x), model.predict(phi), rtol=1e-8, atol=1e-10)


def test_linear_neurons_with_softmax_loss_are_logistic_regression():
    """Particles W in R^(c x k) that return W x: C of scikit-learn is 1 / (lam N), and all particles meet."""
    from sklearn.linear_model import LogisticRegression

    x, labels = digits(120)
    lam, classes, inputs = 0.02, 10, x.shape[1]
    linear = Function(lambda point, x: point.reshape(classes, inputs) @ x)
    energy = Risk(linear, x, labels, lam, Softmax())
    mu = Particles(0.1 * jr.normal(jr.key(0), (3, classes * inputs)))
    flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(classes * inputs))
    run = mf.simulate(flow, mu, stepper=Euler(8.0), steps=150, save_every=150)
    model = LogisticRegression(C=1 / (lam * len(x)), fit_intercept=False, tol=1e-12, max_iter=10_000).fit(
        x, labels
    )
    for point in run.final.points:
        np.testing.assert_allclose(point.reshape(classes, inputs), model.coef_, atol=2e-6)
    network = energy.predictor(run.final)
    np.testing.assert_array_equal(network.labels(x), model.predict(x))
    shares = energy.loss.probabilities(network(x))
    np.testing.assert_allclose(shares, model.predict_proba(x), rtol=1e-4)
