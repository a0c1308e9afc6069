"""Tables of numbers as people have them: read where they can be read in one way alone, else refused with the reason.

A table of text has a delimiter (tab, `;`, `,`, `|` or blanks) and a decimal mark (`.` or `,`). Each pair is tried on
the whole text. Those under which every row has the same number of cells, and every cell that counts is a number, must
agree about the numbers; where none fits, the one that came furthest says what is in the way.
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
"""What opens a line that holds no numbers; a spreadsheet's errors begin in the same way, and are cells."""

NUMBERS = {
    mark: re.compile(
        rf"[+-]?([0-9]+({mark}[0-9]{least})?|{mark}[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(nan|inf|infinity)", re.I
    )
    for mark, least in ((r"\.", "*"), (",", "+"))
}
THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2}(,[0-9]{3})+")
MISSING = {"", "-", "--", "?", ".", "na", "n/a", "n.a.", "#n/a", "nan", "nat", "nil", "none", "null", "missing"}
WORDS = MISSING | {"true", "false", "inf", "infinity", "undefined", "error"}
"""Cells that stand where a number belongs, and are no names of columns."""

UNITS = re.compile(
    r"[\[(].*[\])]|°|′|″|%|[kcdmµμn]?m|k?px|pixels?|deg|degs|degrees?(_?(north|east|[NE]))?|°[NSEWCF]?|m?rad|radians?"
    r"|m?s|sec|seconds?|min|h|[kmµμ]?g|[kM]?Pa|K|k?Hz|m?V|met(re|er)s?|feet|ft|inch(es)?|miles?|a\.?u\.?|m/s|km/h",
    re.I,
)


LETTERED = re.compile(r"[NSEWO]\s*[0-9]{1,3}([.,][0-9]|\s*°).*|[OoIl][.,][0-9]+", re.I)
"""A number that opens with a letter: north of something, or a zero or one that was read by eye; no name of a column."""


class Unreadable(ValueError):  # noqa: N818  (it names what the table is)
    """A table that cannot be read, or in more ways than one; `progress` tells how far a reading came."""

    progress: tuple[bool, int, int, int] = (False, 0, 0, 0)


class NoColumnError(Unreadable):
    """A column that is asked for and is not there."""


@dataclass
class Table:
    """What was read.

    Attributes:
        values: `[N, C]` for a table; what else an array file holds has its own shape.
        names: of the columns; empty where the source has none.
        remarks: on decisions that a reader of the log should know of.
    """

    values: NDArray[np.float64]
    names: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def select(self, columns: Columns | None) -> Table:
        """The columns that are asked for; all without."""
        if columns is None or self.values.ndim != 2:
            return self
        indices = _indices(columns, self.names, self.values.shape[1])
        return Table(self.values[:, indices], [self.names[i] for i in indices] if self.names else [], self.remarks)


def read_file(file: Path, columns: Columns | None) -> Table:
    """The table in a file.

    Args:
        file: its ending tells what it is.
        columns: the ones that count, of others what else they hold is not read; None for all.

    Raises:
        Unreadable: it is no table of numbers, or could be read in several ways.
        OSError, EOFError and what else NumPy and the standard library raise for damaged files.
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
    """The table in an array, a tensor, a data frame or nested lists.

    Raises:
        Unreadable: it holds no real numbers, or not the columns.
    """
    if isinstance(values, torch.Tensor):
        if values.is_complex() or values.dtype == torch.bool:
            raise Unreadable(f"its values are of type {values.dtype}, not real numbers")
        return Table(values.detach().to("cpu", torch.float64, copy=True).numpy()).select(columns)
    names = getattr(values, "columns", None)  # of a data frame, whose library need not be known here
    if names is not None and columns is not None:
        chosen = [list(names)[i] for i in _indices(columns, [str(name) for name in names], len(names))]
        values, names, columns = values[chosen], chosen, None
    try:
        numbers = np.ma.masked_array(values) if np.ma.isMaskedArray(values) else np.asarray(values)
    except (ValueError, TypeError) as error:
        raise Unreadable("its rows differ in length, or hold more than numbers") from error
    table = _numbers(numbers, objects=names is not None)
    return Table(table.values.copy(), table.names or [str(name) for name in names or ()]).select(columns)


def is_known(file: Path) -> bool:
    """Whether the name of a file ends in what can be read."""
    return _ending(file) in (*TEXT, *BINARY)


def _ending(file: Path) -> str:
    """The ending that tells what a file holds: that before `.gz`, without which it is text."""
    *others, last = ["", *(suffix.lower() for suffix in file.suffixes)]
    if last != ".gz":
        return last
    return others[-1] if others[-1] in BINARY else ".txt"


def _indices(columns: Columns, names: list[str], width: int) -> list[int]:
    """Where the columns stand."""
    where = [names.index(column) if column in names else column for column in columns]
    for index in where:
        if isinstance(index, str) or index >= width:
            known = ", ".join(names) if names else f"0 to {width - 1}"
            raise NoColumnError(f"there is no column {index}; choose of {known}")
    if len(set(where)) < len(where):
        raise NoColumnError("the same one twice; name different ones")
    return [int(index) for index in where]


def _read_npy(stream: io.BytesIO) -> Table:
    return _numbers(np.lib.format.read_array(stream, allow_pickle=False))


def _read_npz(stream: io.BytesIO) -> Table:
    with np.load(stream, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    shapes = ", ".join(f"{name} {list(values.shape)}" for name, values in arrays.items())
    if len(arrays) == 1:
        return _numbers(*arrays.values())
    if not arrays or any(values.ndim != 1 for values in arrays.values()) or len({*map(len, arrays.values())}) > 1:
        raise Unreadable(f"it holds {shapes or 'no array'}; save the one array that is meant, or one for each column")
    return Table(np.stack([_numbers(values).values for values in arrays.values()], axis=1), list(arrays))


def _read_torch(stream: io.BytesIO) -> Table:
    try:
        content = torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        raise Unreadable("damaged, or it holds more than data") from error
    if not isinstance(content, torch.Tensor):
        raise Unreadable(f"it holds a {type(content).__name__}, no tensor")
    return read_values(content, None)


def _numbers(values: NDArray[Any], *, objects: bool = False) -> Table:
    """Real numbers in float64, of a record array by their names; what is masked becomes NaN."""
    names = list(values.dtype.names or ())
    if names:
        values = structured_to_unstructured(values)
    if objects and values.dtype.kind == "O":  # a data frame's columns of different types
        try:
            values = values.astype(np.float64)
        except (ValueError, TypeError) as error:
            raise Unreadable(f"it holds more than numbers ({_line(error)}); choose its columns") from error
    if values.dtype.kind not in "iuf":
        raise Unreadable(f"its values are of type {values.dtype}, not real numbers")
    return Table(np.ma.filled(values.astype(np.float64), np.nan), names)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _decoded(content: bytes) -> str:
    """Text in UTF-8, UTF-16 or UTF-32; else in Latin-1, which numbers do not depend on."""
    for mark, encoding in (
        (b"\xff\xfe\0\0", "utf-32"),
        (b"\0\0\xfe\xff", "utf-32"),
        (b"\xff\xfe", "utf-16"),
        (b"\xfe\xff", "utf-16"),
    ):
        if content.startswith(mark):
            return content.decode(encoding)
    if b"\0" in content:  # text in UTF-16 without a mark has a zero beside every digit
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
    """The table in a text.

    Raises:
        Unreadable: with the line and the reason.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    told = re.match(r'"?sep=([\t;,| ])"?\n', text)  # as spreadsheets write it
    dialects = [dialect for dialect in DIALECTS if not told or dialect[0] == told[1]]
    text = text[told.end() :] if told else text
    lines, found, failed = text.split("\n"), [], []
    for delimiter, decimal in dialects:
        try:
            table = _Reading(delimiter, decimal, columns).read(lines)
        except Unreadable as error:
            failed.append(error)
        else:  # one column of `1,5` is nobody's points, and might be two
            found += [table] if decimal == "." or table.values.shape[1] > 1 or columns else []
    if not found:
        raise max(failed, key=lambda error: error.progress)
    found = [table for table in found if table.values.size] or found[:1]  # a header alone is one under all
    if any(not np.array_equal(table.values, found[0].values, equal_nan=True) for table in found):
        raise Unreadable("its columns can be parted in several ways; use commas between columns and dots for decimals")
    return found[0]


class _Reading:
    """A text read with one delimiter and one decimal mark."""

    def __init__(self, delimiter: str, decimal: str, columns: Columns | None) -> None:
        self.delimiter, self.decimal, self.columns = delimiter, decimal, columns
        self.is_number = NUMBERS["," if decimal == "," else r"\."].fullmatch
        self.comment: list[str] = []  # cells of the last comment, which may be the header
        self.chosen: list[int] | None = None
        self.line, self.width, self.names = 0, 0, list[str]()
        self.fraction: str | None = None  # a cell with a comma, while all of them could mark thousands
        self.decides = decimal == ","

    def read(self, lines: list[str]) -> Table:
        rows = self._rows(lines)
        if (first := next(rows, None)) is None:
            return Table(np.empty((0, 2)))
        first = self._header(first, rows)
        counts = not self.names and first == [str(i) for i in range(self.width)]  # as pandas names columns
        chosen = range(self.width) if self.chosen is None else self.chosen
        names = [self.names[i] for i in chosen] if self.names else []
        if first and not counts and (values := self._read_plain(lines[self.line - 1 :])) is not None:
            return _without_index(Table(values, names))
        numbers, whole = array("d"), False
        for index, cells in enumerate(itertools.chain([first] if first else [], rows)):
            row = self._checked(cells)
            whole = whole or (counts and index > 0 and any(cell.lstrip("+-").isdigit() for cell in row))
            numbers.extend(float(cell.replace(",", ".")) for cell in row)
        if self.decides and self.fraction:
            raise self._unreadable(
                f"{DELIMITERS[self.delimiter]} between columns, and commas that may mark decimals or thousands, as in "
                f"{self.fraction}; write decimals with dots",
                good=self.width,
            )
        table = Table(np.frombuffer(numbers, np.float64).reshape(-1, len(chosen)), names)
        return _without_index(_without_numbers(table, sure=not whole) if counts and len(table.values) > 1 else table)

    def _read_plain(self, lines: list[str]) -> NDArray[np.float64] | None:
        """What NumPy reads, faster, where nothing asks for more; None elsewhere, for its reasons are poor."""
        if self.decimal == "," or self.chosen is not None:
            return None
        delimiter = None if self.delimiter == " " else self.delimiter
        try:
            values = np.loadtxt(lines, delimiter=delimiter, comments=None, quotechar='"', ndmin=2)
        except ValueError:
            return None
        return values if values.shape[1] == self.width else None

    def _rows(self, lines: list[str]) -> Iterator[list[str]]:
        """Cells of every line that is neither blank nor a comment."""
        for self.line, line in enumerate(lines, start=1):
            if not line.strip(f" \t\r\n{self.delimiter}"):  # spreadsheets write the delimiters of an empty row
                continue
            if COMMENT.match(line):
                self.comment = self._cells(COMMENT.sub("", line, count=1))
                continue
            cells = self._cells(line)
            yield cells[:-1] if cells[1:] and cells[-1] == "" else cells  # a row may end in a delimiter

    def _cells(self, line: str) -> list[str]:
        line = re.split(r"\s#", line, maxsplit=1)[0] if "#" in line else line
        line = line.strip(" \r\n") if self.delimiter == "\t" else line.strip()
        if '"' in line:
            text = line.replace("\t", " ") if self.delimiter == " " else line
            rows = list(csv.reader([text], delimiter=self.delimiter, skipinitialspace=True))
            return [cell.strip() for cell in rows[0]]
        return line.split() if self.delimiter == " " else [cell.strip() for cell in line.split(self.delimiter)]

    def _header(self, first: list[str], rows: Iterator[list[str]]) -> list[str] | None:
        """Take the names of the columns, and return the first row of numbers."""
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
        """The columns that tell whether the first row is a header: those that are asked for, by position or name."""
        places = [cells.index(c) if isinstance(c, str) and c in cells else c for c in self.columns or ()]
        return [place for place in places if isinstance(place, int) and place < len(cells)] or range(len(cells))

    def _checked(self, cells: list[str]) -> list[str]:
        """The cells of a row that count; all of them numbers."""
        if len(cells) != self.width:
            raise self._unreadable(f"line {self.line} has {len(cells)} columns, the first one {self.width}")
        row = cells if self.chosen is None else [cells[i] for i in self.chosen]
        for place, cell in enumerate(row):
            if not self.is_number(cell):
                raise self._unreadable(self._reason(cell), good=place)
            if self.decides and "," in cell:
                self.decides, self.fraction = THOUSANDS.fullmatch(cell) is not None, self.fraction or cell
        return row

    def _reason(self, cell: str) -> str:
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
        """How far this reading came: that to columns, to a later line, with a rarer delimiter, to more good cells."""
        return self.width > 1, self.line, -list(DELIMITERS).index(self.delimiter), good

    def _unreadable(self, reason: str, *, good: int = 0) -> Unreadable:
        error = Unreadable(reason)
        error.progress = self._progress(good)
        return error


def _are_names(cells: list[str], places: Iterable[int]) -> bool:
    """Whether cells read as the names of columns; an index's name may be empty."""
    looked = [cells[i] for i in places if i < len(cells)]
    return any(looked) and all(_is_name(cell) or not cell for cell in looked)


def _is_name(cell: str) -> bool:
    """A name opens with a letter, a bracket or an underscore, and is no word that stands for a number."""
    opening = cell.lstrip("_([{<$\\'")[:1]
    return opening.isalpha() and cell.lower() not in WORDS and not LETTERED.fullmatch(cell)


def _without_numbers(table: Table, *, sure: bool) -> Table:
    """A table whose first row is 0, 1, …: pandas' names of columns where all others have decimals, else a point."""
    row = ",".join(f"{value:g}" for value in table.values[0])
    if sure:
        names = [f"{value:g}" for value in table.values[0]]
        return Table(table.values[1:], names, [f"its first row {row} is taken for pandas' names of columns"])
    remark = f"its first row {row} is read as a point; if it is pandas' header, save without (header=False)"
    return Table(table.values, table.names, [remark])


def _without_index(table: Table) -> Table:
    """A table without the column that pandas and R write first, nameless, and that counts the rows."""
    values, names = table.values, table.names
    if values.shape[1] < 3 or names[0:1] not in ([""], ["Unnamed: 0"]) or not len(values):
        return table
    if values[0, 0] not in (0, 1) or not np.array_equal(values[:, 0] - values[0, 0], np.arange(len(values))):
        return table
    remark = "its first column, nameless, counts the rows and is left out"
    return Table(values[:, 1:], names[1:], [*table.remarks, remark])
