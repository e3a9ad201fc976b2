"""A user's Dataset of genotypes, brought into the form of `open_bed`."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_dask.errors import InputError
from hlmm_dask.text import shown

if TYPE_CHECKING:
    import xarray as xr

_OF_VARIANTS = ("variant_id", "variant_contig", "variant_position")
_EXPECTED = "expected the variables of open_bed: names as in VCF Zarr"
# Dosages may be off by so much from rounding: they are clipped to 0 to 2.
ROUNDING = 1e-4
# How far single precision may round beyond that bound.
_SLACK = 1e-6


def require_variables(dataset: "xr.Dataset", names: Sequence[str]) -> None:
    """Raise an `InputError` that names the variables which a Dataset of genotypes lacks."""
    lacking = [name for name in names if name not in dataset.variables]
    if lacking:
        raise InputError(f"the Dataset has no {', '.join(lacking)}; {_EXPECTED}")


def canonical(dataset: "xr.Dataset") -> "xr.Dataset":
    """Give the variables of genotypes the dimensions ``variants``, ``samples``, ``alleles``.

    Dimensions are known by the variables that have them: they may have other names, and any
    order. Nothing is read but alleles in one dimension, "G,A", which are split.

    Parameters
    ----------
    dataset : Dataset
        With the variables of `open_bed`.

    Returns
    -------
    Dataset
        These variables alone.

    Raises
    ------
    InputError
        If a variable is lacking, or its dimensions don't say what it is.
    """
    require_variables(dataset, ("call_dosage", *_OF_VARIANTS, "variant_allele", "sample_id"))
    found = dataset.drop_indexes(list(dataset.xindexes)).reset_coords()
    names = ["call_dosage", *_OF_VARIANTS, "variant_allele", "sample_id"]
    names += [name for name in ("sample_family_id", "contig_id") if name in found]
    found = found[names]
    variants, samples = _dimension(found, "variant_id"), _dimension(found, "sample_id")
    for name in _OF_VARIANTS[1:]:
        _require_dimensions(found, name, {variants}, "that of variant_id")
    if "sample_family_id" in found:
        _require_dimensions(found, "sample_family_id", {samples}, "that of sample_id")
    wanted = {variants, samples}
    _require_dimensions(found, "call_dosage", wanted, "those of variant_id and sample_id")
    if len(wanted) < 2 or found["call_dosage"].dtype.kind not in "iuf":
        raise InputError(
            f"the Dataset: call_dosage is {found['call_dosage'].dtype} of dimensions "
            f"{_listed(found['call_dosage'].dims)}, expected numbers of variants and samples"
        )
    new = {variants: "variants", samples: "samples"}
    alleles = found["variant_allele"]
    if alleles.dims == (variants,):
        split = _split(texts(alleles.to_numpy(), "variant_allele"), found["variant_id"])
        found["variant_allele"] = ((variants, "alleles"), split)
    else:
        others = [name for name in alleles.dims if name != variants]
        if len(alleles.dims) != 2 or len(others) != 1 or alleles.sizes[others[0]] < 2:
            raise InputError(
                f"the Dataset: variant_allele has dimensions {_listed(alleles.dims)}, expected "
                "those of variant_id and of two alleles: the other, then the counted one"
            )
        new[others[0]] = "alleles"
    # By way of names that no dimension has: two may be exchanged.
    aside = {old: f"{name} of genotypes" for old, name in new.items()}
    found = found.rename_dims(aside).rename_dims({aside[old]: new[old] for old in new})
    return found.transpose("variants", "samples", "alleles", ...)


def variants_of(dataset: "xr.Dataset", start: int, stop: int) -> pd.DataFrame:
    """Read the variants start..stop-1 of a canonical Dataset; allele1 is the counted one.

    Raises
    ------
    InputError
        If a name is missing, a position no whole number, or a variant has three alleles.
    """
    part = dataset.isel(variants=slice(start, stop))
    contig = part["variant_contig"].to_numpy()
    if contig.dtype.kind in "iu" and "contig_id" in part:
        contig = part["contig_id"].to_numpy()[contig]
    ids = texts(part["variant_id"].to_numpy(), "variant_id")
    alleles = texts(part["variant_allele"].to_numpy(), "variant_allele")
    further = (alleles[:, 2:] != "").any(axis=1)
    if further.any():
        raise InputError(
            f"the Dataset: variant {shown(ids[int(further.argmax())])} has more than two alleles, "
            "expected two; split such variants first"
        )
    return pd.DataFrame(
        {
            "contig": texts(contig, "variant_contig"),
            "variant_id": ids,
            "position": _whole(part["variant_position"].to_numpy(), ids),
            "allele1": alleles[:, 1],
            "allele2": alleles[:, 0],
        }
    )


def samples_of(dataset: "xr.Dataset") -> pd.DataFrame:
    """Read the samples of a Dataset, ``fid`` and ``iid``; without families both are the ID."""
    require_variables(dataset, ("sample_id",))
    names = ["sample_id", *(["sample_family_id"] if "sample_family_id" in dataset else [])]
    for name in names:
        _dimension(dataset, name)
    iid, fid = (texts(dataset[name].to_numpy(), name) for name in (names[0], names[-1]))
    frame = pd.DataFrame({"fid": fid, "iid": iid})
    again = frame.duplicated().to_numpy()
    if again.any():
        raise InputError(
            f"the Dataset: sample {shown(iid[int(again.argmax())])} comes twice in sample_id, "
            "expected each once"
        )
    return frame


def texts(values: NDArray[Any], what: str) -> NDArray[np.object_]:
    """Turn names of any type that has them into Python's text, in an array of the same shape.

    Raises
    ------
    InputError
        If one is missing, or neither text nor a whole number.
    """
    if values.dtype.kind in "Uiu":
        return values.astype(str).astype(object)
    out = np.empty(values.shape, dtype=object)
    for at, value in enumerate(values.astype(object).ravel().tolist()):
        if isinstance(value, bytes):
            value = value.decode(errors="backslashreplace")
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise InputError(
                f"{what}: {value!r} at place {at + 1}, expected text or a whole number"
            )
        out.flat[at] = str(value)
    return out


def clipped(block: NDArray[Any], name_of: Callable[[int], str]) -> NDArray[Any]:
    """Bring dosages that are off by rounding into 0 to 2; NaN and -1 are missing, and NaN then.

    Parameters
    ----------
    block : (m, n) number
        Copies of an allele.
    name_of : callable
        ID of a row's variant, for the error.

    Raises
    ------
    InputError
        If a dosage is further off; names the first variant with one, and the value.
    """
    values = np.where(block == -1, np.nan, block)
    off = (values < -ROUNDING - _SLACK) | (values > 2.0 + ROUNDING + _SLACK)
    if off.any():
        row = int(off.any(axis=1).argmax())
        value = values[row][off[row]][0]
        raise InputError(
            f"variant {shown(name_of(row))}: a dosage of {value:g}, expected 0 to 2 (to within "
            f"{ROUNDING:g}), NaN or -1 where missing"
        )
    return np.clip(values, 0.0, 2.0)


def _whole(values: NDArray[Any], ids: NDArray[np.object_]) -> NDArray[np.int64]:
    try:
        if values.dtype.kind in "mMb":
            raise TypeError
        numbers = pd.to_numeric(pd.Series(values)).to_numpy()
    except (ValueError, TypeError):
        numbers = np.full(len(values), np.nan)
    if numbers.dtype.kind in "iu":
        return numbers.astype(np.int64)
    bad = ~(np.isfinite(numbers) & (numbers == np.rint(numbers)))
    if bad.any():
        at = int(bad.argmax())
        raise InputError(
            f"the Dataset: variant {shown(ids[at])} has position {values[at]}, expected a whole "
            "number; 0 stands for an unknown position"
        )
    return numbers.astype(np.int64)


def _split(alleles: NDArray[np.object_], ids: "xr.DataArray") -> NDArray[np.object_]:
    pairs = [text.split(",") for text in alleles.tolist()]
    for at, pair in enumerate(pairs):
        if len(pair) != 2 or not all(pair):
            raise InputError(
                f"the Dataset: variant_allele of {shown(str(ids[at].item()))} is "
                f"{shown(alleles[at])}, expected two alleles with a comma, or dimensions variants "
                "and alleles: the other allele, then the counted one"
            )
    out = np.empty((len(pairs), 2), dtype=object)
    out[:] = pairs
    return out


def _dimension(dataset: "xr.Dataset", name: str) -> Hashable:
    dims = dataset[name].dims
    if len(dims) != 1:
        raise InputError(f"the Dataset: {name} has dimensions {_listed(dims)}, expected one")
    return dims[0]


def _require_dimensions(dataset: "xr.Dataset", name: str, wanted: set[Hashable], what: str) -> None:
    dims = dataset[name].dims
    if set(dims) != wanted or len(dims) != len(wanted):
        raise InputError(
            f"the Dataset: {name} has dimensions {_listed(dims)}, expected {what}: "
            f"{_listed(sorted(map(str, wanted)))}"
        )


def _listed(dims: Iterable[Hashable]) -> str:
    return f"({', '.join(map(str, dims))})"
