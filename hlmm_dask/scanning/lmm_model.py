"""What workers need for the mixed model: small in the published model, its arrays in files."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_dask.durable import aside, rename
from hlmm_dask.errors import InputError, StoreError
from hlmm_dask.genotypes.contigs import contig_runs
from hlmm_dask.kernels.left_out import FewKept
from hlmm_dask.kernels.lmm import LMMNull
from hlmm_dask.kernels.lmm_block import LMMBlockModel, Plan, put_together, taken_apart
from hlmm_dask.kernels.lmm_fixed import FixedPlan, plan_fixed
from hlmm_dask.kernels.lmm_refit import plan_refit
from hlmm_dask.kernels.packed import FloatArray, IntArray, PackedLayout
from hlmm_dask.kernels.table import Filters
from hlmm_dask.scanning.config import ScanConfig
from hlmm_dask.scanning.events import Note, Observer, tell
from hlmm_dask.scanning.graph import BlockTask, load_model, publish_model, published_model
from hlmm_dask.scanning.lmm import LMMNullModel, VarianceEstimates
from hlmm_dask.scanning.source import Source
from hlmm_dask.store import ResultsStore
from hlmm_dask.tab_separated import line

# Condition of the covariance up to which single precision gives standard errors to six digits.
_MILD = 1e3
_ARRAYS = "lmm-*.npy"
_Array = NDArray[np.floating[Any]]

# Arrays of this process by their digest: phenotypes of the same samples share one.
_open: "WeakValueDictionary[str, _Array]" = WeakValueDictionary()


@dataclass(frozen=True)
class StoredPlan:
    """A plan without its array, and name and SHA-256 of the file that has it."""

    part: FixedPlan | LMMNull
    file: str
    digest: str


@dataclass(frozen=True)
class StoredPlans:
    """Plans whose arrays are mapped where they are needed; a few are kept."""

    stored: tuple[StoredPlan, ...]
    folder: Path
    _kept: FewKept[Plan] = field(default_factory=FewKept, compare=False, repr=False)

    def __getitem__(self, index: int, /) -> Plan:
        return self._kept.get(index, lambda: self._read(self.stored[index]))

    def _read(self, one: StoredPlan) -> Plan:
        array = _open.get(one.digest)
        if array is None:
            path = self.folder / one.file
            try:
                if _digest(path) != one.digest:
                    raise StoreError(f"{path}: damaged; start again with --overwrite")
            except FileNotFoundError:
                raise StoreError(f"{path}: missing; start again with --overwrite") from None
            array = _open.setdefault(one.digest, np.load(path, mmap_mode="r"))
        return put_together(one.part, array)


@dataclass(frozen=True)
class StoredLMM:
    """The published model: `LMMBlockModel` but for the arrays, and what was estimated.

    Attributes
    ----------
    layout, filters, diagonals, starts, sets
        As in ``LMMBlockModel``.
    stored : tuple of StoredPlan
        By set of variants.
    estimates : tuple of VarianceEstimates
        With the whole matrix, then without each chromosome.
    """

    layout: PackedLayout
    filters: Filters
    diagonals: FloatArray
    starts: IntArray
    sets: IntArray
    stored: tuple[StoredPlan, ...]
    estimates: tuple[VarianceEstimates, ...]

    def opened(self, folder: Path) -> LMMBlockModel:
        """Model whose arrays lie in a folder."""
        plans = StoredPlans(self.stored, folder)
        return LMMBlockModel(
            self.layout, self.filters, plans, self.diagonals, self.starts, self.sets
        )


def check_lmm_config(config: ScanConfig, null: LMMNullModel) -> None:
    """Raise an `InputError` for options that the mixed model has not."""
    if config.exclude_window is not None:
        raise InputError(
            "--exclude-window goes with random effects of single variants; give --loco"
        )
    if config.loco and not null.relationships.chromosomes:
        raise InputError(
            "--loco needs a relationship matrix whose chromosomes can be left out; give --grm-from"
        )


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
    names: list[str | None] = [None]
    starts = sets = np.zeros(1, dtype=np.int64)
    if config.loco:
        names, starts, sets = _chromosomes(source.variants(), null.relationships.chromosomes)
        if None in names:
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
    layout = PackedLayout(null.n_file_samples, null.sample_index)
    model = StoredLMM(
        layout, config.filters, np.array(diagonals), starts, sets, tuple(stored), tuple(estimates)
    )
    return publish_model(store, model)


def variance_table(store: ResultsStore) -> str:
    """Return what a run estimated without variants, as text: a line for each matrix."""
    names = list(VarianceEstimates.__dataclass_fields__)
    lines = [line(names)]
    for each in _load(store).estimates:
        values = [getattr(each, name) for name in names[1:]]
        shown = ("NaN" if np.isnan(value) else repr(float(value)) for value in values)
        lines.append(line([each.left_out, *shown]))
    return "".join(lines)


def remove_arrays(store: ResultsStore) -> None:
    """Remove the arrays of a finished run: they may be larger than its results."""
    for path in store.run_dir.glob(_ARRAYS):
        path.unlink(missing_ok=True)


def _load(store: ResultsStore) -> StoredLMM:
    model = load_model(store)
    assert isinstance(model, StoredLMM)
    return model


def _arrays_there(store: ResultsStore) -> bool:
    return all((store.run_dir / one.file).is_file() for one in _load(store).stored)


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
        with new.open("wb") as file:
            np.save(file, array)
    digest = _digest(new)
    name = f"lmm-{digest[:16]}.npy"
    rename(new, folder / name)
    return StoredPlan(part, name, digest)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
