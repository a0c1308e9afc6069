"""Reads tables of numbers from files and arrays, and refuses those that could be read in several ways.

A table of text has a delimiter (tab, `;`, `,`, `|` or blanks) and a decimal mark (`.` or `,`). Each pair of them is
tried on the whole text. A pair fits if every row has the same number of cells, and every cell in the chosen columns is
a number. All pairs that fit must give the same numbers. If none fits, the error comes from the one that got furthest.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.recfunctions import structured_to_unstructured
from numpy.typing import NDArray

Columns = Sequence[str | int]
"""Names in the header, or positions counted from 0."""

TEXT = (".csv", ".tsv", ".tab", ".txt", ".dat")
BINARY = (".npy", ".npz", ".pt", ".pth")

DELIMITERS = {"\t": "tabs", ";": "semicolons", ",": "commas", "|": "bars", " ": "blanks"}
DIALECTS = tuple(itertools.product(DELIMITERS, ".,"))
COMMENT = re.compile(r"\s*(#(?!DIV/0!|N/A|NAME\?|NULL!|NUM!|REF!|VALUE!)|%|//)")
"""The start of a comment line, but not of an error in a spreadsheet's cell, which starts with # as well."""

NUMBERS = {
    mark: re.compile(
        rf"[+-]?([0-9]+({mark}[0-9]{least})?|{mark}[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(nan|inf|infinity)", re.I
    )
    for mark, least in ((r"\.", "*"), (",", "+"))
}
THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2}(,[0-9]{3})+")
MISSING = {"", "-", "--", "?", ".", "na", "n/a", "n.a.", "#n/a", "nan", "nat", "nil", "none", "null", "missing"}
WORDS = MISSING | {"true", "false", "inf", "infinity", "undefined", "error"}
"""Cells that stand in place of a number, and are not names of columns."""

UNITS = re.compile(
    r"[\[(].*[\])]|°|′|″|%|[kcdmµμn]?m|k?px|pixels?|deg|degs|degrees?(_?(north|east|[NE]))?|°[NSEWCF]?|m?rad|radians?"
    r"|m?s|sec|seconds?|min|h|[kmµμ]?g|[kM]?Pa|K|k?Hz|m?V|met(re|er)s?|feet|ft|inch(es)?|miles?|a\.?u\.?|m/s|km/h",
    re.I,
)


LETTERED = re.compile(r"[NSEWO]\s*[0-9]{1,3}([.,][0-9]|\s*°).*|[OoIl][.,][0-9]+", re.I)
"""A number that opens with a letter: north of something, or a zero or one that was read by eye; no name of a column."""


class Unreadable(ValueError):  # noqa: N818  (it names what the table is)
    """A table that cannot be read, or that can be read in several ways.

    Attributes:
        progress: how far the reading got, see `_Reading._progress`.
    """

    progress: tuple[bool, int, int, int] = (False, 0, 0, 0)


class NoColumnError(Unreadable):
    """A column was asked for that does not exist."""


@dataclass
class Table:
    """A table that was read.

    Attributes:
        values: `[N, C]`; an array of another shape is kept as it is.
        names: of the columns; empty where the source has none.
        remarks: lines for the log about how ambiguous parts were read.
    """

    values: NDArray[np.float64]
    names: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def select(self, columns: Columns | None) -> Table:
        """The table of the given columns; of all columns for None.

        Raises:
            NoColumnError: a column does not exist, or is named twice.
        """
        if columns is None or self.values.ndim != 2:
            return self
        indices = _indices(columns, self.names, self.values.shape[1])
        return Table(self.values[:, indices], [self.names[i] for i in indices] if self.names else [], self.remarks)


def read_file(file: Path, columns: Columns | None) -> Table:
    """Read the table in a file.

    Args:
        file: its ending determines the format.
        columns: the columns to read; others may hold anything but numbers. None for all.

    Raises:
        Unreadable: it is not a table of numbers, or could be read in several ways.
        OSError, EOFError: the file is damaged; NumPy and the standard library raise further exceptions.
    """
    ending = _ending(file)
    with gzip.open(file) if file.suffix.lower() == ".gz" else file.open("rb") as stream:
        content = stream.read()
    if not content:
        return Table(np.empty((0, 2)))
    if ending in TEXT:
        return read_text(_decoded(content), columns)
    readers = {".npy": _read_npy, ".npz": _read_npz, ".pt": _read_torch, ".pth": _read_torch}
    return readers[ending](io.BytesIO(content)).select(columns)


def read_values(values: Any, columns: Columns | None) -> Table:
    """Read the table in an array, a tensor, a data frame or nested lists.

    Raises:
        Unreadable: it holds other things than real numbers, or lacks a column.
    """
    if isinstance(values, torch.Tensor):
        if values.is_complex() or values.dtype == torch.bool:
            raise Unreadable(f"its values are of type {values.dtype}, not real numbers")
        return Table(values.detach().to("cpu", torch.float64, copy=True).numpy()).select(columns)
    names = getattr(values, "columns", None)  # data frames of all libraries have this attribute
    if names is not None and columns is not None:
        chosen = [list(names)[i] for i in _indices(columns, [str(name) for name in names], len(names))]
        values, names, columns = values[chosen], chosen, None
    try:
        numbers = np.ma.masked_array(values) if np.ma.isMaskedArray(values) else np.asarray(values)
    except (ValueError, TypeError) as error:
        raise Unreadable("its rows differ in length, or hold other things than numbers") from error
    table = _numbers(numbers, objects=names is not None)
    return Table(table.values.copy(), table.names or [str(name) for name in names or ()]).select(columns)


def is_known(file: Path) -> bool:
    """Whether the file has an ending that `read_file` knows."""
    return _ending(file) in (*TEXT, *BINARY)


def _ending(file: Path) -> str:
    """The ending that determines the format: for `.gz` the one before it, or text where there is none."""
    *others, last = ["", *(suffix.lower() for suffix in file.suffixes)]
    if last != ".gz":
        return last
    return others[-1] if others[-1] in BINARY else ".txt"


def _indices(columns: Columns, names: list[str], width: int) -> list[int]:
    """The positions of the columns, given by name or position."""
    where = [names.index(column) if column in names else column for column in columns]
    for index in where:
        if isinstance(index, str) or index >= width:
            known = ", ".join(names) if names else f"0 to {width - 1}"
            raise NoColumnError(f"there is no column {index}; choose of {known}")
    if len(set(where)) < len(where):
        raise NoColumnError("the same column twice; name two different ones")
    return [int(index) for index in where]


def _read_npy(stream: io.BytesIO) -> Table:
    """The array in a `.npy` file."""
    return _numbers(np.lib.format.read_array(stream, allow_pickle=False))


def _read_npz(stream: io.BytesIO) -> Table:
    """The one array in a `.npz` file, or its arrays of equal length as columns."""
    with np.load(stream, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    shapes = ", ".join(f"{name} {list(values.shape)}" for name, values in arrays.items())
    if len(arrays) == 1:
        return _numbers(*arrays.values())
    if not arrays or any(values.ndim != 1 for values in arrays.values()) or len({*map(len, arrays.values())}) > 1:
        raise Unreadable(f"it holds {shapes or 'no array'}; save the one array that is meant, or one for each column")
    return Table(np.stack([_numbers(values).values for values in arrays.values()], axis=1), list(arrays))


def _read_torch(stream: io.BytesIO) -> Table:
    """The tensor in a file of `torch.save`."""
    try:
        content = torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        raise Unreadable("damaged, or it holds more than data") from error
    if not isinstance(content, torch.Tensor):
        raise Unreadable(f"it holds a {type(content).__name__}, no tensor")
    return read_values(content, None)


def _numbers(values: NDArray[Any], *, objects: bool = False) -> Table:
    """Convert an array to float64; a record array's fields become columns, and masked values NaN."""
    names = list(values.dtype.names or ())
    if names:
        values = structured_to_unstructured(values)
    if objects and values.dtype.kind == "O":  # a data frame has object type where its columns have several types
        try:
            values = values.astype(np.float64)
        except (ValueError, TypeError) as error:
            raise Unreadable(f"it holds other things than numbers ({_line(error)}); choose its columns") from error
    if values.dtype.kind not in "iuf":
        raise Unreadable(f"its values are of type {values.dtype}, not real numbers")
    return Table(np.ma.filled(values.astype(np.float64), np.nan), names)


def _line(error: Exception) -> str:
    """The message of an error in one line."""
    return " ".join(str(error).split())


def _decoded(content: bytes) -> str:
    """Decode UTF-8, UTF-16 or UTF-32, and anything else as Latin-1, in which numbers are the same."""
    for mark, encoding in (
        (b"\xff\xfe\0\0", "utf-32"),
        (b"\0\0\xfe\xff", "utf-32"),
        (b"\xff\xfe", "utf-16"),
        (b"\xfe\xff", "utf-16"),
    ):
        if content.startswith(mark):
            return content.decode(encoding)
    if b"\0" in content:  # UTF-16 without a byte order mark has a zero byte beside every digit
        half = content[:1000:2], content[1:1000:2]
        zeros = [part.count(0) > 0.9 * len(part) for part in half]
        if zeros == [False, True] or zeros == [True, False]:
            return content.decode("utf-16-le" if zeros[1] else "utf-16-be")
        raise Unreadable("it holds binary data, not text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def read_text(text: str, columns: Columns | None = None) -> Table:
    """Read the table in a text; `columns` as in `read_file`.

    Raises:
        Unreadable: the message gives the line and the reason.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    declared = re.match(r'"?sep=([\t;,| ])"?\n', text)  # spreadsheets may write the delimiter in the first line
    dialects = [dialect for dialect in DIALECTS if not declared or dialect[0] == declared[1]]
    text = text[declared.end() :] if declared else text
    lines, found, failed = text.split("\n"), [], []
    for delimiter, decimal in dialects:
        try:
            table = _Reading(delimiter, decimal, columns).read(lines)
        except Unreadable as error:
            failed.append(error)
        else:  # a single column such as `1,5` is not accepted, for it may be two columns
            found += [table] if decimal == "." or table.values.shape[1] > 1 or columns else []
    if not found:
        raise max(failed, key=lambda error: error.progress)
    found = [table for table in found if table.values.size] or found[:1]  # a header without rows fits every dialect
    if any(not np.array_equal(table.values, found[0].values, equal_nan=True) for table in found):
        raise Unreadable("its columns can be split in several ways; use commas between columns and dots for decimals")
    return found[0]


class _Reading:
    """One attempt to read a text, with one delimiter and one decimal mark."""

    def __init__(self, delimiter: str, decimal: str, columns: Columns | None) -> None:
        self.delimiter, self.decimal, self.columns = delimiter, decimal, columns
        self.is_number = NUMBERS["," if decimal == "," else r"\."].fullmatch
        self.comment: list[str] = []  # the last comment, which may be the header
        self.chosen: list[int] | None = None
        self.line, self.width, self.names = 0, 0, list[str]()
        self.ambiguous = decimal == ","  # while every comma so far may mark thousands instead of decimals
        self.example: str | None = None  # the first cell with such a comma

    def read(self, lines: list[str]) -> Table:
        """The table in the lines.

        Raises:
            Unreadable: the lines do not fit this delimiter and decimal mark, or the commas are ambiguous.
        """
        rows = self._rows(lines)
        if (first := next(rows, None)) is None:
            return Table(np.empty((0, 2)))
        first = self._header(first, rows)
        numbered = not self.names and first == [str(i) for i in range(self.width)]  # as pandas names columns
        chosen = range(self.width) if self.chosen is None else self.chosen
        names = [self.names[i] for i in chosen] if self.names else []
        if first and not numbered and (values := self._read_plain(lines[self.line - 1 :])) is not None:
            return _without_index(Table(values, names))
        numbers, whole = array("d"), False
        for index, cells in enumerate(itertools.chain([first] if first else [], rows)):
            row = self._checked(cells)
            whole = whole or (numbered and index > 0 and any(cell.lstrip("+-").isdigit() for cell in row))
            numbers.extend(float(cell.replace(",", ".")) for cell in row)
        if self.ambiguous and self.example:
            raise self._unreadable(
                f"{DELIMITERS[self.delimiter]} between columns, and commas that may mark decimals or thousands, as in "
                f"{self.example}; write decimals with dots",
                good=self.width,
            )
        table = Table(np.frombuffer(numbers, np.float64).reshape(-1, len(chosen)), names)
        return _without_index(_without_numbers(table, sure=not whole) if numbered and len(table.values) > 1 else table)

    def _read_plain(self, lines: list[str]) -> NDArray[np.float64] | None:
        """What NumPy reads, which is faster; None where it cannot, for its error messages are poor."""
        if self.decimal == "," or self.chosen is not None:
            return None
        delimiter = None if self.delimiter == " " else self.delimiter
        try:
            values = np.loadtxt(lines, delimiter=delimiter, comments=None, quotechar='"', ndmin=2)
        except ValueError:
            return None
        return values if values.shape[1] == self.width else None

    def _rows(self, lines: list[str]) -> Iterator[list[str]]:
        """Yield the cells of every line that is neither blank nor a comment."""
        for self.line, line in enumerate(lines, start=1):
            if not line.strip(f" \t\r\n{self.delimiter}"):  # spreadsheets write the delimiters of an empty row
                continue
            if COMMENT.match(line):
                self.comment = self._cells(COMMENT.sub("", line, count=1))
                continue
            cells = self._cells(line)
            yield cells[:-1] if cells[1:] and cells[-1] == "" else cells  # a delimiter may end a row

    def _cells(self, line: str) -> list[str]:
        """The cells of a line, without quotes and a comment at its end."""
        line = re.split(r"\s#", line, maxsplit=1)[0] if "#" in line else line
        line = line.strip(" \r\n") if self.delimiter == "\t" else line.strip()
        if '"' in line:
            text = line.replace("\t", " ") if self.delimiter == " " else line
            rows = list(csv.reader([text], delimiter=self.delimiter, skipinitialspace=True))
            return [cell.strip() for cell in rows[0]]
        return line.split() if self.delimiter == " " else [cell.strip() for cell in line.split(self.delimiter)]

    def _header(self, first: list[str], rows: Iterator[list[str]]) -> list[str] | None:
        """Set the names and the choice of columns from the first rows; return the first row of numbers, if any."""
        row: list[str] | None = first
        self.width, comment = len(first), self.comment
        if _are_names(first, self._places(first)) or (
            len(first) > 2 and first == ["", *map(str, range(len(first) - 1))]
        ):
            self.names, row = first, next(rows, None)
            if row and len(row) == self.width and any(row) and all(UNITS.fullmatch(cell) for cell in row if cell):
                row = next(rows, None)
        elif len(comment) == self.width and _are_names(comment, range(self.width)):
            self.names = comment
        try:
            self.chosen = None if self.columns is None else _indices(self.columns, self.names, self.width)
        except NoColumnError as error:
            error.progress = self._progress(self.width)
            raise
        return row

    def _places(self, cells: list[str]) -> Iterable[int]:
        """The columns that decide whether the first row is a header: the chosen ones, or all."""
        places = [cells.index(c) if isinstance(c, str) and c in cells else c for c in self.columns or ()]
        return [place for place in places if isinstance(place, int) and place < len(cells)] or range(len(cells))

    def _checked(self, cells: list[str]) -> list[str]:
        """The cells of the chosen columns in a row, each of which must be a number."""
        if len(cells) != self.width:
            raise self._unreadable(f"line {self.line} has {len(cells)} columns, the first one {self.width}")
        row = cells if self.chosen is None else [cells[i] for i in self.chosen]
        for place, cell in enumerate(row):
            if not self.is_number(cell):
                raise self._unreadable(self._reason(cell), good=place)
            if self.ambiguous and "," in cell:
                self.ambiguous, self.example = THOUSANDS.fullmatch(cell) is not None, self.example or cell
        return row

    def _reason(self, cell: str) -> str:
        """What is wrong with a cell that is not a number, and what to do about it."""
        where = f"line {self.line} has "
        if cell.lower() in MISSING:
            return (
                f"{where}{f'the text {cell!r}' if cell else 'an empty cell'} where a number belongs; remove such rows"
            )
        if "\N{MINUS SIGN}" in cell:
            return f"{where}the text {cell[:40]!r}, whose minus is U+2212 where a number has -; replace it"
        known = f", of {', '.join(self.names)}" if self.names else ""
        hint = f"; choose two by columns=[…]{known}" if self.width > 2 and self.chosen is None else ""
        return f"{where}the text {cell[:40]!r} where a number belongs{hint}"

    def _progress(self, good: int) -> tuple[bool, int, int, int]:
        """How far this reading got, to be compared: found columns, lines, rarity of the delimiter, good cells."""
        return self.width > 1, self.line, -list(DELIMITERS).index(self.delimiter), good

    def _unreadable(self, reason: str, *, good: int = 0) -> Unreadable:
        """The error for a reason, after `good` cells of the line."""
        error = Unreadable(reason)
        error.progress = self._progress(good)
        return error


def _are_names(cells: list[str], places: Iterable[int]) -> bool:
    """Whether the cells at these places are names of columns; the name of an index may be empty."""
    names = [cells[i] for i in places if i < len(cells)]
    return any(names) and all(_is_name(name) or not name for name in names)


def _is_name(cell: str) -> bool:
    """Whether a cell starts like a name, with a letter after brackets, and is not a word for a missing number."""
    opening = cell.lstrip("_([{<$\\'")[:1]
    return opening.isalpha() and cell.lower() not in WORDS and not LETTERED.fullmatch(cell)


def _without_numbers(table: Table, *, sure: bool) -> Table:
    """Decide about a first row 0, 1, …: where `sure`, it is pandas' names of columns, else a point."""
    row = ",".join(f"{value:g}" for value in table.values[0])
    if sure:
        names = [f"{value:g}" for value in table.values[0]]
        return Table(table.values[1:], names, [f"its first row {row} is taken for pandas' names of columns"])
    remark = f"its first row {row} is read as a point; if it is pandas' header, save without (header=False)"
    return Table(table.values, table.names, [remark])


def _without_index(table: Table) -> Table:
    """Drop the first column where it has no name and counts the rows, as pandas and R write it."""
    values, names = table.values, table.names
    if values.shape[1] < 3 or names[0:1] not in ([""], ["Unnamed: 0"]) or not len(values):
        return table
    if values[0, 0] not in (0, 1) or not np.array_equal(values[:, 0] - values[0, 0], np.arange(len(values))):
        return table
    remark = "its first column, nameless, counts the rows and is left out"
    return Table(values[:, 1:], names[1:], [*table.remarks, remark])
