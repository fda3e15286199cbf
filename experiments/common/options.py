"""The command line of an experiment: every option is checked before anything is loaded or written."""

import argparse
import json
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

PRECISIONS = ("float32", "float64")


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
        """The seeds of the repetitions, of an experiment that has some."""
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
    experiment: str, description: str, presets: dict[str, Any], figures: Collection[str], arguments=None
) -> Settings:
    """The options of an experiment. The preset "tiny" is for the tests and not advertised."""
    advertised = [name for name in presets if name != "tiny"]
    parser = _Parser(prog=f"{experiment}.py", description=description, allow_abbrev=False)
    add = parser.add_argument
    add(
        "--preset",
        type=_one_of("preset", presets, advertised),
        default="small",
        metavar=_braces(advertised),
        help="size of the experiment: small takes about two minutes on two cores, paper has the "
        "published sizes (there is also tiny, for the tests)",
    )
    add(
        "--figure",
        type=_several_of("figure", figures),
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
    add("--seed", type=_seed, default=0, help="first seed of the repetitions (default %(default)s)")
    add(
        "--seeds",
        type=_count,
        metavar="N",
        help="how many repetitions, each with a seed of its own (default: those of the preset)",
    )
    add(
        "--precision",
        type=_one_of("precision", PRECISIONS, PRECISIONS),
        metavar=_braces(PRECISIONS),
        help="number format of the particle runs (default: that of the preset)",
    )
    add(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="progress bars (default: if stderr is a terminal)",
    )
    given = parser.parse_args(arguments)
    chosen = [name for names in given.figure or [] for name in names]
    preset = presets[given.preset]
    if given.seeds is not None:
        if not hasattr(preset, "seeds"):
            parser.error("argument --seeds: this experiment repeats nothing")
        preset = replace(preset, seeds=given.seeds)
    if given.seed + getattr(preset, "seeds", 1) > 2**31:
        parser.error("argument --seed: with --seeds beyond it, it must stay below 2**31")
    return Settings(
        experiment=experiment,
        preset_name=given.preset,
        preset=preset,
        figures=tuple(name for name in figures if not chosen or name in chosen),
        out=given.out,
        resume=given.resume,
        seed=given.seed,
        precision=given.precision or preset.precision,
        progress=given.progress,
    )


def _braces(names: Sequence[str]) -> str:
    return "{" + ",".join(names) + "}"


def _one_of(kind: str, names: Collection[str], advertised: Collection[str]) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"unknown {kind} {text!r}; there are {', '.join(advertised)}")
        return text

    return check


def _several_of(kind: str, names: Collection[str]) -> Callable[[str], list[str]]:
    check = _one_of(kind, names, names)

    def split(text: str) -> list[str]:
        found = [check(name.strip()) for name in text.split(",") if name.strip()]
        if not found:
            raise argparse.ArgumentTypeError(f"no {kind} named")
        return found

    return split


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"a seed is a whole number from 0 to 2**31 - 1, got {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(
            f"the number of seeds is a whole number from 1 to 2**31 - 1, got {text!r}"
        )
    return int(text)
