import numpy as np
import pandas as pd
import pytest

from hlmm_dask.genotypes import dataset
from hlmm_dask.genotypes.dataset import open_bed
from hlmm_dask.genotypes.plink import open_plink, to_dosage, write_plink


@pytest.fixture
def two_files(tmp_path):
    genotypes = np.random.default_rng(1).integers(-1, 3, size=(11, 9)).astype(np.int8)
    samples = pd.DataFrame({"fid": [f"f{k}" for k in range(9)], "iid": [f"i{k}" for k in range(9)]})
    for contig, rows in (("1", range(6)), ("2", range(6, 11))):
        variants = pd.DataFrame(
            {
                "contig": contig,
                "variant_id": [f"rs{k}" for k in rows],
                "position": [10 * k for k in rows],
                "allele1": "A",
                "allele2": "G",
            }
        )
        write_plink(tmp_path / f"chr{contig}", genotypes[list(rows)], samples, variants)
    return tmp_path / "chr@.bed", np.where(genotypes < 0, np.nan, genotypes).astype(np.float32)


@pytest.mark.parametrize("chunk_variants", [1, 4, 11, 1000])
def test_values(two_files, chunk_variants):
    path, expected = two_files
    ds = open_bed(path, chunk_variants=chunk_variants)
    assert dict(ds.sizes) == {"variants": 11, "samples": 9, "alleles": 2}
    assert ds.call_dosage.dtype == np.float32
    np.testing.assert_array_equal(ds.call_dosage, expected)
    assert ds.variant_id.values.tolist() == [f"rs{k}" for k in range(11)]
    assert ds.variant_contig.values.tolist() == ["1"] * 6 + ["2"] * 5
    assert ds.variant_position.values.tolist() == list(range(0, 110, 10))
    assert ds.variant_allele.values.tolist() == [["G", "A"]] * 11
    assert ds.sample_id.values.tolist() == [f"i{k}" for k in range(9)]
    assert ds.sample_family_id.values.tolist() == [f"f{k}" for k in range(9)]
    assert ds.attrs["count_a1"] == 1
    assert len(ds.attrs["source"]) == 2
    np.testing.assert_array_equal(ds.call_dosage[3:8, 2].compute(), expected[3:8, 2])


def test_other_allele(two_files):
    path, expected = two_files
    ds = open_bed(path, count_a1=False)
    np.testing.assert_array_equal(ds.call_dosage, 2 - expected)
    assert ds.variant_allele.values.tolist() == [["A", "G"]] * 11


def test_nothing_is_read_before_compute(two_files, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("read")

    monkeypatch.setattr(dataset, "open_bed_file", refuse)
    monkeypatch.setattr("hlmm_dask.genotypes.plink.PlinkGenotypes.iter_variants", refuse)
    ds = open_bed(two_files[0])
    with pytest.raises(AssertionError, match="read"):
        ds.call_dosage.compute()


def test_bad_chunk(two_files):
    with pytest.raises(ValueError, match="at least 1"):
        open_bed(two_files[0], chunk_variants=0)


def test_on_a_cluster(two_files, client):
    path, expected = two_files
    with client.as_current():
        ds = open_bed(path, chunk_variants=3).compute()
    np.testing.assert_array_equal(ds.call_dosage, expected)


def test_reference(reference):
    path = reference / "gamma" / "test.bed"
    plink = open_plink(path)
    expected = to_dosage(plink.read_packed(0, 200), plink.n_samples)
    np.testing.assert_array_equal(open_bed(path, chunk_variants=64).call_dosage, expected)
