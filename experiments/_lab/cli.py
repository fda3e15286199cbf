"""The command line of an experiment: each field of its preset is an option, all checked before any work."""

import math
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass, fields
from io import StringIO
from itertools import pairwise, repeat
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Check:
    """What a value must be, in words and as a function."""

    words: str
    holds: Callable[[Any], bool]


def at_least(least: int) -> Check:
    """The check of a whole number from `least`."""
    return Check(f"must be at least {least}", lambda value: value >= least)


# Types for the fields of presets; `tuple[Positive, ...]` checks every entry.
Count = Annotated[int, at_least(1)]
Positive = Annotated[float, Check("must be positive and finite", lambda value: 0 < value < math.inf)]
Finite = Annotated[float, Check("must be finite", math.isfinite)]
Precision = Literal["float32", "float64"]


class Refused(ValueError):
    """What a user gave, or has, cannot be used: one line that says so, exit status 2."""


@dataclass(frozen=True)
class Settings:
    """The checked options of one call."""

    program: str
    experiment: str
    preset_name: str
    preset: Any
    figures: tuple[str, ...]
    out: Path
    resume: bool
    seed: int
    progress: bool

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
            "settings": asdict(self.preset),
        }


def refuse(program: str, message: Any) -> NoReturn:
    """One line on stderr and exit status 2."""
    line = " ".join(str(message).split())
    sys.stderr.write(f"{program}: error: {line}\n")
    raise SystemExit(2)


def parse(
    experiment: str,
    question: str,
    presets: Mapping[str, Any],
    figures: Collection[str],
    arguments: Sequence[str] | None = None,
) -> Settings:
    """The options of an experiment. The preset "tiny" is for the tests and not advertised."""
    import tyro

    program = sys.argv[0]
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    named = [b for a, b in pairwise(["--preset", "small", *_split(arguments)]) if a == "--preset"][-1]
    # An unknown preset is refused below, with all else that is wrong.
    options = _options(experiment, presets.get(named, presets["small"]), presets, figures)
    told = StringIO()
    try:
        with redirect_stderr(told):
            given = tyro.cli(options, prog=program, description=question, args=arguments)
    except SystemExit as end:
        if not end.code:
            raise
        refuse(program, _one_line(told.getvalue()))
    chosen = [name.strip() for names in given.figure for name in names.split(",") if name.strip()]
    if given.figure and not chosen:
        refuse(program, "argument --figure: no figure named")
    for name in chosen:
        if name not in figures:
            refuse(program, f"argument --figure: unknown figure {name!r}; there are {', '.join(figures)}")
    for name, fault in _faults(given.sizes):
        refuse(program, f"argument {_option(name)}: {fault}")
    if not 0 <= given.seed < 2**31:
        refuse(program, f"argument --seed: must be from 0 to 2**31 - 1, got {given.seed}")
    if given.seed + getattr(given.sizes, "seeds", 1) > 2**31:
        refuse(program, "argument --seed: with --seeds beyond it, it must stay below 2**31")
    return Settings(
        program=program,
        experiment=experiment,
        preset_name=given.preset,
        preset=given.sizes,
        figures=tuple(name for name in figures if not chosen or name in chosen),
        out=given.out,
        resume=given.resume,
        seed=given.seed,
        progress=given.progress,
    )


def _split(arguments: Sequence[str]) -> list[str]:
    """The words, `--name=value` as two of them."""
    return [part for word in arguments for part in word.split("=", 1 if word.startswith("--") else 0)]


def _options(experiment: str, defaults: Any, presets: Mapping[str, Any], figures: Collection[str]) -> type:
    """A dataclass with the options of all experiments, and those of the preset beside them."""
    from tyro.conf import FlagCreatePairsOff, UseAppendAction, arg

    advertised = "{" + ",".join(name for name in presets if name != "tiny") + "}"
    presets_help = (
        "size of the experiment, which the options below change (there is also tiny, for the tests)"
    )
    if "paper" in presets:
        presets_help += "; paper has the published sizes"
    figures_help = (
        f"one or more of {', '.join(figures)}, separated by commas; may be repeated; all by default"
    )
    resume_help = "continue a run that was stopped in --out, or add figures to it"

    @dataclass(frozen=True)
    class Options:
        preset: Annotated[Literal[tuple(presets)], arg(help=presets_help, metavar=advertised)] = "small"
        figure: UseAppendAction[Annotated[tuple[str, ...], arg(help=figures_help, metavar="NAMES")]] = ()
        out: Annotated[Path, arg(help="run directory", metavar="DIR")] = Path("runs") / experiment
        resume: FlagCreatePairsOff[Annotated[bool, arg(help=resume_help)]] = False
        seed: Annotated[int, arg(help="first seed of the repetitions")] = 0
        progress: Annotated[bool, arg(help="progress bars")] = sys.stderr.isatty()
        sizes: Annotated[type(defaults), arg(name="")] = defaults

    return Options


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _faults(preset: Any) -> Iterator[tuple[str, str]]:
    """(field, what is wrong with its value), then what the preset itself finds in its `faults`."""
    kinds = get_type_hints(type(preset), include_extras=True)
    for name in (field.name for field in fields(preset)):
        value = getattr(preset, name)
        if value == ():
            yield name, "needs a value"
        # They are the values of an axis.
        if get_args(kinds[name])[-1:] == (Ellipsis,) and len(set(value)) < len(value):
            yield name, f"must not repeat a value, got {' '.join(map(str, value))}"
        for words in _broken(kinds[name], value):
            yield name, f"{words}, got {' '.join(map(str, value)) if isinstance(value, tuple) else value}"
    yield from getattr(preset, "faults", tuple)()


def _broken(kind: Any, value: Any) -> Iterator[str]:
    """The words of the checks of a type that do not hold."""
    if get_origin(kind) is Annotated:
        inner, *marks = get_args(kind)
        yield from (mark.words for mark in marks if isinstance(mark, Check) and not mark.holds(value))
        yield from _broken(inner, value)
    elif get_origin(kind) is tuple:
        kinds = get_args(kind)
        entries = repeat(kinds[0]) if kinds[-1] is Ellipsis else kinds
        for one, entry in zip(entries, value, strict=False):
            yield from _broken(one, entry)


def _one_line(text: str) -> str:
    """What a box with a title, a message, a rule and further help says is wrong."""
    rows = [row.strip("│ ") for row in text.splitlines()]
    rules = [i for i, row in enumerate(rows) if row and set(row) <= set("─-╰╯")]
    # Where the terminal has no box to draw, a rule is below the title too.
    first = rules[0] + 1 if rules and rules[0] == 1 else 1
    last = next((i for i in rules if i > first), len(rows))
    return " ".join(rows[first:last] or rows)
