"""Tables as people have them: read where they can be read in one way alone, refused with the reason elsewhere."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from ncsn_lightning import Points
from ncsn_lightning.distributions.tables import read_text

READ = {
    "commas": ("1,2\n3,4", [[1, 2], [3, 4]]),
    "commas and blanks": ("1, 2\n3 ,4", [[1, 2], [3, 4]]),
    "semicolons": ("1;2\n3;4", [[1, 2], [3, 4]]),
    "bars": ("1|2.5\n3|4", [[1, 2.5], [3, 4]]),
    "tabs": ("1\t2\n3\t4", [[1, 2], [3, 4]]),
    "blanks": (" 1   2\n 3 -4e-1 ", [[1, 2], [3, -0.4]]),
    "decimal commas, semicolons": ("1,5;2,5\n3;4", [[1.5, 2.5], [3, 4]]),
    "decimal commas in one column": ("1,25;2", [[1.25, 2]]),
    "decimal commas, tabs": ("-1,5\t2,5e3", [[-1.5, 2500]]),
    "decimal commas, blanks": ("1,5 2,5", [[1.5, 2.5]]),
    "decimal commas, quotes": ('"1,5","2,5"', [[1.5, 2.5]]),
    "three decimals that are no thousands": ("0,123;0,456", [[0.123, 0.456]]),
    "one cell decides": ("1,234;5,678\n1,5;2,678", [[1.234, 5.678], [1.5, 2.678]]),
    "quotes": ('"x","y"\n"1.5","2.5"', [[1.5, 2.5]]),
    "signs and points": ("+1.,-.5\n.5,1E2", [[1, -0.5], [0.5, 100]]),
    "a header": ("x,y\n1,2", [[1, 2]]),
    "a header with units": ("x (m),PM2.5\n1,2", [[1, 2]]),
    "a header in letters of one's own": ("Länge;Breite\n1,5;2", [[1.5, 2]]),
    "a row of units": ("lon,lat\ndeg,°\n1,2", [[1, 2]]),
    "a row of units in brackets": ("x;y\n[m];[furlongs]\n1;2", [[1, 2]]),
    "comments": ("# made today\n% by me\n// here\n1 2 # first\n\n3 4", [[1, 2], [3, 4]]),
    "trailing delimiters": ("x,y,\n1,2,\n3,4,", [[1, 2], [3, 4]]),
    "trailing delimiters below a header": ("x;y\n1;2;\n3;4;", [[1, 2], [3, 4]]),
    "a spreadsheet's first line": ("sep=;\n1,5;2,5", [[1.5, 2.5]]),
    "old line ends": ("1,2\r3,4\r\n5,6", [[1, 2], [3, 4], [5, 6]]),
    "pandas' header": ("0,1\n1.5,2.5\n3.5,1.0", [[1.5, 2.5], [3.5, 1]]),
    "pandas' header and index": (",0,1\n0,1.5,2.5\n1,3.5,1.0", [[1.5, 2.5], [3.5, 1]]),
    "pandas' index": (",x,y\n0,1,2\n1,3,4", [[1, 2], [3, 4]]),
    "R's row names": ('"","x","y"\n"1",1.5,2\n"2",3,4', [[1.5, 2], [3, 4]]),
    "pandas' index, saved again": ("Unnamed: 0,x,y\n0,1.5,2\n1,3,4", [[1.5, 2], [3, 4]]),
    "a spreadsheet's empty rows": ("x;y\n;\n1;2\n ; \n3;4\n;\n;\n", [[1, 2], [3, 4]]),
    "names with numbers": ("PM2.5,PM1.0\n1,2", [[1, 2]]),
    "a header above a point 0,1": ("x,y\n0,1\n2.5,3.5", [[0, 1], [2.5, 3.5]]),
    "only points": ("0,1\n2,3", [[0, 1], [2, 3]]),
}


@pytest.mark.parametrize("kind", READ)
def test_what_reads_in_one_way_is_read(kind, tmp_path):
    text, values = READ[kind]
    path = tmp_path / "p.csv"
    path.write_text(text)
    np.testing.assert_array_equal(Points(path=path, bandwidth=1.0).points, values)


REFUSED = {
    "−1,−2\n1,2": "line 1 has the text '−1', whose minus is U\\+2212",
    "n/a,n/a\n1,2": "line 1 has the text 'n/a' where a number belongs; remove such rows",
    "NA;NULL\n1;2": "line 1 has the text 'NA'",
    "1°,2°\n1,2": "line 1 has the text '1°'",
    "1 m,2 m\n1,2": "line 1 has the text '1 m'",
    "N47.3,E8.5\n47.4,8.6": "line 1 has the text 'N47.3'",
    "n 47°,w 8°30'\n47.4,8.6": "line 1 has the text 'n 47°'",
    "O.5,l.5\n0.4,0.6": "line 1 has the text 'O.5'",
    ",x,y\n5,1,2\n9,3,4": "choose two by columns=\\[…\\], of 0, x, y",
    "True,False\n1,0": "line 1 has the text 'True'",
    "#N/A,#DIV/0!\n1,2": "line 1 has the text '#N/A'",
    "x,y\nn/a,n/a\n1,2": "line 2 has the text 'n/a'",
    "x,y\n−1,−2\n1,2": "line 2 has the text '−1'",
    "x,y\nfoo,bar\n1,2": "line 2 has the text 'foo'",
    "x,y\n1,two": "line 2 has the text 'two'",
    "1,2\n3": "line 2 has 1 columns, the first one 2",
    "1,2\n3,": "line 2 has 1 columns, the first one 2",
    "1,,2": "line 1 has an empty cell",
    "1,234;5,678\n2,345;3,456": "semicolons between columns, and commas that may mark decimals or thou",
    '"1,234","5,678"': "commas that may mark decimals or thousands",
    "1.234,56;7.890,12": "line 1 has the text '1.234,56'",
    "1 000;2 000": "line 1 has the text '1 000'",
    "1_000,2": "line 1 has the text '1_000'",
    "٣,1": "line 1 has the text '٣'",
    "0x1,2": "line 1 has the text '0x1'",
    "1.5D+03,2": "line 1 has the text '1.5D\\+03'",
    "1:2": "line 1 has the text '1:2'",
    "name,lon,lat\nZürich,8.5,47.3": "the text 'Zürich' .* choose two by columns=\\[…\\], of name, lon, lat",
    "a,b,c\n1,2,3": "of the shape \\[1, 3\\]; give N rows of two columns, or choose two by columns=\\[…\\], of a, b, c",
    "1\n2": "of the shape \\[2, 1\\]; give N rows of two columns",
    "x,y": "empty; give at least one row",
    "nan,1\n1,2": "a NaN or infinite value in row 1; remove such rows",
    "1,2\n-inf,1": "a NaN or infinite value in row 2; remove such rows",
    "1,2\n1e200,1": "a value beyond 1e\\+18 in row 2; choose a larger unit",
    "1e308,-1e308\n1,2": "a value beyond 1e\\+18 in row 1",
    "1e400,1\n1,2": "a NaN or infinite value in row 1",
    "1e-200,1e-200\n2e-200,1e-200": "points within 1e-200; choose a smaller unit",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_does_not_is_refused_with_the_reason(text, tmp_path):
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=REFUSED[text]) as caught:
        Points(path=path, bandwidth=1.0)
    assert str(caught.value).startswith(f"path={path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252"]
)
def test_encodings_read_alike(encoding, tmp_path):
    path = tmp_path / "p.csv"
    path.write_bytes("Länge,Breite\n1.5,2\n".encode(encoding))
    assert Points(path=path, bandwidth=1.0).points.tolist() == [[1.5, 2.0]]


def test_binary_data_are_no_text(tmp_path):
    path = tmp_path / "p.dat"
    path.write_bytes(np.random.default_rng(0).normal(size=100).tobytes())
    with pytest.raises(ValueError, match="cannot be read"):
        Points(path=path)


X = np.array([[0.1, 1.0], [2.0, -1.0], [1e-9, 0.25]])


class Frame:
    """What data frames of several libraries have in common."""

    def __init__(self, columns):
        self.content, self.columns = columns, list(columns)

    def __getitem__(self, names):
        return Frame({name: self.content[name] for name in names})

    def __array__(self, dtype=None, copy=None):
        return np.array(list(self.content.values())).T


def files(folder: Path) -> dict:
    """Points under every name that a source may have."""
    text = "\n".join(f"{a!r} {b!r}" for a, b in X.tolist())
    for name in ("a.csv", "a.tsv", "a.txt", "a.DAT"):
        (folder / name).write_text(text)
    for name in ("b.csv.gz", "b.gz", "b.txt.gz"):
        (folder / name).write_bytes(gzip.compress(text.encode()))
    np.save(folder / "c.npy", X)
    (folder / "c.npy.gz").write_bytes(gzip.compress((folder / "c.npy").read_bytes()))
    np.save(folder / "record.npy", np.rec.fromarrays(X.T, names="x,y"))
    np.savez(folder / "d.npz", points=X)
    np.savez(folder / "columns.npz", x=X[:, 0], y=X[:, 1])
    torch.save(torch.from_numpy(X), folder / "e.pt")
    return {
        **{path.name: path for path in folder.iterdir()},
        "text": str(folder / "a.csv"),
        "array": X,
        "tensor": torch.from_numpy(X).requires_grad_(),
        "list": X.tolist(),
        "tuple": tuple(map(tuple, X.tolist())),
        "frame": Frame({"x": X[:, 0], "y": X[:, 1]}),
    }


def test_every_source_gives_the_same_points(tmp_path):
    for name, source in files(tmp_path).items():
        points = Points(path=source, bandwidth=0.5).points
        assert points.dtype == torch.float64, name
        np.testing.assert_array_equal(points, X, err_msg=name)


BAD = [
    (3, "path=3: no file and no points; write the name of a file as a text"),
    (None, "path=None: no file and no points"),
    ([[1, 2], [3]], "path=list: cannot be read .its rows differ in length"),
    ([["a", "b"]], "path=list: cannot be read .*not real numbers"),
    ({"x": [1]}, "path=dict: cannot be read .*not real numbers"),
    (np.array([1.0, 2.0]), r"path=ndarray: of the shape \[2\]; give N rows"),
    (np.ma.masked_invalid([[1.0, np.nan]]), "path=MaskedArray: a NaN or infinite value in row 1"),
    (torch.ones(2, 2, dtype=torch.complex64), "path=Tensor: cannot be read .*not real numbers"),
    (torch.ones(2, 2, dtype=torch.bool), "path=Tensor: cannot be read .*not real numbers"),
    (Frame({"x": [1.0], "name": ["a"]}), "path=Frame: cannot be read"),
]


@pytest.mark.parametrize(("source", "words"), BAD)
def test_what_holds_no_points_is_refused(source, words):
    with pytest.raises(ValueError, match=words):
        Points(path=source, bandwidth=1.0)


def test_an_archive_of_several_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, truth=X)
    with pytest.raises(ValueError, match=r"it holds x \[3, 2\], truth \[3, 2\]; save the one array"):
        Points(path=tmp_path / "a.npz")


@pytest.mark.parametrize("ending", [".npz", ".pt", ".csv.gz", ".npy.gz"])
def test_damaged_files_are_refused_in_one_line(ending, tmp_path):
    path = tmp_path / f"a{ending}"
    files(tmp_path)
    whole = next(p for p in tmp_path.iterdir() if p.name.endswith(ending)).read_bytes()
    for content in (whole[: len(whole) // 2], b"no such thing", whole[:20] + b"\0" * 20 + whole[40:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"path={path}: ") as caught:
            Points(path=path)
        assert "\n" not in str(caught.value)


TABLE = "name;lon;lat\nZürich;8,5;47,37\nBern;7,44;46,95\n"
LON_LAT = [[8.5, 47.37], [7.44, 46.95]]


@pytest.mark.parametrize(
    ("text", "columns", "values"),
    [
        (TABLE, ["lon", "lat"], LON_LAT),
        (TABLE, ["lat", "lon"], [row[::-1] for row in LON_LAT]),
        (TABLE, [1, 2], LON_LAT),
        (TABLE.partition("\n")[2], [1, 2], LON_LAT),
        ("# a b c\n1 2 3", ["a", "c"], [[1, 3]]),
        ("1,2,n/a\n3,4,n/a", [1, 0], [[2, 1], [4, 3]]),
        (",x,y,z\n0,1,2,3", ["x", "z"], [[1, 3]]),
    ],
)
def test_two_columns_of_more_are_chosen(text, columns, values, tmp_path):
    path = tmp_path / "p.csv"
    path.write_text(text)
    points = Points(path=path, columns=columns, bandwidth=1.0)
    assert points.points.tolist() == values
    again = Points(**points.files, bandwidth=1.0)  # as a checkpoint keeps them
    assert again.points.tolist() == values


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (["long", "lat"], r"columns=\['long', 'lat'\]: there is no column long; choose of name, lon, lat"),
        ([1, 3], r"columns=\[1, 3\]: there is no column 3; choose of name, lon, lat"),
        (["lat", 2], r"columns=\['lat', 2\]: the same column twice"),
        (["name", "lat"], "the text 'Zürich' where a number belongs"),
        (["lat"], "at least 2 items"),
        ([-1, 0], "greater than or equal to 0"),
    ],
)
def test_columns_that_are_not_there_are_refused(columns, words, tmp_path):
    path = tmp_path / "p.csv"
    path.write_text(TABLE)
    with pytest.raises(ValueError, match=words):
        Points(path=path, columns=columns, bandwidth=1.0)


def test_columns_are_chosen_in_arrays_and_frames_too():
    x = np.arange(6.0).reshape(2, 3)
    frame = Frame({"a": x[:, 0], "b": ["p", "q"], "c": x[:, 2]})
    assert Points(path=x, columns=[0, 2], bandwidth=1.0).points.tolist() == [[0, 2], [3, 5]]
    assert Points(path=frame, columns=["a", "c"], bandwidth=1.0).points.tolist() == [[0, 2], [3, 5]]


def test_one_line_says_what_was_read(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("0,1\n2,3\n")
    line, remark = Points(path=path, bandwidth=1.0).notes
    assert line == f"{path}: 2 points, no names of columns; the first is (0, 1); x 0 … 2, y 1 … 3"
    assert remark.startswith(f"{path}: its first row 0,1 is read as a point; if it is pandas' header")
    path.write_text(TABLE)
    (line,) = Points(path=path, columns=["lon", "lat"], bandwidth=1.0).notes
    assert line == f"{path}: 2 points, columns lon, lat; the first is (8.5, 47.37); lon 7.44 … 8.5, lat 46.95 … 47.37"


def test_the_quick_way_and_the_careful_one_read_the_same():
    """A comment after the last row is all that NumPy's reader does not take."""
    x = np.random.default_rng(0).normal(size=(500, 2)) * 10.0 ** np.arange(-4, 4, 4)
    text = "\n".join(f"{a!r}\t{b!r}" for a, b in x.tolist())
    np.testing.assert_array_equal(read_text(text).values, x)
    np.testing.assert_array_equal(read_text(f"{text} # the last").values, x)
