"""Timing: contenders take turns, so that what else the machine does falls on all of them alike."""

import itertools
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Contender:
    """Something to time: `call()` does the work of `units` steps or solves and blocks until it is done."""

    name: str
    call: Callable[[], Any]
    units: int = 1


@dataclass(frozen=True)
class Statistics:
    """Seconds a unit over `repeats` calls, and of the first call, which may compile, beyond a usual one."""

    median: float
    least: float
    lower_quartile: float
    upper_quartile: float
    greatest: float
    repeats: int
    compile: float


@dataclass
class Results:
    """Rows of the table and the requirements they speak to."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    requirements: list[dict[str, Any]] = field(default_factory=list)

    def add(self, case: str, method: str, seconds: Statistics | None = None, **columns: Any) -> None:
        """A row; `seconds` None leaves the times empty, for a contender that is not here."""
        times = None if seconds is None else asdict(seconds)
        self.rows.append({"case": case, "method": method, "seconds": times, **columns})

    def require(
        self,
        text: str,
        measured: float | None,
        bar: float,
        *,
        least: bool = True,
        note: str = "",
        finished: bool = True,
    ) -> None:
        """A requirement: `measured` at `least` (or at most) `bar`; None where it was not measured.

        What was tried and has not `finished` has no measure, and is not met.
        """
        met = None if measured is None else bool(measured >= bar if least else measured <= bar)
        met = met if finished else False
        entry = {
            "requirement": text,
            "measured": measured,
            "bar": bar,
            "at_least": least,
            "met": met,
            "note": note,
        }
        self.requirements.append(entry)


def summary(seconds: list[float], first: float, units: int = 1) -> Statistics:
    """Statistics a unit of calls that took `seconds`, after a `first` one."""
    if not seconds:
        raise ValueError("no call was timed: repeats must be at least 1")
    quantiles = np.quantile(np.asarray(seconds) / units, [0.5, 0.0, 0.25, 0.75, 1.0])
    return Statistics(*map(float, quantiles), len(seconds), max(0.0, first - float(np.median(seconds))))


def timed(call: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def race(contenders: list[Contender], repeats: int = 7, budget: float = 60.0) -> dict[str, Statistics]:
    """Each contender once to warm up, then all in turn, `repeats` times or until `budget` seconds are spent.

    At least three rounds are made. The order turns round from one round to the next.
    """
    first = {c.name: timed(c.call) for c in contenders}
    spent: dict[str, list[float]] = {c.name: [] for c in contenders}
    start = time.perf_counter()
    for turn in range(repeats):
        for contender in contenders[:: 1 - 2 * (turn % 2)]:
            spent[contender.name].append(timed(contender.call))
        if turn >= 2 and time.perf_counter() - start > budget:
            break
    return {c.name: summary(spent[c.name], first[c.name], c.units) for c in contenders}


def part(
    case: str, *arguments: Any, seconds: float = 600.0, environment: dict[str, str] | None = None
) -> tuple[Any, None] | tuple[None, str]:
    """(what `one(*arguments)` of a case returns in a process of its own, None), or (None, why there is
    nothing)."""
    program = Path(__file__).resolve().parent / "run.py"
    command = [sys.executable, str(program), "--part", case, *map(str, arguments)]
    settings = os.environ | (environment or {})
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=settings)
    except subprocess.TimeoutExpired:
        return None, f"did not finish in {seconds:g} s"
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        return None, f"failed: {last[0][:160]}"
    return json.loads(done.stdout.splitlines()[-1]), None


def peak_memory() -> float:
    """Largest resident size of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def exponent(sizes: list[float], values: list[float]) -> float | None:
    """The slope of log value against log size by least squares; None for fewer than two sizes."""
    if len(sizes) < 2:
        return None
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def time_at(error: float, errors: list[float], seconds: list[float]) -> float | None:
    """The time at which `error` is reached, on the lower envelope of (error, time), log-interpolated.

    None where no point is as accurate: nothing is extrapolated.
    """
    points = sorted(zip(errors, seconds, strict=True), reverse=True)
    reach = [t for e, t in points if e <= error]
    best = min(reach, default=None)
    for (coarse, t0), (fine, t1) in itertools.pairwise(points):
        if fine <= error <= coarse and coarse > fine:
            share = np.log(coarse / error) / np.log(coarse / fine)
            between = float(np.exp((1 - share) * np.log(t0) + share * np.log(t1)))
            best = between if best is None else min(best, between)
    return best
