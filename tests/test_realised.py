"""Realised relationship matrices: definitions, blocks, missing calls, LOCO, the command."""

import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from distributed import Client
from studies import Study, make_study, write_values

from hlmm_dask.errors import ClusterLostError, InputError
from hlmm_dask.genotypes.plink import PlinkGenotypes, open_plink, write_plink
from hlmm_dask.kernels.packed import PackedLayout
from hlmm_dask.kernels.relationship import RelationshipModel
from hlmm_dask.models.variance_components import VarianceComponents
from hlmm_dask.models.vc_effects import RandomEffect
from hlmm_dask.relationship.files import read_kinship
from hlmm_dask.scanning import kinship_tiles as module
from hlmm_dask.scanning import lmm_job, probe
from hlmm_dask.scanning.kinship import relationship_matrix, relationship_parts
from hlmm_dask.scanning.kinship_tiles import TileTask, run_tiles
from hlmm_dask.tables import read_table

KINDS = ["standardised", "centred", "scaled"]


def by_definition(counts: np.ndarray, kind: str) -> np.ndarray:
    """The matrix from genotypes (m, n), -1 missing, variant by variant."""
    n = counts.shape[1]
    sums, pairs = np.zeros((n, n)), np.zeros((n, n))
    for row in counts:
        seen = row >= 0
        if not seen.any() or np.ptp(row[seen]) == 0:
            continue
        mean = row[seen].mean()
        maf = min(mean, 2 - mean) / 2
        if maf <= 0.01 or np.mean(~seen) >= 0.05:
            continue
        z = np.where(seen, row - mean, 0.0)
        if kind == "standardised":
            z /= np.sqrt(2 * mean / 2 * (1 - mean / 2))
            pairs += np.outer(seen, seen)
        else:
            z /= z.std() if kind == "scaled" else 1.0
            pairs += 1
        sums += np.outer(z, z)
    return sums / pairs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make_study(tmp_path_factory.mktemp("grm"), n=90, m=60, seed=4, contigs=("1", "2"))


@pytest.mark.parametrize("kind", KINDS)
def test_definitions(kind: Any, data: Study) -> None:
    found = relationship_matrix(data.bed, kind=kind)
    np.testing.assert_allclose(found.matrix, by_definition(data.counts, kind), atol=1e-12)
    assert found.ids == list(zip(data.samples["fid"], data.samples["iid"], strict=True))


def test_counts_without_missing_calls_are_summed_exactly(data: Study, tmp_path: Path) -> None:
    counts = data.counts[(data.counts >= 0).all(axis=1)]
    whole = write_plink(tmp_path / "whole.bed", counts, data.samples, data.variants[: len(counts)])
    K = relationship_matrix(whole, kind="centred", min_maf=0.0).matrix
    np.testing.assert_array_equal(K, K.T)
    varies = counts[np.ptp(counts, axis=1) > 0]
    # As fractions of n²: whole numbers.
    z = 90 * varies.astype(np.int64) - varies.sum(axis=1, dtype=np.int64)[:, None]
    np.testing.assert_allclose(K, (z.T @ z) / 90**2 / len(varies), rtol=0, atol=1e-14)


def test_counts_of_pairs(data: Study) -> None:
    found = relationship_matrix(data.bed, max_missing=100.0, min_maf=0.0)
    varies = [np.ptp(row[row >= 0]) > 0 if (row >= 0).any() else False for row in data.counts]
    seen = (data.counts[varies] >= 0).astype(float)
    np.testing.assert_array_equal(found.n_variants, seen.T @ seen)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("blocks", ["tiles", "blocks", "tasks"])
def test_tiles_blocks_and_tasks_change_nothing(
    kind: Any, blocks: str, data: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = relationship_matrix(data.bed, kind=kind)
    name, value = {"tiles": ("_TILE", 32), "blocks": ("_BLOCK_BYTES", 8 * 90 * 7),
                   "tasks": ("_TASK", 9e4)}[blocks]  # fmt: skip
    monkeypatch.setattr(module, name, value)
    again = relationship_matrix(data.bed, kind=kind)
    np.testing.assert_allclose(again.matrix, whole.matrix, atol=1e-13)
    np.testing.assert_array_equal(again.n_variants, whole.n_variants)


def test_only_some_samples_and_variants(data: Study) -> None:
    rng = np.random.default_rng(0)
    rows = np.sort(rng.choice(90, 50, replace=False))
    variants = rng.random(60) < 0.7
    ids = list(zip(data.samples["fid"], data.samples["iid"], strict=True))
    wanted = [ids[i] for i in rows]
    found = relationship_matrix(data.bed, samples=wanted[::-1], variants=variants)
    assert found.ids == wanted
    expected = by_definition(data.counts[variants][:, rows], "standardised")
    np.testing.assert_allclose(found.matrix, expected, atol=1e-12)
    np.testing.assert_array_equal(found.select(wanted[5:8]), found.matrix[5:8, 5:8])
    some = relationship_matrix(data.bed, samples=wanted, among=wanted[7:20], variants=variants)
    assert some.ids == wanted[7:20]
    np.testing.assert_allclose(some.matrix, expected[7:20, 7:20], atol=1e-12)
    with pytest.raises(InputError, match="1 of 1 people are not in it"):
        found.select([("no", "body")])


def test_a_cluster_computes_the_same_to_the_last_bit(
    data: Study, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TASK", 5e4)
    monkeypatch.setattr(module, "_TILE", 50)
    here = relationship_matrix(data.bed)
    there = relationship_matrix(data.bed, client=client)
    np.testing.assert_array_equal(there.matrix, here.matrix)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sorted_file", [True, False])
def test_leaving_out_a_chromosome(kind: Any, sorted_file: bool, tmp_path: Path) -> None:
    data = make_study(tmp_path, n=40, m=60, seed=2)
    contig = np.array(["1"] * 20 + ["chr02"] * 25 + ["4"] * 15)
    if not sorted_file:
        contig = np.random.default_rng(3).permutation(contig)
    bed = write_plink(
        tmp_path / "loco.bed", data.counts, data.samples, data.variants.assign(contig=contig)
    )
    folder = tmp_path / "parts"
    folder.mkdir()
    parts = relationship_parts(bed, folder, kind=kind)
    assert set(parts.chromosomes) == {"1", "2", "4"}
    whole = parts.whole()
    np.testing.assert_allclose(whole.matrix, by_definition(data.counts, kind), atol=1e-12)
    for name in ("1", "chr02", "4"):
        left = parts.without(name)
        expected = by_definition(data.counts[contig != name], kind)
        np.testing.assert_allclose(left.matrix, expected, atol=1e-11)
    np.testing.assert_array_equal(parts.without("7").matrix, whole.matrix)


def test_memory_is_the_matrix_a_tile_and_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more is allocated for 25 times the variants, whose dosages would take 8 MB."""
    monkeypatch.setattr(module, "_BLOCK_BYTES", 2**18)
    monkeypatch.setattr(module, "_TASK", 1e6)
    peaks = []
    for m in (400, 10_000):
        folder = tmp_path / str(m)
        folder.mkdir()
        counts = np.random.default_rng(1).binomial(2, 0.3, (m, 100)).astype(np.int8)
        samples = pd.DataFrame({"fid": [f"{i}" for i in range(100)]}).assign(iid="a")
        variants = pd.DataFrame({"contig": "1", "variant_id": [f"r{j}" for j in range(m)]})
        variants = variants.assign(position=np.arange(m) + 1, allele1="A", allele2="G")
        source = open_plink(write_plink(folder / "x.bed", counts, samples, variants))
        relationship_matrix(source)
        tracemalloc.start()
        relationship_matrix(source)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Other threads of this process allocate too.
    assert peaks[1] < peaks[0] + 2_000_000


def test_errors(data: Study, tmp_path: Path) -> None:
    for options, message in (
        ({"kind": "other"}, "expected standardised, centred or scaled"),
        ({"min_maf": 0.5}, "--min-maf 0.5"),
        ({"max_missing": 0.0}, "--max-missing 0"),
        ({"min_maf": 0.499}, "no variant is left"),
        ({"variants": np.zeros(60, dtype=bool)}, "no variant is left"),
        ({"samples": [("x", "y")]}, "1 of 1 samples are not in it"),
    ):
        with pytest.raises(InputError, match=message):
            relationship_matrix(data.bed, **options)  # type: ignore[arg-type]
    counts = np.array([[0, 1, -1, 2], [2, -1, 1, 0]], dtype=np.int8)
    bed = write_plink(tmp_path / "few.bed", counts, data.samples[:4], data.variants[:2])
    with pytest.raises(InputError, match="'i1' and 'i2' have no variant with calls of both"):
        relationship_matrix(bed, max_missing=100.0)


def read_ids(genotypes: PlinkGenotypes) -> list[tuple[str, str]]:
    return list(zip(genotypes.samples["fid"], genotypes.samples["iid"], strict=True))


def test_command(data: Study, run_script: Callable[..., int], tmp_path: Path, capsys: Any) -> None:
    expected = relationship_matrix(data.bed)
    out = tmp_path / "k"
    assert run_script("kinship", data.bed, out) == 0
    found = read_kinship(f"{out}.npz")
    np.testing.assert_array_equal(found.matrix, expected.matrix)
    np.testing.assert_array_equal(found.n_variants, expected.n_variants)
    assert found.ids == expected.ids
    assert "k.npz: 90 samples" in capsys.readouterr().err
    assert run_script("kinship", data.bed, out) == 2
    assert "exists; give --overwrite" in capsys.readouterr().err
    keep, extract = tmp_path / "keep.txt", tmp_path / "extract.txt"
    keep.write_text("".join(f"{f} {i}\n" for f, i in expected.ids[3:40]))
    extract.write_text("".join(f"rs{j}\n" for j in range(0, 60, 2)))
    options = ["--kind", "centred", "--keep", keep, "--extract", extract, "--format", "text"]
    assert run_script("kinship", data.bed, out, *options, "--loco") == 0
    both = by_definition(data.counts[::2, 3:40], "centred")
    np.testing.assert_allclose(read_kinship(f"{out}.txt").matrix, both, atol=1e-12)
    without = by_definition(data.counts[30::2, 3:40], "centred")
    np.testing.assert_allclose(read_kinship(f"{out}.loco_1.txt").matrix, without, atol=1e-12)
    assert (tmp_path / "k.loco_2.txt").exists()
    assert not list(tmp_path.glob(".*"))
    extract.write_text("rs999\n")
    assert run_script("kinship", data.bed, tmp_path / "x", "--extract", extract) == 2
    assert run_script("kinship", data.bed, tmp_path / "no" / "x") == 2
    errors = capsys.readouterr().err.splitlines()
    assert "none of its 1 variants is in" in errors[-2]
    assert "no such folder" in errors[-1]


def test_command_on_a_cluster(
    data: Study, run_script: Callable[..., int], client: Client, tmp_path: Path
) -> None:
    out = tmp_path / "k"
    scheduler = client.scheduler.address
    assert run_script("kinship", data.bed, out, "--scheduler", scheduler, "--format", "grm") == 0
    found = read_kinship(f"{out}.grm.bin")
    expected = relationship_matrix(data.bed)
    np.testing.assert_array_equal(found.matrix, expected.matrix.astype(np.float32))
    np.testing.assert_array_equal(found.n_variants, expected.n_variants)


def test_cluster_that_is_lost(data: Study, cluster_of: Callable[..., Client]) -> None:
    """It is told, not waited for."""
    source = open_plink(data.bed)
    layout = PackedLayout(source.n_samples, np.arange(source.n_samples))
    model = RelationshipModel(layout, np.arange(source.n_samples), "centred", 0.0, 100.0)
    everything = np.ones(source.n_variants, dtype=bool)
    task = TileTask(0, slice(0, 90), slice(0, 90), 0, source.n_variants, everything)
    client = cluster_of(1)

    def tasks() -> Iterator[TileTask]:
        yield from [task] * 4
        client.cluster.scale(0)
        while client.nthreads():
            time.sleep(0.05)
        yield from [task] * 4

    with pytest.raises(ClusterLostError, match="matrix: no worker for 1 s; run it again"):
        list(run_tiles(source, model, tasks(), client, no_workers_timeout=1.0))


def test_workers_are_asked_first(
    data: Study, run_script: Callable[..., int], client: Client, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """By both commands that compute a matrix on a cluster."""
    scheduler = ["--scheduler", client.scheduler.address]
    pheno = write_values(tmp_path / "y.txt", data.samples, np.arange(90.0))

    def refuse(*arguments: object, **options: object) -> None:
        raise InputError("worker 7: has another hlmm_dask")

    def compute(*arguments: object) -> None:
        raise AssertionError

    monkeypatch.setattr(probe, "probe_workers", refuse)
    monkeypatch.setattr(lmm_job, "probe_workers", refuse)
    monkeypatch.setattr(Client, "submit", compute)
    assert run_script("kinship", data.bed, tmp_path / "k", *scheduler) == 2
    lmm = ["--model", "lmm", "--grm-from", data.bed]
    assert run_script("scan", data.bed, pheno, tmp_path / "out", *lmm) == 2
    assert capsys.readouterr().err.count("worker 7: has another hlmm_dask") == 2


@pytest.mark.slow
def test_reference_two_relationship_matrices_of_mice(reference: Path) -> None:
    """Chromosomes 1-9 and 10-19, from genotypes to components; GEMMA -vc 2 is there too."""
    folder = reference / "mouse"
    expected = json.loads((folder / "vc_pheno1.json").read_text())
    genotypes = open_plink(folder / "mouse.bed")
    tables = [read_table(folder / name) for name in ("pheno1.txt", "sex.txt")]
    y, sex = (dict(zip(t.ids, t.values[:, 0].tolist(), strict=True)) for t in tables)
    ids = [key for key in read_ids(genotypes) if not np.isnan(y.get(key, np.nan))]
    contig = np.concatenate([t["contig"].to_numpy() for t in genotypes.iter_variants()])
    first = contig.astype(int) <= 9
    effects = []
    for name, variants in (("1-9", first), ("10-19", ~first)):
        K = relationship_matrix(genotypes, kind="scaled", samples=ids, variants=variants)
        effects.append(RandomEffect.from_covariance(name, K.matrix))
    X = np.column_stack([np.ones(len(ids)), [sex[key] for key in ids]])
    model = VarianceComponents([y[key] for key in ids], X, effects)
    for reml in (True, False):
        wanted = expected["reml" if reml else "ml"]
        state, at = model.state(expected["start"]), wanted["at_start"]
        assert state is not None
        np.testing.assert_allclose(model.score(state, reml=reml), at["gradient"], atol=1e-8)
        observed = model.information(state, "observed", reml=reml)
        np.testing.assert_allclose(observed, at["observed_information"], atol=1e-7)
        fit = model.fit(reml=reml, tolerance=1e-9)
        assert fit.converged
        se = fit.se.min()
        np.testing.assert_allclose(fit.components, wanted["variance_components"], atol=1e-7 * se)
        np.testing.assert_allclose(fit.se, wanted["se_observed"], rtol=1e-7)
        np.testing.assert_allclose(fit.beta, wanted["beta"], atol=1e-7 * se)
        constant = 0.5 * model.logdet_xx if reml else 0.0
        assert fit.loglik - constant == pytest.approx(wanted["loglik"], abs=1e-8)
        if reml:
            np.testing.assert_allclose(fit.components, [0.223569, 0.288174, 0.339094], atol=5e-6)


@pytest.mark.slow
def test_reference_centred_matrix_of_mice(reference: Path) -> None:
    """GEMMA's matrix from a list of variants, to the variances of a mixed model."""
    folder = reference / "mouse"
    expected = json.loads((folder / "lmm_pheno1.null.json").read_text())
    genotypes = open_plink(folder / "mouse.bed")
    chosen = set((folder / "kinship_snps.txt").read_text().split())
    names = np.concatenate([t["variant_id"].to_numpy() for t in genotypes.iter_variants()])
    variants = np.array([name in chosen for name in names])
    K = relationship_matrix(genotypes, kind="centred", variants=variants, min_maf=0.0)
    assert K.n_variants == expected["n_snps_in_K"]
    table = read_table(folder / "pheno1.txt")
    y = dict(zip(table.ids, table.values[:, 0].tolist(), strict=True))
    ids = [key for key in K.ids if not np.isnan(y.get(key, np.nan))]
    part = K.select(ids)
    part = part - part.mean(axis=0) - part.mean(axis=1)[:, None] + part.mean()
    assert np.diag(part).mean() == pytest.approx(expected["mean_diagonal_of_K"], rel=1e-12)
    effect = RandomEffect.from_covariance("variants", part)
    fit = VarianceComponents([y[key] for key in ids], np.ones(len(ids)), [effect]).fit()
    assert fit.loglik == pytest.approx(expected["reml_loglik"], abs=1e-8)
    np.testing.assert_allclose(fit.components, [expected["vg"], expected["ve"]], rtol=1e-6)
    assert fit.beta_se[0] == pytest.approx(expected["beta_se"], rel=1e-6)


def sexed(tmp_path: Path, contigs: list[str], positions: Any = None) -> tuple[Path, np.ndarray]:
    """Genotypes of 60 people whose sexes differ on the chromosomes that are no autosomes."""
    rng = np.random.default_rng(8)
    counts = rng.binomial(2, 0.4, (len(contigs), 60)).astype(np.int8)
    elsewhere = [not (name.removeprefix("chr").isdecimal() and int(name[-2:]) < 23)
                 for name in contigs]  # fmt: skip
    counts[np.ix_(elsewhere, np.arange(60) % 2 == 0)] //= 2
    samples = pd.DataFrame({"fid": [f"f{i}" for i in range(60)], "iid": "a"})
    variants = pd.DataFrame(
        {"contig": contigs, "variant_id": [f"v{j}" for j in range(len(contigs))],
         "position": np.arange(len(contigs)) + 1 if positions is None else positions,
         "allele1": "A", "allele2": "G"}
    )  # fmt: skip
    return write_plink(tmp_path / "sexed.bed", counts, samples, variants), counts


def test_only_autosomes_are_in_a_matrix(tmp_path: Path) -> None:
    contigs = ["1"] * 20 + ["chr22"] * 20 + ["01"] * 5
    contigs += ["X", "23", "chrY", "25", "MT", "26", "0", "Un", "PAR1"] * 3
    bed, counts = sexed(tmp_path, contigs)
    found = relationship_matrix(bed)
    np.testing.assert_allclose(found.matrix, by_definition(counts[:45], "standardised"), atol=1e-12)
    (note,) = found.notes
    assert "27 of 72 variants are not used: chromosomes 'X', '23', 'chrY', '25', 'MT', ..." in note
    everything = relationship_matrix(bed, autosomes=None)
    np.testing.assert_allclose(everything.matrix, by_definition(counts, "standardised"), atol=1e-12)
    assert everything.notes == ()
    # Another species, and variants of one's own choice.
    other = relationship_matrix(bed, autosomes=25, variants=np.arange(72) >= 40)
    mine = [j for j in range(40, 72) if contigs[j] in ("01", "23", "25")]
    np.testing.assert_allclose(
        other.matrix, by_definition(counts[mine], "standardised"), atol=1e-12
    )
    folder = tmp_path / "parts"
    folder.mkdir()
    parts = relationship_parts(bed, folder)
    assert (parts.chromosomes, parts.notes) == (("1", "22"), found.notes)
    np.testing.assert_allclose(parts.without("X").matrix, found.matrix, atol=1e-12)
    with pytest.raises(InputError, match=r"no variant is left .*'MT', .*--autosome-num"):
        relationship_matrix(bed, variants=np.arange(72) >= 45)


def test_negative_positions_are_in_no_matrix(tmp_path: Path) -> None:
    """Unknown positions, 0 and -9, are."""
    bed, counts = sexed(tmp_path, ["1"] * 8, [1, -5, 3, -9, 0, -9, -1000, 7])
    found = relationship_matrix(bed)
    kept = [0, 2, 3, 4, 5, 7]
    np.testing.assert_allclose(found.matrix, by_definition(counts[kept], "standardised"))
    (note,) = found.notes
    assert "2 of 8 variants are not used: a negative position" in note


def test_commands_leave_sex_chromosomes_out(
    tmp_path: Path, run_script: Callable[..., int], capsys: Any
) -> None:
    bed, counts = sexed(tmp_path, ["1"] * 20 + ["23"] * 10 + ["X"] * 10 + ["2"] * 20)
    autosomes = [*range(20), *range(40, 60)]
    expected = by_definition(counts[autosomes], "standardised")
    for options, rows in (
        ([], autosomes), (["--autosome-num", 1], range(20)), (["--all-chromosomes"], range(60)),
        (["--autosome-num", 23, "--loco"], [*range(30), *range(40, 60)]),
    ):  # fmt: skip
        assert run_script("kinship", bed, tmp_path / "k", "--overwrite", *options) == 0
        said = capsys.readouterr().err
        found = read_kinship(f"{tmp_path}/k.npz")
        np.testing.assert_allclose(
            found.matrix, by_definition(counts[list(rows)], "standardised"), atol=1e-12
        )
        assert (f"{60 - len(rows)} of 60 variants are not used" in said) == (len(rows) < 60)
        assert f"{len(rows)} variants\n" in said
    assert run_script(
        "kinship", bed, tmp_path / "k2", "--autosome-num", 5, "--all-chromosomes"
    ) == 2  # fmt: skip
    assert "exclude each other" in capsys.readouterr().err
    np.savez(tmp_path / "expected.npz", matrix=expected)
    samples = open_plink(bed).samples
    phenotype = write_values(tmp_path / "y.txt", samples, np.random.default_rng(0).normal(size=60))
    for name, options in (("here", []), ("all", ["--grm-all-chromosomes"])):
        assert run_script(
            "scan", bed, phenotype, tmp_path / name, "--model", "lmm", "--grm-from", bed, *options
        ) == 0  # fmt: skip
        log = (tmp_path / f"{name}.log").read_text()
        assert ("20 of 60 variants are not used: chromosomes '23', 'X'" in log) == (name == "here")
    assert run_script(
        "scan", bed, phenotype, tmp_path / "x", "--model", "lmm", "--kinship", bed,
        "--autosome-num", 5,
    ) == 2  # fmt: skip
    assert "--autosome-num requires --grm-from" in capsys.readouterr().err
