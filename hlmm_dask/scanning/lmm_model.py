"""The mixed model of a scan: what decides its numbers, and what workers need of it."""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hlmm_dask.durable import PRIVATE, aside, create, read_record, rename, write_record
from hlmm_dask.errors import StoreError
from hlmm_dask.genotypes.contigs import contig_runs
from hlmm_dask.kernels.lmm import LMMNull
from hlmm_dask.kernels.lmm_block import LMMBlockModel, Plan, taken_apart
from hlmm_dask.kernels.lmm_fixed import plan_fixed
from hlmm_dask.kernels.lmm_refit import plan_refit
from hlmm_dask.kernels.packed import IntArray, PackedLayout
from hlmm_dask.scanning.config import ScanConfig
from hlmm_dask.scanning.events import Note, Observer, tell
from hlmm_dask.scanning.lmm import LMMNullModel, VarianceEstimates
from hlmm_dask.scanning.published import BlockTask, load_model, publish_model, published_model
from hlmm_dask.scanning.source import Source
from hlmm_dask.scanning.stored_lmm import StoredLMM, StoredPlan, array_name, file_sha256
from hlmm_dask.store import ResultsStore
from hlmm_dask.tab_separated import line

# Condition of the covariance up to which single precision gives standard errors to six digits.
_MILD = 1e3
ESTIMATES_FILE = "lmm_null.json"
_NUMBERS = ("h2", "h2_se", "sigma2", "tau2", "loglik_reml", "loglik_ml")
_ESTIMATES = {"estimates": [{"left_out": str, **dict.fromkeys(_NUMBERS, float)}]}


def lmm_fingerprint(
    source: Source, null: LMMNullModel, config: ScanConfig, block_size: int
) -> dict[str, Any]:
    """All that decides the numbers of a store, and its blocks."""
    return {
        "genotypes": source.identity(),
        **config.fingerprint(),
        "start": source.start,
        "stop": source.stop,
        "phenotype": null.phenotype_name,
        "transform": null.transform,
        "model": null.name,
        "fit_covariates": True,
        "n_samples": null.n_samples,
        "phenotype_and_covariates_sha256": null.input_sha256,
        **null.relationships.identity,
        "hlmm_dask": version("hlmm-dask"),
        "block_size": block_size,
    }


def lmm_block_model(null: LMMNullModel, config: ScanConfig) -> LMMBlockModel:
    """Model with the whole matrix for all variants, in memory."""
    layout = PackedLayout(null.n_file_samples, null.sample_index)
    plans = (_plan(null.whole, config),)
    one = np.zeros(1, dtype=np.int64)
    return LMMBlockModel(layout, config.filters, plans, np.array([null.diagonal]), one, one)


def publish_lmm(
    null: LMMNullModel,
    config: ScanConfig,
    source: Source,
    store: ResultsStore,
    observers: Sequence[Observer],
) -> BlockTask:
    """Put model and arrays where every worker finds them; those of an earlier part stay."""
    if (task := published_model(store)) is not None and _arrays_there(store):
        return task
    names, starts, sets = _sets(null, config, source)
    if None in names and config.loco:
        n = int(np.diff(starts, append=store.n_variants)[sets == names.index(None)].sum())
        text = f"{n:,} variants are on chromosomes without a variant of the matrix"
        tell(observers, Note(f"--loco: {text}, nothing is left out for them"))
    stored, diagonals, estimates = [], [], [null.estimates]
    for name in names:
        fitted, diagonal = null.whole, null.diagonal
        if name is not None:
            fitted, diagonal, estimate = null.without(name)
            estimates.append(estimate)
        stored.append(_stored(_plan(fitted, config), store.run_dir))
        diagonals.append(diagonal)
    _write_estimates(store, estimates)
    layout = PackedLayout(null.n_file_samples, null.sample_index)
    model = StoredLMM(layout, config.filters, np.array(diagonals), starts, sets, tuple(stored))
    return publish_model(store, model)


def repair_estimates(
    store: ResultsStore, null: LMMNullModel, config: ScanConfig, source: Source
) -> None:
    """Write what was estimated without variants again where its record is damaged or missing."""
    try:
        _read_estimates(store)
    except StoreError:
        names, _, _ = _sets(null, config, source)
        _write_estimates(
            store, [null.estimates, *(null.without(name)[2] for name in names if name is not None)]
        )


def variance_table(store: ResultsStore) -> str:
    """Return what a run estimated without variants, as text: a line for each matrix."""
    lines = [line(["left_out", *_NUMBERS])]
    for each in _read_estimates(store):
        values = [getattr(each, name) for name in _NUMBERS]
        shown = ("NaN" if np.isnan(value) else repr(float(value)) for value in values)
        lines.append(line([each.left_out, *shown]))
    return "".join(lines)


def _write_estimates(store: ResultsStore, estimates: Iterable[VarianceEstimates]) -> None:
    rows = [asdict(each) for each in estimates]
    write_record(store.run_dir / ESTIMATES_FILE, {"estimates": rows})


def _read_estimates(store: ResultsStore) -> list[VarianceEstimates]:
    path = store.run_dir / ESTIMATES_FILE
    try:
        return [
            VarianceEstimates(row["left_out"], *(float(row[name]) for name in _NUMBERS))
            for row in read_record(path, _ESTIMATES)["estimates"]
        ]
    except (FileNotFoundError, ValueError):
        raise StoreError(
            f"{path}: damaged or missing; run the scan again with --resume, which repairs it"
        ) from None


def _arrays_there(store: ResultsStore) -> bool:
    model = load_model(store)
    assert isinstance(model, StoredLMM)
    return all((store.run_dir / one.file).is_file() for one in model.stored)


def _plan(null: LMMNull, config: ScanConfig) -> Plan:
    if config.h2 == "refit":
        return plan_refit(null)
    condition = null.lambda_reml * float(null.rotation.values[0])
    return plan_fixed(null, single=condition < _MILD)


def _stored(plan: Plan, folder: Path) -> StoredPlan:
    part, array = taken_apart(plan)
    new = aside(folder / "lmm.npy")
    try:
        # Phenotypes of the same samples share one file, where the file system can do that.
        os.link(str(getattr(array, "filename", "")), new)
    except OSError:
        with create(new, PRIVATE) as file:
            np.save(file, array, allow_pickle=False)
    else:
        with suppress(OSError):  # file systems without permissions
            new.chmod(PRIVATE)
    digest = file_sha256(new)
    name = array_name(digest)
    rename(new, folder / name)
    return StoredPlan(part, name, digest)


def _sets(
    null: LMMNullModel, config: ScanConfig, source: Source
) -> tuple[list[str | None], IntArray, IntArray]:
    """Chromosome that each set of variants leaves out, and the runs of variants of one set."""
    if config.loco:
        return _chromosomes(source.variants(), null.relationships.chromosomes)
    one = np.zeros(1, dtype=np.int64)
    return [None], one, one


def _chromosomes(
    variants: Iterable[pd.DataFrame], known: Sequence[str]
) -> tuple[list[str | None], IntArray, IntArray]:
    """Names of the sets, first variant of each run of variants of one set, and its set.

    Variants on chromosomes that are not known are in a set without a name.
    """
    found, starts, runs = contig_runs(piece["contig"].to_numpy() for piece in variants)
    labels = [name if name in known else None for name in found]
    names = list(dict.fromkeys(labels))
    sets = np.array([names.index(label) for label in labels], dtype=np.int64)[runs]
    new = np.diff(sets, prepend=-1) != 0
    return names, starts[:-1][new], sets[new]
