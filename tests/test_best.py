"""The table of best loci, from one pass over the store."""

import numpy as np
import pytest
from scans import columns_of, make_store, names_of

from hlmm_dask.view import best
from hlmm_dask.view.best import best_loci, loci_of
from hlmm_dask.view.reading import thin

N = 150_000


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    rng = np.random.default_rng(4)
    add_t, var_t = rng.standard_normal((2, N))
    # One locus has more variants than are kept for their p-value.
    add_t[70_000:70_400] = rng.normal(12.0, 1.0, 400)
    var_t[149_990] = -9.0
    columns = columns_of(add_t, var_t, rng.uniform(0.05, 0.5, N))
    for column in columns.values():
        column[65_536:66_000] = np.nan
    path = tmp_path_factory.mktemp("best") / "s.zarr"
    return make_store(path, columns, names_of(N), block_size=1000, leave_out=(3,))


def test_the_same_as_of_the_whole_scan(store):
    whole = thin(store, dispersion=True)
    expected = loci_of(whole)
    found = best_loci(store, line=(whole.slope, 0.0))
    assert [each.test.name for each in found] == ["mean", "variance", "dispersion"]
    for one, other in zip(found, expected, strict=True):
        assert one.test == other.test
        assert len(one.points["id"]) == 10
        for name in ("id", "contig", "position", "index"):
            assert one.points[name].tolist() == other.points[name].tolist()
        for name in (one.test.column, f"{one.test.effect}_se", "minor_allele_frequency"):
            np.testing.assert_allclose(one.points[name], other.points[name], rtol=1e-12)


def test_loci_beside_one_that_has_all_the_best(store, monkeypatch):
    monkeypatch.setattr(best, "_KEPT", 50)
    mean, variance = best_loci(store)
    assert len(mean.points["id"]) == 3  # of three pieces, the best
    assert variance.points["id"][0] == "rs149990"
    apart = np.abs(np.subtract.outer(mean.points["position"], mean.points["position"]))
    same = np.equal.outer(mean.points["contig"], mean.points["contig"])
    assert (apart[same & ~np.eye(len(apart), dtype=bool)] > 500_000).all()


def test_few_variants_and_none(tmp_path):
    columns = columns_of(np.array([1.0, np.nan, 5.0]), np.zeros(3), np.full(3, 0.3))
    few = make_store(tmp_path / "few.zarr", columns, names_of(3))
    mean, _ = best_loci(few, window=0)
    assert mean.points["id"].tolist() == ["rs2", "rs0"]
    none = make_store(tmp_path / "none.zarr", columns, names_of(3), leave_out=(0,))
    assert [len(each.points["index"]) for each in best_loci(none)] == [0, 0]
