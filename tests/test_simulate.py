import warnings

import numpy as np
import pytest
from scipy.stats import kstest, norm

from hlmm_dask.errors import InputError
from hlmm_dask.simulation import (
    expected_effects,
    gamma_phenotype,
    inverse_normal_transform,
    simulate_genotypes,
    write_phenotype,
)


def read(bed):
    """Counts of allele 1 by bed-reader, NaN where missing: (n_samples, n_variants)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from bed_reader import open_bed

        with open_bed(bed, count_A1=True, num_threads=1) as source:
            return source.read(dtype="float64")


@pytest.mark.parametrize("n_samples", [1, 4, 7, 1001])
def test_files_are_plink(tmp_path, n_samples):
    g = simulate_genotypes(
        tmp_path / "my geno", n_samples=n_samples, n_variants=5, seed=1, missing_rate=0.2
    )
    assert g.bed.name == "my geno.bed"
    assert g.bed.stat().st_size == 3 + 5 * -(-n_samples // 4)
    counts = read(g.bed)
    assert counts.shape == (n_samples, 5)
    assert set(np.unique(counts[~np.isnan(counts)])) <= {0.0, 1.0, 2.0}


def test_frequencies_missing_rate_and_hardy_weinberg(tmp_path):
    n = 20_000
    g = simulate_genotypes(
        tmp_path / "g.bed",
        n_samples=n,
        n_variants=40,
        seed=2,
        missing_rate=0.1,
        maf_range=(0.1, 0.3),
    )
    counts = read(g.bed)
    called = (~np.isnan(counts)).sum(axis=0)
    assert np.isnan(counts).mean() == pytest.approx(0.1, abs=0.002)
    p = g.allele_frequency
    assert p.min() >= 0.1
    assert p.max() <= 0.3
    z = (np.nanmean(counts, axis=0) / 2 - p) / np.sqrt(p * (1 - p) / (2 * called))
    assert kstest(z, "norm").pvalue > 1e-3
    np.testing.assert_allclose(np.nanvar(counts, axis=0), 2 * p * (1 - p), rtol=0.06)


def test_same_seed_same_bytes_and_block_size_does_not_matter_for_shape(tmp_path, monkeypatch):
    a = simulate_genotypes(tmp_path / "a", n_samples=33, n_variants=9, seed=5)
    b = simulate_genotypes(tmp_path / "b", n_samples=33, n_variants=9, seed=5)
    c = simulate_genotypes(tmp_path / "c", n_samples=33, n_variants=9, seed=6)
    assert a.bed.read_bytes() == b.bed.read_bytes() != c.bed.read_bytes()
    one = gamma_phenotype([a.bed], seed=1)
    monkeypatch.setattr("hlmm_dask.simulation.BLOCK_BYTES", 4 * 33 * 2)
    two = gamma_phenotype([a.bed], seed=1)
    np.testing.assert_allclose(one.value, two.value, rtol=1e-5)


@pytest.fixture(scope="module")
def trait(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trait")
    options = {"n_samples": 60_000, "n_variants": 30}
    beds = [
        simulate_genotypes(folder / name, seed=seed, **options).bed
        for seed, name in ((1, "test"), (2, "random"))
    ]
    return beds, gamma_phenotype(beds, seed=3, dispersion_effect=0.3)


def test_trait_has_the_stated_moments(trait):
    beds, t = trait
    x = [read(bed) for bed in beds]
    mean = 1 + sum((g - g.mean(axis=0)) @ b for g, b in zip(x, t.effects, strict=True))
    np.testing.assert_allclose(t.mean, np.maximum(mean, 0.05), atol=1e-5)
    g0 = x[0][:, 0]
    np.testing.assert_allclose(t.dispersion, np.exp(0.3 * (g0 - g0.mean())) / 2, rtol=1e-6)
    expected = np.var(t.mean) / (np.var(t.mean) + np.mean(t.dispersion * t.mean))
    assert expected == pytest.approx(0.1, abs=1e-5)
    assert np.var(t.mean) / np.var(t.value) == pytest.approx(0.1, abs=0.003)
    z = (t.value - t.mean) / np.sqrt(t.mean * t.dispersion)
    for k in (0, 1, 2):  # dispersion by genotype of the first variant
        assert np.std(z[g0 == k]) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("captured", [0.0, 0.6])
def test_expected_effects_are_what_the_transform_leaves(captured):
    """Groups that differ in mean, or in dispersion; the captured effects are regressed out."""
    rng = np.random.default_rng(4)
    n, shape, heritability = 600_000, 2.0, 0.1
    theory = expected_effects(shape, heritability=heritability, captured=captured)
    sigma = np.sqrt(heritability / (1 - heritability) / shape)

    def effects(*, d_mean, d_phi):
        """Differences of the transformed mean and log variance between the two groups."""
        a = sigma * np.sqrt(captured) * rng.standard_normal((2, n))
        b = sigma * np.sqrt(1 - captured) * rng.standard_normal((2, n))
        half = np.array([[-0.5], [0.5]])
        mean = np.maximum(1 + a + b + half * d_mean, 0.01)
        phi = np.exp(half * d_phi) / shape
        z = inverse_normal_transform((rng.standard_gamma(mean / phi) * phi).ravel())
        z = z.reshape(2, n)
        add = z[1].mean() - z[0].mean()
        z -= add * half
        z -= a * ((a * z).sum() / (a * a).sum()) if captured else 0.0
        return add, np.log(z[1].var() / z[0].var())

    add, var = effects(d_mean=0.1, d_phi=0.0)
    assert add / 0.1 == pytest.approx(theory.mean, abs=0.04)
    assert var / add == pytest.approx(theory.coupling, abs=0.03)
    add, var = effects(d_mean=0.0, d_phi=0.2)
    assert (var - theory.coupling * add) / 0.2 == pytest.approx(theory.dispersion, abs=0.03)


def test_inverse_normal_transform():
    y = np.array([3.0, np.nan, 1.0, 2.0, 2.0])
    z = inverse_normal_transform(y)
    np.testing.assert_allclose(z, norm.ppf([0.875, np.nan, 0.125, 0.5, 0.5]), atol=1e-15)
    x = np.random.default_rng(0).exponential(size=1000)
    np.testing.assert_array_equal(inverse_normal_transform(x), inverse_normal_transform(np.log(x)))


def test_phenotype_file(tmp_path):
    g = simulate_genotypes(tmp_path / "g", n_samples=3, n_variants=1, seed=1)
    fam = g.bed.with_suffix(".fam")
    write_phenotype(tmp_path / "p.txt", fam, [1.5, np.nan, -2.0])
    assert (tmp_path / "p.txt").read_text() == "f0\ti0\t1.5\nf1\ti1\tNA\nf2\ti2\t-2\n"
    with pytest.raises(InputError, match="3 samples, but 2 values"):
        write_phenotype(tmp_path / "p.txt", fam, [1.0, 2.0])


@pytest.mark.parametrize(
    "options",
    [
        {"n_samples": 0},
        {"missing_rate": 1.0},
        {"maf_range": (0.3, 0.2)},
        {"maf_range": (0.0, 0.2)},
    ],
)
def test_bad_genotype_options(tmp_path, options):
    with pytest.raises(InputError):
        simulate_genotypes(
            tmp_path / "g", **({"n_samples": 4, "n_variants": 1, "seed": 1} | options)
        )


def test_bad_trait_options(tmp_path):
    a = simulate_genotypes(tmp_path / "a", n_samples=50, n_variants=3, seed=1).bed
    b = simulate_genotypes(tmp_path / "b", n_samples=40, n_variants=3, seed=1).bed
    with pytest.raises(InputError, match="40 samples, expected 50"):
        gamma_phenotype([a, b], seed=1)
    with pytest.raises(InputError, match="raise the shape"):
        gamma_phenotype([a], seed=1, heritability=0.9, shape=1.0)
    with pytest.raises(InputError, match="no genotype"):
        gamma_phenotype([], seed=1)
