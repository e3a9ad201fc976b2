"""Files with relationship matrices: round trips, other programs' layouts, errors."""

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hlmm_dask.errors import InputError
from hlmm_dask.relationship.files import kinship_paths, read_kinship, write_kinship
from hlmm_dask.relationship.kinship import Kinship


@pytest.fixture
def kinship() -> Kinship:
    Z = np.random.default_rng(0).normal(size=(5, 9))
    ids = [("f", "007"), ("f", "7"), ("ü", "x y".replace(" ", "_")), ("g", "1"), ("1", "1")]
    return Kinship(ids, Z @ Z.T / 9, 9.0)


@pytest.mark.parametrize("file_format", ["npz", "grm", "text"])
def test_round_trip(kinship: Kinship, file_format: Any, tmp_path: Path) -> None:
    path = write_kinship(kinship, tmp_path / "out.x", file_format)
    assert path == kinship_paths(tmp_path / "out.x", file_format)[0]
    found = read_kinship(path)
    assert found.ids == kinship.ids
    expected = kinship.matrix.astype(np.float32) if file_format == "grm" else kinship.matrix
    np.testing.assert_array_equal(found.matrix, expected)
    if file_format != "text":
        assert found.n_variants == 9.0
    assert set(tmp_path.iterdir()) == set(kinship_paths(tmp_path / "out.x", file_format))


@pytest.mark.parametrize("file_format", ["npz", "grm"])
def test_counts_of_pairs_are_kept(kinship: Kinship, file_format: Any, tmp_path: Path) -> None:
    counts = np.full((5, 5), 9, dtype=np.float32)
    counts[1, 2] = counts[2, 1] = 7
    path = write_kinship(replace(kinship, n_variants=counts), tmp_path / "k", file_format)
    np.testing.assert_array_equal(read_kinship(path).n_variants, counts)


def test_the_bytes_of_gcta(kinship: Kinship, tmp_path: Path) -> None:
    """Single precision, little endian, lower triangle with the diagonal, row by row."""
    write_kinship(kinship, tmp_path / "k", "grm")
    K = kinship.matrix
    triangle = [K[i, j] for i in range(5) for j in range(i + 1)]
    assert (tmp_path / "k.grm.bin").read_bytes() == struct.pack("<15f", *triangle)
    assert (tmp_path / "k.grm.N.bin").read_bytes() == struct.pack("<15f", *[9.0] * 15)
    assert (tmp_path / "k.grm.id").read_text().splitlines()[0] == "f\t007"


def test_text_of_gemma_and_npy_take_the_samples_of_the_genotypes(
    kinship: Kinship, tmp_path: Path
) -> None:
    text = tmp_path / "result.cXX.txt"
    np.savetxt(text, kinship.matrix, delimiter="\t")
    np.testing.assert_array_equal(read_kinship(text, samples=kinship.ids).matrix, kinship.matrix)
    npy = tmp_path / "k.npy"
    np.save(npy, kinship.matrix)
    assert read_kinship(npy, samples=kinship.ids).ids == kinship.ids
    with pytest.raises(InputError, match="5 rows, but 4 people in the genotypes"):
        read_kinship(npy, samples=kinship.ids[:4])
    with pytest.raises(InputError, match="not known who its 5 rows are"):
        read_kinship(npy)
    (tmp_path / "k.id").write_text("".join(f"a {i}\n" for i in range(5)))
    assert read_kinship(npy, samples=kinship.ids).ids[4] == ("a", "4")


def spoiled(change: Callable[[np.ndarray], None]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        matrix = np.eye(3)
        change(matrix)
        np.save(folder / "k.npy", matrix)
        (folder / "k.id").write_text("a 1\na 2\na 3\n")
        return folder / "k.npy"

    return make


def text(content: str, ids: str = "a 1\na 2\n") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "k.txt").write_text(content)
        (folder / "k.id").write_text(ids)
        return folder / "k.txt"

    return make


def raw(name: str, content: bytes, ids: str = "a 1\na 2\n") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        (folder / "k.grm.id").write_text(ids)
        return folder / name

    return make


def savez(**arrays: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        np.savez(folder / "k.npz", **arrays)
        return folder / "k.npz"

    return make


def _set(i: int, j: int, value: float) -> Callable[[np.ndarray], None]:
    return lambda matrix: matrix.__setitem__((i, j), value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (spoiled(_set(1, 2, np.nan)), "nan in row 2, column 3"),
        (spoiled(_set(0, 2, 0.5)), "row 1, column 3 differs from row 3, column 1"),
        (text("1 0\n0 1\n", "a 1\na 1\n"), "line 2: .* is also on line 1"),
        (text("1 0\n0 1\n", "a 1\n"), "2 rows, but 1 people in .*k.id"),
        (text("1 0\n0\n"), "line 2: 1 fields, expected a square matrix of 2 rows"),
        (text("1 0\n0 1\n1 1\n"), "line 3: row 3, expected a square matrix of 2 rows"),
        (text("1 0\n"), "1 rows of 2 fields"),
        (text("1 0\nNA 1\n"), "line 2: 'NA' is not a number"),
        (text(""), "empty"),
        (raw("k.grm.bin", b"1234" * 2), "8 bytes, expected 12 for the 2 people"),
        (raw("k.grm.bin", b"", ids=""), "empty, expected a line FID IID"),
        (raw("k.npz", b"PK nothing"), "no relationship matrix of this program"),
        (raw("k.npy", b"nothing"), "not a .npy file of numbers"),
        (raw("k.rel", b""), "expected a .npz, .grm.bin, .npy or .txt"),
        (savez(matrix=np.eye(2)), "no relationship matrix of this program"),
        (savez(matrix=np.eye(2), fid=["a"], iid=["a"], n_variants=1.0), "2 rows, but 1 FIDs"),
        (savez(matrix=np.ones(2), fid=["a"], iid=["a"], n_variants=1.0), "1 dimensions"),
        (savez(matrix=np.eye(2), fid=["a"] * 2, iid=["a"] * 2, n_variants=1.0), "comes twice"),
        (lambda folder: folder / "none.npz", "no such file"),
    ],
)  # fmt: skip
def test_errors_are_one_line(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    path = make(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        read_kinship(path)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)
