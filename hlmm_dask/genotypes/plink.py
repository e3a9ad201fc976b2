"""PLINK 1 files (.bed, .bim, .fam): checked when opened, packed bytes read by range."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_dask.errors import ChangedInputError, InputError
from hlmm_dask.genotypes.bed_checks import (
    check_bed,
    check_padding,
    file_crc,
    no_padding,
    read_header,
)
from hlmm_dask.genotypes.packed import (
    MISSING,
    decode,
    encode,
    packed_width,
    padded_rows,
    to_dosage,
)
from hlmm_dask.genotypes.paths import Paths, expand_paths
from hlmm_dask.genotypes.plink_tables import (
    BIM_FIELDS,
    BIM_INDEX_ROWS,
    FAM_FIELDS,
    iter_bim,
    read_fam,
    require_same_samples,
    scan_bim,
    variants_frame,
)
from hlmm_dask.genotypes.plink_write import write_plink
from hlmm_dask.genotypes.stamps import FileStamp
from hlmm_dask.text import iter_rows, layout_notes, open_binary

__all__ = [
    "MISSING",
    "Paths",
    "PlinkFile",
    "PlinkGenotypes",
    "decode",
    "encode",
    "iter_bim",
    "open_plink",
    "packed_width",
    "read_fam",
    "to_dosage",
    "write_plink",
]


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
    bed_stamp, bim_stamp : FileStamp
        What tells the .bed and the .bim from files that replace them.
    bim_fields : int
        Fields in a line of the .bim.
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
    bed_stamp: FileStamp
    bim_stamp: FileStamp
    bim_fields: int
    bim_crc: int
    fam_crc: int
    bim_index: tuple[tuple[int, int], ...]

    @property
    def stop(self) -> int:
        """Index after the file's last variant."""
        return self.first + self.n_variants

    @property
    def bed_size(self) -> int:
        """Bytes of the .bed."""
        return self.bed_stamp.size

    def require_unchanged(self) -> None:
        """Raise a `ChangedInputError` if the .bed isn't the one that was opened."""
        self.bed_stamp.require_same(self.bed)


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
    notes : tuple of str
        What was unusual in the layout of the .fam and .bim files.
    """

    files: tuple[PlinkFile, ...]
    n_samples: int
    n_variants: int
    notes: tuple[str, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        # Without the cached samples.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def paths(self) -> tuple[Path, ...]:
        """The .bed files, in the order of their variants."""
        return tuple(file.bed for file in self.files)

    @property
    def bed_sizes(self) -> tuple[tuple[str, int], ...]:
        """The .bed files and their bytes."""
        return tuple((str(file.bed), file.bed_size) for file in self.files)

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
        ChangedInputError
            If a file is not the one that was opened, before and after reading: gone, other size,
            modified.
        """
        self._check_range(start, stop)
        packed = np.empty((stop - start, self.n_bytes), dtype=np.uint8)
        self.read_into(packed, start)
        return packed

    def read_into(self, packed: NDArray[np.uint8], start: int) -> None:
        """Read the packed genotypes of the variants from ``start`` on into memory that is there.

        Parameters
        ----------
        packed : (n_variants, n_bytes) uint8
            Filled.
        start : int
            First variant.

        Raises
        ------
        ChangedInputError
            As for `read_packed`.
        InputError
            If there are genotypes after the last sample of the .fam.
        """
        row = 0
        for file, low, high in self.spans(start, start + len(packed)):
            part = packed[row : row + high - low]
            _read_into(file, part, 3 + low * self.n_bytes)
            if len(bad := padded_rows(part, self.n_samples)):
                raise no_padding(file.bed, file.fam, low + int(bad[0]), self.n_samples)
            row += high - low

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
        ChangedInputError
            If a .bim isn't the one that was opened; known when all of it was given.
        """
        for file, low, high in self.spans(start, self.n_variants if stop is None else stop):
            entry = low // BIM_INDEX_ROWS
            offset, number = file.bim_index[entry]
            at = file.first + low
            for rows in iter_rows(
                file.bim,
                chunk_rows=chunk_size,
                offset=offset,
                first_number=number,
                skip=low - entry * BIM_INDEX_ROWS,
                limit=high - low,
            ):
                yield variants_frame(rows, at, file.bim_fields)
                at += len(rows)
            file.bim_stamp.require_same(file.bim)

    def identity(self) -> dict[str, Any]:
        """Say what decides the genotypes, without paths: counts, sizes, checksums of the tables."""
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
        A .bed (the suffix may be left out), several, or a pattern in which ``@`` in the file's
        name stands for the chromosome (1-26, X, Y, XY, PAR1, PAR2, MT): files are then taken in
        the order of the chromosomes.

    Returns
    -------
    PlinkGenotypes

    Raises
    ------
    InputError
        If a file is missing, empty, of another format, no variant-major .bed, or of a size that
        doesn't fit its .bim and .fam; if the samples of the files differ; if a file that a
        pattern matches has variants of another chromosome than its name says.
    """
    beds, notes = expand_paths(genofile)
    files: list[PlinkFile] = []
    samples: pd.DataFrame | None = None
    first = 0
    for each in beds:
        bed = each.path
        bim, fam = bed.with_suffix(".bim"), bed.with_suffix(".fam")
        # Before anything is read: what changes meanwhile is another file.
        stamp, table_stamp = FileStamp.of(bed), FileStamp.of(bim)
        header = read_header(bed)
        fam_crc = file_crc(fam)
        if samples is None:
            samples = read_fam(fam)
            if not len(samples):
                raise InputError(f"{fam}: no samples, expected one a line ({FAM_FIELDS})")
        elif fam_crc != files[0].fam_crc:
            require_same_samples(files[0].fam, samples, fam, read_fam(fam))
        table = scan_bim(bim)
        if table.n_variants == 0:
            raise InputError(f"{bim}: no variants, expected one a line ({BIM_FIELDS})")
        each.require_contigs(bim, table.contigs)
        check_bed(bed, header, stamp.size, table.n_variants, len(samples))
        check_padding(bed, fam, table.n_variants, len(samples))
        files.append(
            PlinkFile(
                # Workers may have been started in another folder.
                bed=bed.absolute(),
                bim=bim.absolute(),
                fam=fam.absolute(),
                first=first,
                n_variants=table.n_variants,
                bed_stamp=stamp,
                bim_stamp=table_stamp,
                bim_fields=table.n_fields,
                bim_crc=file_crc(bim),
                fam_crc=fam_crc,
                bim_index=table.index,
            )
        )
        notes += layout_notes(fam, len(samples)) + layout_notes(bim, table.n_variants)
        notes += table.notes(bim)
        first += table.n_variants
    assert samples is not None
    found = PlinkGenotypes(tuple(files), len(samples), first, tuple(notes))
    # Read already.
    vars(found)["samples"] = samples
    return found


def _read_into(file: PlinkFile, out: NDArray[np.uint8], offset: int) -> None:
    file.require_unchanged()
    with open_binary(file.bed, buffering=0) as stream:
        view = memoryview(out.data).cast("B")
        stream.seek(offset)
        done = 0
        while done < len(view):
            count = stream.readinto(view[done:])  # type: ignore[attr-defined]  # opened unbuffered
            if not count:
                raise ChangedInputError(
                    f"{file.bed}: changed while it was scanned: {done} bytes at {offset}, expected "
                    f"{len(view)}"
                )
            done += count
    # What was written to in the meantime may have been read in part.
    file.require_unchanged()
