"""Files with relationship matrices: npz, GCTA's .grm.bin, plain text and npy with an .id file."""

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.arguments import choice
from hlmm_dask.durable import replacing
from hlmm_dask.errors import InputError
from hlmm_dask.ids import with_fids
from hlmm_dask.people import read_ids
from hlmm_dask.relationship.kinship import FloatArray, Id, Kinship
from hlmm_dask.text import decode, iter_rows, open_binary, shown

Format = Literal["npz", "grm", "text"]
_FORMATS = "a .npz, .grm.bin, .npy or .txt"
_ROWS_AT_A_TIME = 256
_ASYMMETRY = 1e-5


def kinship_paths(prefix: str | os.PathLike[str], file_format: Format) -> tuple[Path, ...]:
    """Files that `write_kinship` makes; the first is the one to read."""
    file_format = choice("file_format", file_format, get_args(Format))
    suffixes = {
        "npz": (".npz",),
        "grm": (".grm.bin", ".grm.id", ".grm.N.bin"),
        "text": (".txt", ".id"),
    }
    return tuple(Path(f"{os.fspath(prefix)}{suffix}") for suffix in suffixes[file_format])


def write_kinship(
    kinship: Kinship, prefix: str | os.PathLike[str], file_format: Format = "npz"
) -> Path:
    """Write a matrix; each file is there whole or not at all.

    Parameters
    ----------
    kinship : Kinship
        The matrix.
    prefix : path
        Start of the files' names.
    file_format : {"npz", "grm", "text"}
        ``npz``: double precision, with IDs. ``grm``: GCTA's .grm.bin (lower triangle, single
        precision), .grm.id and .grm.N.bin. ``text``: rows of tab separated numbers that read
        back to the same double, and .id with FID and IID.

    Returns
    -------
    Path
        The file to read.
    """
    file_format = choice("file_format", file_format, get_args(Format))
    first, *others = kinship_paths(prefix, file_format)
    if file_format == "npz":
        fid, iid = (np.array(part, dtype=np.str_) for part in zip(*kinship.ids, strict=True))
        with replacing(first) as stream:
            np.savez(
                stream,
                matrix=kinship.matrix,
                n_variants=np.asarray(kinship.n_variants),
                fid=fid,
                iid=iid,
            )
        return first
    with replacing(others[0]) as stream:
        stream.writelines(f"{fid}\t{iid}\n".encode() for fid, iid in kinship.ids)
    if file_format == "grm":
        counts = np.broadcast_to(np.asarray(kinship.n_variants), kinship.matrix.shape)
        _write_triangle(others[1], counts)
        _write_triangle(first, kinship.matrix)
    else:
        with replacing(first) as stream:
            for row in kinship.matrix:
                stream.write(("\t".join(map(repr, row.tolist())) + "\n").encode())
    return first


def read_kinship(path: str | os.PathLike[str], *, samples: Sequence[Id] | None = None) -> Kinship:
    """Read a matrix.

    Parameters
    ----------
    path : path
        ``.npz`` or ``.grm.bin`` as `write_kinship` makes them; text (also GEMMA's .cXX.txt) or
        ``.npy`` with one row a sample.
    samples : sequence of (str, str), optional
        FID and IID of the genotypes' samples: the rows of a text or .npy file without an .id file
        (the same name with that suffix), and the FIDs for an .id file that has none.

    Returns
    -------
    Kinship

    Raises
    ------
    InputError
        If a file is missing or damaged, the matrix is not square, symmetric and finite, a
        person comes twice, or it is not known who the rows are.
    """
    path = Path(path)
    name = path.name
    counts: Any = float("nan")
    if name.endswith(".grm.bin"):
        stem = path.with_name(name.removesuffix(".grm.bin"))
        ids = _matrix_ids(Path(f"{stem}.grm.id"), samples)
        matrix = _read_triangle(path, len(ids))
        n_path = Path(f"{stem}.grm.N.bin")
        if n_path.exists():
            counts = _read_triangle(n_path, len(ids)).astype(np.float32)
            if np.all(counts == counts[0, 0]):
                counts = float(counts[0, 0])
    elif name.endswith(".npz"):
        ids, matrix, counts = _read_npz(path)
    elif name.endswith((".npy", ".txt")):
        matrix = _read_npy(path) if name.endswith(".npy") else _read_text(path)
        ids = _ids_of_rows(path, len(matrix), samples)
    else:
        raise InputError(f"{path}: not a name of a relationship matrix, expected {_FORMATS}")
    _check(path, ids, matrix)
    return Kinship(ids, matrix, counts, str(path))


def _write_triangle(path: Path, matrix: NDArray[Any]) -> None:
    with replacing(path) as stream:
        for i, row in enumerate(matrix):
            stream.write(row[: i + 1].astype("<f4").tobytes())


def _read_triangle(path: Path, n: int) -> FloatArray:
    expected = 4 * (n * (n + 1) // 2)
    with open_binary(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size != expected:
            raise InputError(
                f"{path}: {size} bytes, expected {expected} for the {n} people of its .grm.id; "
                "the file is damaged, or belongs to another .grm.id"
            )
        matrix = np.empty((n, n))
        for i in range(n):
            row = np.frombuffer(stream.read(4 * (i + 1)), dtype="<f4")
            matrix[i, : i + 1] = matrix[: i + 1, i] = row
    return matrix


def _matrix_ids(path: Path, samples: Sequence[Id] | None) -> list[Id]:
    """Read who the rows of a matrix are; without FIDs they are those samples, by their IIDs."""
    listed = read_ids(path)
    if listed.has_fid or samples is None:
        return listed.ids
    return with_fids(path, listed.ids, [("the genotypes", samples)])


def _ids_of_rows(path: Path, n: int, samples: Sequence[Id] | None) -> list[Id]:
    beside = path.with_suffix(".id")
    if beside.exists():
        ids, where = _matrix_ids(beside, samples), str(beside)
    elif samples is not None:
        ids, where = list(samples), "the genotypes"
    else:
        raise InputError(
            f"{path}: it is not known who its {n} rows are; write {beside} with a line FID IID "
            "for each"
        )
    if len(ids) != n:
        raise InputError(
            f"{path}: {n} rows, but {len(ids)} people in {where}; write {beside} with a line "
            "FID IID for each row"
        )
    return ids


def _read_npz(path: Path) -> tuple[list[Id], FloatArray, Any]:
    with open_binary(path) as stream:
        try:
            with np.load(stream, allow_pickle=False) as content:
                fid, iid = (content[key].tolist() for key in ("fid", "iid"))
                matrix, counts = content["matrix"], content["n_variants"]
        except (KeyError, TypeError, ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"{path}: no relationship matrix of this program ({reason}); expected a .npz "
                "with matrix, fid, iid, n_variants"
            ) from None
    ids = list(zip(map(str, fid), map(str, iid), strict=False))
    matrix = _as_matrix(path, matrix)
    if not len(fid) == len(iid) == len(matrix):
        raise InputError(f"{path}: {len(matrix)} rows, but {len(fid)} FIDs and {len(iid)} IIDs")
    return ids, matrix, float(counts) if counts.ndim == 0 else counts


def _read_npy(path: Path) -> FloatArray:
    with open_binary(path) as stream:
        try:
            return _as_matrix(path, np.load(stream, allow_pickle=False))
        except (ValueError, EOFError) as error:
            if isinstance(error, InputError):
                raise
            reason = " ".join(str(error).split())
            raise InputError(f"{path}: not a .npy file of numbers ({reason})") from None


def _as_matrix(path: Path, matrix: NDArray[Any]) -> FloatArray:
    if matrix.dtype.kind not in "fiu" or matrix.ndim != 2:
        raise InputError(
            f"{path}: an array of {matrix.ndim} dimensions of {matrix.dtype}, expected a "
            "square matrix of numbers"
        )
    return matrix.astype(np.float64, copy=False)


def _read_text(path: Path) -> FloatArray:
    matrix: FloatArray | None = None
    at = 0
    for rows in iter_rows(path, chunk_rows=_ROWS_AT_A_TIME):
        for number, line in zip(rows.numbers, rows.lines, strict=True):
            tokens = line.split()
            n = len(tokens) if matrix is None else len(matrix)
            if matrix is None:
                matrix = np.empty((n, n))
            if len(tokens) != n or at == n:
                found = f"{len(tokens)} fields" if at < n else f"row {at + 1}"
                raise InputError(
                    f"{path}, line {number}: {found}, expected a square matrix of {n} rows and "
                    "columns, without header or IDs"
                )
            try:
                matrix[at] = np.array(tokens, dtype=np.float64)
            except ValueError:
                bad = next(token for token in tokens if not _is_number(token))
                text = shown(decode(bad, path, number))
                raise InputError(
                    f"{path}, line {number}: {text} is not a number; a matrix has no header and "
                    "no IDs, these go into the .id file"
                ) from None
            at += 1
    if matrix is None:
        raise InputError(f"{path}: empty, expected a square matrix of numbers")
    if at < len(matrix):
        raise InputError(f"{path}: {at} rows of {len(matrix)} fields, expected a square matrix")
    return matrix


def _is_number(token: bytes) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True


def _check(path: Path, ids: list[Id], matrix: FloatArray) -> None:
    n = len(matrix)
    if matrix.shape != (n, n) or not n:
        raise InputError(f"{path}: {matrix.shape} values, expected a square matrix")
    if len(set(ids)) < n:
        raise InputError(f"{path}: a (FID, IID) comes twice; each row must be another person")
    largest = float(np.abs(matrix).max())
    for start in range(0, n, _ROWS_AT_A_TIME):
        rows = matrix[start : start + _ROWS_AT_A_TIME]
        if not np.all(np.isfinite(rows)):
            i, j = np.argwhere(~np.isfinite(rows))[0]
            raise InputError(
                f"{path}: {rows[i, j]} in row {start + i + 1}, column {j + 1}; expected finite "
                "numbers, compute the matrix from variants with calls for all pairs"
            )
        difference = np.abs(rows - matrix[:, start : start + _ROWS_AT_A_TIME].T)
        if float(difference.max()) > _ASYMMETRY * largest:
            i, j = np.unravel_index(int(difference.argmax()), difference.shape)
            raise InputError(
                f"{path}: row {start + i + 1}, column {j + 1} differs from row {j + 1}, column "
                f"{start + i + 1}; a relationship matrix is symmetric"
            )
