from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hlmm_dask.covariates import population_sd
from hlmm_dask.errors import InputError
from hlmm_dask.genotypes.plink import open_plink
from hlmm_dask.samples import align
from hlmm_dask.tables import Table, read_table


def table(ids, values, names=None, path="pheno.txt"):
    values = np.asarray(values, dtype=float)
    values = values[:, None] if values.ndim == 1 else values
    names = tuple(names or (str(j + 1) for j in range(values.shape[1])))
    numbers = np.arange(1, len(ids) + 1)
    return Table(Path(path), list(ids), names, values, numbers)


def frame(ids):
    return pd.DataFrame(list(ids), columns=["fid", "iid"], dtype=str)


def shuffled(t, seed):
    order = np.random.default_rng(seed).permutation(len(t.ids))
    ids = [t.ids[i] for i in order]
    return Table(t.path, ids, t.names, t.values[order], t.line_numbers[order])


IDS = [(f"f{k % 7}", f"{k:03d}") for k in range(60)]


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def test_matches_by_id(rng):
    y = rng.normal(size=60)
    y[[3, 10]] = np.nan
    covar = rng.normal(size=(60, 2)) * 1e3
    covar[5, 1] = np.nan
    genotyped = [IDS[k] for k in rng.permutation(60)[:50]] + [("x", "y")]
    result = align(
        frame(genotyped),
        table(IDS, y),
        mean_covariates=table(IDS[:55], covar[:55], ["a", "b"], "mean.txt"),
        variance_covariates=table(IDS, covar[:, :1], ["c"], "var.txt"),
    )
    complete = [k for k in range(55) if k not in (3, 5, 10)]
    expected = [IDS.index(key) for key in genotyped if key in {IDS[k] for k in complete}]
    assert [genotyped[i] for i in result.sample_index] == [IDS[k] for k in expected]
    assert (np.diff(result.sample_index) > 0).all()
    assert result.sample_index.dtype == np.int64
    assert list(map(tuple, result.ids.to_numpy())) == [IDS[k] for k in expected]
    np.testing.assert_array_equal(result.y, y[expected])
    np.testing.assert_array_equal(result.mean_covariates, covar[expected])
    np.testing.assert_array_equal(result.variance_covariates, covar[expected, :1])
    # Moments over those with phenotype and covariates, genotyped or not.
    np.testing.assert_allclose(result.mean_center, covar[complete].mean(0), rtol=1e-13)
    np.testing.assert_allclose(result.mean_scale, covar[complete].std(0), rtol=1e-13)
    np.testing.assert_allclose(result.variance_scale, covar[complete, 0].std(), rtol=1e-13)
    np.testing.assert_allclose(
        result.standardised_mean_covariates(),
        (covar[expected] - covar[complete].mean(0)) / covar[complete].std(0),
        atol=1e-12,
    )
    assert result.standardised_variance_covariates().shape == (len(expected), 1)
    assert result.mean_names == ("a", "b")
    assert result.variance_names == ("c",)
    assert result.accounting == (
        ("in the phenotype file", 60),
        ("with a phenotype value", 58),
        ("with all covariates", 52),
        ("with genotypes", len(expected)),
    )
    lost, absent = result.notes
    assert lost.startswith("pheno.txt: 10 of 60 people are not in the genotypes (first: ")
    assert "; 1 there are not in it (first: 'x' 'y')" in lost
    assert absent.startswith("mean.txt: 5 of 58 people with a phenotype are not in it")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("with_genotypes", [True, False])
def test_order_of_the_files_does_not_matter(rng, seed, with_genotypes):
    pheno = table(IDS, rng.normal(size=60))
    covar = table(IDS[4:], rng.lognormal(0, 9, size=(56, 3)), path="c.txt")
    samples = frame(IDS[10:][::-1]) if with_genotypes else None
    a = align(samples, pheno, mean_covariates=covar, variance_covariates=covar)
    b = align(
        samples,
        shuffled(pheno, seed),
        mean_covariates=shuffled(covar, seed + 10),
        variance_covariates=shuffled(covar, seed + 20),
    )
    for field in fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, pd.DataFrame):
            pd.testing.assert_frame_equal(x, y)
        elif isinstance(x, np.ndarray):
            assert x.tobytes() == y.tobytes(), field.name
        else:
            assert x == y, field.name


def test_without_genotypes(rng):
    result = align(None, shuffled(table(IDS, rng.normal(size=60)), 1))
    assert list(map(tuple, result.ids.to_numpy())) == sorted(IDS)
    assert result.sample_index.tolist() == list(range(60))
    assert result.mean_covariates.shape == result.variance_covariates.shape == (60, 0)
    assert result.accounting[-1] == ("with a phenotype value", 60)
    assert result.n_samples == 60


def test_column_by_name(rng):
    values = rng.normal(size=(60, 2))
    pheno = table(IDS, values, ["height", "bmi"])
    result = align(frame(IDS), pheno, phenotype_column="bmi")
    assert result.phenotype_name == "bmi"
    np.testing.assert_array_equal(result.y, values[:, 1])


def test_constant_and_collinear_covariates(rng):
    a, b = rng.normal(size=(2, 60))
    columns = np.column_stack([a, np.full(60, 0.1), b, 3 * a - 2 * b + 1e5, a + 1e-3 * b**2])
    # Constant among the genotyped, not among all.
    local = np.where(np.arange(60) < 50, 2.0, 3.0)
    covar = table(IDS, np.column_stack([columns, local]), list("akbcdl"), "c.txt")
    result = align(frame(IDS[:50]), table(IDS, rng.normal(size=60)), mean_covariates=covar)
    assert result.mean_names == ("a", "b", "d")
    assert result.mean_covariates.shape == (50, 3)
    assert result.mean_center.shape == result.mean_scale.shape == (3,)
    assert len(result.notes) == 4
    assert "pheno.txt: 10 of 60 people are not in the genotypes" in result.notes[0]
    assert "c.txt: mean covariate 'k' is constant" in result.notes[1]
    assert "'l' is constant" in result.notes[2]
    assert "'c' is a linear combination of those before it ('a', 'b')" in result.notes[3]


@pytest.mark.parametrize("scale", [1e-200, 1e-8, 1e8, 1e150])
def test_population_sd_at_any_scale(rng, scale):
    values = rng.normal(size=50)
    assert population_sd(values * scale, float((values * scale).mean())) == pytest.approx(
        scale * values.std(), rel=1e-12
    )


def test_population_sd_of_a_constant():
    values = np.full(1001, 2001.1)
    assert population_sd(values, float(values.mean())) == 0.0


def test_errors(rng):
    y = rng.normal(size=60)
    with pytest.raises(InputError, match="all 60 values are missing"):
        align(frame(IDS), table(IDS, np.full(60, np.nan)))
    with pytest.raises(InputError, match="same value 2 for all 60"):
        align(frame(IDS), table(IDS, np.full(60, 2.0)))
    covar = table(IDS, rng.normal(size=(60, 5)), path="c.txt")
    with pytest.raises(InputError, match=r"7 samples .* 7 parameters .*\(60 in the phenotype"):
        align(frame(IDS[:7]), table(IDS, y), mean_covariates=covar)
    with pytest.raises(InputError, match=r"c.txt: none of the 60 people .* any value: '1'\)"):
        align(
            frame(IDS),
            table(IDS, y),
            mean_covariates=table(IDS, np.full(60, np.nan), path="c.txt"),
        )
    other = [("q", key[1]) for key in IDS]
    with pytest.raises(InputError, match=r"pheno.txt: none of its 60 people .* is in c.txt"):
        align(frame(IDS), table(IDS, y), mean_covariates=table(other, y, path="c.txt"))


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (lambda f, i: ("0", i), "60 would match by IID alone"),
        (lambda f, i: (i, f), "60 would match with FID and IID exchanged"),
        (lambda f, i: (f, i.lstrip("0")), "would match without leading zeros"),
        (lambda f, i: (f, "s" + i), "both must use the same FID and IID"),
    ],
)
def test_no_overlap_has_a_hint(rng, change, hint):
    ids = [*IDS[1:], ("f3", "060")]
    others = [change(*key) for key in ids]
    with pytest.raises(InputError, match=hint) as error:
        align(frame(others), table(ids, rng.normal(size=60)), genotypes_name="a.fam")
    message = str(error.value)
    assert "pheno.txt: none of its 60 people" in message
    assert "a.fam" in message
    assert "\n" not in message
    first = " ".join(repr(part) for part in others[0])
    assert first in message


def test_minus_nine_is_noted(rng):
    y = rng.normal(size=60)
    y[:5] = -9
    covar = rng.normal(size=60)
    covar[7:9] = -9
    result = align(
        frame(IDS), table(IDS, y), variance_covariates=table(IDS, covar, ["age"], "v.txt")
    )
    assert "pheno.txt, phenotype '1': 5 of 60 values are -9" in result.notes[0]
    assert "v.txt, covariate 'age': 2 of 60 values are -9" in result.notes[1]


def test_reference_samples(reference):
    samples = open_plink(reference / "mouse" / "mouse.bed").samples
    sex = read_table(reference / "mouse" / "sex.txt")
    result = align(samples, read_table(reference / "mouse" / "pheno1.txt"), mean_covariates=sex)
    assert [count for _, count in result.accounting] == [1940, 1410, 1410, 1410]
    assert result.mean_center[0] == pytest.approx(result.mean_covariates.mean(), rel=1e-14)
    gamma = open_plink(reference / "gamma" / "test.bed").samples
    assert align(gamma, read_table(reference / "gamma" / "pheno.txt")).n_samples == 4950
