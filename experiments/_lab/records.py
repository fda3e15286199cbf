"""The results of an experiment, as sweeps end: datasets on disk, and the certificates of every run."""

import csv
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np

import mfjax as mf
from _lab.cli import Settings
from mfjax._files import write_text
from mfjax._results.datasets import write_dataset
from mfjax.theory.bounds import Bound
from mfjax.theory.certificates import REQUIRED, certify, format_table


@dataclass
class Records:
    """The results of an experiment as they come in, shared between its figures."""

    settings: Settings
    datasets: dict[str, Any] = field(default_factory=dict)
    certificates: dict[str, dict[str, float]] = field(default_factory=dict)

    def sweep(
        self,
        name: str,
        cell: Callable[..., Any],
        axes: dict[str, Sequence[Any]],
        *,
        derive: Callable[[Any], Any] | None = None,
        static: Sequence[str] = (),
    ) -> Any:
        """The dataset of one sweep, computed once, checkpointed, and written to results/<name>.nc.

        `derive` adds to the dataset what needs more than one run.
        """
        if name in self.datasets:
            return self.datasets[name]
        started = time.perf_counter()
        place = self.settings.out / "checkpoints" / name
        table = mf.sweep(
            cell,
            path=place,
            resume=self.settings.resume,
            progress=self.settings.progress,
            static=static,
            axes=axes,
        )
        data = table.to_xarray()
        if derive is not None:
            data = derive(data)
        results = self.settings.out / "results"
        results.mkdir(exist_ok=True)
        write_dataset(data, results / f"{name}.nc")
        self.datasets[name] = data
        self._certify(name, data, tuple(axes))
        runs = prod(len(values) for values in axes.values())
        print(f"{name}: {runs} runs in {time.perf_counter() - started:.1f} s")
        return data

    def _certify(self, name: str, data: Any, axes: tuple[str, ...]) -> None:
        for index in np.ndindex(*(data.sizes[axis] for axis in axes)):
            cell = (f"{axis}={_shown(data[axis].values[i])}" for axis, i in zip(axes, index, strict=True))
            self.certificates[f"{name} {' '.join(cell)}"] = certify(
                {key: data[key].transpose(*axes, "save").values[index] for key in REQUIRED}
            )

    def bound(
        self, run: str, bound: Bound, times: Any, values: Any, resolution: float | None = None
    ) -> float:
        """The margin of a curve below its bound, kept with the certificates of its run."""
        row = bound.row(times, values, resolution=resolution)
        self.certificates[run] |= row
        return next(iter(row.values()))

    def write_certificates(self) -> None:
        """certificates.csv with a row per run, and a printed line per series with its worst values."""
        place = self.settings.out / "certificates.csv"
        rows = _read(format_table(self.certificates, "csv"))
        if place.exists():
            # Series of figures that this call was not asked for.
            mine = tuple(f"{name} " for name in self.datasets)
            rows += [row for row in _read(place.read_text()) if not row["run"].startswith(mine)]
        text = _written(rows)
        write_text(place, text)
        worst = {}
        for name in self.datasets:
            rows = [row for run, row in self.certificates.items() if run.split(" ")[0] == name]
            keys = dict.fromkeys(key for row in rows for key in row)
            worst[name] = {key: _worst(key)(row[key] for row in rows if key in row) for key in keys}
        print(
            f"\ncertificates, worst run of each series (all runs: {self.settings.out / 'certificates.csv'})"
        )
        print(format_table(worst), end="\n\n")


class Runs:
    """The series behind the figures of an experiment, each computed once and kept in the records."""

    def __init__(self, records: Records):
        self.records, self.settings = records, records.settings
        self.preset = self.settings.preset
        self.dtype = jnp.dtype(getattr(self.preset, "precision", "float32"))


def times_of(data: Any) -> np.ndarray:
    """The saved times (S,), t = 0 first, which all cells of a series share."""
    return np.asarray(data.times.values, float).reshape(-1, data.sizes["save"])[0]


def _worst(key: str) -> Callable:
    """What makes a certificate the worst: the least mass, number of saves, or margin of a bound."""
    return min if key in ("min_weight", "saves") or key.startswith("margin") else max


def _read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def _written(rows: list[dict[str, str]]) -> str:
    """The rows as csv, with the columns of all: series differ in the bounds they have."""
    names = dict.fromkeys(name for row in rows for name in row)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _shown(value: Any) -> str:
    """A value of an axis, which may be a text."""
    return f"{value:g}" if np.issubdtype(np.asarray(value).dtype, np.number) else str(value)
