"""Measures over time as files of VTK, a collection that ParaView opens."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from mfjax._files import write_text

HEAD = '<?xml version="1.0"?>\n<VTKFile type="{}" version="1.0" byte_order="LittleEndian">\n'
TYPES = {"f4": "Float32", "f8": "Float64", "i8": "Int64"}


def write_paraview(dataset: Any, path: Path) -> Path:
    """Write the measures of a run: `path`, which lists one file for each saved time, written beside it.

    Cells of a grid as an image in its coordinates, particles as points, with masses, density and marks.

    **Raises** `ValueError` for a table, for a run that kept no measures, and beyond three dimensions.
    """
    if dataset.attrs["kind"] != "run" or "weights" not in dataset:
        raise ValueError(f"{path.suffix} holds the measures of a run, and there are none: use .nc or .csv")
    observables = json.loads(dataset.attrs["observables"])
    fields = [
        n for n in dataset.data_vars if n not in {*observables, "points"} and not n.startswith("final_")
    ]
    grid = json.loads(dataset.attrs["grid"]) if "grid" in dataset.attrs else None
    dimension = dataset.sizes["coordinate"] if grid is None else len(grid["shape"])
    if dimension > 3:
        raise ValueError(f"{path.suffix} holds up to three dimensions, and there are {dimension}: use .nc")
    kind, ending = ("PolyData", ".vtp") if grid is None else ("ImageData", ".vti")
    entries = []
    for i, time in enumerate(dataset["time"].values):
        now = dataset.isel(time=i)
        text = _points(now, fields) if grid is None else _image(now, fields, grid)
        file = path.with_name(f"{path.stem}_{i:05d}{ending}")
        write_text(file, f"{HEAD.format(kind)}{text}</VTKFile>\n")
        entries.append(f'<DataSet timestep="{float(time)!r}" file="{file.name}"/>\n')
    collection = f"<Collection>\n{''.join(entries)}</Collection>\n"
    return write_text(path, f"{HEAD.format('Collection')}{collection}</VTKFile>\n")


def _image(now: Any, fields: list, grid: dict) -> str:
    """Cells side by side, from the first corner on; the first axis runs fastest."""
    sizes, spacing = ([*grid[name], 1, 1][:3] for name in ("shape", "spacing"))
    axes, number = grid["axes"], len(grid["shape"])
    starts = [float(now[n][0]) - spacing[i] / 2 if n in now.coords else 0.0 for i, n in enumerate(axes)]
    arrays = ""
    for name in fields:
        values = now[name].values
        values = values.reshape(*grid["shape"], -1).transpose(*range(number)[::-1], number)
        arrays += _array(str(name), values.reshape(now[name].values.size // values.shape[-1], -1))
    extent = " ".join(f"0 {size}" for size in sizes)
    origin, steps = _row([*starts, 0.0, 0.0][:3]), _row(spacing)
    return (
        f'<ImageData WholeExtent="{extent}" Origin="{origin}" Spacing="{steps}">\n<Piece Extent="{extent}">\n'
        f"<CellData>\n{arrays}</CellData>\n</Piece>\n</ImageData>\n"
    )


def _points(now: Any, fields: list) -> str:
    """Particles, each a vertex."""
    points = now["points"].values
    count = len(points)
    arrays = "".join(_array(str(name), now[name].values.reshape(count, -1)) for name in fields)
    places = _array("points", np.pad(points, ((0, 0), (0, 3 - points.shape[1]))))
    vertices = _array("connectivity", np.arange(count)[:, None]) + _array(
        "offsets", np.arange(1, count + 1)[:, None]
    )
    return (
        f'<PolyData>\n<Piece NumberOfPoints="{count}" NumberOfVerts="{count}">\n<PointData>\n{arrays}'
        f"</PointData>\n<Points>\n{places}</Points>\n<Verts>\n{vertices}</Verts>\n</Piece>\n</PolyData>\n"
    )


def _array(name: str, values: np.ndarray) -> str:
    from xml.sax.saxutils import quoteattr

    kind, width = TYPES[values.dtype.str[1:]], values.shape[1]
    head = f'<DataArray type="{kind}" Name={quoteattr(name)} NumberOfComponents="{width}" format="ascii">'
    return head + "\n" + "\n".join(_row(row) for row in values.tolist()) + "\n</DataArray>\n"


def _row(numbers: list) -> str:
    return " ".join(map(repr, numbers))
