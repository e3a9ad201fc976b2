"""Standard errors of the slope of variance on additive effects, and what else is said of it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scans import make_store, names_of
from scipy import stats
from studies import Study

from hlmm_dask.cli import dispersion_main
from hlmm_dask.errors import InputError
from hlmm_dask.export import read_models_table, write_tsv
from hlmm_dask.genotypes.contigs import contig_codes, contig_runs
from hlmm_dask.models.dispersion import (
    DispersionOptions,
    DispersionResult,
    NotEstimable,
    dispersion_effects,
)
from hlmm_dask.models.huber import huber_slope
from hlmm_dask.models.jackknife import SlopeErrors, jackknife_blocks, jackknife_covariance

Columns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
AUTO = DispersionOptions(blocks="auto")


def effects(
    rng: np.random.Generator, n: int = 2000, *, r: float = 0.4, bend: float = 0.0
) -> Columns:
    add_se = rng.uniform(0.01, 0.03, n)
    var_se = np.sqrt(2) * add_se
    truth = rng.normal(0, 0.05, n)
    return (
        truth + add_se * rng.normal(size=n),
        add_se,
        r * truth + bend * truth * np.abs(truth) + var_se * rng.normal(size=n),
        var_se,
    )


def estimate(columns: Columns, options: DispersionOptions = AUTO, contig=None) -> DispersionResult:
    result = dispersion_effects(*columns, options=options, contig=contig)
    assert isinstance(result, DispersionResult)
    return result


def errors_of(result: DispersionResult) -> SlopeErrors:
    assert result.errors is not None
    return result.errors


def brute_force(columns: Columns, block: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """r_se, and slopes by tercile with their covariance, from the definitions, step by step."""

    def factor(keep: np.ndarray) -> float:
        noise = np.mean(columns[1][keep] ** 2)
        return 1 + noise / (np.var(columns[0][keep], ddof=1) - noise)

    every = np.full(len(block), True)
    signal = np.var(columns[0], ddof=1) / factor(every)
    shrunk = columns[0] * signal / (signal + columns[1] ** 2)
    bounds = np.quantile(np.abs(shrunk), (1 / 3, 2 / 3))
    tercile = np.digitize(np.abs(shrunk), bounds, right=True)

    def slopes(keep: np.ndarray) -> np.ndarray:
        fits = [(columns[0], every, factor(every))]
        fits += [(shrunk, tercile == k, 1.0) for k in range(3)]
        change = factor(keep) / factor(every)
        return np.array(
            [
                huber_slope(x[p & keep], columns[2][p & keep], to_fixed_point=True).slope * f
                for x, p, f in fits
            ]
        ) * change  # fmt: skip

    labels = np.unique(block)
    n, b = len(block), len(labels)
    whole = slopes(np.full(n, True))
    h = np.array([n / np.sum(block == label) for label in labels])
    pseudo = np.array(
        [
            hj * whole - (hj - 1) * slopes(block != label)
            for hj, label in zip(h, labels, strict=True)
        ]
    )
    mean = b * whole - sum(
        (1 - 1 / hj) * slopes(block != label) for hj, label in zip(h, labels, strict=True)
    )
    covariance = sum(
        np.outer(each - mean, each - mean) / (hj - 1) for each, hj in zip(pseudo, h, strict=True)
    ) / b  # fmt: skip
    return float(np.sqrt(covariance[0, 0])), whole, covariance


@pytest.mark.parametrize("blocks", ["auto", 11])
def test_against_brute_force(blocks) -> None:
    """Chromosomes of unequal size, scattered over the file; windows in its order.

    One Newton step stands for fitting again, which changes the error by about a percent.
    """
    rng = np.random.default_rng(4)
    columns = effects(rng, 4000)
    contig = rng.choice(7, 4000, p=np.arange(1, 8) / 28)
    for column in columns:
        column[::50] = np.nan
    ok = np.isfinite(columns[0])
    kept = tuple(column[ok] for column in columns)
    block = contig[ok] if blocks == "auto" else np.arange(ok.sum()) * 11 // ok.sum()
    r_se, slopes, covariance = brute_force(kept, block)
    errors = errors_of(estimate(columns, DispersionOptions(blocks=blocks), contig))
    assert errors.terciles is not None
    assert errors.blocks == ("7 chromosomes" if blocks == "auto" else "11 windows")
    assert errors.r_se == pytest.approx(r_se, rel=0.02)
    np.testing.assert_allclose(errors.terciles.slopes, slopes[1:], rtol=1e-6)
    np.testing.assert_allclose(errors.terciles.errors, np.sqrt(np.diag(covariance))[1:], rtol=0.05)
    # Hotelling's T² of the two differences.
    contrast = np.array([[0, -1, 1, 0], [0, 0, -1, 1]])
    apart = contrast @ slopes
    b = len(np.unique(block))
    t2 = apart @ np.linalg.solve(contrast @ covariance @ contrast.T, apart)
    p = stats.f.sf(t2 * (b - 2) / (2 * (b - 1)), 2, b - 2)
    assert 10.0**-errors.terciles.neg_log10_p == pytest.approx(p, rel=0.15)


def test_error_of_a_mean() -> None:
    """Of equal blocks the jackknife of a mean is the known formula."""
    means = np.random.default_rng(0).normal(size=12)
    estimates = np.append(means.mean(), (means.sum() - means) / 11)
    got = jackknife_covariance(estimates[:, None], np.full(12, 5))[0, 0]
    assert got == pytest.approx(means.var(ddof=1) / 12, rel=1e-12)


def test_r_se_is_the_spread_over_replicates() -> None:
    """Within 15%: 160 replicates leave 6% of chance. Neighbours are linked, in fours."""
    rng = np.random.default_rng(7)
    found = []
    for _ in range(160):
        linked = tuple(np.repeat(column, 4) for column in effects(rng, 300))
        result = estimate(linked, DispersionOptions(blocks=20))
        terciles = errors_of(result).terciles
        assert terciles is not None
        found.append((result.r_av, errors_of(result).r_se, 10.0**-terciles.neg_log10_p))
    r, r_se, p = np.array(found).T
    assert np.sqrt(np.mean(r_se**2)) == pytest.approx(r.std(ddof=1), rel=0.15)
    assert np.mean(np.abs(r - 0.4) < 2.1 * r_se) == pytest.approx(0.95, abs=0.04)
    # It is a line: the test of its terciles keeps its level.
    assert np.mean(p < 0.1) == pytest.approx(0.1, abs=0.06)


def test_chromosomes_or_windows() -> None:
    for n, expected in ((4, "20 windows"), (5, "5 chromosomes"), (23, "23 chromosomes")):
        contig = np.repeat(np.arange(n), 30)
        block, label = jackknife_blocks(contig, "auto")
        assert label == expected
        assert len(np.unique(block)) == int(label.split()[0])
    assert np.bincount(jackknife_blocks(np.zeros(45, int), 10)[0]).tolist() == [5, 4] * 5
    names = [np.array(["chr1", "1", "01", "X"]), np.array(["X", "1", "23"], dtype=object)]
    assert contig_codes(names).tolist() == [0, 0, 0, 1, 1, 0, 2]
    assert contig_codes([]).size == 0
    found, starts, runs = contig_runs(names)
    assert found == ["1", "X", "23"]
    assert (starts.tolist(), runs.tolist()) == ([0, 3, 5, 6, 7], [0, 1, 0, 2])


def test_order_of_chromosomes_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    columns, contig = effects(rng, 600), rng.integers(0, 6, 600)
    order = rng.permutation(600)
    one, two = (
        errors_of(estimate(tuple(c[rows] for c in columns), AUTO, contig[rows]))
        for rows in (np.arange(600), order)
    )
    assert one.r_se == pytest.approx(two.r_se, rel=1e-9)


def test_excluded_variants_have_no_part_in_the_line_but_effects() -> None:
    rng = np.random.default_rng(3)
    columns = effects(rng, 400)
    columns[0][:8] = 0.9  # loci whose variance goes another way
    columns[2][:8] = -0.9
    p = 2 * stats.norm.sf(np.abs(columns[0] / columns[1]))
    keep = p >= 1e-8
    assert 8 <= np.sum(~keep) < 100
    result = estimate(columns, DispersionOptions(exclude=1e-8))
    alone = estimate(tuple(column[keep] for column in columns), DispersionOptions())
    assert (result.r_av, result.n_used) == (alone.r_av, keep.sum())
    assert result.n_excluded == np.sum(~keep)
    np.testing.assert_array_equal(result.dispersion[keep], alone.dispersion)
    assert np.isfinite(result.dispersion_t).all()
    plain = estimate(columns, DispersionOptions())
    assert plain.n_excluded == 0
    assert plain.r_av < result.r_av - 0.1
    few = dispersion_effects(*columns, options=DispersionOptions(exclude=0.9))
    assert isinstance(few, NotEstimable)
    assert "(without those with p < 0.9)" in few.reason


def test_uncertainty_of_the_slope_in_dispersion_se() -> None:
    columns = effects(np.random.default_rng(5))
    plain = estimate(columns)
    full = estimate(columns, DispersionOptions("auto", slope_error=True))
    np.testing.assert_array_equal(full.dispersion, plain.dispersion)
    np.testing.assert_allclose(
        full.dispersion_se**2,
        columns[3] ** 2
        + full.r_av**2 * columns[1] ** 2
        + columns[0] ** 2 * errors_of(full).r_se ** 2,
    )
    np.testing.assert_allclose(full.dispersion_t, full.dispersion / full.dispersion_se)
    four = np.arange(2000) // 500
    few = dispersion_effects(
        *columns, options=DispersionOptions("chromosomes", slope_error=True), contig=four
    )
    assert isinstance(few, NotEstimable)
    assert "4 chromosomes, at least 5 blocks are needed" in few.reason
    without = estimate(columns, DispersionOptions("chromosomes"), four)
    assert np.isnan(errors_of(without).r_se)
    assert "no standard error of the slope" in without.cautions[0]


def test_terciles_tell_a_curve_from_a_line() -> None:
    rng = np.random.default_rng(6)
    # Noise that differs from variant to variant, as with allele frequency, is no curve.
    straight = estimate(effects(rng, 200_000))
    assert straight.cautions == ()
    np.testing.assert_allclose(errors_of(straight).terciles.slopes, 0.4, atol=0.03)
    curved = estimate(effects(rng, 20_000, r=0.1, bend=8.0))
    terciles = errors_of(curved).terciles
    assert terciles is not None
    assert (np.diff(terciles.slopes) > 0.05).all()
    assert "differs between small and large effects" in curved.cautions[0]


def test_noise_close_to_the_variance_of_add_is_warned_of() -> None:
    # Share of Var(add) that is no noise; with 100 variants, 0.25 is not three standard errors.
    for share, n, warned in ((0.15, 5000, True), (0.25, 100, True), (0.25, 5000, False)):
        add, add_se, var, var_se = effects(np.random.default_rng(8), n)
        noisy = add_se * np.sqrt((1 - share) * add.var(ddof=1) / np.mean(add_se**2))
        result = estimate((add, noisy, var, var_se))
        assert result.noise_adjustment == pytest.approx(1 / share)
        assert any("hardly determined" in line for line in result.cautions) is warned


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": 4}, "blocks 4: expected a whole number of at least 5"),
        ({"blocks": "genes"}, "blocks 'genes': expected auto or chromosomes"),
        ({"exclude": 1.5}, "exclude 1.5: expected a p-value"),
        ({"exclude": 0.0}, "exclude 0: expected a p-value"),
    ],
)
def test_options_that_make_no_sense(options, message) -> None:
    with pytest.raises(InputError, match=message):
        DispersionOptions(**options)


def test_table_of_a_scan_and_of_hlmm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(9)
    add, add_se, var, var_se = effects(rng, 900)
    columns = {"add": add, "add_se": add_se, "var": var, "var_se": var_se}
    names = names_of(900, [f"chr{i}" for i in range(1, 7)])
    store = make_store(tmp_path / "o.zarr", columns, names)
    write_tsv(store, tmp_path / "o.models.gz")
    contig = np.repeat(np.arange(6), 150)
    expected = estimate((add, add_se, var, var_se), DispersionOptions(exclude=1e-3), contig)
    arguments = [str(tmp_path / "o.models.gz"), str(tmp_path / "d.gz"), "--dispersion-exclude=1e-3"]
    assert dispersion_main(arguments) == 0
    line = capsys.readouterr().err
    full = estimate((add, add_se, var, var_se), DispersionOptions("auto", 1e-3, True), contig)
    assert f"slope of var on add {expected.r_av:.6g}, SE {errors_of(full).r_se:.3g} (6 chr" in line
    table = read_models_table(tmp_path / "d.gz")
    np.testing.assert_allclose(table["dispersion_se"], expected.dispersion_se, rtol=1e-12)
    assert dispersion_main([*arguments, "--overwrite", "--dispersion_slope_error"]) == 0
    table = read_models_table(tmp_path / "d.gz")
    np.testing.assert_allclose(table["dispersion_se"], full.dispersion_se, rtol=1e-12)
    # hlmm's own tables don't name chromosomes.
    bare = tmp_path / "hlmm.gz"
    table[["SNP", *columns]].to_csv(bare, sep="\t", index=False)
    capsys.readouterr()
    assert dispersion_main([str(bare), str(tmp_path / "e.gz")]) == 0
    assert "(20 windows)" in capsys.readouterr().err
    refused = [str(bare), str(tmp_path / "f.gz"), "--dispersion-blocks"]
    for option, message in (("chromosomes", "no column chrom"), ("2", "at least 5")):
        assert dispersion_main([*refused, option]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "f.gz").exists()


def test_scan_says_r_se(
    study: Study, run_script: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [study.bed, study.pheno, study.out("o"), "--dispersion"]
    how = ["--dispersion-blocks", 6, "--dispersion-exclude", 1e-6]
    assert run_script("scan", *arguments, *how) == 0
    table = read_models_table(study.out("o.models.gz"))
    columns = tuple(table[name].to_numpy() for name in ("add", "add_se", "var", "var_se"))
    expected = estimate(columns, DispersionOptions(6, 1e-6))
    (run,) = json.loads(study.out("o.run.json").read_text())["runs"]
    (summary,) = run["tables"].values()
    assert summary["r_se"] == pytest.approx(errors_of(expected).r_se, rel=1e-5)
    assert summary["r_blocks"] == "6 windows"
    assert summary["slope of var on add"] == f"{expected.r_av:.6g}"
    assert "r se" in capsys.readouterr().err
    assert f'"r_se": {summary["r_se"]}' in study.out("o.log").read_text()
    np.testing.assert_allclose(table["dispersion"], expected.dispersion, rtol=1e-12)
    for option in (["--dispersion-blocks", 1], ["--dispersion-exclude", 2]):
        assert run_script("scan", *arguments[:2], study.out("p"), *option) == 2
    assert not list(study.folder.glob("p.*"))
