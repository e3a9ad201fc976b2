"""Scans of the same variants compared: loci on one scale only, plots side by side."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scans import columns_of, make_store, names_of

from hlmm_dask.cli import report_main
from hlmm_dask.errors import InputError
from hlmm_dask.models.dispersion import DispersionOptions, DispersionResult, dispersion_effects
from hlmm_dask.view.report import Report, read_report
from hlmm_dask.view.scales import compare, effects_picture, scale_lines

N = 3000
NAMES = names_of(N)
# Variants of the loci; 1 Mb holds a thousand of them.
SHARED, RAW, SHIFTED = 100, 2500, 1200


def make_scan(path: Path, seed: int, add: dict[int, float], var: dict[int, float]) -> Report:
    rng = np.random.default_rng(seed)
    add_t, var_t = 1.3 * rng.standard_normal((2, N))
    for t, loci in ((add_t, add), (var_t, var)):
        for variant, value in loci.items():
            t[variant] = value
    make_store(path, columns_of(add_t, var_t, rng.uniform(0.05, 0.5, N)), NAMES)
    return read_report(str(path.with_suffix("")))


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> list[Report]:
    """One locus on all scales, another on the first only; of a third the best variant moves."""
    folder = tmp_path_factory.mktemp("scales")
    return [
        make_scan(folder / "raw.zarr", 1, {SHARED: 9.0, SHIFTED: 7.0}, {RAW: -8.0}),
        make_scan(folder / "log.zarr", 2, {SHARED: 8.0, SHIFTED + 300: 9.5}, {RAW: -2.0}),
        make_scan(folder / "ranks.zarr", 3, {SHARED: 7.0}, {RAW: -1.0}),
    ]


def test_loci_by_scale(scans: list[Report]) -> None:
    scales = compare(scans)
    assert scales.labels == ("raw", "log", "ranks")
    by_test = {test.name: loci for test, loci in scales.loci}
    assert list(by_test) == ["mean", "variance", "dispersion"]
    shifted, shared = by_test["mean"]
    # Two variants within 500 kb are one locus; p is of the better one, on each scale.
    assert (shifted.name, shifted.found) == (f"rs{SHIFTED + 300}", (True, True, False))
    assert scales.verdict(shifted) == "raw, log"
    assert (shared.name, scales.verdict(shared), shared.alone) == (f"rs{SHARED}", "each", False)
    (raw,) = by_test["variance"]
    assert (raw.contig, raw.position) == ("X", NAMES["variant_position"][RAW])
    assert (scales.verdict(raw), raw.alone) == ("raw only", True)
    for locus, column in ((shifted, "add_neg_log10_p"), (raw, "var_neg_log10_p")):
        index = int(locus.name[2:])
        for report, p in zip(scans, locus.neg_log10_p, strict=True):
            row = report.store.read(index, index + 1)[0]
            assert p == row[report.store.columns.index(column)]
    lines = scale_lines(scales)
    assert lines[0] == "Effect on the mean: 0 of 2 loci with p < 5e-8 on one scale only"
    assert lines[1].endswith(f"1 of 1 loci with p < 5e-8 on one scale only: rs{RAW} (raw only)")


@pytest.mark.parametrize("slope_error", [False, True])
def test_dispersion_on_each_scale(scans: list[Report], slope_error: bool) -> None:
    """A variant's p-value is that of each scan's dispersion effects."""
    options = {"dispersion_slope_error": slope_error}
    scans = [replace(scan, facts=replace(scan.facts, options=options)) for scan in scans]
    locus = {test.name: loci for test, loci in compare(scans).loci}["dispersion"][0]
    index = int(locus.name[2:])
    for scan, p in zip(scans, locus.neg_log10_p, strict=True):
        values = dict(zip(scan.store.columns, scan.store.read(0, N).T, strict=True))
        result = dispersion_effects(
            *(values[name] for name in ("add", "add_se", "var", "var_se")),
            options=DispersionOptions("auto", slope_error=slope_error),
        )
        assert isinstance(result, DispersionResult)
        assert p == pytest.approx(result.dispersion_neg_log10_p[index], rel=1e-9)


def test_reports_of_several_scans(scans: list[Report], capsys: pytest.CaptureFixture[str]) -> None:
    outs = [str(scan.store.path.with_suffix("")) for scan in scans]
    assert report_main([*outs, "--plots"]) == 0
    svg = Path(f"{outs[1]}.plots", "effects_by_scale.svg").read_text("utf-8")
    assert [label for label in ("raw", "log", "ranks") if f">{label}</text>" in svg] == [
        "raw", "log", "ranks",
    ]  # fmt: skip
    assert svg.count("Effect on the mean (") == 3
    printed = capsys.readouterr().err
    assert f"1 of 1 loci with p < 5e-8 on one scale only: rs{RAW} (raw only)" in printed
    for out in outs:
        page = Path(f"{out}.report.html").read_text("utf-8")
        section = page[page.index("The same variants on 3 scales") :]
        section = section[: section.index("</section>")]
        assert re.findall('aria-label="(.*?):', section) == ["raw", "log", "ranks"]
        row, _ = re.findall(rf"<td>rs{RAW}</td>.*?</tr>", section)  # variance, dispersion
        assert row.endswith("<td>raw only</td></tr>")
    assert report_main(outs[:1]) == 0
    assert "The same variants" not in Path(f"{outs[0]}.report.html").read_text("utf-8")


def test_picture_has_points_line_and_band(scans: list[Report]) -> None:
    thinned = scans[0].thinned
    assert thinned.slope_se is not None
    picture = effects_picture(thinned, "a <b>")
    assert "a &lt;b&gt;: slope" in picture
    dots = sum(len(re.findall("M", d)) for d in re.findall(r'd="(M[^"]*h0)"', picture))
    assert 0.9 * thinned.in_effects.sum() < dots <= thinned.in_effects.sum()
    assert picture.count('fill="var(--fit)"') == picture.count('stroke="var(--fit)"') == 1
    # All of it lies within the axes.
    drawn = re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", picture)
    x, y = np.array(drawn, dtype=float).T
    assert x.min() >= 40.0
    assert x.max() <= 300.0
    assert y.min() >= 8.0
    assert y.max() <= 212.0
    without = replace(thinned, slope=None, slope_errors=None)
    assert "var(--fit)" not in effects_picture(without, "a")


def test_scans_of_other_variants_are_refused(scans: list[Report]) -> None:
    fingerprint = dict(scans[1].facts.fingerprint) | {"stop": 9}
    other = replace(scans[1], facts=replace(scans[1].facts, fingerprint=fingerprint))
    with pytest.raises(InputError, match=r"log\.zarr: its variants are others .* \(stop\)"):
        compare([scans[0], other])
