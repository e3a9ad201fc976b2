"""Blocks that are read strip by strip, and what serves their speed without a change of results."""

import os
import resource
from pathlib import Path

import numpy as np
import pytest
from distributed import Client
from studies import Study, make_study

from hlmm_dask.genotypes.plink import open_plink
from hlmm_dask.scanning import strips
from hlmm_dask.scanning.config import ScanConfig
from hlmm_dask.scanning.dispatch import scan_model
from hlmm_dask.scanning.graph import _fit_and_store
from hlmm_dask.scanning.null_input import fit_null
from hlmm_dask.scanning.published import publish_model
from hlmm_dask.scanning.source import open_source
from hlmm_dask.scanning.strips import PackedBlock, genotypes_checksum, strip_variants
from hlmm_dask.store import ResultsStore


@pytest.mark.parametrize(("size", "lengths"), [(7, [7, 7, 7, 7, 7, 2]), (37, [37]), (99, [37])])
def test_strips_of_a_block_are_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, lengths: list[int]
) -> None:
    beds = []
    for i in range(2):
        (folder := tmp_path / str(i)).mkdir()
        beds.append(make_study(folder, m=25).bed)
    genotypes = open_plink(beds)
    monkeypatch.setattr(strips, "_STRIP_VARIANTS", size)
    block = PackedBlock(genotypes, 3, 40)
    parts = [strip.copy() for strip in block.strips()]
    whole = genotypes.read_packed(3, 40)
    assert [len(part) for part in parts] == lengths
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert genotypes_checksum(block) == genotypes_checksum(whole)


def test_strips_are_of_bounded_size() -> None:
    assert strip_variants(1) == 4096
    assert strip_variants(25_000) * 25_000 <= 64 * 2**20
    assert strip_variants(2**30) == 1


def test_results_in_strips_are_those_of_the_whole(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ScanConfig()
    source = open_source(study.bed, config)
    model = scan_model(fit_null(study.bed, study.pheno), config, source)
    genotypes = open_plink(study.bed)
    values, markers = [], []
    for size in (100, 7):
        monkeypatch.setattr(strips, "_STRIP_VARIANTS", size)
        store = ResultsStore.create(
            study.out(f"{size}.zarr"), n_variants=60, block_size=60, variants=source.variants(),
            fingerprint={},
        )  # fmt: skip
        block = PackedBlock(genotypes, 0, 60)
        _fit_and_store(block, (publish_model(store, model),), "topic", block_id=(0,))
        values.append(store.read(0, 60))
        markers.append(store.marker(0))
    assert np.isfinite(values[0]).any()
    np.testing.assert_allclose(values[1], values[0], rtol=1e-12)
    for key in ("genotypes_crc32", "n_fitted", "counts"):
        assert markers[0][key] == markers[1][key]


def test_workers_use_freed_memory_again(client: Client) -> None:
    if "glibc" not in os.confstr("CS_GNU_LIBC_VERSION"):
        pytest.skip("the C library is not GNU's")

    def new_pages() -> int:
        """Pages that the system makes for arrays of 1 MiB, one after the other."""
        np.ones(2**17), np.ones(2**17)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            np.ones(2**17)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    assert client.submit(new_pages, pure=False).result() < 200
