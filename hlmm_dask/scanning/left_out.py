"""Which columns of G are left out for which variants, decided from chromosome and position."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_dask.durable import read_record, write_record
from hlmm_dask.errors import InputError, StoreError
from hlmm_dask.genotypes.contigs import plain_contig
from hlmm_dask.json_files import COUNT
from hlmm_dask.kernels.block_model import BlockModel
from hlmm_dask.kernels.left_out import LeftOut, SetNull, fit_without
from hlmm_dask.scanning.config import ScanConfig
from hlmm_dask.scanning.null import NullModel
from hlmm_dask.store import ResultsStore
from hlmm_dask.tab_separated import line

SET_NULLS_FILE = "left_out_null.json"

_HEADER = ("left_out", "columns", "h2", "h2_se")
_SET_NULLS = {"sets": [{"left_out": str, "columns": COUNT, "h2": float, "h2_se": float}]}


def require_positions(config: ScanConfig, *, positions: bool, fit_covariates: bool) -> None:
    """Raise an `InputError` where columns can't be left out.

    Parameters
    ----------
    config : ScanConfig
        Says whether, and which.
    positions : bool
        Whether the columns of the random effects have positions.
    fit_covariates : bool
        Whether covariates stay in every model.
    """
    if not config.leaves_out:
        return
    option = "--loco" if config.loco else "--exclude-window"
    if not positions:
        raise InputError(
            f"{option} needs chromosome and position of each column of the random effects, which "
            "--random_gts_txt has not; give them as a .bed"
        )
    if fit_covariates and not config.loco:
        raise InputError(
            "--exclude-window with --fit_covariates would fit a null model with all covariates "
            "for each window; give --loco, or leave out --fit_covariates"
        )


def check_left_out(config: ScanConfig, null: NullModel) -> None:
    """Raise an `InputError` where a null model's columns can't be left out."""
    require_positions(
        config,
        positions=null.random_contig is not None,
        fit_covariates=null.model.X.shape[1] + null.model.V.shape[1] > 2,
    )


def left_out_sets(
    variants: Iterable[pd.DataFrame], null: NullModel, window: float | None = None
) -> LeftOut:
    """Find the columns on each variant's chromosome, or near it.

    Parameters
    ----------
    variants : iterable of DataFrame
        The variants of the scan in pieces, with ``contig`` and ``position``.
    null : NullModel
        Its random effects' columns have chromosomes and positions.
    window : float, optional
        Kilobases on either side within which columns are left out, bounds included; the whole
        chromosome by default.
    """
    assert null.random_contig is not None
    assert null.random_position is not None
    labels = [plain_contig(str(name)) for name in null.random_contig]
    names = list(dict.fromkeys(labels))
    code_of = {name: code for code, name in enumerate(names)}
    codes = np.array([code_of[name] for name in labels], dtype=np.int64)
    order = np.lexsort((null.random_position, codes)).astype(np.int64)
    positions = null.random_position[order]
    bounds = np.searchsorted(codes[order], np.arange(len(names) + 1))

    starts: list[NDArray[np.int64]] = []
    ranges: list[NDArray[np.int64]] = []
    first = 0
    previous = np.full((1, 2), -1)
    for piece in variants:
        found = np.zeros((len(piece), 2), dtype=np.int64)
        contig, contigs = pd.factorize(piece["contig"].to_numpy())
        position = piece["position"].to_numpy(dtype=np.int64)
        for i, name in enumerate(contigs):
            code = code_of.get(plain_contig(str(name)))
            if code is None:
                continue
            low, high = bounds[code : code + 2]
            here = contig == i
            if window is None:
                found[here] = low, high
                continue
            near, reach = positions[low:high], 1000.0 * window
            found[here, 0] = low + np.searchsorted(near, position[here] - reach, side="left")
            found[here, 1] = low + np.searchsorted(near, position[here] + reach, side="right")
        found[found[:, 0] == found[:, 1]] = 0
        new = np.flatnonzero((found != np.concatenate([previous, found[:-1]])).any(axis=1))
        starts.append(first + new)
        ranges.append(found[new])
        first += len(piece)
        previous = found[-1:] if len(found) else previous
    distinct, sets = np.unique(np.concatenate(ranges), axis=0, return_inverse=True)
    return LeftOut(
        order=order,
        ranges=distinct,
        starts=np.concatenate(starts),
        sets=sets.reshape(-1).astype(np.int64),
        names=tuple(_name(low, high, codes[order], names) for low, high in distinct),
    )


def _name(low: int, high: int, codes: NDArray[np.int64], names: list[str]) -> str:
    return names[codes[low]] if high > low else "none"


def with_nulls(model: BlockModel) -> BlockModel:
    """Fit the null model of every set now, and raise an `InputError` where that fails."""
    left_out, dense = model.left_out, model.dense
    assert left_out is not None
    assert dense.design is not None
    nulls: list[SetNull] = []
    for index in range(left_out.n_sets):
        columns = left_out.columns(index)
        if len(columns) == dense.design.n_random:
            # The whole model serves; its standard error is in the null model's own file.
            nulls.append(SetNull(dense.alpha, dense.beta, dense.h2, np.nan, True))
            continue
        null = fit_without(dense, model.with_gram, columns)
        if not null.converged:
            raise InputError(
                f"random effects without chromosome {left_out.names[index]}: the null model of the "
                f"{len(columns)} columns left did not converge; choose other columns for G"
            )
        nulls.append(null)
    return replace(model, left_out=replace(left_out, nulls=tuple(nulls)))


def columns_digest(null: NullModel) -> str:
    """SHA-256 of chromosome and position of the columns of G."""
    assert null.random_contig is not None
    assert null.random_position is not None
    pairs = zip(null.random_contig, null.random_position, strict=True)
    return hashlib.sha256("\n".join(f"{c}\t{p}" for c, p in pairs).encode()).hexdigest()


def write_set_nulls(store: ResultsStore, left_out: LeftOut) -> None:
    """Keep what was estimated for each chromosome with the store's run."""
    rows = [
        dict(zip(_HEADER, (name, int(left), null.h2, null.h2_se), strict=True))
        for name, left, null, range_ in zip(
            left_out.names, left_out.n_left, left_out.nulls or (), left_out.ranges, strict=True
        )
        if range_[1] > range_[0]
    ]
    write_record(store.run_dir / SET_NULLS_FILE, {"sets": rows})


def read_set_nulls(store: ResultsStore) -> list[dict[str, Any]]:
    """Return what :func:`write_set_nulls` kept; a `StoreError` if it is damaged."""
    path = store.run_dir / SET_NULLS_FILE
    try:
        return list(read_record(path, _SET_NULLS)["sets"])
    except (FileNotFoundError, ValueError):
        raise StoreError(
            f"{path}: damaged or missing; run the scan again with --resume, which repairs it"
        ) from None


def set_null_table(rows: list[dict[str, Any]]) -> str:
    """Text of the table: chromosome left out, columns left, h2 and its standard error."""
    lines = [line(_HEADER)]
    for row in rows:
        h2, h2_se = ("NaN" if np.isnan(row[k]) else repr(float(row[k])) for k in _HEADER[2:])
        lines.append(line([str(row["left_out"]), str(row["columns"]), h2, h2_se]))
    return "".join(lines)
