"""A finished scan with what went into it, for commands that look at some of its variants."""

from dataclasses import dataclass
from glob import escape
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_dask.errors import InputError
from hlmm_dask.followup.chosen import consecutive
from hlmm_dask.followup.inputs import Files, Study, open_study
from hlmm_dask.store import ResultsStore
from hlmm_dask.view.facts import Facts, gather

FloatArray = NDArray[np.float64]

_MODELS = ("HLM", "HLMM")


@dataclass(frozen=True)
class FinishedScan:
    """A finished scan of one phenotype.

    Attributes
    ----------
    store : ResultsStore
        Its results.
    facts : Facts
        What is known about the run.
    study : Study
        What it read, the null model fitted again to the same values.
    """

    store: ResultsStore
    facts: Facts
    study: Study

    def counts(self, rows: pd.DataFrame) -> FloatArray:
        """Read copies (m, n_file_samples) of the effect allele, NaN where missing.

        Parameters
        ----------
        rows : DataFrame
            Results of m variants, as `results_of` gives them.

        Raises
        ------
        ChangedInputError
            If they are not the genotypes that were scanned.
        """
        none = np.empty((0, self.study.genotypes.n_samples))
        runs = consecutive(rows.index.to_numpy())
        parts = (self.study.scanned.counts(start, stop) for start, stop in runs)
        return np.concatenate([none, *parts])


def open_finished(outprefix: str, files: Files) -> FinishedScan:
    """Open a finished scan and read what went into it.

    Parameters
    ----------
    outprefix : str
        OUTPREFIX of the scan, with the phenotype's name where it had several.
    files : Files
        Read in place of those of the record.

    Raises
    ------
    InputError, StoreError
        If there is no finished scan of an HLM or HLMM, or a file is missing or not the one that
        was scanned.
    """
    store = _open(outprefix)
    facts = gather(store, outprefix)
    if facts.attrs["model"] not in _MODELS:
        raise InputError(
            f"{store.path}: a scan with the model {facts.attrs['model']}, expected one of "
            f"{' or '.join(_MODELS)}: others have no effect on the variance"
        )
    for name in ("phenofile", "mean_covar", "var_covar"):
        path = getattr(files, name) or facts.options.get(name)
        folder = "" if getattr(files, name) else str(facts.run.get("directory", ""))
        if path is not None and not Path(folder, path).is_file():
            raise InputError(
                f"{Path(folder, path)}: no such file, the scan has read it (--{name}); give its "
                f"place now with --{name} FILE, or start from the folder of the scan"
            )
    return FinishedScan(store, facts, open_study(store, facts, files))


def _open(outprefix: str) -> ResultsStore:
    """Open the store of a finished scan."""
    path = Path(f"{outprefix}.zarr")
    if not path.exists():
        names = sorted(each.stem for each in path.parent.glob(f"{escape(path.stem)}.*.zarr"))
        if names:
            some = ", ".join(str(path.with_name(name)) for name in names[:5])
            raise InputError(
                f"{outprefix}: {len(names)} scans of this name, one for each phenotype and "
                f"transform; give one of {some}{', ...' if len(names) > 5 else ''}"
            )
    store = ResultsStore.open(path)
    store.require_intact()
    store.require_complete()
    return store
