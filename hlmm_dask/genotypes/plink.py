"""PLINK 1 files (.bed, .bim, .fam): checked when opened, packed bytes read by range."""

import glob
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_dask.errors import InputError
from hlmm_dask.genotypes.packed import MISSING, decode, encode, packed_width, to_dosage
from hlmm_dask.text import BOM, Rows, count_lines, iter_rows, open_binary, shown

__all__ = [
    "MISSING",
    "PlinkFile",
    "PlinkGenotypes",
    "count_lines",
    "decode",
    "encode",
    "iter_bim",
    "open_plink",
    "packed_width",
    "read_fam",
    "to_dosage",
    "write_plink",
]

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

_MAGIC = b"\x6c\x1b"
_HEADER = _MAGIC + b"\x01"
_BIM_FIELDS = "chromosome, ID, centimorgan, position, allele 1, allele 2"
_FAM_FIELDS = "FID, IID, father, mother, sex, phenotype"
_BIM_INDEX_ROWS = 20_000
_LABEL_ORDER = {"X": 0, "Y": 1, "XY": 2, "MT": 3, "M": 3}


def read_fam(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read the samples of a .fam.

    Parameters
    ----------
    path : path
        The .fam; six fields a line.

    Returns
    -------
    DataFrame
        Columns ``fid`` and ``iid``, strings as they stand in the file.

    Raises
    ------
    InputError
        If a line has not six fields, is not UTF-8, or a (FID, IID) comes twice.
    """
    fid: list[str] = []
    iid: list[str] = []
    numbers: list[int] = []
    for rows in iter_rows(path):
        rows.require_fields(6, _FAM_FIELDS)
        fid += rows.strings(0)
        iid += rows.strings(1)
        numbers += rows.numbers
    first: dict[tuple[str, str], int] = {}
    for number, key in zip(numbers, zip(fid, iid, strict=True), strict=True):
        if first.setdefault(key, number) != number:
            raise InputError(
                f"{os.fspath(path)}, line {number}: sample FID {shown(key[0])} IID {shown(key[1])} "
                f"is also on line {first[key]}; (FID, IID) must be unique"
            )
    return pd.DataFrame({"fid": fid, "iid": iid}, dtype=str)


def iter_bim(path: str | os.PathLike[str], chunk_size: int = 100_000) -> Iterator[pd.DataFrame]:
    """Read a .bim in chunks.

    Parameters
    ----------
    path : path
        The .bim; six fields a line.
    chunk_size : int
        Variants in a chunk; the last chunk may have fewer.

    Yields
    ------
    DataFrame
        Columns ``contig``, ``variant_id``, ``position`` (int64), ``allele1``, ``allele2``; the
        index goes on from chunk to chunk.

    Raises
    ------
    InputError
        If a line has not six fields, is not UTF-8, or its position is not an integer.
    """
    first = 0
    for rows in iter_rows(path, chunk_rows=chunk_size):
        yield _variants(rows, first)
        first += len(rows.numbers)


def _variants(rows: Rows, first: int) -> pd.DataFrame:
    rows.require_fields(6, _BIM_FIELDS)
    return pd.DataFrame(
        {
            "contig": rows.strings(0),
            "variant_id": rows.strings(1),
            "position": rows.integers(3, "position"),
            "allele1": rows.strings(4),
            "allele2": rows.strings(5),
        },
        index=pd.RangeIndex(first, first + len(rows.numbers)),
    )


@dataclass(frozen=True)
class PlinkFile:
    """One .bed with its .bim and .fam, as found when it was opened.

    Attributes
    ----------
    bed, bim, fam : Path
        The three files.
    first : int
        Index of the file's first variant among those of all files.
    n_variants : int
        Variants of this file.
    bed_size, bed_mtime_ns : int
        Bytes of the .bed, and its time of modification in nanoseconds.
    bim_crc, fam_crc : int
        CRC-32 of the two tables.
    bim_index : tuple of (int, int)
        Byte offset and line number of every 20,000th variant.
    """

    bed: Path
    bim: Path
    fam: Path
    first: int
    n_variants: int
    bed_size: int
    bed_mtime_ns: int
    bim_crc: int
    fam_crc: int
    bim_index: tuple[tuple[int, int], ...]

    @property
    def stop(self) -> int:
        """Index after the file's last variant."""
        return self.first + self.n_variants


@dataclass(frozen=True)
class PlinkGenotypes:
    """Genotypes in one or several .bed files of the same samples.

    Cheap to pickle: paths, counts and checksums. Files are opened anew by each call, so an
    object can be used by threads and sent to other processes.

    Attributes
    ----------
    files : tuple of PlinkFile
        The files; their variants follow each other.
    n_samples, n_variants : int
        Samples, and variants of all files.
    """

    files: tuple[PlinkFile, ...]
    n_samples: int
    n_variants: int

    def __getstate__(self) -> dict[str, Any]:
        # Without the cached samples.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def paths(self) -> tuple[Path, ...]:
        """The .bed files, in the order of their variants."""
        return tuple(file.bed for file in self.files)

    @property
    def n_bytes(self) -> int:
        """Packed bytes of one variant."""
        return packed_width(self.n_samples)

    @cached_property
    def samples(self) -> pd.DataFrame:
        """The samples, ``fid`` and ``iid``: read from the .fam at first use."""
        return read_fam(self.files[0].fam)

    def spans(self, start: int, stop: int) -> Iterator[tuple[PlinkFile, int, int]]:
        """Split the variants [start, stop) by file: file, first and last + 1 variant in it."""
        self._check_range(start, stop)
        for file in self.files:
            low, high = max(start, file.first), min(stop, file.stop)
            if low < high:
                yield file, low - file.first, high - file.first

    def read_packed(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Read the packed genotypes of the variants [start, stop).

        Parameters
        ----------
        start, stop : int
            Range of variants, 0-based, half open, across the files.

        Returns
        -------
        (stop - start, n_bytes) uint8

        Raises
        ------
        InputError
            If a file is not the one that was opened: gone, other size, modified.
        """
        packed = np.empty((stop - start, self.n_bytes), dtype=np.uint8)
        row = 0
        for file, low, high in self.spans(start, stop):
            _read_into(file, packed[row : row + high - low], 3 + low * self.n_bytes)
            row += high - low
        return packed

    def iter_variants(
        self, start: int = 0, stop: int | None = None, chunk_size: int = 100_000
    ) -> Iterator[pd.DataFrame]:
        """Read the variants [start, stop) from the .bim files.

        Parameters
        ----------
        start, stop : int
            Range of variants; to the last one by default.
        chunk_size : int
            Most variants in a chunk; a chunk ends with its file.

        Yields
        ------
        DataFrame
            As `iter_bim`; the index is that of the variant among all files.

        Raises
        ------
        InputError
            If a .bim has become shorter.
        """
        for file, low, high in self.spans(start, self.n_variants if stop is None else stop):
            entry = low // _BIM_INDEX_ROWS
            offset, number = file.bim_index[entry]
            at = file.first + low
            for rows in iter_rows(
                file.bim,
                chunk_rows=chunk_size,
                offset=offset,
                first_number=number,
                skip=low - entry * _BIM_INDEX_ROWS,
                limit=high - low,
            ):
                yield _variants(rows, at)
                at += len(rows.numbers)
            if at != file.first + high:
                raise InputError(
                    f"{file.bim}: {at - file.first} variants, {file.n_variants} when it was "
                    "opened; the file has changed"
                )

    def identity(self) -> dict[str, Any]:
        """What decides the genotypes, without paths: counts, sizes and checksums of the tables."""
        return {
            "n_samples": self.n_samples,
            "n_variants": self.n_variants,
            "files": [
                {
                    "n_variants": file.n_variants,
                    "bed_size": file.bed_size,
                    "bim_crc32": f"{file.bim_crc:08x}",
                    "fam_crc32": f"{file.fam_crc:08x}",
                }
                for file in self.files
            ],
        }

    def _check_range(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.n_variants:
            raise InputError(
                f"range of variants {start} {stop}: expected "
                f"0 <= START <= END <= {self.n_variants}, the number of variants"
            )


def open_plink(genofile: Paths) -> PlinkGenotypes:
    """Open and check PLINK files.

    Parameters
    ----------
    genofile : path or sequence of paths
        A .bed (the suffix may be left out), several, or a pattern in which ``@`` stands for the
        chromosome: files are then taken in the order 1, 2, ..., X, Y, XY, MT, others.

    Returns
    -------
    PlinkGenotypes

    Raises
    ------
    InputError
        If a file is missing, empty, no variant-major .bed, or of a size that doesn't fit its
        .bim and .fam; if the samples of the files differ.
    """
    beds = _expand(genofile)
    files: list[PlinkFile] = []
    samples: pd.DataFrame | None = None
    first = 0
    for bed in beds:
        bim, fam = bed.with_suffix(".bim"), bed.with_suffix(".fam")
        header = _read_header(bed)
        fam_crc = _crc(fam)
        if samples is None:
            samples = read_fam(fam)
            if not len(samples):
                raise InputError(f"{fam}: no samples, expected one a line ({_FAM_FIELDS})")
        elif fam_crc != files[0].fam_crc:
            _require_same_samples(files[0].fam, samples, fam, read_fam(fam))
        n_variants, bim_crc, index = _scan_bim(bim)
        if n_variants == 0:
            raise InputError(f"{bim}: no variants, expected one a line ({_BIM_FIELDS})")
        status = os.stat(bed)
        _check_bed(bed, header, status.st_size, n_variants, len(samples))
        files.append(
            PlinkFile(
                bed=bed,
                bim=bim,
                fam=fam,
                first=first,
                n_variants=n_variants,
                bed_size=status.st_size,
                bed_mtime_ns=status.st_mtime_ns,
                bim_crc=bim_crc,
                fam_crc=fam_crc,
                bim_index=index,
            )
        )
        first += n_variants
    assert samples is not None
    return PlinkGenotypes(files=tuple(files), n_samples=len(samples), n_variants=first)


def _expand(genofile: Paths) -> list[Path]:
    given = [genofile] if isinstance(genofile, str | os.PathLike) else list(genofile)
    if not given:
        raise InputError("no genotype file given, expected a .bed, several, or a pattern with @")
    beds: list[Path] = []
    for item in given:
        name = os.fspath(item)
        if not name.endswith(".bed"):
            name += ".bed"
        beds += [Path(name)] if "@" not in name or os.path.exists(name) else _match_pattern(name)
    for i, bed in enumerate(beds):
        if bed in beds[:i]:
            raise InputError(f"{bed}: given twice, expected each genotype file once")
    return beds


def _match_pattern(pattern: str) -> list[Path]:
    head, *rest = pattern.split("@")
    # Further @ stand for the same chromosome.
    expression = re.escape(head) + r"(\w+)" + r"\1".join(re.escape(part) for part in rest)
    found: list[tuple[tuple[int, int, str], Path]] = []
    for name in glob.glob(glob.escape(pattern).replace("@", "*")):
        if match := re.fullmatch(expression, name):
            found.append((_label_key(match[1]), Path(name)))
    if not found:
        raise InputError(
            f"{pattern}: no file matches, expected a .bed a chromosome with its name in place of @"
        )
    return [path for _, path in sorted(found)]


def _label_key(label: str) -> tuple[int, int, str]:
    bare = label.upper().removeprefix("CHR")
    if bare.isdecimal():
        return 0, int(bare), label
    if bare in _LABEL_ORDER:
        return 1, _LABEL_ORDER[bare], label
    return 2, 0, label


def _read_header(bed: Path) -> bytes:
    with open_binary(bed) as stream:
        return stream.read(3)


def _check_bed(bed: Path, header: bytes, size: int, n_variants: int, n_samples: int) -> None:
    if header[:2] != _MAGIC:
        raise InputError(
            f"{bed}: starts with bytes {header.hex(' ') or 'none (empty file)'}, "
            f"expected {_HEADER.hex(' ')}; this is no PLINK 1 .bed"
        )
    if header[2:] != b"\x01":
        if header[2:] == b"\x00":
            stem = bed.with_suffix("")
            raise InputError(
                f"{bed}: sample-major (third byte 00), expected variant-major (01); convert it: "
                f"plink --bfile {stem} --make-bed --out {stem}_variant_major"
            )
        raise InputError(
            f"{bed}: third byte {header[2:].hex() or 'missing'}, expected 01 (variant-major)"
        )
    expected = 3 + n_variants * packed_width(n_samples)
    if size != expected:
        raise InputError(
            f"{bed}: {size} bytes, expected {expected} for the {n_variants} variants of its .bim "
            f"and the {n_samples} samples of its .fam; the file is "
            f"{'truncated' if size < expected else 'too long'}, or belongs to another .bim or .fam"
        )


def _require_same_samples(
    first_path: Path, first: pd.DataFrame, path: Path, other: pd.DataFrame
) -> None:
    if len(first) != len(other):
        raise InputError(
            f"{path}: {len(other)} samples, {len(first)} in {first_path}; "
            "all genotype files must have the same samples in the same order"
        )
    differ = (first["fid"] != other["fid"]) | (first["iid"] != other["iid"])
    if differ.any():
        i = int(np.flatnonzero(differ)[0])
        a, b = (" ".join(shown(x) for x in table.iloc[i]) for table in (first, other))
        raise InputError(
            f"{path}: sample {i + 1} is {b}, {a} in {first_path}; "
            "all genotype files must have the same samples in the same order"
        )


def _crc(path: Path) -> int:
    crc = 0
    with open_binary(path) as stream:
        while block := stream.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return crc


def _scan_bim(path: Path) -> tuple[int, int, tuple[tuple[int, int], ...]]:
    """Count the variants, checksum the file and note where every 20,000th line starts."""
    n_variants, crc, offset = 0, 0, 0
    index: list[tuple[int, int]] = []
    with open_binary(path) as stream:
        for number, line in enumerate(stream, 1):
            crc = zlib.crc32(line, crc)
            if (line.removeprefix(BOM) if number == 1 else line).strip():
                if n_variants % _BIM_INDEX_ROWS == 0:
                    index.append((offset, number))
                n_variants += 1
            offset += len(line)
    return n_variants, crc, tuple(index)


def _read_into(file: PlinkFile, out: NDArray[np.uint8], offset: int) -> None:
    with open_binary(file.bed, buffering=0) as stream:
        status = os.fstat(stream.fileno())
        if (status.st_size, status.st_mtime_ns) != (file.bed_size, file.bed_mtime_ns):
            raise InputError(
                f"{file.bed}: {status.st_size} bytes, {file.bed_size} when it was opened, or "
                "modified since; the file has changed"
            )
        view = memoryview(out).cast("B")
        stream.seek(offset)
        done = 0
        while done < len(view):
            count = stream.readinto(view[done:])  # type: ignore[attr-defined]
            if not count:
                raise InputError(
                    f"{file.bed}: {done} bytes at {offset}, expected {len(view)}; "
                    "the file has changed"
                )
            done += count


def write_plink(
    path: str | os.PathLike[str],
    counts: NDArray[np.int8] | Iterable[NDArray[np.int8]],
    samples: pd.DataFrame,
    variants: pd.DataFrame | Iterable[pd.DataFrame],
) -> Path:
    """Write a .bed, .bim and .fam.

    Parameters
    ----------
    path : path
        The .bed; the suffix may be left out.
    counts : (n_variants, n_samples) int8, or iterable of such blocks of variants
        Counts of allele 1: 0, 1, 2, or -1 for missing. Blocks are written as they come.
    samples : DataFrame
        Columns ``fid`` and ``iid``.
    variants : DataFrame or iterable of DataFrames
        Columns as from `iter_bim`.

    Returns
    -------
    Path
        The .bed.

    Raises
    ------
    ValueError
        If shapes don't fit together or a count is none of 0, 1, 2, -1.
    """
    name = os.fspath(path)
    bed = Path(name if name.endswith(".bed") else name + ".bed")
    blocks = [counts] if isinstance(counts, np.ndarray) else counts
    n_counts = 0
    with open(bed, "wb") as stream:
        stream.write(_HEADER)
        for block in blocks:
            if block.ndim != 2 or block.shape[1] != len(samples):
                raise ValueError(f"block of shape {block.shape} for {len(samples)} samples")
            stream.write(encode(block).tobytes())
            n_counts += len(block)
    n_variants = 0
    with open(bed.with_suffix(".bim"), "w", encoding="utf-8", newline="\n") as text:
        for table in [variants] if isinstance(variants, pd.DataFrame) else variants:
            columns = ("contig", "variant_id", "position", "allele1", "allele2")
            for contig, name, position, a1, a2 in zip(*(table[c] for c in columns), strict=True):
                text.write(f"{contig}\t{name}\t0\t{position}\t{a1}\t{a2}\n")
            n_variants += len(table)
    if n_counts != n_variants:
        raise ValueError(f"genotypes of {n_counts} variants, a table of {n_variants}")
    with open(bed.with_suffix(".fam"), "w", encoding="utf-8", newline="\n") as text:
        for fid, iid in zip(samples["fid"], samples["iid"], strict=True):
            text.write(f"{fid}\t{iid}\t0\t0\t0\t-9\n")
    return bed
