"""Files good and bad."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stopping.traces import LogError, from_columns, load_log, save_log
from tests.stopping.traces.examples import STEADY, long_tables, small

HEADER = "problem,n_tokens,correct\n"
COLUMNS = {"problem": "problem", "length_tokens": "n_tokens", "correct": "correct"}


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def as_json_lines(table: dict[str, list[Any]]) -> str:
    rows = zip(*table.values(), strict=True)
    return "".join(json.dumps(dict(zip(table, row, strict=True))) + "\n" for row in rows)


@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.gz", "log.csv", "log.csv.gz", "log.parquet"])
def test_every_format_gives_the_same_log(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith(".parquet"):
        pa.parquet.write_table(pa.table(small()), path)
    elif "csv" in name:
        rows = zip(*small().values(), strict=True)
        lines = [",".join(small()), *(",".join("" if value is None else str(value) for value in row) for row in rows)]
        written(tmp_path, name, "\n".join(lines))
    else:
        written(tmp_path, name, as_json_lines(small()))
    assert load_log(path).equals(from_columns(small()))


@STEADY
@given(table=long_tables(live=True))
def test_json_lines_hold_any_text(tmp_path_factory: pytest.TempPathFactory, table: dict[str, list[Any]]) -> None:
    path = written(tmp_path_factory.mktemp("log"), "log.jsonl", as_json_lines(table))
    assert load_log(path, groups=("model",)).equals(from_columns(table, groups=("model",)))


def test_the_message_of_the_manual(tmp_path: Path) -> None:
    path = written(tmp_path, "runs.csv", HEADER + "a,5,1\n" * 16 + "a,-3,0\n")
    with pytest.raises(LogError) as caught:
        load_log(path, COLUMNS)
    expected = "runs.csv, row 17 (line 18), column 'n_tokens': expected a whole number of tokens >= 1, got '-3'"
    assert str(caught.value) == expected
    error = caught.value
    assert (error.source, error.row, error.line, error.column) == ("runs.csv", 17, 18, "n_tokens")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "expected a header and at least one row, got an empty file"),
        ("a.csv", HEADER, "at least one row after the header, got none"),
        ("a.csv", HEADER + "a,1,1\n\nb,2\n", r"row 2 \(line 4\): expected 3 values, as in the header, got 2"),
        ("a.csv", HEADER + "a,1,1\na,2,1,9\n", r"row 2 \(line 3\): expected 3 values, as in the header, got 4"),
        ("a.csv", HEADER + '"a\nb",1,1\nc,,1\n', r"row 2 \(line 4\), column 'n_tokens': .*got null"),
        ("a.csv", HEADER + "a,1,maybe\n", r"row 1 \(line 2\), column 'correct': expected true or false .*got 'maybe'"),
        ("a.csv", b"problem,n_tokens,correct\n\xff\xfe,1,1\n", "expected a CSV file in UTF-8"),
        ("a.csv", "problem,n_tokens,n_tokens,correct\na,1,1,1\n", "column 'n_tokens': expected each column once"),
        ("a.csv.gz", b"", "expected a header"),
        ("a.csv", "id,n_tokens,correct\na,1,1\n", "a.csv: no column 'problem'; there are: 'id', 'n_tokens', 'correct'"),
        ("a.jsonl", "", "expected at least one line, got an empty file"),
        (
            "a.jsonl",
            '{"problem": "a", "n_tokens": 1}\n\n{"problem": \n',
            r"row 2 \(line 3\): expected a JSON object, got .*",
        ),
        ("a.jsonl", "[1]\n", r"row 1 \(line 1\): expected a JSON object, got \[1\]"),
        ("a.jsonl", b'{"problem": "\xff"}\n', r"row 1 \(line 1\): expected a JSON object"),
        (
            "a.jsonl",
            '{"problem": "a", "n_tokens": 1, "correct": 1}\n{"problem": "a", "n_tokens": NaN, "correct": 1}',
            r"row 2 \(line 2\), column 'n_tokens'",
        ),
        (
            "a.jsonl",
            '{"problem": "a", "n_tokens": [1], "correct": 1}',
            r"row 1 \(line 1\), column 'n_tokens': expected a text, a number",
        ),
        (
            "a.jsonl",
            '{"problem": "a", "n_tokens": "x", "correct": 1}',
            r"row 1 \(line 1\), column 'n_tokens': .*got 'x'",
        ),
        (
            "a.jsonl",
            '{"problem": "a", "n_tokens": 1e400, "correct": 1}',
            r"row 1 \(line 1\), column 'n_tokens': .*got inf",
        ),
        ("a.jsonl", '{"problem": "a", "n_tokens": 1}\n', "no column 'correct'; there are: 'problem', 'n_tokens'"),
        ("a.jsonl", "[" * 100_000, "expected a JSON object"),
        ("a.parquet", b"", "a.parquet: expected a Parquet file"),
        ("a.parquet", b"PAR1 and nothing else PAR1", "a.parquet: expected a Parquet file"),
        ("a.xlsx", b"", "a.xlsx: expected a name ending in .parquet, .jsonl"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(LogError, match=message):
        load_log(written(tmp_path, name, content), COLUMNS)


def test_a_cut_gzip_file_is_named(tmp_path: Path) -> None:
    for name, content in (
        ("a.csv.gz", HEADER + "a,1,1\n" * 5000),
        ("a.jsonl.gz", '{"problem": "a", "n_tokens": 1}\n' * 5000),
    ):
        path = written(tmp_path, name, content)
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(LogError, match=name):
            load_log(path, COLUMNS)


def test_empty_parquet_is_named(tmp_path: Path) -> None:
    pa.parquet.write_table(pa.table(small()).slice(0, 0), tmp_path / "a.parquet")
    with pytest.raises(LogError, match=r"a\.parquet: expected at least one row"):
        load_log(tmp_path / "a.parquet")


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such log"):
        load_log(tmp_path / "a.parquet")


def test_quotes_marks_and_line_ends_of_csv(tmp_path: Path) -> None:
    text = "\ufeff" + 'problem,length_tokens,answer\r\n"a ""quoted"", name",3,"x\ny"\r\n'
    log = load_log(written(tmp_path, "a.csv", text))
    assert log.problem_ids == ('a "quoted", name',) and log.answer_text is not None and log.answer_text[0, 0] == "x\ny"


def test_texts_that_look_like_dates_or_numbers_stay_texts(tmp_path: Path) -> None:
    for name, content in (
        ("a.jsonl", '{"problem": "2024-01-01", "length_tokens": 3, "answer": "007"}\n'),
        ("a.csv", "problem,length_tokens,answer\n2024-01-01,3,007\n"),
    ):
        log = load_log(written(tmp_path, name, content))
        assert log.problem_ids == ("2024-01-01",) and log.answer_text is not None and log.answer_text[0, 0] == "007"


def test_kinds_may_change_along_a_file(tmp_path: Path) -> None:
    lines = ['{"problem": 1, "length_tokens": 3}'] * 70_000 + [
        '{"problem": "x", "length_tokens": 3.0}',
        '{"problem": 1, "length_tokens": "3"}',
    ]
    log = load_log(written(tmp_path, "a.jsonl", "\n".join(lines)))
    assert log.problem_ids == ("1", "x") and log.samples_per_problem.tolist() == [70_001, 1]


@STEADY
@given(data=st.data())
def test_a_damaged_file_is_read_or_named(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Nothing but `LogError` comes out, whichever byte is wrong."""
    folder = tmp_path_factory.mktemp("log")
    save_log(from_columns(small()), folder / "a.parquet")
    written(folder, "a.jsonl", as_json_lines(small()))
    written(folder, "a.csv", HEADER + "a,1,1\n" * 5)
    path = folder / data.draw(st.sampled_from(["a.parquet", "a.jsonl", "a.csv"]))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        load_log(path, COLUMNS if path.suffix == ".csv" else None)
    except LogError as error:
        assert path.name in str(error) or error.row is not None or error.column is not None
