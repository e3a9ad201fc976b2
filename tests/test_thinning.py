import numpy as np
import pytest
from scans import columns_of, make_store, names_of

from hlmm_dask.models.dispersion import dispersion_effects
from hlmm_dask.models.inference import genomic_control_lambda
from hlmm_dask.results import open_results
from hlmm_dask.view.page_data import page_json
from hlmm_dask.view.reading import thin
from hlmm_dask.view.thinned import FrequencyClasses, histogram_bin, histogram_edges
from hlmm_dask.view.thinning import Thinner

TESTS = {"mean": "add", "variance": "var", "joint": "av"}


def random_scan(n, seed=0, missing=0.02, inflation=1.1):
    rng = np.random.default_rng(seed)
    add_t, var_t = inflation * rng.standard_normal(n), rng.standard_normal(n)
    add_t[rng.choice(n, n // 100, replace=False)] *= 6.0
    columns = columns_of(add_t, var_t, rng.uniform(0.0, 0.5, n))
    gone = rng.random(n) < missing
    for column in columns.values():
        column[gone] = np.nan
    return columns, names_of(n)


def thinned_in(order, columns, names, *, size, **options):
    n = len(names["variant_position"])
    thinner = Thinner(n, **options)
    for block in order:
        rows = slice(block * size, (block + 1) * size)
        thinner.add(
            block * size,
            {name: column[rows] for name, column in names.items()},
            {name: column[rows] for name, column in columns.items()},
        )
    return thinner.thinned()


@pytest.fixture(scope="module")
def large():
    columns, names = random_scan(150_000)
    return columns, names, thinned_in(range(50), columns, names, size=3000, cap=500)


def test_order_of_blocks_has_no_influence(large):
    columns, names, thinned = large
    order = np.random.default_rng(1).permutation(50)
    other = thinned_in(order, columns, names, size=3000, cap=500)
    for name, column in thinned.points.items():
        np.testing.assert_array_equal(column, other.points[name])
    for test in TESTS:
        np.testing.assert_array_equal(thinned.shown[test], other.shown[test])
    np.testing.assert_array_equal(thinned.counts, other.counts)
    assert thinned.contigs == other.contigs


def test_the_best_are_all_kept_and_elsewhere_the_best_of_each_cell(large):
    columns, _, thinned = large
    assert len(thinned.points["index"]) < 100_000
    for test, stem in TESTS.items():
        y = columns[f"{stem}_neg_log10_p"]
        shown = thinned.points["index"][thinned.shown[test]]
        best = np.flatnonzero(y >= 4.0)
        best = best[np.argsort(-y[best])][:500]
        assert set(best) <= set(shown)
        # Cells of 0.1 by a thousandth of the file, told apart by hand.
        low = np.flatnonzero(y < 3.99)
        cells = {}
        for i in low.tolist():
            cell = (i * 1000 // len(y), int(y[i] * 10))
            if y[i] > y[cells.get(cell, i)] or cell not in cells:
                cells[cell] = i
        assert set(cells.values()) == set(shown[y[shown] < 3.99].tolist())


def test_points_carry_what_the_scan_says_of_them(large):
    columns, names, thinned = large
    index = thinned.points["index"]
    assert list(thinned.points["id"]) == list(names["variant_id"][index])
    assert list(thinned.points["contig"]) == list(names["variant_contig"][index])
    np.testing.assert_array_equal(thinned.points["position"], names["variant_position"][index])
    for name in ("add", "var_se", "minor_allele_frequency", "av_neg_log10_p"):
        np.testing.assert_array_equal(thinned.points[name], columns[name][index])
    assert 7000 < thinned.in_effects.sum() < 12_000


def test_lambda_and_quantiles_of_a_histogram_have_three_digits(large):
    columns, _, thinned = large
    assert thinned.exact is None
    classes = FrequencyClasses().of(columns["minor_allele_frequency"])
    for test, stem in (("mean", "add"), ("variance", "var")):
        y = columns[f"{stem}_neg_log10_p"]
        assert thinned.lambda_gc(test) == pytest.approx(genomic_control_lambda(y), rel=5e-4)
        for i in range(4):
            expected = genomic_control_lambda(y[classes == i])
            assert thinned.lambda_gc(test, i) == pytest.approx(expected, rel=2e-3)
        y = np.sort(y[np.isfinite(y)])[::-1]
        got = thinned.quantiles(test)
        assert got.n == thinned.n_tested(test) == y.size
        ranks = np.rint(10.0**-got.expected * y.size - 0.5).astype(int)
        np.testing.assert_allclose(got.observed, y[ranks], rtol=1e-3, atol=1e-3)
    joint = np.nanmedian(columns["av_neg_log10_p"]) / np.log10(2.0)
    assert thinned.lambda_gc("joint") == pytest.approx(joint, rel=1e-3)


def test_few_values_are_kept_exactly():
    columns, names = random_scan(501, missing=0.0)
    thinned = thinned_in([0], columns, names, size=501)
    expected = genomic_control_lambda(columns["add_neg_log10_p"])
    assert thinned.lambda_gc("mean") == pytest.approx(expected, rel=1e-9)
    np.testing.assert_array_equal(
        thinned.quantiles("mean").observed, np.sort(columns["add_neg_log10_p"])[::-1]
    )


def test_bins_hold_their_values_at_any_size():
    y = np.concatenate([np.linspace(0.0, 20.0, 10_001), np.geomspace(1e-9, 5000.0, 10_001)])
    edges, bins = histogram_edges(), histogram_bin(y)
    assert (edges[bins] <= y * (1 + 1e-9) + 1e-12).all()
    assert (y <= edges[bins + 1] * (1 + 1e-9)).all()


def test_known_chromosomes_first_others_as_in_the_file():
    contigs = ("scaffold_9", "X", "2", "MT", "10", "alpha", "1", "chrY")
    columns, _ = random_scan(80, missing=0.0)
    thinned = thinned_in([1, 0], columns, names_of(80, contigs), size=40)
    names = [contig.name for contig in thinned.contigs]
    assert names == ["1", "2", "10", "X", "chrY", "MT", "scaffold_9", "alpha"]
    axis = thinned.axis
    assert (axis.starts[1:] > axis.stops[:-1]).all()
    x = axis.x(thinned.points["contig"], thinned.points["position"])
    assert x.min() == 0.0
    assert x.max() == axis.stops[-1]


def test_loci_are_the_best_of_their_surroundings(large):
    columns, names, thinned = large
    rows = thinned.loci("mean", 10, window=500_000)
    y = columns["add_neg_log10_p"].copy()
    for row in rows.tolist():
        best = int(np.nanargmax(y))
        assert thinned.points["index"][row] == best
        near = names["variant_contig"] == names["variant_contig"][best]
        near &= np.abs(names["variant_position"] - names["variant_position"][best]) <= 500_000
        y[near] = np.nan


def test_store_and_dataset_give_the_same_with_dispersion(tmp_path):
    columns, names = random_scan(2000, seed=4)
    store = make_store(tmp_path / "out.zarr", columns, names, block_size=150)
    a, b = thin(store, dispersion=True), thin(open_results(store.path), dispersion=True)
    for name, column in a.points.items():
        np.testing.assert_array_equal(column, b.points[name])
    fit = dispersion_effects(*(columns[c] for c in ("add", "add_se", "var", "var_se")))
    assert a.slope == b.slope == fit.r_av
    index = a.points["index"]
    np.testing.assert_array_equal(a.points["dispersion"], fit.dispersion[index])
    assert a.test("dispersion").column in a.points
    assert thin(store.path).slope is None


def test_nothing_computed_yet_is_no_error(tmp_path):
    columns, names = random_scan(200)
    store = make_store(tmp_path / "out.zarr", columns, names, leave_out=(0, 1))
    thinned = thin(store, dispersion=True)
    assert thinned.n_fitted == 0
    assert len(thinned.loci("mean")) == 0
    assert np.isnan(thinned.lambda_gc("mean"))
    assert "0 variants have estimates" in thinned.no_dispersion


def test_the_page_of_a_million_variants_is_small():
    columns, names = random_scan(1_000_000)
    thinned = thinned_in(range(50), columns, names, size=20_000, n_bins=600, cap=5000)
    assert len(page_json(thinned, "SD")) < 8e6
