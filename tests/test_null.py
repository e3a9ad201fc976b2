"""The null model: what it is fitted to, and what it reports."""

import pickle

import numpy as np
import pytest
from studies import Study, write_values

from hlmm_dask import HLM, HLMM, InputError, fit_null, open_bed
from hlmm_dask.genotypes.plink import open_plink
from hlmm_dask.tables import read_table


def test_projected_phenotype(study: Study) -> None:
    null = fit_null(study.bed, study.pheno, mean_covariates=study.covar)
    X = (study.covariates - study.covariates.mean(axis=0)) / study.covariates.std(axis=0)
    X = np.column_stack([np.ones(len(X)), X])
    fit = HLM(study.y, X, np.ones(len(X))).fit()
    adjusted = (study.y - X @ fit.alpha) * np.exp(-0.5 * fit.beta[0])
    np.testing.assert_allclose(null.model.y, adjusted, rtol=1e-9, atol=1e-9)
    assert null.model.X.shape == null.model.V.shape == (300, 1)
    assert null.loglik == pytest.approx(fit.loglik, abs=1e-9)
    assert null.mean_effects.names == ("Intercept", "1", "2")
    assert null.variance_effects.names == ("Intercept",)
    assert (null.name, null.n_random, null.h2) == ("HLM", 0, None)


def test_without_covariates_too_the_phenotype_is_scaled(study: Study) -> None:
    y = fit_null(study.bed, study.pheno).model.y
    assert y.mean() == pytest.approx(0, abs=1e-12)
    assert y.std() == pytest.approx(1, rel=1e-9)


def test_kept_covariates(study: Study) -> None:
    null = fit_null(
        study.bed, study.pheno, mean_covariates=study.covar, variance_covariates=study.covar,
        fit_covariates=True,
    )  # fmt: skip
    np.testing.assert_array_equal(null.model.y, study.y)
    assert null.model.X.shape == null.model.V.shape == (300, 3)
    np.testing.assert_allclose(null.model.X[:, 1:].mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(null.model.X[:, 1:].std(axis=0), 1, rtol=1e-12)


def test_h2(study: Study) -> None:
    values = np.random.default_rng(0).normal(size=(300, 6)) + 0.2 * study.y[:, None]
    table = write_values(study.folder / "g.txt", study.samples, values)
    null = fit_null(study.bed, study.pheno, random_table=table)
    G = (values - values.mean(axis=0)) / values.std(axis=0) / np.sqrt(6)
    one = HLMM(null.model.y, np.ones(300), np.ones(300), G).fit()
    assert null.h2 == pytest.approx(one.h2, rel=1e-6)
    assert null.h2_se == pytest.approx(one.h2_se, rel=1e-6)
    assert null.h2_loglik == pytest.approx(one.loglik, abs=1e-8)
    for start in (1e-4, 0.5, 0.99):
        again = fit_null(study.bed, study.pheno, random_table=table, h2_init=start)
        assert again.h2 == pytest.approx(null.h2, rel=1e-6)


def test_every_kind_of_source(study: Study) -> None:
    null = fit_null(study.bed, study.pheno)
    for genotypes in (str(study.bed), open_plink(study.bed), open_bed(study.bed)):
        other = fit_null(genotypes, read_table(study.pheno))
        assert other.input_sha256 == null.input_sha256
        assert other.file_samples_sha256 == null.file_samples_sha256
    again = pickle.loads(pickle.dumps(null))
    np.testing.assert_array_equal(again.model.y, null.model.y)


def test_accounting_and_notes(study: Study) -> None:
    y = study.y.copy()
    y[:7] = np.nan
    write_values(study.pheno, study.samples, y)
    study.pheno.write_text("FID IID height\n" + study.pheno.read_text())
    covar = np.column_stack([study.covariates, np.ones(300), 2 * study.covariates[:, 1]])
    write_values(study.covar, study.samples, covar)
    null = fit_null(study.bed, study.pheno, phenotype_column="height", mean_covariates=study.covar)
    assert [n for _, n in null.accounting] == [300, 293, 293, 293]
    text = "\n".join(null.notes)
    for part in ("is a header", "'3' is constant", "'4' repeats '2'"):
        assert text.count(part) == 1
    assert null.mean_effects.names == ("Intercept", "1", "2")


@pytest.mark.parametrize("h2_init", [0.0, -1.0, 1.0, float("nan"), float("inf")])
def test_start_of_h2(study: Study, h2_init: float) -> None:
    with pytest.raises(InputError, match="--h2-init"):
        fit_null(study.bed, study.pheno, h2_init=h2_init)


def test_phenotype_that_a_covariate_explains(study: Study) -> None:
    write_values(study.pheno, study.samples, 3 * study.covariates[:, 0])
    with pytest.raises(InputError, match="phenotype '1'"):
        fit_null(study.bed, study.pheno, mean_covariates=study.covar)


def test_two_kinds_of_random_effects(study: Study) -> None:
    with pytest.raises(InputError, match="give one"):
        fit_null(study.bed, study.pheno, random_genotypes=study.bed, random_table=study.covar)
