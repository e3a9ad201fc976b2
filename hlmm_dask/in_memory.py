"""All tests of a scan for genotypes in memory."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hlmm_dask.arguments import flag
from hlmm_dask.covariates import population_sd
from hlmm_dask.errors import InputError
from hlmm_dask.genotypes.packed import encode
from hlmm_dask.kernels.block import fit_packed
from hlmm_dask.kernels.block_model import Method, block_model
from hlmm_dask.kernels.packed import PackedLayout
from hlmm_dask.kernels.score import SPA_THRESHOLD
from hlmm_dask.kernels.table import Filters
from hlmm_dask.models.random_design import RandomDesign
from hlmm_dask.option_rules import require
from hlmm_dask.samples import AlignedSamples
from hlmm_dask.scanning.config import ScanConfig
from hlmm_dask.scanning.null import fit_null_arrays

FloatArray = NDArray[np.float64]


def variant_tests(
    genotypes: NDArray[np.int8],
    y: ArrayLike,
    *,
    mean_covariates: ArrayLike | None = None,
    variance_covariates: ArrayLike | None = None,
    random_effects: FloatArray | None = None,
    fit_covariates: bool = False,
    min_maf: float = 0.0,
    method: Method = "auto",
    spa_threshold: float = SPA_THRESHOLD,
    tests: Sequence[str] = (),
) -> pd.DataFrame:
    """Fit and test each variant as a scan does.

    Parameters
    ----------
    genotypes : (m, n) int8
        Copies of the effect allele, -1 where missing.
    y : (n,) array_like
        Phenotype.
    mean_covariates, variance_covariates : (n, c), (n, v) array_like, optional
        Covariates of the mean and of the log variance, without the intercept.
    random_effects : (n, l) float64, optional
        Design of the random effects, columns standardised and scaled by l^-½.
    fit_covariates : bool
        Keep the covariates in every model instead of projecting them out.
    min_maf, method, spa_threshold, tests
        See ``ScanConfig``.

    Returns
    -------
    DataFrame
        One row for each variant, columns as in a results store.

    Raises
    ------
    InputError
        If shapes don't fit, or the null model can't be fitted.
    """
    config = ScanConfig(
        min_maf=min_maf, method=method, spa_threshold=spa_threshold, tests=tuple(tests)
    )
    flag("fit_covariates", fit_covariates)
    covariates = mean_covariates is not None or variance_covariates is not None
    require(
        {
            "method": config.method, "random_gts": random_effects is not None,
            "fit_covariates": fit_covariates, "mean_covar": covariates,
        },
        {"method": "auto", "random_gts": False, "fit_covariates": False, "mean_covar": False},
    )  # fmt: skip
    values = np.asarray(y, dtype=np.float64)
    genotypes = np.asarray(genotypes)
    if genotypes.ndim != 2 or values.shape != genotypes.shape[1:]:
        raise InputError(
            f"genotypes {genotypes.shape} and phenotype {values.shape}: expected (m, n) and (n,)"
        )
    mean, variance = (_matrix(c, values) for c in (mean_covariates, variance_covariates))
    iid = [str(i) for i in range(len(values))]
    aligned = AlignedSamples(
        sample_index=np.arange(len(values)),
        ids=pd.DataFrame({"fid": iid, "iid": iid}),
        phenotype_name="y",
        y=values,
        mean_covariates=mean,
        variance_covariates=variance,
        mean_names=tuple(f"x{i}" for i in range(mean.shape[1])),
        variance_names=tuple(f"v{i}" for i in range(variance.shape[1])),
        mean_center=mean.mean(axis=0),
        mean_scale=mean.std(axis=0),
        variance_center=variance.mean(axis=0),
        variance_scale=variance.std(axis=0),
        accounting=(),
        notes=(),
    )
    design = None if random_effects is None else RandomDesign.from_matrix(random_effects)
    null = fit_null_arrays(aligned, design, fit_covariates=fit_covariates)
    model = block_model(
        null.model, PackedLayout(len(values), np.arange(len(values))), Filters(min_maf, 100.0),
        method=config.method, spa_threshold=config.spa_threshold, tests=config.tests,
    )  # fmt: skip
    return pd.DataFrame(fit_packed(model, encode(genotypes)), columns=list(config.columns))


def _matrix(covariates: ArrayLike | None, y: FloatArray) -> FloatArray:
    if covariates is None:
        return np.empty((len(y), 0))
    matrix = np.asarray(covariates, dtype=np.float64)
    if matrix.ndim != 2 or len(matrix) != len(y):
        raise InputError(f"covariates {matrix.shape}: expected {len(y)} rows, one a sample")
    # The spread that rounding leaves of a constant is none.
    if not all(population_sd(column, column.mean()) > 0.0 for column in matrix.T):
        raise InputError("covariates: expected columns that are not constant")
    return matrix
