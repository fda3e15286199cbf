"""The experiments as a user runs them: their options, a whole run, and a run killed in the middle."""

import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = sorted(path.parent.name for path in ROOT.glob("experiments/*/__main__.py"))
SPHERE = ("III.1", "III.2", "III.3", "III.4", "III.5", "III.6", "III.7", "identifiability", "overview")
TORUS = ("III.10", "III.11", "III.12", "III.13", "III.14", "diffusion")
# The others need programs that take half a minute to compile; `test_all_figures` draws them.
LANGEVIN = ("densities", "chaos")
# A run of one figure, and what it is made of.
ONE_FIGURE = ("sphere", "--preset", "tiny", "--figure", "III.3", "--out")
SHARED = ("diffusion", "biased-widths", "unbiased-widths")
SERIES = (*SHARED, "biased-lams", "unbiased-gammas", "two-timescale", "density", "population")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The environment of the scripts; compiled programs are shared by the runs of this file."""
    cache = tmp_path_factory.mktemp("cache")
    return (
        os.environ
        | {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        | {
            # Programs that run for a moment are compiled for longer than they run.
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"
        }
    )


def start(environment, script, *arguments):
    """A running experiment."""
    command = [sys.executable, str(ROOT / "experiments" / script), *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process, timeout=900):
    """(exit status, stdout, stderr)."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, out, err


def call(environment, script, *arguments):
    """Run an experiment to its end."""
    return finish(start(environment, script, *arguments))


def one_line(result):
    """The single line that a refused call writes."""
    status, out, err = result
    assert status == 2, err
    assert out == "" and err.count("\n") == 1 and err.endswith("\n"), (out, err)
    assert "Traceback" not in err
    return err


@pytest.fixture(scope="module")
def sphere(environment, tmp_path_factory):
    """All figures of the circle at the size for tests: its folder and what it printed."""
    out = tmp_path_factory.mktemp("all") / "sphere"
    status, printed, err = call(environment, "sphere", "--preset", "tiny", "--out", out)
    assert status == 0, err
    return out, printed


@pytest.fixture(scope="module")
def risks(environment, tmp_path_factory):
    """One figure of the circle, in half of the time."""
    out = tmp_path_factory.mktemp("runs") / "sphere"
    status, printed, err = call(environment, *ONE_FIGURE, out)
    assert status == 0, err
    return out, printed


@pytest.fixture(scope="module")
def torus(environment, tmp_path_factory):
    """All figures of the torus at the size for tests."""
    out = tmp_path_factory.mktemp("runs") / "torus"
    status, printed, err = call(environment, "torus", "--preset", "tiny", "--out", out)
    assert status == 0, err
    return out, printed


@pytest.fixture(scope="module")
def langevin(environment, tmp_path_factory):
    """The figures of mean-field Langevin dynamics on a line, at the size for tests."""
    out = tmp_path_factory.mktemp("runs") / "langevin"
    figures = ",".join(LANGEVIN)
    status, printed, err = call(
        environment, "langevin", "--preset", "tiny", "--figure", figures, "--out", out
    )
    assert status == 0, err
    return out, printed


@pytest.fixture
def parse(monkeypatch):
    """Read the options of an experiment, as its last lines would."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "experiments"), *sys.path])
    from _lab import cli, program

    def read(name, *arguments):
        take = lambda main, question, presets, figures: cli.parse(
            name, question, presets, figures, list(map(str, arguments))
        )
        monkeypatch.setattr(program, "run", lambda *given, **more: found.append(take(*given, **more)))
        found = []
        runpy.run_path(str(ROOT / "experiments" / name / "__main__.py"), run_name="__main__")
        return found[0]

    return read


def refusal(parse, capsys, *call):
    """The single line of a call whose options are refused."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        parse(*call)
    out, err = capsys.readouterr()
    return one_line((end.value.code, out, err))


WRONG = {
    "option": (["--presett", "small"], "Unrecognized options: --presett, small"),
    "abbreviated option": (["--pre", "small"], "Unrecognized options: --pre, small"),
    "preset": (["--preset", "huge"], "invalid choice 'huge' for argument '--preset'"),
    "figure": (["--figure", "III.3,III.99"], "unknown figure 'III.99'; there are III.1"),
    "no figure": (["--figure", ","], "no figure named"),
    "seed": (["--seed", "-1"], "argument --seed: must be from 0"),
    "seed word": (["--seed", "one"], "--seed: invalid literal for int() with base 10: 'one'"),
    "no seeds": (["--seeds", "0"], "argument --seeds: must be at least 1, got 0"),
    "last seed": (["--seed", "2147483647", "--seeds", "2"], "must stay below 2**31"),
    "precision": (["--precision", "float16"], "invalid choice 'float16' for argument '--precision'"),
    "missing value": (["--out"], "Missing value for argument '--out'"),
    "positional": (["III.3"], "Unrecognized options: III.3"),
    "field of another": (["--plane-lam", "1"], "Unrecognized options: --plane-lam, 1"),
    "negative": (["--gammas", "10", "-1"], "argument --gammas: must be positive and finite, got 10.0 -1.0"),
    "empty": (["--lams"], "argument --lams: needs a value"),
    "twice": (["--widths", "16", "16"], "argument --widths: must not repeat a value, got 16 16"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_options_are_one_line(parse, capsys, case):
    arguments, message = WRONG[case]
    assert message in refusal(parse, capsys, "sphere", *arguments)


def test_fields_that_must_agree(parse, capsys):
    """What a preset finds in itself names the option, too."""
    for options, message in (
        (("--batches", "64", "--inputs", "32"), "--batches: must be at most --inputs, 32, got 64"),
        (("--momenta", "1.0"), "--momenta: must be at least 0 and less than 1, got 1.0"),
    ):
        assert message in refusal(parse, capsys, "batches", *options)


def test_wrong_options_end_the_program(environment, tmp_path):
    """Status 2, one line, and no folder is made."""
    environment = environment | {"HOME": str(tmp_path)}
    err = one_line(call(environment, "sphere", "--out", tmp_path / "run", "--lams", "1e-3", "x"))
    assert "--lams" in err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["langevin", "template"])
def test_every_field_refuses_what_it_cannot_be(parse, capsys, name):
    """The option is named."""
    for field in fields(parse(name).preset):
        option = "--" + field.name.replace("_", "-")
        assert option in refusal(parse, capsys, name, option, "x"), field.name


def other(value):
    """A value of the same type that differs everywhere."""
    if isinstance(value, tuple):
        return tuple(map(other, value))
    if isinstance(value, bool):
        return not value
    if value == "":
        return "other"
    if isinstance(value, str):
        choices = (("float32", "float64"), ("separated", "transported", "chaos"))
        (names,) = (names for names in choices if value in names)
        return names[names.index(value) - 1]
    # Twice a whole number is a multiple of what it has to be.
    return (2 * value or 1) if isinstance(value, int) else 0.75 * value


def words(name, value):
    """The option that sets a field."""
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    return [f"--{option}", *map(str, value if isinstance(value, tuple) else (value,))]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_field_is_an_option_and_on_record(parse, tmp_path, name):
    """Each field of the preset, set on the command line, is in the manifest of the run directory."""
    from _lab.program import claim

    preset = parse(name, "--preset", "paper").preset
    wanted = {field.name: other(getattr(preset, field.name)) for field in fields(preset)}
    options = [word for field, value in wanted.items() for word in words(field, value)]
    out = tmp_path / "run"
    settings = parse(name, "--preset", "paper", "--seed", "3", "--out", out, *options)
    with claim(settings):
        pass
    record = json.loads((out / "manifest.json").read_text())
    assert record["settings"] == json.loads(json.dumps(wanted))
    assert (record["experiment"], record["preset"], record["seed"]) == (name, "paper", 3)
    assert {"jax", "mfjax", "device", "matplotlib"} <= set(record["versions"])


def test_help_says_the_options_without_loading_jax(environment):
    begun = time.perf_counter()
    code = (
        "import runpy, sys; sys.argv = ['torus', '--help']\n"
        "try: runpy.run_path('experiments/torus/__main__.py', run_name='__main__')\n"
        "except SystemExit as end: print(end.code, 'jax' in sys.modules, 'numpy' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    print(f"--help: {time.perf_counter() - begun:.2f} s")
    for option in (
        *("--preset", "--figure", "--out", "--resume", "--seed", "--seeds", "--precision", "--no-progress"),
        *("--teacher-width", "numbers of particles", "length in which the kernel falls by e"),
    ):
        assert option in out
    assert out.endswith("0 False False\n")


@pytest.fixture
def refused(parse):
    """Why an experiment refuses a run directory."""
    from _lab.program import claim
    from mfjax._engine.directory import RunDirectoryError

    def reason(*call):
        with pytest.raises(RunDirectoryError) as error:
            claim(parse(*call))
        return str(error.value)

    return reason


def test_unwritable_folders(environment, refused, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    assert "is a file" in refused("sphere", "--out", file)
    assert "cannot write to" in one_line(call(environment, "sphere", "--out", file / "below"))
    assert file.read_text() == "mine"


def test_a_folder_with_other_things_is_left_alone(refused, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    for extra in ([], ["--resume"]):
        assert "holds no run" in refused("sphere", "--out", tmp_path, *extra)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_broken_record_is_named(refused, tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    assert "manifest.json is damaged" in refused("sphere", "--out", tmp_path, "--resume")


def test_a_folder_is_of_one_process_at_a_time(parse, refused, tmp_path):
    from _lab.program import claim

    out = tmp_path / "run"
    with claim(parse("sphere", "--out", out)):
        assert "is being written by" in refused("sphere", "--out", out, "--resume")
    # Nothing was computed yet, and the run may begin.
    with claim(parse("sphere", "--out", out, "--resume")):
        pass


def margins(out):
    """The margins of all bounds in the certificates of a run, by run and bound."""
    import csv

    with (out / "certificates.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns = [(row["run"], key, value) for row in rows for key, value in row.items()]
    return {(run, key): float(value) for run, key, value in columns if key.startswith("margin") and value}


def contents(folder):
    """Every file of a folder, byte for byte, but for the hidden ones that a kill leaves."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.startswith("."))
    return {p.relative_to(folder): p.read_bytes() for p in files}


def same_results(one, other):
    """Two files of results hold the same bits."""
    import xarray as xr

    with xr.open_dataset(one) as whole, xr.open_dataset(other) as resumed:
        assert set(whole.variables) == set(resumed.variables)
        for variable in whole.variables:
            a, b = whole[variable].values, resumed[variable].values
            assert a.dtype == b.dtype, (one, variable)
            assert np.array_equal(a, b) if a.dtype == object else a.tobytes() == b.tobytes(), variable


def test_an_existing_run_is_never_overwritten(environment, refused, risks):
    out, _ = risks
    before = contents(out)
    tiny = ("--preset", "tiny", "--out", out)
    assert "add --resume" in one_line(call(environment, "sphere", *tiny))
    changed = {
        "preset is tiny there and small here": ("sphere", "--out", out, "--resume"),
        "seed is 0 there and 7 here": ("sphere", *tiny, "--resume", "--seed", "7"),
        "settings precision is float32 there": ("sphere", *tiny, "--resume", "--precision", "float64"),
        "settings bandwidth is 0.06 there and 0.1": ("sphere", *tiny, "--resume", "--bandwidth", "0.1"),
        "experiment is sphere there": ("torus", *tiny, "--resume"),
    }
    for message, arguments in changed.items():
        assert message in refused(*arguments)
    assert contents(out) == before


@pytest.mark.core
def test_the_template(environment, tmp_path):
    """A copy of another name: each field that is set is in the record of the run, and the figure is drawn."""
    import xarray as xr

    for source, name in (("template", "mine"), ("_lab", "_lab")):
        shutil.copytree(ROOT / "experiments" / source, tmp_path / name)
    out = tmp_path / "run"
    wanted = {"lams": [0.5, 0.05], "seeds": 1, "width": 6, "inputs": 16, "step": 0.01, "saves": 2}
    options = [w for name, value in wanted.items() for w in words(name, tuple(np.atleast_1d(value)))]
    status, printed, err = call(environment, tmp_path / "mine", "--preset", "tiny", "--out", out, *options)
    assert status == 0, err
    record = json.loads((out / "manifest.json").read_text())
    assert record["settings"] == wanted and record["experiment"] == "mine"
    assert (out / "figures" / "distance.png").read_bytes().startswith(b"\x89PNG")
    assert "distance (" in printed and "certificates" in printed
    with xr.open_dataset(out / "results" / "distances.nc") as data:
        assert data.lam.values.tolist() == wanted["lams"] and data.sizes["save"] == 3
        assert (data.status == 0).all() and (data.mmd_squared > 0).all()


@pytest.mark.parametrize(
    ("name", "figures", "series"),
    [
        pytest.param("sphere", SPHERE, SERIES, marks=pytest.mark.slow),
        ("risks", ("III.3",), SHARED),
        pytest.param(
            "torus",
            TORUS,
            (
                "biased-widths",
                "unbiased-widths",
                "biased-lams",
                "unbiased-lams",
                "atoms",
                "diffusion",
                "limit",
            ),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("langevin", LANGEVIN, ("fokker-planck", "particles", "chaos")), marks=pytest.mark.slow
        ),
    ],
)
def test_a_whole_run(name, figures, series, request):
    import xarray as xr

    out, printed = request.getfixturevalue(name)
    record = json.loads((out / "manifest.json").read_text())
    assert record["preset"] == "tiny" and record["settings"]["seeds"] == 2
    assert {"jax", "mfjax", "device"} <= set(record["versions"])
    for figure in figures:
        assert (out / "figures" / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        assert (out / "figures" / f"{figure}.pdf").read_bytes().startswith(b"%PDF")
        assert f"{figure} (" in printed
    assert "certificates" in printed
    assert "identifiability of" in printed
    if name == "langevin":
        assert "Gibbs measures: residual" in printed
    runs = 0
    for one in series:
        with xr.open_dataset(out / "results" / f"{one}.nc") as data:
            assert data.sizes["save"] > 1
            assert (data.status == 0).all()
            assert np.isfinite(data.energy).all()
            runs += data.status.isel(save=-1).size
            if one == "atoms":
                assert np.isinf(data.gamma.values).all()
            if "mmd_squared" in data:
                assert (data.mmd_squared > 0).all()
    rows = (out / "certificates.csv").read_text().splitlines()
    assert rows[0].startswith("run,balance_defect") and len(rows) > runs
    assert all("completed" in row for row in rows[1:])


@pytest.mark.slow
def test_all_figures(environment, langevin):
    """The rest of the figures of mean-field Langevin dynamics, added to the same folder."""
    out, _ = langevin
    status, printed, err = call(environment, "langevin", "--preset", "tiny", "--out", out, "--resume")
    assert status == 0, err
    for figure in ("decay", "contraction", "vanishing-noise", "two-layers"):
        assert (out / "figures" / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    # Six curves on a line and two on a plane, each below its log-Sobolev bound.
    found = margins(out)
    assert len(found) == 8 and min(found.values()) >= 0, found
    rates = re.findall(
        r"^one tanh neuron, sigma = \S+: fitted (\S+), linearized (\S+),", printed, re.MULTILINE
    )
    # A rate that is not resolved is said so, and is no number.
    assert len(rates) >= 2
    for fitted, linearized in rates:
        assert float(fitted) == pytest.approx(float(linearized), rel=0.2)


def test_recorded_distance_is_that_of_the_recorded_particles(risks):
    """An independent brute-force energy distance between stored angles and the stored diffusion."""
    import xarray as xr

    out, _ = risks
    with (
        xr.open_dataset(out / "results" / "biased-widths.nc") as data,
        xr.open_dataset(out / "results" / "diffusion.nc") as diffusion,
    ):
        run = data.isel(lam=0, gamma=0, width=0, seed=1, save=-1)
        width = int(run.width)
        angle = run.angle.values[:width].astype(float)
        assert np.isposinf(run.angle.values[width:]).all()
        masses = diffusion.masses.sel(gamma=100.0).isel(save=-1).values.astype(float)
        value = float(run.mmd_squared_diffusion)
    cells = 2 * np.pi * (np.arange(masses.size) + 0.5) / masses.size
    points = np.concatenate([angle, cells])
    signed = np.concatenate([np.full(width, 1 / width), -masses / masses.sum()])
    chord = 2 * np.abs(np.sin((points[:, None] - points) / 2))
    np.testing.assert_allclose(value, -signed @ chord @ signed, rtol=2e-5)


@pytest.mark.slow
def test_population_distances_near_the_independent_values(sphere):
    """Even at the size for tests the two feature maps differ by an order of magnitude at lam = 1e-3."""
    import xarray as xr

    with xr.open_dataset(sphere[0] / "results" / "population.nc") as data:
        last = data.mmd_squared_diffusion.isel(save=-1).sel(lam=1e-3)
        blind, seeing = float(last.sel(bias=0.0)), float(last.sel(bias=0.5))
    assert blind == pytest.approx(3.7e-4, rel=0.03)
    assert seeing == pytest.approx(1.4e-5, rel=0.05)


def wait_for(process, folder, pattern, timeout=600):
    """Until a file of `pattern` exists below `folder`."""
    end = time.monotonic() + timeout
    while not any(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"no {pattern} after {timeout} s"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def killed_once(environment, tmp_path_factory):
    """A run of one figure, killed in the middle of its first and of its second series."""
    out = tmp_path_factory.mktemp("killed") / "sphere"
    for resume, place in ((), SHARED[1]), (("--resume",), SHARED[2]):
        process = start(environment, *ONE_FIGURE, out, *resume)
        wait_for(process, out, f"checkpoints/{place}/**/checkpoint.npz")
        process.send_signal(signal.SIGKILL)
        assert finish(process)[0] == -signal.SIGKILL
    assert not (out / "results" / f"{SHARED[2]}.nc").exists()
    return out


@pytest.fixture
def killed(killed_once, tmp_path):
    """A copy of the killed run, which a test may finish or spoil, and its arguments."""
    out = shutil.copytree(killed_once, tmp_path / "sphere")
    return out, (*ONE_FIGURE, out)


@pytest.mark.slow
def test_resumed_results_equal_uninterrupted_ones_bit_for_bit(environment, risks, killed):
    out, arguments = killed
    status, _, err = call(environment, *arguments, "--resume")
    assert status == 0, err
    for name in SHARED:
        same_results(risks[0] / "results" / f"{name}.nc", out / "results" / f"{name}.nc")


@pytest.mark.slow
def test_a_killed_template_goes_on_bit_for_bit(environment, tmp_path):
    # So many saved times that the kill lands between two of them.
    sizes = ("--lams", "0.5", "--seeds", "1", "--saves", "256")
    arguments = ("template", "--preset", "tiny", *sizes, "--out")
    status, _, err = call(environment, *arguments, tmp_path / "whole")
    assert status == 0, err
    process = start(environment, *arguments, tmp_path / "killed")
    wait_for(process, tmp_path / "killed", "checkpoints/distances/**/checkpoint.npz")
    process.send_signal(signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL
    assert not (tmp_path / "killed" / "results").exists()
    status, _, err = call(environment, *arguments, tmp_path / "killed", "--resume")
    assert status == 0, err
    same_results(*(tmp_path / name / "results" / "distances.nc" for name in ("whole", "killed")))


@pytest.mark.slow
def test_a_foreign_checkpoint_is_refused_and_kept(environment, killed):
    out, arguments = killed
    manifest = out / "checkpoints" / SHARED[1] / "manifest.json"
    original = manifest.read_text()
    manifest.write_text(original.replace('"python": "', '"python": "0.'))
    assert manifest.read_text() != original
    before = contents(out)
    status, _, err = call(environment, *arguments, "--resume")
    assert status == 2 and err.count("\n") == 1 and "holds another run" in err, err
    assert contents(out) == before


@pytest.mark.slow
def test_a_damaged_checkpoint_is_one_line(environment, killed):
    out, arguments = killed
    checkpoint = next((out / "checkpoints" / SHARED[1]).rglob("checkpoint.npz"))
    original = checkpoint.read_bytes()
    checkpoint.write_bytes(original[: len(original) // 2])
    before = contents(out)
    status, _, err = call(environment, *arguments, "--resume")
    assert status == 2 and err.count("\n") == 1 and "checkpoint.npz is damaged" in err, err
    assert contents(out) == before


def test_interrupt_tells_how_to_go_on(environment, tmp_path):
    out = tmp_path / "run"
    changed = ("--lams", "0.1", "0.001", "--bandwidth", "0.1")
    process = start(environment, "sphere", "--preset", "tiny", "--figure", "III.3", "--out", out, *changed)
    wait_for(process, out, "checkpoints/*/manifest.json")
    process.send_signal(signal.SIGINT)
    status, _, err = finish(process)
    assert status == 130
    assert err.strip().count("\n") == 0 and "--resume" in err and str(out) in err
    assert " ".join(changed) in err


FISHER_RAO = {
    "neurons": ("neurons",),
    "decay": tuple(f"zones-{kind}-{dim}" for kind in ("jump", "kink") for dim in (1, 2, 3, 10)),
    "modes,invisible,signed,births": (
        *("births", "masses"),
        *("circle-particles", "circle-density", "sphere-particles", "teacher"),
        *("signed-density", "signed-particles"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "figures",
    [
        "neurons",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("modes,invisible,signed,births", "decay")),
    ],
)
def test_fisher_rao(environment, figures, tmp_path):
    import xarray as xr

    out = tmp_path / "run"
    arguments = ("--preset", "tiny", "--figure", figures, "--out", out)
    status, printed, err = call(environment, "fisher_rao", *arguments)
    assert status == 0, err
    assert "invisible Fourier modes up to 16: 3, 5, 7" in printed and "certificates" in printed
    found = margins(out)
    assert len(found) == (2 if "invisible" in figures else 0)
    assert all(margin >= 0 for margin in found.values()), found
    for figure in figures.split(","):
        assert (out / "figures" / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    for name in FISHER_RAO[figures]:
        with xr.open_dataset(out / "results" / f"{name}.nc") as data:
            assert (data.status == 0).all() and np.isfinite(data.energy).all()
            if name == "neurons":
                assert float(data.gap.max()) < 1e-8


@pytest.mark.parametrize(
    "figures", [pytest.param(names, marks=pytest.mark.slow) for names in ("rates", "decay,torus,kernels")]
)
def test_discrepancy(environment, figures, tmp_path):
    import xarray as xr

    out = tmp_path / "run"
    arguments = ("--preset", "tiny", "--figure", figures, "--out", out)
    status, printed, err = call(environment, "discrepancy", *arguments)
    assert status == 0, err
    assert "0.159155 (0.159155)" in printed and "certificates" in printed
    assert "identifiability of the Sobolev kernel, s = 3/2" in printed
    found = margins(out)
    assert len(found) == 6 and min(found.values()) >= 0, found
    for figure in figures.split(","):
        assert (out / "figures" / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    slow = ("particles", "torus-grid", "torus-particles", "gaussian", "laplace", "riesz")
    for name in ("density",) if figures == "rates" else ("density", *slow):
        with xr.open_dataset(out / "results" / f"{name}.nc") as data:
            assert (data.status == 0).all() and np.isfinite(data.energy).all()
            if name == "density":
                # s = 1 to the uniform measure: e^{-2t} exactly, from each of the three shapes.
                energy = data.energy.sel(order=1.0).values[:3]
                np.testing.assert_allclose(energy[:, -1] / energy[:, 0], np.exp(-2 * 2.0), rtol=0.02)


REGIMES = {
    "rates": ("rates", "timescales"),
    "vanishing": ("vanishing", "vanishing-limit", "vanishing-signed", "vanishing-signed-limit", "hypotheses"),
    "regimes,limits,bounds,minimum": (
        *("diffusion", "widths", "discrepancy", "large-lam", "fast-outer", "algebraic"),
        *("implicit-steps", "stability", "langevin", "signed-teacher", "spikes"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "figures",
    [
        "rates",
        *(pytest.param(f, marks=pytest.mark.slow) for f in ("vanishing", "regimes,limits,bounds,minimum")),
    ],
)
def test_regimes(environment, figures, tmp_path):
    """Measured rates beside the formula, and every curve below its bound."""
    import xarray as xr

    out = tmp_path / "run"
    status, printed, err = call(environment, "regimes", "--preset", "tiny", "--figure", figures, "--out", out)
    assert status == 0, err
    assert "certificates" in printed
    assert "identifiability of ReLU(bias=0.5)" in printed
    for figure in figures.split(","):
        assert (out / "figures" / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    for name in REGIMES[figures]:
        with xr.open_dataset(out / "results" / f"{name}.nc") as data:
            assert (data.status == 0).all() and np.isfinite(data.energy).all()
            if name == "rates":
                # c_1 of ReLU(bias=1/2), and the odd mode that is invisible without bias.
                exact = 0.24220096 / (0.24220096 + data.lam.values)
                np.testing.assert_allclose(data.rate.values[1, :, 0], exact, rtol=1e-4)
                assert np.max(np.abs(data.rate.values[0, :, 2])) < 1e-6
    found = margins(out)
    assert all(margin > 0 for margin in found.values()), found
    assert len(found) == (13 if "bounds" in figures else 0)


FORMULATIONS = {
    "increase": ("grid-separated", "grid-transported", "grid-chaos"),
    "systems,descent,regularized": (
        *("particles", "labels", "mesh-12"),
        *("heat-separated", "heat-chaos", "porous-separated", "porous-chaos"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "figures", ["increase", pytest.param("systems,descent,regularized", marks=pytest.mark.slow)]
)
def test_formulations(environment, figures, tmp_path):
    """The energy of one system alone rises, from the steep start alone."""
    import xarray as xr

    out = tmp_path / "run"
    arguments = ("--preset", "tiny", "--figure", figures, "--out", out)
    status, printed, err = call(environment, "formulations", *arguments)
    assert status == 0, err
    assert "certificates" in printed
    assert "identifiability of tanh" in printed
    # Two systems of which the energy never rises, from two starts each.
    found = margins(out)
    assert len(found) == 4 and min(found.values()) >= 0, found
    for figure in figures.split(","):
        assert (out / "figures" / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    for name in FORMULATIONS[figures]:
        with xr.open_dataset(out / "results" / f"{name}.nc") as data:
            assert (data.status == 0).all() and np.isfinite(data.energy).all()
            if figures == "increase":
                rises = (data.dissipation.isel(save=0) < 0).values.tolist()
                assert rises == [False, name == "grid-transported"], name


@pytest.mark.parametrize(
    "figures",
    ["learning", "schedule,learning"],
    ids=["learning", "all"],
)
@pytest.mark.slow
def test_learning(environment, figures, tmp_path):
    """Gradients through whole runs are those of differences, and lower the loss."""
    import xarray as xr

    out = tmp_path / "run"
    arguments = ("--preset", "tiny", "--figure", figures, "--out", out)
    status, printed, err = call(environment, "learning", *arguments)
    assert status == 0, err
    error = re.search(r"against central differences: (\S+) relative", printed)
    assert float(error.group(1)) < 1e-6
    assert "held-out seeds, step 0.0078125" in printed and "identifiability of ReLU(bias=0.5)" in printed
    for figure in figures.split(","):
        assert (out / "figures" / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    with xr.open_dataset(out / "results" / "learning.nc") as data:
        assert float(data.training.min()) < float(data.training[0])
        best = float(data.training.min())
    for name in ("constant", "learned", "learned-step-4"):
        with xr.open_dataset(out / "results" / f"{name}.nc") as data:
            assert (data.status == 0).all() and np.isfinite(data.score).all()
            if name == "learned":
                # The sweep repeats the runs that the loss was taken of.
                assert float(data.score[:2].mean()) == pytest.approx(best, rel=1e-8)


@pytest.mark.slow
def test_batches(environment, tmp_path):
    """Every series ends well; the batch of all data without momentum is variable projection of all data."""
    import xarray as xr

    out = tmp_path / "run"
    status, printed, err = call(environment, "batches", "--preset", "tiny", "--out", out)
    assert status == 0, err
    assert "certificates" in printed
    for figure in ("mean", "limit", "noise", "projection"):
        assert (out / "figures" / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    for name in ("mean-0", "mean-1", "widths", "noises", "descent-0", "descent-3", "all-data", "projections"):
        with xr.open_dataset(out / "results" / f"{name}.nc") as data:
            assert (data.status == 0).all() and np.isfinite(data.energy).all()
            if name == "all-data":
                exact = data.mmd_squared.values
            elif name == "projections":
                whole = data.mmd_squared.sel(batch=32, momentum=0.0).values
                np.testing.assert_allclose(whole, exact, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_work_precision(environment, tmp_path):
    """Every scheme is on the diagram with the solves that its runs took."""
    import xarray as xr

    out = tmp_path / "run"
    status, printed, err = call(environment, "work_precision", "--preset", "tiny", "--out", out)
    assert status == 0, err
    assert (out / "figures" / "work_precision.png").read_bytes().startswith(b"\x89PNG")
    for name, stages in {"Euler": 1, "Heun": 2, "RK4": 4, "Adaptive": 3}.items():
        with xr.open_dataset(out / "results" / f"{name}.nc") as data:
            end = data.isel(save=-1)
            assert (end.evaluations == 1 + stages * (end.steps + end.rejected)).all(), name
    assert len(re.findall(r"Multirate, rtol \S+: \d+ solves, relative error", printed)) == 2
    assert re.search(r"Multirate: solves .* over lam, exponent", printed)


DIGITS = ("projection", "timescales", "sgd-square", "sgd-softmax", "langevin")


@pytest.mark.slow
def test_digits(environment, tmp_path):
    """Every dynamics learns, and the table of scores has all of them and the estimators of scikit-learn."""
    import csv

    import xarray as xr

    out = tmp_path / "run"
    status, printed, err = call(environment, "digits", "--preset", "tiny", "--out", out)
    assert status == 0, err
    for figure in ("curves", "accuracy", "features", "predictions"):
        assert (out / "figures" / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    with (out / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(DIGITS) + 3
    for name, row in zip(DIGITS, rows, strict=False):
        with xr.open_dataset(out / "results" / f"{name}.nc") as data:
            assert (data.status == 0).all() and data.risk.dims == ("lam", "holdout", "seed", "save")
            assert (data.risk[..., -1] < data.risk[..., 0]).all(), name
        assert 0.1 < float(row["seed 0"]) < 1 and row["seed 0"] != row["seed 1"]
    linear = [float(rows[len(DIGITS)][f"seed {seed}"]) for seed in (0, 1)]
    assert rows[len(DIGITS)]["method"] == "logistic regression" and min(linear) > 0.94
    assert re.search(r"^logistic regression +0\.9\d+ ± 0\.0\d+", printed, re.MULTILINE)


TABLES = {
    "numbers": ("sepal,petal,color,length", "{0:.3f},{1:.3f},{2},{3:.4f}"),
    "words": ("kind,petal,color", "{4},{1:.3f},{2}"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", TABLES)
def test_a_table_of_a_user(environment, kind, tmp_path):
    """A target of numbers, or classes by their names, which is the first column here."""
    header, line = TABLES[kind]
    rng = np.random.default_rng(0)
    rows = []
    for a, b in rng.normal(size=(80, 2)):
        rows.append(line.format(a, b, int(a > 0.5), np.tanh(a - b), "iris" if a > b else "rose"))
    (tmp_path / "data.csv").write_text("\n".join([header, *rows]) + "\n")
    named = ("--target", "kind") if kind == "words" else ()
    out, sizes = tmp_path / "run", ("--preset", "tiny", "--seeds", "1")
    status, printed, err = call(
        environment, "digits", "--table", tmp_path / "data.csv", *named, *sizes, "--out", out
    )
    assert status == 0, err
    for figure in ("curves", "accuracy", "features", "predictions"):
        assert (out / "figures" / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    what = "R²" if kind == "numbers" else "accuracy"
    assert f"test {what}" in printed
    found = re.search(r"^variable projection +(\S+) ±", printed, re.MULTILINE)
    assert float(found.group(1)) > 0.6


def test_a_table_that_cannot_be_used_is_one_line(environment, tmp_path):
    """Status 2, and no folder is made."""
    (tmp_path / "data.csv").write_text("a,b\n1,x\n,y\n")
    arguments = ("--table", tmp_path / "data.csv", "--out", tmp_path / "run")
    err = one_line(call(environment, "digits", *arguments))
    assert "argument --table: line 3 of" in err and "has no value of 'a'" in err
    assert not (tmp_path / "run").exists()
