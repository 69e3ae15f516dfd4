"""Tables in memory: a dictionary of columns, a pandas DataFrame or a pyarrow Table, as one pyarrow Table."""

import math
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from stopping.traces.errors import LogError, Source

IN_MEMORY = Source("columns")


def as_table(data: Any, wanted: Collection[str]) -> tuple[pa.Table, list[str], Source]:
    """Return the `wanted` columns of `data` as a pyarrow Table, the names of all its columns, and its name in errors.

    Raises `LogError` for other types, columns of different lengths, and values that are not texts, numbers or booleans.
    """
    if isinstance(data, pa.Table):
        if len(set(data.column_names)) < data.num_columns:
            raise IN_MEMORY.error("each column once", f"{data.column_names}")
        return data.select([name for name in data.column_names if name in wanted]), data.column_names, IN_MEMORY
    pandas = sys.modules.get("pandas")  # where there is a DataFrame, pandas has been imported
    if pandas is not None and isinstance(data, pandas.DataFrame):
        if not data.columns.is_unique:
            raise IN_MEMORY.error("each column once", f"{list(data.columns)}")
        data = {str(name): data[name] for name in data.columns}
    if not isinstance(data, Mapping):
        raise LogError(
            f"expected a dictionary of columns, a pandas DataFrame or a pyarrow Table, got {type(data).__name__}"
        )
    arrays = {str(name): _array(values, str(name)) for name, values in data.items() if str(name) in wanted}
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise IN_MEMORY.error("columns of one length", f"{lengths}")
    return pa.table(arrays), [str(name) for name in data], IN_MEMORY


def _array(values: Any, name: str) -> pa.ChunkedArray:
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return chunked(values.chunks if isinstance(values, pa.ChunkedArray) else [values])
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise IN_MEMORY.error("one axis", f"shape {values.shape}", column=name)
    if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
        raise IN_MEMORY.error("a sequence of values", type(values).__name__, column=name)
    dtype = getattr(values, "dtype", None)
    if dtype is None or dtype == np.dtype(object):
        return chunked([from_values([_plain(value) for value in values], name, IN_MEMORY, 0)])
    converted = pa.array(values, from_pandas=True)  # NaN and NA are nulls
    return chunked(converted.chunks if isinstance(converted, pa.ChunkedArray) else [converted])


def _plain(value: Any) -> Any:
    """Return a Python value; pandas.NA and NaN are nulls, as in pandas."""
    value = value.item() if isinstance(value, np.generic) else value
    is_missing = type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and math.isnan(value))
    return None if is_missing else value


def from_values(values: Sequence[Any], name: str, source: Source, first_row: int) -> pa.Array:
    """Return a typed array of Python values; if texts, numbers and booleans are mixed, all become texts.

    Raises `LogError` for values of other types.
    """
    kinds = {type(value) for value in values} - {type(None)}
    try:
        if kinds <= {int} or kinds <= {bool} or kinds <= {str}:
            return pa.array(values)
        if kinds <= {int, float}:
            return pa.array(values, pa.float64())
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        pass  # a whole number beyond 64 bits becomes a text, and its reader names the row
    for index, value in enumerate(values):
        if not isinstance(value, (str, int, float, bool, type(None))):
            raise source.error("a text, a number or true/false", repr(value)[:80], row=first_row + index, column=name)
    return pa.array([_text(value) for value in values], pa.string())


def _text(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return None if value is None else str(value).encode(errors="backslashreplace").decode()


def chunked(pieces: Sequence[pa.Array]) -> pa.ChunkedArray:
    """Return the pieces as one column; pieces of different types become texts, but whole numbers and floats become floats."""
    kinds = {piece.type for piece in pieces if not pa.types.is_null(piece.type)}
    if not kinds:
        return pa.chunked_array(list(pieces), type=pa.null())
    kind = kinds.pop() if len(kinds) == 1 else pa.float64() if kinds == {pa.int64(), pa.float64()} else pa.string()
    return pa.chunked_array([piece.cast(kind) for piece in pieces], type=kind)
