"""Labeled results as files of several formats, by the ending of their name."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from mfjax._files import write_atomically
from mfjax._results.datasets import LARGEST, write_dataset
from mfjax._results.labels import free_name
from mfjax._results.paraview import write_paraview


def write(dataset: Any, path: str | Path) -> Path:
    """Write the dataset of a run or a table.

    **Raises** `ValueError` for an ending that stands for no format.
    """
    path = Path(path)
    formats = {".nc": write_dataset, ".mat": write_matlab, ".csv": write_text_table, ".pvd": write_paraview}
    if path.suffix not in formats:
        raise ValueError(f"results are written as {', '.join(formats)}, got {path.name!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return formats[path.suffix](dataset, path)


def write_matlab(dataset: Any, path: Path) -> Path:
    """Write all arrays by their names, and attributes as the struct `attributes`, for MATLAB and Octave.

    **Raises** `ValueError` for an array of 2 GiB or more, and names that become the same.
    """
    from scipy.io import savemat

    arrays: dict[str, Any] = {"attributes": {_identifier(n): v for n, v in dataset.attrs.items()}}
    for name, variable in dataset.variables.items():
        if variable.nbytes >= LARGEST:
            raise ValueError(f"{name} of {variable.nbytes} bytes is too large for {path.suffix}: use .nc")
        if _identifier(name) in arrays:
            raise ValueError(f"two results would be called {_identifier(name)!r} in {path.name}: rename one")
        arrays[_identifier(name)] = variable.values
    save: Any = savemat
    return write_atomically(path, lambda file: save(file, arrays, long_field_names=True, oned_as="column"))


def write_text_table(dataset: Any, path: Path) -> Path:
    """Write observables, or the results of a sweep, as text: a row for each time and cell."""
    table = dataset.attrs["kind"] == "table"
    rows = json.loads(dataset.attrs["axes"]) if table else ["time"]
    if table and "save" in dataset.dims:
        rows.append("save")
    columns: dict[str, Any] = {}
    observables = json.loads(dataset.attrs.get("observables", "[]"))
    for name, array in dataset.data_vars.items():
        shown = table or name in observables
        if not shown or list(array.dims[: len(rows)]) != rows:
            continue
        rest = array.dims[len(rows) :]
        for index in np.ndindex(*(array.sizes[dim] for dim in rest)):
            label = "".join(f"_{i}" for i in index)
            # Entries of an array give way to a result that is called so.
            column = free_name(f"{name}{label}", {*dataset.variables, *columns}) if label else name
            columns[column] = array.isel(dict(zip(rest, index, strict=True))).variable
    labels = {row: dataset[row] for row in rows if row in dataset.coords}
    frame = dataset.drop_vars(list(dataset.variables)).assign(columns).assign_coords(labels)
    frame = frame.to_dataframe(dim_order=rows)
    return write_atomically(path, lambda file: file.write(frame.to_csv().encode()))


def _identifier(name: Any) -> str:
    """A name that MATLAB takes.

    >>> _identifier("λ"), _identifier("2 a"), _identifier("energy")
    ('u03bb', 'x2_a', 'energy')
    """
    plain = str(name).encode("ascii", "backslashreplace").decode().replace("\\", "")
    plain = re.sub(r"\W", "_", plain)[:60]
    return plain if plain[:1].isalpha() else f"x{plain}"
