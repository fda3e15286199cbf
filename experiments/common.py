"""What the experiments share: the command line, the run directory, series of sweeps, and their certificates.

Only the standard library is imported before the options have been checked.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from math import prod, sqrt
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

PRECISIONS = ("float32", "float64")
CONFIGURATION = "config.json"


@dataclass(frozen=True)
class Series:
    """One sweep: every combination of lams, gammas and widths, for one regulariser centre and one method."""

    name: str
    center: float
    lams: tuple[float, ...]
    gammas: tuple[float, ...]
    widths: tuple[int, ...]
    two_timescale: bool = False
    # Flow time of an iteration, that of the preset unless given.
    step: float | None = None


@dataclass(frozen=True)
class Settings:
    """The checked options of one call."""

    experiment: str
    preset_name: str
    preset: Any
    figures: tuple[str, ...]
    out: Path
    resume: bool
    seed: int
    precision: str
    progress: bool | None

    @property
    def seeds(self) -> range:
        """The seeds of the repetitions."""
        return range(self.seed, self.seed + self.preset.seeds)

    @property
    def identity(self) -> dict[str, Any]:
        """What must agree for a run directory to be continued. Figures may be added later."""
        return {
            "experiment": self.experiment,
            "preset": self.preset_name,
            "seed": self.seed,
            "precision": self.precision,
            "settings": json.loads(json.dumps(asdict(self.preset))),
        }


class Refused(Exception):
    """A wrong call, told in one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of the usage, exit status 2."""
        refuse(self.prog, message)


def refuse(program: str, message: str) -> NoReturn:
    """One line on stderr and exit status 2."""
    line = " ".join(str(message).split())
    sys.stderr.write(f"{program}: error: {line}\n")
    raise SystemExit(2)


def parse(
    experiment: str, description: str, presets: dict[str, Any], figures: Sequence[str], arguments=None
) -> Settings:
    """The options of an experiment. Presets starting with "tiny" are for the tests and not advertised."""
    advertised = [name for name in presets if name != "tiny"]

    def preset(text: str) -> str:
        if text not in presets:
            raise argparse.ArgumentTypeError(f"unknown preset {text!r}; there are {', '.join(advertised)}")
        return text

    def figure_list(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        for name in names:
            if name not in figures:
                raise argparse.ArgumentTypeError(f"unknown figure {name!r}; there are {', '.join(figures)}")
        if not names:
            raise argparse.ArgumentTypeError("no figure named")
        return names

    def seed(text: str) -> int:
        if not text.isdecimal() or int(text) >= 2**31:
            raise argparse.ArgumentTypeError(f"a seed is a whole number from 0 to 2**31 - 1, got {text!r}")
        return int(text)

    def precision(text: str) -> str:
        if text not in PRECISIONS:
            raise argparse.ArgumentTypeError(f"unknown precision {text!r}; there are {', '.join(PRECISIONS)}")
        return text

    parser = _Parser(prog=f"{experiment}.py", description=description, allow_abbrev=False)
    add = parser.add_argument
    add(
        "--preset",
        type=preset,
        default="small",
        metavar="{" + ",".join(advertised) + "}",
        help="size of the experiment: small takes about two minutes on two cores, paper has the "
        "published sizes (there is also tiny, for the tests)",
    )
    add(
        "--figure",
        type=figure_list,
        action="append",
        metavar="NAMES",
        help=f"one or more of {', '.join(figures)}, separated by commas; may be repeated; all by default",
    )
    add(
        "--out",
        type=Path,
        default=Path("runs") / experiment,
        metavar="DIR",
        help="run directory (default %(default)s)",
    )
    add("--resume", action="store_true", help="continue a run that was killed in --out, or add figures to it")
    add("--seed", type=seed, default=0, help="first seed of the repetitions (default %(default)s)")
    add(
        "--precision",
        type=precision,
        metavar="{" + ",".join(PRECISIONS) + "}",
        help="number format of the particle runs (default: that of the preset)",
    )
    add(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="progress bars (default: if stderr is a terminal)",
    )
    given = parser.parse_args(arguments)
    chosen = [name for names in given.figure or [] for name in names]
    ordered = tuple(name for name in figures if not chosen or name in chosen)
    settings = presets[given.preset]
    return Settings(
        experiment,
        given.preset,
        settings,
        ordered,
        given.out,
        given.resume,
        given.seed,
        given.precision or settings.precision,
        given.progress,
    )


def open_directory(settings: Settings) -> None:
    """Make the run directory, or check that it is one of the same run.

    **Raises** `Refused` before anything is changed.
    """
    out, stored = settings.out, settings.out / CONFIGURATION
    try:
        if out.exists() and not out.is_dir():
            raise Refused(f"--out {out} is a file, not a directory")
        if stored.exists():
            _check_same(settings, stored)
        elif out.exists() and any(out.iterdir()):
            raise Refused(
                f"--out {out} is not empty and holds no run of an experiment; choose another directory"
            )
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise Refused(f"cannot write to --out {out}: {error.strerror}") from error


def _check_same(settings: Settings, stored: Path) -> None:
    if not settings.resume:
        raise Refused(
            f"--out {settings.out} already holds a run; add --resume to continue it, or choose another --out"
        )
    try:
        there = json.loads(stored.read_text())
        there = {name: there[name] for name in settings.identity}
    except (ValueError, KeyError, TypeError):
        raise Refused(f"{stored} is not the configuration of an experiment; choose another --out") from None
    for name, here in settings.identity.items():
        if there[name] == here:
            continue
        if name == "settings":
            raise Refused(
                f"--out {settings.out} holds a run of preset {settings.preset_name!r} with other "
                "settings; choose another --out"
            )
        raise Refused(
            f"--out {settings.out} holds another run: {name} is {there[name]!r} there and {here!r} here; "
            "choose another --out"
        )


def prepare_jax(settings: Settings) -> None:
    """Precision, compilation cache and threads: the one place where global configuration is set."""
    # Small factorisations lose more to waking threads than they gain; cells run side by side instead.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import jax

    jax.config.update("jax_enable_x64", settings.precision == "float64")
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(root) / "mfjax" / "compiled"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(cache, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def write_configuration(settings: Settings) -> None:
    """config.json and versions.json. The first call of a directory writes them, a resumed one leaves them."""
    from importlib.metadata import version

    from mfjax.io import environment, write_json

    if not (settings.out / "versions.json").exists():
        packages = {name: version(name) for name in ("matplotlib", "scipy", "xarray")}
        write_json(settings.out / "versions.json", environment() | packages)
    if not (settings.out / CONFIGURATION).exists():
        write_json(settings.out / CONFIGURATION, settings.identity)


def run(
    experiment: str,
    description: str,
    presets: dict[str, Any],
    figures: Sequence[str],
    work: Callable[[Settings], None],
) -> None:
    """Parse, check, run `work`; every expected fault is one line, exit status 2."""
    settings = parse(experiment, description, presets, figures)
    program = f"{experiment}.py"
    signal.signal(signal.SIGINT, lambda *_: _interrupted(program, settings))
    try:
        open_directory(settings)
    except Refused as error:
        refuse(program, error)
    started = time.perf_counter()
    prepare_jax(settings)
    from mfjax import SimulationError
    from mfjax.io import ForeignRun

    try:
        write_configuration(settings)
        work(settings)
    except (ForeignRun, Refused) as error:
        refuse(program, error)
    except OSError as error:
        refuse(program, f"cannot write to --out {settings.out}: {error.strerror or error}")
    except SimulationError as error:
        refuse(program, f"{error}; what was computed until then is in {settings.out}")
    cpu = time.process_time()
    print(f"done in {time.perf_counter() - started:.0f} s ({cpu:.0f} s of CPU time): {settings.out}")


def _interrupted(program: str, settings: Settings) -> NoReturn:
    # Every file is written aside and renamed, so leaving at once loses at most the unfinished chunk, while an
    # exception would first wait for all queued cells.
    words = [program, *_options(settings), "--resume"]
    sys.stderr.write(f"\ninterrupted; nothing is lost, continue with: python {' '.join(words)}\n")
    sys.stderr.flush()
    os._exit(130)


def _options(settings: Settings) -> Iterable[str]:
    yield from ("--preset", settings.preset_name, "--out", str(settings.out))
    yield from ("--figure", ",".join(settings.figures), "--seed", str(settings.seed))
    yield from ("--precision", settings.precision)


def saved_steps(steps: int, count: int, always: Iterable[int] = ()) -> tuple[int, ...]:
    """`count` iteration numbers up to `steps`, about evenly spread on a logarithmic axis, with `always`.

    A multiple of 16 of them makes equal chunks, so that a run compiles one loop instead of two.

    >>> saved_steps(100, 6, [50])
    (1, 3, 7, 19, 50, 100)
    """
    chosen = sorted({k for k in {1, *always, steps} if 1 <= k <= steps})
    while len(chosen) < min(count, steps):
        # Halve the widest gap, by ratio, that has a whole number inside.
        ratio, i = max((b / a, i) for i, (a, b) in enumerate(pairwise(chosen)) if b > a + 1)
        chosen.insert(i + 1, min(max(round(chosen[i] * sqrt(ratio)), chosen[i] + 1), chosen[i + 1] - 1))
    return tuple(chosen)


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
        import mfjax as mf
        from mfjax.io import write_dataset

        started = time.perf_counter()
        place = self.settings.out / "checkpoints" / name
        table = mf.sweep(
            cell,
            path=place,
            resume=self.settings.resume,
            progress=self.settings.progress,
            static=static,
            **axes,
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
        import numpy as np

        from mfjax.certificates import REQUIRED, certificates

        for index in np.ndindex(*(data.sizes[axis] for axis in axes)):
            cell = (f"{axis}={data[axis].values[i]:g}" for axis, i in zip(axes, index, strict=True))
            self.certificates[f"{name} {' '.join(cell)}"] = certificates(
                {key: data[key].transpose(*axes, "save").values[index] for key in REQUIRED}
            )

    def write_certificates(self) -> None:
        """certificates.csv with a row per run, and a printed line per series with its worst values."""
        from mfjax.certificates import format_table
        from mfjax.io import write_atomically

        place = self.settings.out / "certificates.csv"
        text = format_table(self.certificates, "csv")
        if place.exists():
            # Series of figures that this call was not asked for.
            mine = tuple(f"{name} " for name in self.datasets)
            text += "".join(
                f"{line}\n" for line in place.read_text().splitlines()[1:] if not line.startswith(mine)
            )
        write_atomically(place, lambda file: file.write(text.encode()))
        worst = {}
        for name in self.datasets:
            rows = [row for run, row in self.certificates.items() if run.split(" ")[0] == name]
            worst[name] = {
                key: (min if key in ("min_weight", "saves") else max)(r[key] for r in rows) for key in rows[0]
            }
        print(
            f"\ncertificates, worst run of each series (all runs: {self.settings.out / 'certificates.csv'})"
        )
        print(format_table(worst), end="\n\n")

    def figure(self, name: str, fig: Any, look_for: str, started: float) -> None:
        """Save a figure and say what it shows."""
        from mfjax import plot

        stem = self.settings.out / "figures" / name
        plot.save(fig, stem)
        print(f"{name} ({time.perf_counter() - started:.1f} s, {stem}.png): {look_for}")


def started_now() -> float:
    """The clock from which a figure's wall time is counted."""
    return time.perf_counter()


@contextmanager
def double_precision() -> Iterator[None]:
    """float64 for what needs it whatever the precision of the particle runs, in every thread."""
    import jax

    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


class Data(NamedTuple):
    """What all series share: inputs, signals, teacher neurons and initial features, by gamma and seed."""

    x: Any
    y: Any
    teachers: Any
    starts: Any


def power_of_ten(value: float) -> str:
    """A power of ten in mathematical notation, another number as it is.

    >>> power_of_ten(1e-3), power_of_ten(0.5)
    ('$10^{-3}$', '0.5')
    """
    mantissa, exponent = f"{value:e}".split("e")
    return f"$10^{{{int(exponent)}}}$" if float(mantissa) == 1 else f"{value:g}"
