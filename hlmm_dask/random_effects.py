"""The columns of G for random effects: imputed, standardised, scaled."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_dask.covariates import population_sd
from hlmm_dask.errors import InputError
from hlmm_dask.genotypes.contigs import HUMAN_AUTOSOMES, is_left_out, on_autosomes
from hlmm_dask.genotypes.packed import to_dosage
from hlmm_dask.genotypes.plink import PlinkGenotypes
from hlmm_dask.ids import id_hints, ids_of, shown_ids
from hlmm_dask.tables import Table
from hlmm_dask.text import shown

_BLOCK_BYTES = 64_000_000


@dataclass(frozen=True)
class RandomEffects:
    """Columns whose effects are random.

    Attributes
    ----------
    raw : (n_samples, l) float32 or float64
        Values with the mean in place of missing ones, C order; in single precision where all
        are small integers, which it holds exactly.
    centre, scale : (l,) float64
        Mean of each column, and 1 / (population standard deviation * l ** 0.5).
    names : tuple of str
        Name of each column: the variant's ID, or the column's name.
    contig : (l,) object or None
        Chromosome of each variant; None for columns of a table.
    position : (l,) int64 or None
        Position of each variant; None for columns of a table.
    n_absent : int
        Analysed samples that are not in the file: all of their values are the mean.
    notes : tuple of str
        Columns left out, and samples absent.
    """

    raw: NDArray[np.float32] | NDArray[np.float64]
    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    names: tuple[str, ...]
    contig: NDArray[np.object_] | None
    position: NDArray[np.int64] | None
    n_absent: int
    notes: tuple[str, ...]

    @property
    def G(self) -> NDArray[np.float64]:
        """Columns with mean 0 and population standard deviation l ** -0.5, (n_samples, l)."""
        return (self.raw.astype(np.float64) - self.centre) * self.scale


def random_effects(
    ids: pd.DataFrame, source: PlinkGenotypes | Table, *, block_size: int | None = None
) -> RandomEffects:
    """Build G from genotypes or a table.

    A missing value becomes the mean of its column over the analysed samples; then the column is
    centred, divided by its population standard deviation and by the root of the number of
    columns. All-missing and constant columns are left out, and variants with a negative position
    (-9, unknown, excepted). Those on sex chromosomes stay; a note counts them.

    Parameters
    ----------
    ids : DataFrame
        The analysed samples, columns ``fid`` and ``iid``.
    source : PlinkGenotypes or Table
        Where the columns come from.
    block_size : int, optional
        Columns read at a time; by default as many as take 64 MB. It has no influence on G.

    Returns
    -------
    RandomEffects

    Raises
    ------
    InputError
        If no analysed sample is in the source, or no column is left.
    """
    if isinstance(source, Table):
        name = str(source.path)
        source = source.matched_to(("the analysed samples", ids_of(ids)))
        keys = source.ids
    else:
        name = ", ".join(str(path) for path in source.paths[:3])
        name += ", ..." if len(source.paths) > 3 else ""
        keys = ids_of(source.samples)
    if block_size is None:
        block_size = max(1, _BLOCK_BYTES // (8 * len(keys)))
    wanted = ids_of(ids)
    rows, absent = _match(wanted, keys, name)
    notes: list[str] = []
    if absent:
        notes.append(
            f"{name}: {len(absent)} of {len(wanted)} analysed samples are not in it, the mean of "
            f"each column stands for them (first: {shown_ids(absent)})"
        )
    names, contig, position = _labels(source)
    withdrawn = np.zeros(len(names), dtype=bool)
    if contig is not None and position is not None:
        withdrawn = is_left_out(position)
        notes += _elsewhere(name, names, ~withdrawn & ~on_autosomes(contig))

    # Two passes, so that G is allocated once and only for the columns that stay.
    means, sds, all_missing, integer = _moments(source, rows, block_size)
    kept = sds > 0
    notes += _left_out(name, names, withdrawn, "a negative position")
    notes += _left_out(name, names, all_missing & ~withdrawn, "no value among the analysed samples")
    constant = ~kept & ~all_missing & ~withdrawn
    notes += _left_out(name, names, constant, "constant among the analysed samples")
    kept &= ~withdrawn
    n_kept = int(kept.sum())
    if n_kept == 0:
        raise InputError(
            f"{name}: all {len(names)} columns are constant or missing among the {len(wanted)} "
            "analysed samples, or have a negative position; nothing is left for the random effects"
        )
    # Small integers are exact in single precision, means in place of missing values are not.
    raw: NDArray[Any] = np.empty((len(wanted), n_kept), np.float32 if integer else np.float64)
    first = column = 0
    for block in _blocks(source, rows, block_size):
        at = slice(first, first + len(block))
        chosen = kept[at]
        values = np.where(np.isnan(block[chosen]), means[at][chosen, None], block[chosen])
        raw[:, column : column + len(values)] = values.T
        first += len(block)
        column += len(values)
    return RandomEffects(
        raw=raw,
        centre=means[kept],
        scale=1.0 / (sds[kept] * np.sqrt(n_kept)),
        names=tuple(str(n) for n in names[kept]),
        contig=None if contig is None else contig[kept],
        position=None if position is None else position[kept],
        n_absent=len(absent),
        notes=tuple(notes),
    )


def _match(
    wanted: list[tuple[str, str]], keys: list[tuple[str, str]], name: str
) -> tuple[NDArray[np.int64], list[tuple[str, str]]]:
    row_of = {key: row for row, key in enumerate(keys)}
    rows = np.array([row_of.get(key, -1) for key in wanted], dtype=np.int64)
    absent = [key for key, row in zip(wanted, rows, strict=True) if row < 0]
    if len(absent) == len(wanted):
        raise InputError(
            f"{name}: none of the {len(wanted)} analysed samples is in it; it has "
            f"{shown_ids(keys, 3)}; analysed are {shown_ids(wanted, 3)}; "
            + ("; ".join(id_hints(wanted, keys)) or "both must use the same FID and IID")
        )
    return rows, absent


def _labels(
    source: PlinkGenotypes | Table,
) -> tuple[NDArray[np.object_], NDArray[np.object_] | None, NDArray[np.int64] | None]:
    if isinstance(source, Table):
        return np.array(source.names, dtype=object), None, None
    tables = list(source.iter_variants())
    return (
        np.concatenate([t["variant_id"].to_numpy(dtype=object) for t in tables]),
        np.concatenate([t["contig"].to_numpy(dtype=object) for t in tables]),
        np.concatenate([t["position"].to_numpy(dtype=np.int64) for t in tables]),
    )


def _blocks(
    source: PlinkGenotypes | Table, rows: NDArray[np.int64], block_size: int
) -> Iterator[NDArray[np.float64]]:
    """Blocks of columns, (columns, n_samples) float64; NaN where missing or absent."""
    total = len(source.names) if isinstance(source, Table) else source.n_variants
    for start in range(0, total, block_size):
        stop = min(start + block_size, total)
        if isinstance(source, Table):
            block: NDArray[np.floating[Any]] = source.values[:, start:stop].T[:, rows]
        else:
            packed = source.read_packed(start, stop)
            block = to_dosage(packed, source.n_samples, np.float64)[:, rows]
        block[:, rows < 0] = np.nan
        yield block.astype(np.float64, copy=False)


def _moments(
    source: PlinkGenotypes | Table, rows: NDArray[np.int64], block_size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_], bool]:
    """Mean of the observed, population SD after imputation, whether all is missing.

    The last value says whether the columns that vary hold small integers alone, none missing.
    """
    means: list[float] = []
    sds: list[float] = []
    integer = True
    for block in _blocks(source, rows, block_size):
        for values in block:
            missing = np.isnan(values)
            mean = float(values[~missing].mean()) if not missing.all() else np.nan
            values[missing] = mean
            means.append(mean)
            sds.append(0.0 if np.isnan(mean) else population_sd(values, mean))
            if sds[-1] > 0 and integer:
                small = np.abs(values).max() <= 16 and bool((values == np.rint(values)).all())
                integer = small and not missing.any()
    mean_array = np.array(means)
    return mean_array, np.array(sds), np.isnan(mean_array), integer


def _elsewhere(path: str, names: NDArray[np.object_], which: NDArray[np.bool_]) -> list[str]:
    """Count the variants that are on none of the human autosomes."""
    n = int(which.sum())
    if not n:
        return []
    some = ", ".join(shown(str(name)) for name in names[which][:5])
    more = ", ..." if n > 5 else ""
    return [
        f"{path}: {n:,} of {len(names):,} columns are on other chromosomes than 1 to "
        f"{HUMAN_AUTOSOMES} (first: {some}{more}); they stay, though the sexes may differ there"
    ]


def _left_out(
    path: str, names: NDArray[np.object_], which: NDArray[np.bool_], why: str
) -> list[str]:
    chosen = names[which]
    if not len(chosen):
        return []
    some = ", ".join(shown(str(name)) for name in chosen[:5])
    more = ", ..." if len(chosen) > 5 else ""
    return [f"{path}: {len(chosen)} of {len(names)} columns left out, {why} (first: {some}{more})"]
