"""Order conditions of the Rosenbrock coefficients as they are stored, the embedded methods included."""

import numpy as np
import pytest

from mfjax.steppers.rosenbrock import RODAS4, ROS34PW2


def classical(table):
    """(alpha, alpha + gamma matrix, weights, embedded weights) of a transformed table."""
    stages = len(table.m)
    square = lambda rows: np.array([list(row) + [0] * (stages - len(row)) for row in ((), *rows)], float)
    coupling = np.linalg.inv(np.eye(stages) / table.gamma - square(table.c))
    weights = np.array(table.m) @ coupling
    embedded = (np.array(table.m) - np.array(table.e)) @ coupling
    alpha = square(table.a) @ coupling
    return alpha, alpha + coupling, weights, embedded


@pytest.mark.parametrize(("table", "order"), [(RODAS4, 4), (ROS34PW2, 3)], ids=["RODAS4", "ROS34PW2"])
def test_order_conditions(table, order):
    alpha, beta, weights, embedded = classical(table)
    one = np.ones(len(weights))
    c = alpha @ one
    for b, reached in ((weights, order), (embedded, order - 1)):
        assert b @ one == pytest.approx(1, abs=2e-14)
        assert b @ beta @ one == pytest.approx(1 / 2, abs=2e-14)
        if reached >= 3:
            assert b @ c**2 == pytest.approx(1 / 3, abs=2e-14)
            assert b @ beta @ beta @ one == pytest.approx(1 / 6, abs=2e-14)
        if reached >= 4:
            assert b @ c**3 == pytest.approx(1 / 4, abs=5e-14)
            assert b @ (c * (alpha @ beta @ one)) == pytest.approx(1 / 8, abs=5e-14)
            assert b @ beta @ c**2 == pytest.approx(1 / 12, abs=5e-14)
            assert b @ beta @ beta @ beta @ one == pytest.approx(1 / 24, abs=5e-14)


@pytest.mark.parametrize("table", [RODAS4, ROS34PW2], ids=["RODAS4", "ROS34PW2"])
def test_stiff_limit(table):
    # The stability function at infinity, 1 - b B^-1 1, vanishes: fast modes are gone after one step.
    _, beta, weights, _ = classical(table)
    assert 1 - weights @ np.linalg.inv(beta) @ np.ones(len(weights)) == pytest.approx(0, abs=2e-14)
