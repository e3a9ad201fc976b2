"""Genotype files of other formats: the command that converts each to PLINK 1."""

import os
import shlex

from hlmm_dask.errors import InputError

# By suffix, the longest first: what it is, and the command's start; {stem} is the path without
# the suffix, {path} the whole.
_PGEN = ("a PLINK 2 file", "plink2 --pfile {stem}")
_VCF = ("a VCF file", "plink2 --vcf {path}")
_GEN = ("an Oxford .gen file", "plink2 --gen {path} ref-first --sample {stem}.sample")
_TEXT = ("a PLINK 1 text file", "plink --file {stem}")
_TRANSPOSED = ("a PLINK 1 transposed text file", "plink --tfile {stem}")
_CONVERTED = {
    ".pvar.zst": ("a PLINK 2 file", "plink2 --pfile {stem} vzs"),
    ".vcf.bgz": _VCF,
    ".vcf.zst": _VCF,
    ".vcf.gz": _VCF,
    ".gen.gz": _GEN,
    ".gen.zst": _GEN,
    ".pgen": _PGEN,
    ".pvar": _PGEN,
    ".psam": _PGEN,
    ".bgen": ("a BGEN file", "plink2 --bgen {path} ref-first --sample {stem}.sample"),
    ".bcf": ("a BCF file", "plink2 --bcf {path}"),
    ".vcf": _VCF,
    ".gen": _GEN,
    ".haps": ("a SHAPEIT .haps file", "plink2 --haps {path} ref-first --sample {stem}.sample"),
    ".ped": _TEXT,
    ".map": _TEXT,
    ".tped": _TRANSPOSED,
    ".tfam": _TRANSPOSED,
}
_OF_BED = {".bim": "variants", ".fam": "samples"}
_ZARR = (".zarr", ".zarr.zip", ".vcz")
_COMPRESSED = {".bed.gz": "gunzip", ".bed.zst": "unzstd"}


def require_bed(path: str) -> None:
    """Raise an `InputError` with the command that converts a file whose name is not a .bed's."""
    name = os.path.basename(path)
    low = name.lower()
    for suffix, what in _OF_BED.items():
        if low.endswith(suffix):
            stem = path[: -len(suffix)]
            raise InputError(
                f"{path}: the table of the {what} of a PLINK .bed, expected the .bed; give "
                f"{stem}.bed"
            )
    for suffix in _ZARR:
        if low.endswith(suffix):
            raise InputError(
                f"{path}: a Zarr store, expected a PLINK .bed; open it in Python with "
                "xarray.open_zarr and give the Dataset to hlmm_dask.scan"
            )
    for suffix, command in _COMPRESSED.items():
        if low.endswith(suffix):
            raise InputError(
                f"{path}: compressed, expected a plain .bed; decompress it: "
                f"{shlex.join([command, path])}"
            )
    if (found := conversion(path)) is not None:
        what, command = found
        if "@" not in name and not os.path.exists(path):
            raise InputError(f"{path}: no such file")
        raise InputError(f"{path}: {what}, expected a PLINK .bed; convert it: {command}")
    if os.path.isfile(path):
        raise InputError(
            f"{path}: its name does not end with .bed; expected a PLINK .bed, or its name without "
            "that suffix"
        )


def require_file(bed: str) -> None:
    """Raise an `InputError` for a .bed that doesn't exist; names what stands in its place."""
    if os.path.exists(bed):
        return
    stem = bed.removesuffix(".bed")
    for suffix in _CONVERTED:
        if os.path.exists(stem + suffix) and (found := conversion(stem + suffix)) is not None:
            what, command = found
            raise InputError(
                f"{bed}: no such file; {stem}{suffix} is {what}, convert it: {command}"
            )
    raise InputError(f"{bed}: no such file")


def conversion(path: str) -> tuple[str, str] | None:
    """Say what a file is by its suffix and how to make a .bed of it; None for other suffixes."""
    low = path.lower()
    for suffix, (what, start) in _CONVERTED.items():
        if low.endswith(suffix) and len(os.path.basename(path)) > len(suffix):
            # A pattern is shown for its first chromosome.
            stem = path[: -len(suffix)].replace("@", "1")
            words = [
                word.format(stem=stem, path=stem + path[-len(suffix) :]) for word in start.split()
            ]
            return what, shlex.join([*words, "--make-bed", "--out", stem])
    return None
