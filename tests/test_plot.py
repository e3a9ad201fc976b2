import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex
from scans import columns_of, make_store, names_of
from studies import make_study, write_values

import hlmm_dask
from hlmm_dask.errors import InputError
from hlmm_dask.view.spread import adjusted_phenotype, by_genotype, of_null
from hlmm_dask.view.style import DARK, LIGHT

N = 900


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    rng = np.random.default_rng(5)
    add_t, var_t = 2.0 * rng.standard_normal(N), rng.standard_normal(N)
    add_t[100], var_t[700] = 9.0, -8.0
    columns = columns_of(add_t, var_t, rng.uniform(0.0, 0.5, N))
    for column in columns.values():
        column[:9] = np.nan
    path = tmp_path_factory.mktemp("plot") / "out.zarr"
    return make_store(path, columns, names_of(N)).path


@pytest.fixture(scope="module")
def dataset(store):
    return hlmm_dask.open_results(store)


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def offsets(ax):
    return np.concatenate(
        [np.asarray(c.get_offsets()) for c in ax.collections if len(c.get_offsets())]
    )


def heights_of_lines(ax):
    return sorted(line.get_ydata()[0] for line in ax.lines if len(set(line.get_ydata())) == 1)


def test_manhattan_shows_each_variant_and_both_lines(dataset):
    ax = hlmm_dask.plot.manhattan(dataset)
    (points,) = ax.collections
    y = dataset["add_neg_log10_p"].to_numpy()
    np.testing.assert_allclose(np.sort(offsets(ax)[:, 1]), np.sort(y[np.isfinite(y)]))
    assert ax.get_ylabel() == "−log₁₀ p"
    assert ax.get_xlabel() == "Chromosome"
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "2", "X"]
    assert heights_of_lines(ax) == pytest.approx(sorted([-np.log10(5e-8), -np.log10(0.05 / 891)]))
    assert {t.get_text() for t in ax.texts} == {"5e-8", "0.05 / 891"}
    # Two colours in turn, and one for what is significant.
    hexes = [to_hex(c) for c in points.get_facecolors()]
    assert set(hexes) == {c.lower() for c in (*LIGHT.chromosomes, LIGHT.accent)}
    x = offsets(ax)[:, 0]
    middle = hexes[int(np.argmin(np.abs(x - np.median(x))))]
    assert middle == LIGHT.chromosomes[1].lower()
    top = hexes[int(np.argmax(offsets(ax)[:, 1]))]
    assert top == LIGHT.accent.lower()


def test_nothing_computed_yet_is_said(dataset):
    empty = dataset.isel(variants=slice(0, 9)).copy()
    empty["status"][:] = -1
    for draw in (hlmm_dask.plot.manhattan, hlmm_dask.plot.qq, hlmm_dask.plot.effects):
        with pytest.raises(InputError, match="no variant has results yet"):
            draw(empty)
    assert not plt.get_fignums()


def test_a_picture_of_nothing_fitted_says_so(dataset):
    empty = dataset.isel(variants=slice(0, 9))
    for draw in (
        hlmm_dask.plot.manhattan, hlmm_dask.plot.miami, hlmm_dask.plot.qq, hlmm_dask.plot.effects,
    ):  # fmt: skip
        ax = draw(empty)
        assert "no variant was fitted" in {text.get_text() for text in ax.texts}
        ax.figure.canvas.draw()


def test_one_chromosome_has_positions(dataset):
    part = dataset.isel(variants=slice(0, 300))
    ax = hlmm_dask.plot.manhattan(part)
    assert ax.get_xlabel() == "Position on chromosome 1 (kb)"
    ax.figure.canvas.draw()
    assert "200" in [t.get_text() for t in ax.get_xticklabels()]


def test_axes_are_taken_and_returned_in_the_style(store):
    figure, axes = plt.subplots(1, 2)
    assert hlmm_dask.plot.manhattan(store, "variance", ax=axes[0], style="dark") is axes[0]
    assert hlmm_dask.plot.qq(store, "joint", ax=axes[1], style="dark") is axes[1]
    assert to_hex(axes[0].get_facecolor()) == DARK.surface
    assert to_hex(axes[1].xaxis.label.get_color()) == DARK.text
    assert len(plt.get_fignums()) == 1
    assert figure.axes == list(axes)
    with pytest.raises(ValueError, match="expected light or dark"):
        hlmm_dask.plot.manhattan(store, style="pink")


def test_miami_has_the_mean_above_and_the_variance_below(store):
    data = hlmm_dask.plot.thin(store)
    ax = hlmm_dask.plot.miami(data)
    above, below = (np.asarray(c.get_offsets())[:, 1] for c in ax.collections)
    assert len(above) == len(below) == 891
    assert above.min() >= 0.0 >= below.max()
    assert above.max() == data.points["add_neg_log10_p"].max()
    assert below.min() == -data.points["var_best_neg_log10_p"].max()
    ax.figure.canvas.draw()
    assert not any("−" in t.get_text() for t in ax.get_yticklabels())


def test_qq_has_a_line_of_points_for_each_frequency_class(store):
    data = hlmm_dask.plot.thin(store)
    ax = hlmm_dask.plot.qq(data)
    texts = [t.get_text() for t in ax.get_legend().get_texts()]
    assert texts[:2] == ["95% range", f"all: 891, λ {data.lambda_gc('mean'):.3f}"]
    assert [t.split(":")[0] for t in texts[2:]] == [f"MAF {c}" for c in data.classes.labels]
    sizes = [len(c.get_offsets()) for c in ax.collections[1:]]
    assert sizes[0] == 891 == sum(sizes[1:])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Expected −log₁₀ p", "Observed −log₁₀ p")
    assert len(hlmm_dask.plot.qq(data, by_frequency=False).collections) == 2


def test_effects_have_the_fitted_line(store, dataset):
    ax = hlmm_dask.plot.effects(dataset)
    assert len(offsets(ax)) == 891
    (line,) = [x for x in ax.lines if x.get_label().startswith("fitted line")]
    x, y = line.get_data()
    slope = hlmm_dask.plot.thin(store, dispersion=True).slope
    assert np.diff(y)[0] / np.diff(x)[0] == pytest.approx(slope)
    (band,) = ax.patches
    corners = band.get_xy()[:4]
    slopes = np.sort(corners[:, 1] / corners[:, 0])
    se = hlmm_dask.plot.thin(store, dispersion=True).slope_se
    np.testing.assert_allclose(slopes, slope + 1.96 * se * np.array([-1, -1, 1, 1]))
    assert not hlmm_dask.plot.effects(dataset, slope=0.3).patches
    assert ax.get_xlabel() == "Effect on the mean (SD per allele)"
    assert ax.get_ylabel() == "Effect on the log variance (per allele)"


def test_dispersion_is_a_test_and_others_are_refused(dataset):
    assert hlmm_dask.plot.manhattan(dataset, "dispersion").get_title("left") == "Dispersion effect"
    with pytest.raises(InputError, match="test 'kurtosis': not among mean, variance, joint"):
        hlmm_dask.plot.manhattan(dataset, "kurtosis")
    few = dataset.isel(variants=slice(0, 30))
    with pytest.raises(InputError, match=r"not among.*21 variants have estimates"):
        hlmm_dask.plot.manhattan(few, "dispersion")


@pytest.mark.parametrize("count_a2", [False, True])
def test_spread_of_a_variant_by_its_genotypes(tmp_path, count_a2):
    study = make_study(tmp_path)
    null = hlmm_dask.fit_null(study.bed, study.pheno)
    ax = hlmm_dask.plot.genotype_spread(study.bed, null, "rs1", count_a2=count_a2)
    counts = study.counts[1].astype(float)
    counts[counts < 0] = np.nan
    copies = 2 - counts if count_a2 else counts
    labels = [t.get_text().split("\n") for t in ax.get_xticklabels()]
    for k, (name, n, sd) in enumerate(labels):
        y = null.model.y[copies == k]
        assert (name, n, sd) == (str(k), f"n {y.size}", f"SD {y.std(ddof=1):.2f}")
    assert ax.get_title("left") == "rs1"
    assert ax.get_ylabel() == "Phenotype 1\n(SD)"
    means = sorted(c.lines[0].get_ydata()[0] for c in ax.containers)
    expected = [null.model.y[copies == k].mean() for k in range(3)]
    np.testing.assert_allclose(means, sorted(expected))


def test_spread_says_what_was_taken_off(tmp_path):
    """Adjusted alike, whether covariates stay in the variants' models or not."""
    study = make_study(tmp_path)
    random = write_values(study.out("g.txt"), study.samples, study.counts[10:14].T + 0.0)
    nulls = [
        hlmm_dask.fit_null(
            study.bed, study.pheno, mean_covariates=study.covar, variance_covariates=study.covar,
            fit_covariates=fit, random_table=table,
        )
        for fit, table in ((False, None), (True, None), (False, random), (True, random))
    ]  # fmt: skip
    for null in nulls:
        ax = hlmm_dask.plot.genotype_spread(study.bed, null, "rs0")
        left = ", random effects not removed" if null.n_random else ""
        assert ax.get_ylabel() == f"Phenotype 1 adjusted for covariates\n(SD{left})"
        drawn = np.concatenate([each.values for each in of_null(study.counts[0] + 0.0, null)])
        assert np.mean(drawn**2) == pytest.approx(1.0, abs=0.02)
        # With random effects the covariates' are estimated beside them.
        similar = 1e-6 if null.n_random == 0 or not null.fit_covariates else 0.1
        np.testing.assert_allclose(
            adjusted_phenotype(null), nulls[0].model.y, atol=similar, rtol=similar
        )
    ax = hlmm_dask.plot.genotype_spread(study.bed, nulls[0], "rs0", ylabel="height (cm)")
    assert ax.get_ylabel() == "height (cm)"


def test_spread_takes_arrays_and_names_what_is_wrong(tmp_path):
    study = make_study(tmp_path)
    ax = hlmm_dask.plot.genotype_spread(study.counts[0], study.y)
    assert ax.get_ylabel() == "Phenotype"
    with pytest.raises(InputError, match="no variant 'rs999'"):
        hlmm_dask.plot.genotype_spread(study.bed, study.y, "rs999")
    with pytest.raises(InputError, match="expected one value a sample"):
        hlmm_dask.plot.genotype_spread(study.counts[0], study.y[1:])
    with pytest.raises(InputError, match="no sample has a genotype and a phenotype"):
        hlmm_dask.plot.genotype_spread(study.bed, study.y, "rs5")


def test_density_is_one_in_all():
    y = np.random.default_rng(0).normal(3.0, 2.0, 4000)
    (only,) = by_genotype(np.ones(4000), y)
    grid = np.linspace(-8.0, 14.0, 300)
    density = only.density(grid)
    assert density.sum() * (grid[1] - grid[0]) == pytest.approx(1.0, abs=1e-3)
    assert grid[np.argmax(density)] == pytest.approx(3.0, abs=0.7)
