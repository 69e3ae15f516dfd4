"""One column of a table, converted to numbers. Each distinct text is read once, and errors name the row."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stopping.traces.errors import Source, shown

MAX_TOKENS = 2**31 - 1  # lengths are int32
_MAX_INT64 = 2**63 - 1
_WHOLE = re.compile(r"[+-]?[0-9]{1,40}")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_TRUE_OR_FALSE = {"true": True, "True": True, "1": True, "false": False, "False": False, "0": False}


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Fields:
        source: the name of the file, for errors.
        name: the column's name in that file.
        values: the logged values, [rows], neither dictionary-encoded nor views.
        rows: [rows] int64, the row of each value in the source, from 0.
    """

    source: Source
    name: str
    values: pa.ChunkedArray
    rows: np.ndarray

    def error(self, index: int, expected: str, got: str | None = None) -> Exception:
        """Return the error for the value at `index`; `got` is that value unless given."""
        got = shown(self.values[int(index)].as_py()) if got is None else got
        return self.source.error(expected, got, row=int(self.rows[int(index)]), column=self.name)

    def missing(self) -> np.ndarray:
        """Return where values are missing, [rows] bool: null, an empty text or NaN."""
        if self._is_text():
            codes, vocabulary = self.texts()
            return _lookup(codes, [not text.strip() for text in vocabulary], True, np.bool_)
        return _numpy(pc.is_null(self.values, nan_is_null=True))

    def texts(self) -> tuple[np.ndarray, list[str]]:
        """Return codes [rows] int32 into the distinct texts (-1: null) in order of appearance. Numbers become texts."""
        values, kind = self.values, self.values.type
        if pa.types.is_null(kind):
            return np.full(len(values), -1, np.int32), []
        if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            raise self.error(self._first_given(), "a text or a number")
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            values = values.cast(pa.string())
        encoded = values.dictionary_encode().unify_dictionaries()
        if not encoded.num_chunks:
            return np.zeros(0, np.int32), []
        codes = np.concatenate([_numpy(pc.fill_null(chunk.indices, -1)) for chunk in encoded.chunks]).astype(np.int32)
        try:
            return codes, encoded.chunk(0).dictionary.to_pylist()
        except UnicodeDecodeError as error:
            raise self.source.error("text in UTF-8", str(error), column=self.name) from error

    def whole_numbers(self, minimum: int, maximum: int = MAX_TOKENS, unit: str = "") -> tuple[np.ndarray, np.ndarray]:
        """Return values [rows] int64 and which are present [rows] bool. Raises `LogError` outside minimum..maximum."""
        low, high = f"a whole number{unit} >= {minimum}", f"a whole number{unit} <= {maximum}"
        kind = self.values.type
        if self._is_text():
            values, known = self._read_texts(_whole_number, low, np.int64)
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            known = _numpy(self.values.is_valid())
            if pa.types.is_uint64(kind):
                over = _numpy(pc.fill_null(self.values, 0)) > np.uint64(_MAX_INT64)
                self._refuse(over, high)
            if pa.types.is_integer(kind):
                values = _numpy(pc.fill_null(self.values, 0).cast(pa.int64()))
            else:
                floats = _numpy(pc.fill_null(self.values.cast(pa.float64()), 0.0))
                self._refuse(known & ~(np.isfinite(floats) & (floats == np.floor(floats))), low)
                values = np.clip(floats, -(2.0**62), 2.0**62).astype(np.int64)
        else:
            raise self.error(self._first_given(), low)
        self._refuse(known & (values < minimum), low)
        self._refuse(known & (values > maximum), high)
        return values, known

    def booleans(self) -> tuple[np.ndarray, np.ndarray]:
        """Return values [rows] bool and which are present [rows] bool; 1 and 0 mean true and false."""
        expected, kind = "true or false (or 1 or 0)", self.values.type
        if self._is_text():
            return self._read_texts(_TRUE_OR_FALSE.get, expected, np.bool_)
        known = _numpy(self.values.is_valid())
        if pa.types.is_boolean(kind):
            return _numpy(pc.fill_null(self.values, False)), known
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise self.error(self._first_given(), expected)
        values = _numpy(pc.fill_null(self.values, 0))
        self._refuse(known & ~((values == 0) | (values == 1)), expected)
        return values == 1, known

    def numbers(self) -> np.ndarray:
        """Return values [rows] float64, NaN where they are missing."""
        kind = self.values.type
        if self._is_text():
            values, known = self._read_texts(_number, "a number", np.float64)
            return np.where(known, values, np.nan)
        if not (
            pa.types.is_integer(kind)
            or pa.types.is_floating(kind)
            or pa.types.is_boolean(kind)
            or pa.types.is_decimal(kind)
        ):
            raise self.error(self._first_given(), "a number")
        return _numpy(pc.fill_null(self.values.cast(pa.float64()), np.nan))

    def _is_text(self) -> bool:
        kind = self.values.type
        return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)

    def _first_given(self) -> int:
        return int(np.argmax(_numpy(self.values.is_valid())))

    def _refuse(self, bad: np.ndarray, expected: str) -> None:
        if bad.any():
            raise self.error(int(np.argmax(bad)), expected)

    def _read_texts(self, read: Callable[[str], Any], expected: str, dtype: type) -> tuple[np.ndarray, np.ndarray]:
        codes, vocabulary = self.texts()
        texts = [text.strip() for text in vocabulary]
        given = _lookup(codes, [bool(text) for text in texts], False, np.bool_)
        values = [read(text) if text else None for text in texts]
        self._refuse(given & _lookup(codes, [value is None for value in values], False, np.bool_), expected)
        return _lookup(codes, [0 if value is None else value for value in values], 0, dtype), given


def _lookup(codes: np.ndarray, values: Sequence[Any], where_null: Any, dtype: type) -> np.ndarray:
    return np.array([*values, where_null], dtype=dtype)[codes]  # code -1 is the last entry


def _numpy(values: Any) -> np.ndarray:
    chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
    arrays = [chunk.to_numpy(zero_copy_only=False) for chunk in chunks]
    return np.concatenate(arrays) if arrays else values.to_numpy()


def _whole_number(text: str) -> int | None:
    if _WHOLE.fullmatch(text):
        return max(-_MAX_INT64, min(int(text), _MAX_INT64))
    value = _number(text)
    return int(max(-(2.0**62), min(value, 2.0**62))) if value is not None and value.is_integer() else None


def _number(text: str) -> float | None:
    value = float(text) if _DECIMAL.fullmatch(text) else math.nan
    return value if math.isfinite(value) else None
