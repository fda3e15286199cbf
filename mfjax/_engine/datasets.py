"""Labeled results as files that other programs read."""

from pathlib import Path
from typing import Any

import numpy as np

from mfjax._engine.files import write_atomically


def write_dataset(dataset: Any, path: str | Path) -> Path:
    """Write an `xarray.Dataset` as netCDF-3, which every reader knows.

    That format has no 64-bit integers, booleans, half precision or complex numbers: they become 32-bit
    integers (float64 where they do not fit), float32, and two variables, `name_real` and `name_imag`.
    """
    path = Path(path)
    narrow = dataset.copy()
    for name in list(dataset.variables):
        array = dataset[name]
        if np.issubdtype(array.dtype, np.complexfloating):
            narrow = narrow.drop_vars(name).assign({f"{name}_real": array.real, f"{name}_imag": array.imag})
        else:
            narrow[name] = array.astype(_stored_dtype(array.values))
    data = narrow.to_netcdf(engine="scipy", format="NETCDF3_64BIT")
    return write_atomically(path, lambda file: file.write(data))


def _stored_dtype(array: np.ndarray) -> Any:
    if array.dtype.kind in "biu":
        small = array.size == 0 or (int(array.max()) < 2**31 and int(array.min()) >= -(2**31))
        return np.int32 if small else np.float64
    return np.float32 if array.dtype.itemsize == 2 and array.dtype.kind in "fV" else array.dtype
