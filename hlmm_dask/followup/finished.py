"""A finished scan with what went into it: its files found, read again and compared."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from hlmm_dask.errors import InputError
from hlmm_dask.followup.chosen import consecutive
from hlmm_dask.genotypes.packed import to_dosage
from hlmm_dask.genotypes.paths import expand_paths
from hlmm_dask.genotypes.plink import PlinkGenotypes, open_plink
from hlmm_dask.placement import read_manifest
from hlmm_dask.run_record import read_runs
from hlmm_dask.scanning.null import NullModel, read_null_input
from hlmm_dask.store import ResultsStore
from hlmm_dask.tables import Table, read_table

FloatArray = NDArray[np.float64]

# Options of the scan that name files; the same options of other commands replace them.
FILES = ("genofile", "phenofile", "mean_covar", "var_covar", "random_gts")
_MODELS = ("HLM", "HLMM")


@dataclass(frozen=True)
class FinishedScan:
    """A finished scan of one phenotype.

    Attributes
    ----------
    store : ResultsStore
        Its results.
    options : mapping
        Of its command, with files that were given anew.
    fingerprint : mapping
        What decided its numbers.
    genotypes : PlinkGenotypes
        Those that were scanned.
    null : NullModel
        Its null model, fitted again to the same values.
    first : int
        Index in the files of the scan's first variant.
    phenotype : str
        Name of the phenotype.
    """

    store: ResultsStore
    options: Mapping[str, Any]
    fingerprint: Mapping[str, Any]
    genotypes: PlinkGenotypes
    null: NullModel
    first: int
    phenotype: str

    @property
    def missing(self) -> tuple[str, ...]:
        """What stands for a missing value in the tables."""
        return (self.options["missing_char"],)

    def covariates(self, part: str) -> Table | None:
        """Read the covariates of the ``mean`` or the log variance, ``var``."""
        return covariates(self.options, part)

    def counts(self, rows: pd.DataFrame) -> FloatArray:
        """Read copies (m, n_file_samples) of the effect allele, NaN where missing.

        Parameters
        ----------
        rows : DataFrame
            Results of m variants, as `results_of` gives them.

        Raises
        ------
        InputError
            If they are not the genotypes that were scanned.
        """
        n = self.genotypes.n_samples
        counts = np.empty((len(rows), n))
        done = 0
        for start, stop in consecutive(rows.index.to_numpy()):
            packed = self.genotypes.read_packed(self.first + start, self.first + stop)
            counts[done : done + stop - start] = to_dosage(packed, n, np.float64)
            done += stop - start
        if self.store.effect_allele_is_a2:
            counts = 2.0 - counts
        self._require_same(rows, counts[:, self.null.sample_index])
        return counts

    def _require_same(self, rows: pd.DataFrame, counts: FloatArray) -> None:
        n = np.isfinite(counts).sum(axis=1)
        copies = np.nansum(counts, axis=1)
        then = rows["n_samples"].to_numpy()
        expected = 2.0 * then * rows["effect_allele_frequency"].to_numpy()
        # Where nobody is called there is no frequency.
        differs = (n != then) | (np.abs(copies - expected) > 0.01)
        if differs.any():
            i = int(np.argmax(differs))
            raise InputError(
                f"{self.genotypes.paths[0]}: variant {rows['variant_id'].iloc[i]} has {n[i]} calls "
                f"and {copies[i]:.0f} copies of the effect allele, {then[i]:.0f} and "
                f"{expected[i]:.0f} when it was scanned; the file has changed: scan it again"
            )


def open_finished(outprefix: str, files: Mapping[str, Any]) -> FinishedScan:
    """Open a finished scan and read what went into it.

    Parameters
    ----------
    outprefix : str
        OUTPREFIX of the scan, with the phenotype's name where it had several; the store's path
        does as well.
    files : mapping
        By the names in ``FILES``, files to be read in place of those of the record, or None.

    Raises
    ------
    InputError, StoreError
        If there is no finished scan of an HLM or HLMM, or a file is missing or not the one that
        was scanned.
    """
    outprefix = outprefix.removesuffix("/").removesuffix(".zarr")
    store = ResultsStore.open(f"{outprefix}.zarr")
    store.require_intact()
    store.require_complete()
    runs = read_runs(outprefix)
    if not runs:
        raise InputError(
            f"{outprefix}.run.json: missing, it names the files that were scanned; restore it, or "
            "scan again"
        )
    attrs = dict(zarr.open_group(store.path, mode="r").attrs)
    if attrs["model"] not in _MODELS:
        raise InputError(
            f"{store.path}: a scan with the model {attrs['model']}, expected one of "
            f"{' or '.join(_MODELS)}: others have no effect on the variance"
        )
    options = runs[-1]["options"] | {k: v for k, v in files.items() if v is not None}
    _require_files(options)
    fingerprint = read_manifest(store.path)["fingerprint"]
    genotypes = open_plink(options["genofile"])
    _require_equal(
        f"{genotypes.paths[0]}, .bim and .fam", genotypes.identity(), fingerprint["genotypes"]
    )
    random = options["random_gts"]
    text = options["random_gts_txt"]
    missing = (options["missing_char"],)
    null = read_null_input(
        genotypes,
        read_table(options["phenofile"], missing=missing),
        phenotype_column=str(attrs["phenotype"]),
        mean_covariates=covariates(options, "mean"),
        variance_covariates=covariates(options, "var"),
        random_genotypes=None if random is None or text else open_plink(random),
        random_table=read_table(random, missing=missing) if random is not None and text else None,
        fit_covariates=options["fit_covariates"],
        h2_init=options["h2_init"],
        missing=missing,
    ).fit()
    tables = [str(options[n]) for n in FILES[1:] if options[n] is not None]
    expected = fingerprint["phenotype_and_covariates_sha256"]
    _require_equal(", ".join(tables), null.input_sha256, expected)
    return FinishedScan(
        store, options, fingerprint, genotypes, null, int(str(attrs["first_variant"])),
        str(attrs["phenotype"]),
    )  # fmt: skip


def covariates(options: Mapping[str, Any], part: str) -> Table | None:
    """Read the covariates of a scan, None where it had none."""
    path = options[f"{part}_covar"]
    if path is None:
        return None
    return read_table(path, missing=(options["missing_char"],)).only(options[f"{part}_covar_cols"])


def _require_files(options: Mapping[str, Any]) -> None:
    for name in FILES:
        given = options[name]
        if given is None:
            continue
        is_bed = name == "genofile" or (name == "random_gts" and not options["random_gts_txt"])
        for path in expand_paths(given) if is_bed else [Path(given)]:
            if not path.is_file():
                raise InputError(
                    f"{path}: no such file, the scan has read it (--{name}); give its place now "
                    f"with --{name} FILE, or start from the folder of the scan"
                )


def _require_equal(what: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise InputError(
            f"{what}: not what was scanned, the content has changed; give the files of the scan, "
            "or scan again"
        )
