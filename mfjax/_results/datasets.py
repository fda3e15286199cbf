"""Labeled results as files that other programs read."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from mfjax._files import write_atomically
from mfjax._results.labels import free_name


def write_dataset(dataset: Any, path: str | Path) -> Path:
    """Write an `xarray.Dataset` as netCDF-3, which every reader knows, and `read_dataset` bit for bit.

    That format has no 64-bit integers, booleans, half precision or complex numbers: they become 32-bit
    integers (float64 where they do not fit), float32, and two variables, `name_real` and `name_imag` (with
    underscores behind where another one is called so). Nor has it all names: letters beyond Latin-1 become
    their code points, λ is u03bb, and the attribute `long_name` holds them. A variable of more than 2 GiB is
    written record by record along its first axis.

    **Raises** `ValueError` if one record is as large.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    narrow = dataset.copy()
    for name in list(dataset.variables):
        array = dataset[name]
        if np.issubdtype(array.dtype, np.complexfloating):
            real, imaginary = (free_name(f"{name}_{part}", narrow.variables) for part in ("real", "imag"))
            narrow = narrow.drop_vars(name).assign({real: array.real, imaginary: array.imag})
            narrow[real].attrs |= {"complex": name, "imaginary": imaginary}
        else:
            narrow[name] = array.astype(_stored_dtype(array.values, name))
            if narrow[name].dtype != array.dtype:
                narrow[name].attrs["stored_from"] = str(array.dtype)
    renamed = _stored_names([*narrow.variables, *(d for d in narrow.dims if d not in narrow.variables)])
    for name in set(renamed) & set(narrow.variables):
        narrow[name].attrs["name"] = name
        narrow[name].attrs.setdefault("long_name", name)
    narrow = narrow.rename(renamed)
    large = [v for v in narrow.variables.values() if v.nbytes >= LARGEST]
    if any(v.nbytes >= LARGEST * v.shape[0] for v in large) or len({v.dims[0] for v in large}) > 1:
        raise ValueError(
            f"a result of {max(v.nbytes for v in large)} bytes is too large for netCDF: save fewer numbers"
        )
    records = {v.dims[0] for v in large}
    data = narrow.to_netcdf(engine="scipy", format="NETCDF3_64BIT", unlimited_dims=records)
    return write_atomically(path, lambda file: file.write(data))


# Bytes of a variable, or of one of its records, that netCDF-3 can count.
LARGEST = 2**31 - 4
# Words of that format, which no variable may have as its name.
WORDS = frozenset(["byte", "char", "short", "int", "int64", "float", "real", "double", "bool", "string"])


def stored_name(name: str) -> str:
    """The name of a variable in a file.

    >>> stored_name("λ"), stored_name("a/b"), stored_name("real"), stored_name("energy")
    ('u03bb', 'a_b', 'real_', 'energy')
    """
    plain = name.encode("latin-1", "backslashreplace").decode("latin-1").replace("\\", "").replace("/", "_")
    plain = plain.strip() if plain[:1].isalnum() or plain[:1] == "_" else f"_{plain.strip()}"
    return f"{plain}_" if plain in WORDS else plain


def _stored_names(names: list[Any]) -> dict[Any, str]:
    """The names in a file of those that need another one there; no two have the same."""
    taken, found = {str(n) for n in names if stored_name(n) == n}, {}
    for name in names:
        if name not in taken:
            found[name] = free_name(stored_name(name), taken)
            taken.add(found[name])
    return found


def _stored_dtype(array: np.ndarray, name: str) -> Any:
    if array.dtype.kind in "biu":
        small = array.size == 0 or (int(array.max()) < 2**31 and int(array.min()) >= -(2**31))
        if not small and max(int(array.max()), -int(array.min())) > 2**53:
            warnings.warn(
                f"{name} has integers beyond 2**53, which netCDF rounds", RuntimeWarning, stacklevel=4
            )
        return np.int32 if small else np.float64
    return np.float32 if array.dtype.itemsize == 2 and array.dtype.kind in "fV" else array.dtype


def read_dataset(path: str | Path) -> Any:
    """The `xarray.Dataset` that `write_dataset` wrote, with its names and types."""
    import xarray as xr

    with xr.open_dataset(path, engine="scipy", mask_and_scale=False, decode_times=False) as file:
        data = file.load()
    for name, array in data.variables.items():
        # Files have the byte order of their format.
        array = array.astype(array.attrs.pop("stored_from", array.dtype.newbyteorder("=")), keep_attrs=True)
        data[name] = array
    names = {name: array.attrs.pop("name", name) for name, array in data.variables.items()}
    data = data.rename({old: new for old, new in names.items() if old != new})
    for real in [name for name in data.variables if "complex" in data[name].attrs]:
        name, imaginary = data[real].attrs["complex"], data[real].attrs["imaginary"]
        whole = np.empty(data[real].shape, np.result_type(data[real].dtype, np.complex64))
        # Not by a product with 1j, which makes NaN of infinity.
        whole.real, whole.imag = data[real].values, data[imaginary].values
        data = data.assign({name: (data[real].dims, whole)}).drop_vars([real, imaginary])
    return data
