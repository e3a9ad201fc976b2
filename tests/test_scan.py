"""The scan from Python: every kernel against the one-variant models, and what must not matter."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from distributed import Client
from studies import Study, make_study, write_values

import hlmm_dask
from hlmm_dask import HLM, HLMM, InputError, ScanError, StoreError, fit_null, open_bed
from hlmm_dask.genotypes.plink import open_plink, write_plink
from hlmm_dask.scanning.events import (
    BlockDone,
    Event,
    PageServed,
    Phase,
    Planned,
    ScanFinished,
    ScanStarted,
)
from hlmm_dask.schema import Status

ESTIMATES = ("loglik", "add", "add_se", "var", "var_se")


def random_table(study: Study, size: int = 8, seed: int = 5) -> Path:
    """Write random effects as text, with missing values and columns that are left out."""
    rng = np.random.default_rng(seed)
    n = len(study.y)
    values = rng.normal(size=(n, size)) + 0.1 * study.y[:, None] / study.y.std()
    values[rng.random((n, size)) < 0.02] = np.nan
    values = np.column_stack([values, np.ones(n), np.full(n, np.nan)])
    return write_values(study.folder / "random.txt", study.samples, values)


def dense_g(table: Path) -> np.ndarray:
    """Impute, standardise and scale the columns of G, independently of the package."""
    values = pd.read_csv(table, sep="\t", header=None).iloc[:, 2:10].to_numpy()
    filled = np.where(np.isnan(values), np.nanmean(values, axis=0), values)
    return (filled - filled.mean(axis=0)) / filled.std(axis=0) / np.sqrt(filled.shape[1])


def equal(a: xr.Dataset, b: xr.Dataset, tolerance: float = 1e-10) -> None:
    assert list(a.data_vars) == list(b.data_vars)
    for name in a.data_vars:
        x, y = a[name].values.astype(float), b[name].values.astype(float)
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance, err_msg=name)
    for name in a.coords:
        assert (a[name].values == b[name].values).all(), name


def standardise(columns: np.ndarray) -> np.ndarray:
    return (columns - columns.mean(axis=0)) / columns.std(axis=0)


@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize("fit_covariates", [False, True])
@pytest.mark.parametrize("hard_calls", [True, False])
def test_every_path_agrees_with_the_models(
    study: Study, client: Client, random: bool, fit_covariates: bool, hard_calls: bool
) -> None:
    table = random_table(study) if random else None
    null = fit_null(
        study.bed,
        study.pheno,
        mean_covariates=study.covar,
        variance_covariates=study.covar,
        random_table=table,
        fit_covariates=fit_covariates,
    )
    rows = slice(9, 25)
    genotypes = open_bed(study.bed).isel(variants=rows)
    dosage = np.where(study.counts < 0, np.nan, study.counts)[rows].astype(float)
    if not hard_calls:
        dosage = 0.05 + 0.9 * dosage
        genotypes["call_dosage"] = (("variants", "samples"), dosage)
    results = hlmm_dask.scan(genotypes, null, client=client, block_size=5)

    ones = np.ones((len(study.y), 1))
    X = V = np.column_stack([ones, standardise(study.covariates)])
    y = study.y
    G = dense_g(table) if table else None
    if not fit_covariates:
        fit = HLM(y, X, V).fit()
        y = (y - X @ fit.alpha) * np.exp(-0.5 * V @ fit.beta)
        X = V = ones
    assert (results.status == Status.OK).sum() >= 14
    for j, g in enumerate(dosage):
        if results.status[j] != Status.OK:
            continue
        called = ~np.isnan(g)
        column = (g[called] - g[called].mean())[:, None]
        design = [np.column_stack([A[called], column]) for A in (X, V)]
        one = (
            HLM(y[called], *design).fit()
            if G is None
            else HLMM(y[called], *design, G[called]).fit(h2_min=null.model.h2_min)
        )
        assert one.converged
        r = results.isel(variants=j)
        assert float(r.n_samples) == called.sum()
        assert abs(r["add"] - one.alpha[-1]) < 1e-6 * one.alpha_se[-1]
        assert abs(r["var"] - one.beta[-1]) < 1e-6 * one.beta_se[-1]
        assert float(r.add_se) == pytest.approx(one.alpha_se[-1], rel=1e-6)
        assert float(r.var_se) == pytest.approx(one.beta_se[-1], rel=1e-6)
        assert float(r.loglik) == pytest.approx(one.loglik, abs=1e-6)
        if G is not None:
            assert float(r.h2) == pytest.approx(one.h2, abs=1e-6)


def test_h2_of_the_null(study: Study, client: Client) -> None:
    table = random_table(study)
    null = fit_null(study.bed, study.pheno, random_table=table)
    results = hlmm_dask.scan(study.bed, null, client=client, h2="null", start=9, stop=15)
    fitted = results.status == Status.OK
    assert np.allclose(results.h2[fitted], null.h2, rtol=1e-14)
    G = dense_g(table)
    y = null.model.y
    for j in np.flatnonzero(fitted):
        g = study.counts[9 + j].astype(float)
        called = g >= 0
        X = np.column_stack([np.ones(called.sum()), g[called] - g[called].mean()])
        one = HLMM(y[called], X, X, G[called]).fit(
            h2_init=null.h2, h2_min=null.model.h2_min, fix_h2=True
        )
        r = results.isel(variants=int(j))
        assert abs(r["add"] - one.alpha[-1]) < 1e-6 * one.alpha_se[-1]
        assert abs(r["var"] - one.beta[-1]) < 1e-6 * one.beta_se[-1]
        assert float(r.add_se) == pytest.approx(one.alpha_se[-1], rel=1e-6)
        assert float(r.var_se) == pytest.approx(one.beta_se[-1], rel=1e-6)
        assert float(r.loglik) == pytest.approx(one.loglik, abs=1e-6)


@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize("fit_covariates", [False, True])
@pytest.mark.parametrize("factor", [1e-8, 1e-6, 1e6, 1e8])
def test_scale_of_the_phenotype(
    study: Study, client: Client, random: bool, fit_covariates: bool, factor: float
) -> None:
    scaled = write_values(study.folder / "scaled.txt", study.samples, factor * study.y)
    table = random_table(study) if random else None
    results = []
    for pheno in (study.pheno, scaled):
        null = fit_null(
            study.bed,
            pheno,
            mean_covariates=study.covar,
            variance_covariates=study.covar,
            random_table=table,
            fit_covariates=fit_covariates,
        )
        results.append(hlmm_dask.scan(study.bed, null, client=client, stop=20, block_size=10))
    one, other = results
    assert (one.status == other.status).all()
    assert (one.status == Status.OK).sum() > 8
    for name in ("add_t", "var_t"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-8, atol=1e-8)
    unit = factor if fit_covariates else 1.0
    np.testing.assert_allclose(other["add"], one["add"] * unit, rtol=1e-7, atol=1e-9 * unit)
    np.testing.assert_allclose(other.h2, one.h2 * unit**2, rtol=1e-7)


def test_h2_at_its_bound_is_fitted(tmp_path: Path, client: Client) -> None:
    study = make_study(tmp_path, n=400, m=30, seed=3)
    rng = np.random.default_rng(11)
    G = rng.normal(size=(400, 10))
    # Nothing along G is left: the likelihood falls in h2 from 0 on.
    y = rng.normal(size=400)
    y -= G @ np.linalg.lstsq(G, y, rcond=None)[0]
    pheno = write_values(tmp_path / "y.txt", study.samples, y)
    table = write_values(tmp_path / "g.txt", study.samples, G)
    null = fit_null(study.bed, pheno, random_table=table)
    assert null.h2 == pytest.approx(1e-5, rel=1e-6)
    results = hlmm_dask.scan(study.bed, null, client=client)
    assert not (results.status == Status.NOT_CONVERGED).any()
    fitted = results.status == Status.OK
    assert fitted.sum() > 15
    assert (np.abs(results.h2[fitted] / 1e-5 - 1) < 1e-6).sum() > 10
    assert np.isfinite(results.add_se[fitted]).all()


@pytest.mark.parametrize("random", [False, True])
def test_block_size_does_not_matter(study: Study, client: Client, random: bool) -> None:
    null = fit_null(study.bed, study.pheno, random_table=random_table(study) if random else None)
    a, b, c = (
        hlmm_dask.scan(study.bed, null, client=client, block_size=size) for size in (7, 1000, 1)
    )
    equal(a, b)
    equal(a, c)


@pytest.mark.parametrize("fit_covariates", [False, True])
def test_order_of_people_does_not_matter(
    study: Study, client: Client, fit_covariates: bool
) -> None:
    def run(bed: Path, pheno: Path, covar: Path, random: Path) -> xr.Dataset:
        null = fit_null(
            bed, pheno, mean_covariates=covar, variance_covariates=covar,
            random_table=random, fit_covariates=fit_covariates,
        )  # fmt: skip
        return hlmm_dask.scan(bed, null, client=client, stop=25)

    random = random_table(study)
    straight = run(study.bed, study.pheno, study.covar, random)
    rng = np.random.default_rng(1)
    order = rng.permutation(len(study.y))
    bed = write_plink(
        study.folder / "shuffled.bed", study.counts[:, order], study.samples.iloc[order],
        study.variants,
    )  # fmt: skip
    equal(straight, run(bed, study.pheno, study.covar, random))
    shuffled = []
    for path in (study.pheno, study.covar, random):
        lines = path.read_text().splitlines(keepends=True)
        target = path.with_suffix(".shuffled")
        target.write_text("".join(rng.permutation(lines)))
        shuffled.append(target)
    equal(straight, run(study.bed, *shuffled))


def test_people_without_phenotype_or_covariates(study: Study, client: Client) -> None:
    y = study.y.copy()
    y[:20] = np.nan
    covariates = study.covariates[40:]
    pheno = write_values(study.folder / "p.txt", study.samples, y)
    covar = write_values(study.folder / "c.txt", study.samples.iloc[40:], covariates)
    few = write_plink(
        study.folder / "few.bed", study.counts[:, :250], study.samples[:250], study.variants
    )
    null = fit_null(few, pheno, mean_covariates=covar)
    assert null.n_samples == 210
    assert list(null.sample_index) == list(range(40, 250))
    results = hlmm_dask.scan(few, null, client=client, stop=12)
    called = study.counts[:12, 40:250] >= 0
    assert list(results.n_samples.values) == list(called.sum(axis=1))


def test_every_variant_has_one_row(study: Study, client: Client) -> None:
    null = fit_null(study.bed, study.pheno)
    results = hlmm_dask.scan(study.bed, null, client=client, block_size=11)
    assert list(results.variant_id.values) == list(study.variants.variant_id)
    assert list(results.variant_contig.values) == list(study.variants.contig)
    assert list(results.variant_position.values) == list(study.variants.position)
    status = results.status.values
    assert status[2] == status[3] == Status.MONOMORPHIC
    assert status[4] == Status.ALL_HETEROZYGOUS
    assert status[5] == Status.ALL_MISSING
    assert status[6] == Status.MISSING
    assert status[8] == Status.LOW_MAF
    for name in ESTIMATES:
        assert (np.isfinite(results[name].values) == (status == Status.OK)).all()


def test_filters_are_strict(tmp_path: Path, client: Client) -> None:
    study = make_study(tmp_path, n=200, m=8, seed=2)
    counts = study.counts.copy()
    counts[:4] = 0
    counts[0, :20] = 1  # MAF 0.05 exactly
    counts[1, :21] = 1
    counts[2, :100] = 1
    counts[2, 100:110] = -1  # 5 % missing exactly
    counts[3, :100] = 1
    counts[3, 100:109] = -1
    bed = write_plink(tmp_path / "strict.bed", counts, study.samples, study.variants)
    null = fit_null(bed, study.pheno)
    status = hlmm_dask.scan(bed, null, client=client, stop=4).status.values
    assert list(status) == [Status.LOW_MAF, Status.OK, Status.MISSING, Status.OK]


def test_the_other_allele_turns_the_signs(study: Study, client: Client) -> None:
    null = fit_null(study.bed, study.pheno)
    one = hlmm_dask.scan(study.bed, null, client=client)
    two = hlmm_dask.scan(study.bed, null, client=client, count_a2=True)
    for name in ("add", "var", "add_t", "var_t"):
        np.testing.assert_array_equal(one[name], -two[name])
    total = (one.effect_allele_frequency + two.effect_allele_frequency).values
    np.testing.assert_allclose(np.delete(total, 5), 1)  # 5 has no call
    assert (one.variant_allele.values == two.variant_allele.values[:, ::-1]).all()
    assert set(one.variant_allele.values[:, 1]) == {"A"}


def test_dataset_equals_files(study: Study, client: Client) -> None:
    null = fit_null(study.bed, study.pheno)
    files = hlmm_dask.scan(study.bed, null, client=client)
    dataset = open_bed(study.bed, chunk_variants=13)
    equal(files, hlmm_dask.scan(dataset, fit_null(dataset, study.pheno), client=client))
    part = hlmm_dask.scan(dataset.isel(variants=slice(10, 33)), null, client=client, block_size=4)
    equal(files.isel(variants=slice(10, 33)), part)
    equal(part, hlmm_dask.scan(study.bed, null, client=client, start=10, stop=33))
    chosen = [30, 7, 12]
    equal(
        files.isel(variants=chosen),
        hlmm_dask.scan(dataset.isel(variants=chosen), null, client=client),
    )


@pytest.mark.parametrize("dtype", ["int8", "uint8", "float64"])
def test_dosages_of_any_type(study: Study, client: Client, dtype: str) -> None:
    null = fit_null(study.bed, study.pheno)
    rows = [0, 9, 12] if dtype == "uint8" else [0, 1, 7]
    dataset = open_bed(study.bed).isel(variants=rows).load()
    counts = study.counts[rows]
    values = np.where(counts < 0, np.nan, counts) if dtype == "float64" else counts.astype(dtype)
    dataset["call_dosage"] = (("variants", "samples"), values)
    expected = hlmm_dask.scan(study.bed, null, client=client).isel(variants=rows)
    equal(expected, hlmm_dask.scan(dataset, null, client=client))


def test_dosages_that_are_no_dosages(study: Study, client: Client) -> None:
    null = fit_null(study.bed, study.pheno)
    for bad in (9.0, -0.5, np.inf):
        dataset = open_bed(study.bed).isel(variants=[0, 1, 7]).load()
        dataset["call_dosage"][1, 4] = bad
        with pytest.raises(InputError, match=r"variant .rs1.: a dosage of .* expected 0 to 2"):
            hlmm_dask.scan(dataset, null, client=client)


def test_dataset_without_a_variable(study: Study, client: Client) -> None:
    null = fit_null(study.bed, study.pheno)
    for name in ("call_dosage", "variant_id", "variant_allele", "sample_id"):
        with pytest.raises(InputError, match=name):
            hlmm_dask.scan(open_bed(study.bed).drop_vars(name), null, client=client)
    with pytest.raises(InputError, match="sample_id"):
        fit_null(open_bed(study.bed).drop_vars("sample_id"), study.pheno)


def test_contigs_by_number(study: Study, client: Client) -> None:
    """VCF Zarr keeps the number of the contig, its name stands in contig_id."""
    null = fit_null(study.bed, study.pheno)
    dataset = open_bed(study.bed).load()
    dataset["variant_contig"] = ("variants", (dataset.variant_contig == "X").values.astype("i1"))
    dataset["contig_id"] = ("contigs", np.array(["1", "X"], dtype=object))
    results = hlmm_dask.scan(dataset, null, client=client)
    assert list(results.variant_contig.values) == list(study.variants.contig)


def test_nothing_is_left_without_out(
    study: Study, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    null = fit_null(study.bed, study.pheno)
    temporary = study.folder / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    before = sorted(os.listdir(study.folder))
    results = hlmm_dask.scan(study.bed, null, client=client)
    assert np.isfinite(results["add"].values).any()
    # The private folder of workers stays, as other scans may use it.
    left = [path for path in temporary.rglob("*") if path.name != f"hlmm-dask-{os.getuid()}"]
    assert not left
    assert sorted(os.listdir(study.folder)) == before


def test_out_is_a_store(study: Study, client: Client) -> None:
    null = fit_null(study.bed, study.pheno)
    events: list[Event] = []
    out = study.folder / "out.zarr"
    results = hlmm_dask.scan(
        study.bed, null, client=client, out=out, block_size=20, observers=[events.append]
    )
    before = (Planned, PageServed, Phase)
    started, *done, finished = (event for event in events if not isinstance(event, before))
    assert isinstance(started, ScanStarted)
    assert started.n_blocks == 3
    assert isinstance(finished, ScanFinished)
    assert sorted(e.block for e in done if isinstance(e, BlockDone)) == [0, 1, 2]
    assert finished.n_fitted == int((results.status == Status.OK).sum())
    raw = xr.open_zarr(out)
    columns = {column.name for column in results.data_vars.values()}
    assert "add" in columns
    assert raw.sizes["variants"] == len(study.variants)
    equal(results, hlmm_dask.open_results(out))
    with pytest.raises(StoreError, match="exists"):
        hlmm_dask.scan(study.bed, null, client=client, out=out)
    with pytest.raises(InputError, match="exclude"):
        hlmm_dask.scan(study.bed, null, client=client, out=out, resume=True, overwrite=True)


def test_null_of_other_people_is_refused(study: Study, client: Client) -> None:
    null = fit_null(study.bed, study.pheno)
    order = np.arange(len(study.y))[::-1]
    other = write_plink(
        study.folder / "other.bed", study.counts[:, order], study.samples.iloc[order],
        study.variants,
    )  # fmt: skip
    for genotypes in (other, open_plink(other), open_bed(other)):
        with pytest.raises(InputError, match="other samples"):
            hlmm_dask.scan(genotypes, null, client=client)
    fewer = write_plink(
        study.folder / "fewer.bed", study.counts[:, :200], study.samples[:200], study.variants
    )
    with pytest.raises(InputError, match="300 samples"):
        hlmm_dask.scan(fewer, null, client=client)


def test_a_dead_worker_changes_nothing(
    tmp_path: Path, client: Client, cluster_of: Callable[[int], Client]
) -> None:
    study = make_study(tmp_path, n=400, m=60)
    null = fit_null(study.bed, study.pheno, random_table=random_table(study, 60))
    expected = hlmm_dask.scan(study.bed, null, client=client)
    own = cluster_of(2)
    pids = list(own.run(os.getpid).values())
    killed: list[int] = []

    def kill(event: Event) -> None:
        if isinstance(event, BlockDone) and not killed:
            killed.append(pids[0])
            os.kill(pids[0], 9)

    results = hlmm_dask.scan(study.bed, null, client=own, block_size=4, observers=[kill])
    assert killed
    equal(expected, results)


def test_a_worker_out_of_memory_changes_nothing(
    tmp_path: Path, client: Client, cluster_of: Callable[..., Client]
) -> None:
    study = make_study(tmp_path, n=400, m=60)
    null = fit_null(study.bed, study.pheno, random_table=random_table(study, 60))
    expected = hlmm_dask.scan(study.bed, null, client=client)
    own = cluster_of(2, memory_limit="1GiB")
    before = own.run(os.getpid)
    victim = min(before)

    # Within: workers can't import this module.
    def exhaust_memory() -> None:
        def fill() -> None:
            held = []
            while True:
                held.append(bytearray(b"x" * 2**24))
                time.sleep(0.01)

        threading.Thread(target=fill, daemon=True).start()

    started: list[str] = []

    def exhaust(event: Event) -> None:
        if isinstance(event, BlockDone) and not started:
            started.append(victim)
            own.run(exhaust_memory, workers=[victim])
            deadline = time.monotonic() + 60
            while os.path.exists(f"/proc/{before[victim]}") and time.monotonic() < deadline:
                time.sleep(0.05)

    results = hlmm_dask.scan(study.bed, null, client=own, block_size=4, observers=[exhaust])
    assert started
    assert not os.path.exists(f"/proc/{before[victim]}")
    equal(expected, results)


def test_failed_blocks_are_named_and_kept_apart(study: Study, client: Client) -> None:
    """A .bed that changes during the run is noticed; what was done before stays."""
    null = fit_null(study.bed, study.pheno)
    genotypes = open_plink(study.bed)
    out = study.folder / "out.zarr"
    study.bed.write_bytes(study.bed.read_bytes()[:-1])
    with pytest.raises(ScanError, match=r"study\.bed.*--resume"):
        hlmm_dask.scan(genotypes, null, client=client, out=out, block_size=30)
