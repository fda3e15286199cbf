"""Arrays that come from other programs, and files that go to them."""

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from scipy.io import netcdf_file

import mfjax as mf
from mfjax._results import datasets

pytestmark = pytest.mark.core

LINE = mf.domains.Euclidean(1)
X = np.arange(3.0)[:, None]


@pytest.mark.parametrize("dtype", [">f8", "<f8", ">f4", np.longdouble, ">i4", ">i8"])
def test_arrays_in_any_byte_order_and_precision(dtype):
    mu = mf.measures.Particles(X.astype(dtype), np.array([0.5, 0.25, 0.25]).astype(">f8"))
    np.testing.assert_array_equal(mu.points, X)
    assert mu.points.dtype == (np.float32 if dtype == ">f4" else np.float64)
    grid = mf.measures.Grid.from_density(mf.domains.Torus(1), 4, np.arange(1, 5).astype(dtype))
    np.testing.assert_allclose(grid.weights, np.arange(1, 5) / 10, rtol=1e-6)


def test_an_array_of_a_netcdf_file_goes_back_in(tmp_path):
    xr.Dataset({"x": (("m", "d"), X)}).to_netcdf(tmp_path / "x.nc", engine="scipy")
    with netcdf_file(tmp_path / "x.nc", mmap=False) as file:
        np.testing.assert_array_equal(mf.measures.Particles(file.variables["x"][:]).points, X)


def test_a_masked_array_without_masked_entries_is_an_array():
    np.testing.assert_array_equal(mf.measures.Particles(np.ma.masked_array(X)).points, X)


def test_values_at_the_cells_of_a_grid_in_the_plane():
    box = mf.domains.Box([0.0, 0.0], [1.0, 2.0])
    values = 1.0 + np.arange(24.0).reshape(4, 6)
    grid = mf.measures.Grid.from_density(box, (4, 6), values)
    np.testing.assert_allclose(grid.weights.reshape(4, 6), values / values.sum(), rtol=1e-12)


def test_points_are_a_target():
    kernel, mu = mf.kernels.Gaussian(), mf.measures.Particles(X + 0.5)
    assert mf.energies.MMD(kernel, X)(mu) == mf.energies.MMD(kernel, mf.measures.Particles(X))(mu)


NAMES = {"λ": "u03bb", "é": "é", "a/b": "a_b", "real": "real_", "energy of 2": "energy of 2", "$x": "_$x"}


@pytest.mark.parametrize("name", NAMES)
def test_any_name_can_be_saved(name, tmp_path):
    data = xr.Dataset({name: (("time", f"{name}_0"), np.arange(6.0).reshape(2, 3))})
    path = datasets.write_dataset(data, tmp_path / "new" / "folder" / "x.nc")
    with xr.open_dataset(path, engine="scipy") as back:
        stored = back[NAMES[name]]
        np.testing.assert_array_equal(stored, data[name])
        assert NAMES[name] == name or stored.attrs["long_name"] == name


def test_names_that_files_cannot_tell_apart(tmp_path):
    """Two of one stored name, and one that is a record but for a space, are kept and read back."""
    well = mf.energies.Potential(lambda x: jnp.sum(x * x))
    seen = {"a/b": lambda mu, flow: mu.mass, "a_b": lambda mu, flow: 2 * mu.mass, "energy ": lambda *_: 3.0}
    run = mf.simulate(
        mf.flows.Wasserstein(well, mf.domains.Euclidean(1)),
        mf.measures.Particles(jnp.ones((2, 1))),
        stepper=mf.steppers.Euler(0.1),
        steps=2,
        observables=seen,
        path=tmp_path / "run",
    )
    back = mf.load(tmp_path / "run").observables
    for name in (*seen, "energy"):
        np.testing.assert_array_equal(back[name], run.observables[name])
    table = mf.sweep(lambda a: {"u/v": a, "u_v": 2 * a}, a=[1.0, 2.0], path=tmp_path / "table")
    read = mf.load(tmp_path / "table")
    assert {name: read[name].tolist() for name in ("u/v", "u_v")} == {"u/v": [1, 2], "u_v": [2, 4]}
    assert "u_v" in table and "w" not in table and set(table) >= {"u/v", "u_v"}


def test_parts_of_a_result_give_way_to_one_that_is_called_so(tmp_path):
    """A complex number is stored as two, an array of a table as columns; other results have those names."""
    waves = {
        "z_real": lambda a: 7 + a,
        "z": lambda a: a + 2j * a,
        "v": lambda a: jnp.stack([a, -a]),
        "v_0": lambda a: 5 * a,
        "λ": lambda a: 1j * a,
    }
    table = mf.sweep(lambda a: {n: f(a) for n, f in waves.items()}, a=[1.0, 2.0], path=tmp_path / "table")
    back = mf.load(tmp_path / "table")
    for name in waves:
        np.testing.assert_array_equal(back[name], table[name])
        assert back[name].dtype == table[name].dtype
    simple = mf.sweep(lambda a: {"v": waves["v"](a), "v_0": waves["v_0"](a)}, a=[1.0, 2.0])
    rows = simple.save(tmp_path / "table.csv").read_text().splitlines()
    assert rows == ["a,v_0_,v_1,v_0", "1.0,1.0,-1.0,5.0", "2.0,2.0,-2.0,10.0"]


@pytest.mark.slow
def test_axes_of_one_name_are_told_apart(tmp_path):
    class Plane(mf.domains.Torus):
        @property
        def axes(self):
            return tuple(axis._replace(label="x [mm]") for axis in super().axes)

    plane = Plane(2)
    flow = mf.flows.Wasserstein(mf.energies.Entropy(), plane)
    start = mf.measures.Grid.from_density(plane, 8, lambda x: 1 + 0.5 * jnp.sin(2 * jnp.pi * x[0]))
    run = mf.simulate(flow, start, t1=1e-3, path=tmp_path / "run")
    assert {"x", "x_"} <= set(run.to_xarray().dims)


def test_an_axis_and_an_observable_beyond_latin(tmp_path):
    table = mf.sweep(lambda λ: {"μ": 2 * λ}, axes={"λ": [1.0, 2.0]}, path=tmp_path / "table")
    with xr.open_dataset(tmp_path / "table" / "results.nc", engine="scipy") as back:
        np.testing.assert_array_equal(back["u03bc"], table["μ"])
        assert back["u03bb"].attrs["long_name"] == "λ"


def test_large_variables_are_written_by_records(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "LARGEST", 100)
    data = xr.Dataset({"x": (("time", "m"), np.arange(30.0).reshape(6, 5)), "t": ("time", np.arange(6.0))})
    path = datasets.write_dataset(data, tmp_path / "x.nc")
    with xr.open_dataset(path, engine="scipy") as back:
        xr.testing.assert_equal(back, data)
        assert back.encoding["unlimited_dims"] == {"time"}
    with pytest.raises(ValueError, match="too large for netCDF: save fewer"):
        datasets.write_dataset(xr.Dataset({"x": (("time", "m"), np.zeros((2, 50)))}), tmp_path / "y.nc")


def test_rounded_integers_are_said(tmp_path):
    with pytest.warns(RuntimeWarning, match=r"n has integers beyond 2\*\*53"):
        datasets.write_dataset(xr.Dataset({"n": ("i", np.array([2**53 + 1]))}), tmp_path / "x.nc")


def test_endings_of_figures(tmp_path):
    fig, _ = mf.plot.figure()
    for ending in ("", ".png", ".pdf"):
        written = mf.plot.save(fig, tmp_path / f"circle{ending}")
        assert [path.name for path in written] == ["circle.png", "circle.pdf"]
    assert mf.plot.save(fig, tmp_path / "lam0.1")[0].name == "lam0.1.png"
    with pytest.raises(ValueError, match=r"save writes .png and .pdf, got circle.svg: use fig.savefig"):
        mf.plot.save(fig, tmp_path / "circle.svg")
