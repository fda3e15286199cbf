"""How do training dynamics compare on real data, run as particles from one declaration?

Variable projection, two timescales, stochastic gradient descent (square and softmax loss) and Langevin
dynamics of tanh networks, beside logistic regression and kernel machines on the same splits: handwritten
digits, or a table of your own (`--table data.csv`; whole numbers and texts are classes, other numbers are
regressed on). lam and the time to stop at are chosen on held-out parts of the training data, never on test
data. All figures take about two minutes on two cores.

Times and steps are flow times of the risk; variable projection and two timescales, flows of risk / lam, run
on the same clock. A particle holds the weights of a neuron, inputs and bias: R^65 for digits, and
R^10 x R^65 where its ten outer weights move too. The following were chosen on held-out parts of splits 0 and
1 (width 128): inputs have mean zero and norm about one, and inner weights start normal of size `gain` = 0.5
(held-out squared error after t = 1000 of variable projection 0.030, at 1 0.034, at 2 0.046), tanh neurons
(0.030, ReLU in R^65 0.036; ReLU on the sphere, whose neurons cannot grow, 0.21), lam from 1e-5 to 1e-3 (at
1e-6 the projection fails in single precision). Steps are about half of what blows up: 10 for variable
projection and softmax losses, 2.5 for square ones, 2 / rate for two timescales; a table of few columns may
ask for smaller ones.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _lab.cli import Check, Count, Positive, Precision
from _lab.program import run

FIGURES = ("curves", "accuracy", "features", "predictions")
Share = Annotated[float, Check("must be between 0 and 1", lambda value: 0 < value < 1)]


@dataclass(frozen=True)
class Preset:
    """Sizes of the experiment. A seed is a split of the data, a start and the noise of a run."""

    table: str = ""  # a .csv file of named columns, or an .npz file of arrays x and y; the digits if empty
    target: str = ""  # the column of the .csv file to predict; the last if empty
    seeds: Count = 5  # splits
    test: Share = 0.25  # share of the data that is never trained on
    held_out: Share = 0.2  # share of the training part that chooses lam and the time to stop at
    holdouts: Count = 2  # such shares of each split
    width: Count = 128  # particles
    gain: Positive = 0.5  # size of the inner weights at the start
    lams: tuple[Positive, ...] = (1e-3, 1e-4, 1e-5)  # regularization strengths to choose from
    batch: Count = 128  # data that a step of SGD and of two timescales sees, all of a smaller table
    rate: Positive = 4.0  # how much faster the outer weights of two timescales move
    temperature: Positive = 1e-4  # T of the noise of Langevin dynamics
    time: Positive = 1000.0  # end of the runs with a square loss
    softmax_time: Positive = 3000.0  # end of the runs with the softmax loss
    saves: Count = 20  # saved times
    projection_step: Positive = 10.0  # longest flow time of an iteration of variable projection
    timescale_step: Positive = 0.5  # of two timescales
    square_step: Positive = 2.5  # of SGD, and of Langevin dynamics of a square loss
    softmax_step: Positive = 10.0  # of SGD and Langevin dynamics of softmax
    precision: Precision = "float32"  # number format
    quick_compilation: bool = True  # compile small programs in half the time, to run a little slower


SMALL = Preset()
PAPER = replace(
    SMALL,
    seeds=10,
    holdouts=4,
    width=512,
    time=4000.0,
    softmax_time=8000.0,
    saves=40,
    lams=(1e-3, 3e-4, 1e-4, 3e-5, 1e-5),
)
TINY = replace(SMALL, seeds=2, holdouts=1, width=8, lams=(1e-3, 1e-4), time=40.0, softmax_time=80.0, saves=4)

if __name__ == "__main__":
    run(__file__, __doc__, {"small": SMALL, "paper": PAPER, "tiny": TINY}, FIGURES)
