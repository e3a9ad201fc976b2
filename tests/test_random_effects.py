from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hlmm_dask.errors import InputError
from hlmm_dask.genotypes.plink import open_plink, write_plink
from hlmm_dask.random_effects import random_effects
from hlmm_dask.tables import Table

N = 30
IDS = [(f"f{k}", f"i{k}") for k in range(N)]


def frame(ids):
    return pd.DataFrame(list(ids), columns=["fid", "iid"], dtype=str)


def expected_columns(values):
    """Impute, standardise and scale the slow way; (n, l) with NaN."""
    columns = []
    for column in values.T:
        if np.isnan(column).all():
            continue
        filled = np.where(np.isnan(column), np.nanmean(column), column)
        if np.ptp(filled) > 0:
            columns.append((filled - filled.mean()) / filled.std())
    return np.array(columns).T / np.sqrt(len(columns))


@pytest.fixture
def counts():
    counts = np.random.default_rng(2).integers(-1, 3, size=(12, N)).astype(np.int8)
    counts[2] = 1
    counts[5] = -1
    counts[7] = np.where(np.arange(N) < 15, 2, -1)
    return counts


@pytest.fixture
def plink(tmp_path, counts):
    variants = pd.DataFrame(
        {
            "contig": "3",
            "variant_id": [f"rs{k}" for k in range(12)],
            "position": range(12),
            "allele1": "A",
            "allele2": "C",
        }
    )
    return open_plink(write_plink(tmp_path / "r.bed", counts, frame(IDS), variants))


@pytest.mark.parametrize("block_size", [1, 5, 100])
def test_genotypes(plink, counts, block_size):
    chosen = np.random.default_rng(3).permutation(N)[:25]
    result = random_effects(frame(IDS[k] for k in chosen), plink, block_size=block_size)
    values = np.where(counts < 0, np.nan, counts).T[chosen]
    np.testing.assert_allclose(result.G, expected_columns(values), atol=1e-14)
    kept = [k for k in range(12) if k not in (2, 5, 7)]
    assert result.names == tuple(f"rs{k}" for k in kept)
    assert result.position.tolist() == kept
    assert result.contig.tolist() == ["3"] * 9
    assert result.n_absent == 0
    missing, constant = result.notes
    assert "1 of 12 columns left out, no value among the analysed samples (first: 'rs5')" in missing
    assert "2 of 12 columns left out, constant among the analysed samples" in constant
    np.testing.assert_allclose((result.G**2).sum(0), 25 / 9)


def test_block_size_does_not_matter(plink):
    a, b = (random_effects(frame(IDS), plink, block_size=size).G for size in (1, 7))
    assert a.tobytes() == b.tobytes()


def test_table_with_missing_values():
    rng = np.random.default_rng(4)
    values = rng.normal(size=(N, 5)) * [1, 1e-8, 1e8, 1, 1]
    values[3, 0] = np.nan
    values[:, 3] = 0.1
    order = rng.permutation(N)
    names = tuple("abcde")
    source = Table(Path("r.txt"), [IDS[k] for k in order], names, values[order], np.arange(N))
    before = source.values.copy()
    result = random_effects(frame(IDS), source)
    np.testing.assert_allclose(result.G, expected_columns(values[:, [0, 1, 2, 4]]), atol=1e-13)
    assert result.names == ("a", "b", "c", "e")
    assert result.contig is None
    assert result.position is None
    np.testing.assert_array_equal(source.values, before)


def test_absent_samples(plink, counts):
    ids = [*IDS[:20], ("new", "1"), *IDS[20:], ("new", "2")]
    result = random_effects(frame(ids), plink)
    assert result.n_absent == 2
    assert "2 of 32 analysed samples are not in it" in result.notes[0]
    assert "'new' '1'" in result.notes[0]
    assert (result.G[[20, 31]] == 0).all()
    values = np.insert(np.where(counts < 0, np.nan, counts).T.astype(float), 20, np.nan, axis=0)
    values = np.vstack([values, np.full(12, np.nan)])
    np.testing.assert_allclose(result.G, expected_columns(values), atol=1e-14)


def test_errors(plink):
    with pytest.raises(InputError, match="none of the 2 analysed samples is in it"):
        random_effects(frame([("a", "b"), ("c", "d")]), plink)
    constant = Table(Path("r.txt"), IDS, ("1",), np.ones((N, 1)), np.arange(N))
    with pytest.raises(InputError, match="all 1 columns are constant or missing"):
        random_effects(frame(IDS), constant)


def test_reference_random_effects(reference):
    plink = open_plink(reference / "gamma" / "random.bed")
    result = random_effects(plink.samples, plink)
    assert result.G.shape == (5000, 100)
    np.testing.assert_allclose(result.G.mean(0), 0, atol=1e-15)
    np.testing.assert_allclose(result.G.var(0), 1 / 100, rtol=1e-12)


def test_variants_on_sex_chromosomes_stay_and_those_with_a_negative_position_go(tmp_path, counts):
    contigs = ["1", "22", "X", "chr23", "MT", "0", "2", "2", "2", "2", "2", "2"]
    positions = [1, 2, 3, 4, 5, 6, 7, 8, -7, -9, 0, -10]
    variants = pd.DataFrame(
        {"contig": contigs, "variant_id": [f"rs{k}" for k in range(12)], "position": positions,
         "allele1": "A", "allele2": "C"}
    )  # fmt: skip
    source = open_plink(write_plink(tmp_path / "s.bed", counts, frame(IDS), variants))
    result = random_effects(frame(IDS), source)
    values = np.where(counts < 0, np.nan, counts).T
    np.testing.assert_allclose(
        result.G, expected_columns(np.delete(values, [8, 11], axis=1)), atol=1e-14
    )
    elsewhere, withdrawn, *_ = result.notes
    assert "4 of 12 columns are on other chromosomes than 1 to 22 (first: 'rs2', 'rs3'" in elsewhere
    assert "2 of 12 columns left out, a negative position (first: 'rs8', 'rs11')" in withdrawn
