"""What is checked of a .bed before it is used."""

import shlex
import zlib
from pathlib import Path

import numpy as np

from hlmm_dask.errors import InputError
from hlmm_dask.genotypes.other_formats import conversion
from hlmm_dask.genotypes.packed import HEADER, packed_width, padded_rows
from hlmm_dask.text import open_binary

# Variants whose padding is looked at when a file is opened; all of them when they are read.
_PADDING_ROWS = 32


def read_header(bed: Path) -> bytes:
    """Read the three bytes that a .bed starts with."""
    with open_binary(bed) as stream:
        return stream.read(3)


def check_bed(bed: Path, header: bytes, size: int, n_variants: int, n_samples: int) -> None:
    """Raise an `InputError` unless a file is a variant-major .bed of the size that is expected."""
    if header[:2] != HEADER[:2]:
        raise InputError(
            f"{bed}: starts with bytes {header.hex(' ') or 'none (empty file)'}, "
            f"expected {HEADER.hex(' ')}; this is no PLINK 1 .bed"
        )
    if header[2:] != b"\x01":
        if header[2:] == b"\x10":
            what, command = conversion(str(bed.with_suffix(".pgen"))) or ("", "")
            raise InputError(f"{bed}: {what}, expected a PLINK .bed; name it .pgen, then {command}")
        if header[2:] == b"\x00":
            stem = str(bed.with_suffix(""))
            raise InputError(
                f"{bed}: sample-major (third byte 00), expected variant-major (01); convert it: "
                + shlex.join(["plink", "--bfile", stem, "--make-bed", "--out", f"{stem}_variants"])
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


def check_padding(bed: Path, fam: Path, n_variants: int, n_samples: int) -> None:
    """Look at some variants, so that a .fam that has lost lines is refused before any work."""
    width = packed_width(n_samples)
    rows = np.unique(np.linspace(0, n_variants - 1, _PADDING_ROWS).astype(np.int64))
    with open_binary(bed, buffering=0) as stream:
        for row in rows.tolist():
            stream.seek(3 + (row + 1) * width - 1)
            last = np.frombuffer(stream.read(1), dtype=np.uint8)[:, None]
            if len(padded_rows(last, n_samples)):
                raise no_padding(bed, fam, row, n_samples)


def no_padding(bed: Path, fam: Path, row: int, n_samples: int) -> InputError:
    """Return the error for a variant with genotypes after the last sample."""
    return InputError(
        f"{bed}: variant {row + 1} has genotypes after the last of the {n_samples} samples of "
        f"{fam}, expected zeros; the .fam has lost lines since the .bed was made, or belongs to "
        "another: restore it"
    )


def file_crc(path: Path) -> int:
    """CRC-32 of a file."""
    crc = 0
    with open_binary(path) as stream:
        while block := stream.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return crc
