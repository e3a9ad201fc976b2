"""Files for other programs: what is in them is what is in the store."""

import gzip
import hashlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from hlmm_dask import bgzf
from hlmm_dask.formats import rows
from hlmm_dask.formats.effects import EFFECTS, effects_in
from hlmm_dask.formats.munge import write_formats
from hlmm_dask.models.dispersion import dispersion_effects
from hlmm_dask.models.inference import neg_log10_p_normal, normal_quantile
from hlmm_dask.schema import RESULT_NAMES, Status
from hlmm_dask.store import ResultsStore

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "munge.py"
N, SIZE = 2_600, 50
CONTIGS = [*map(str, range(1, 23)), "chrX", "Y", "26", "0"]
SSF_HEADER = [
    "chromosome", "base_pair_location", "effect_allele", "other_allele", "beta", "standard_error",
    "effect_allele_frequency", "neg_log_10_p_value", "rsid", "n", "study_variant_id",
]  # fmt: skip
REGENIE_HEADER = [
    "CHROM", "GENPOS", "ID", "ALLELE0", "ALLELE1", "A1FREQ", "N", "TEST", "BETA", "SE", "CHISQ",
    "LOG10P", "EXTRA",
]  # fmt: skip


def variants():
    rng = np.random.default_rng(8)
    alleles = np.array([("A", "G"), ("C", "T"), ("g", "t"), ("A", "T"), ("AC", "A"), ("I", "D")])
    pairs = alleles[rng.choice(6, N, p=[0.3, 0.2, 0.2, 0.1, 0.1, 0.1])]
    ids = [f"rs{i}" for i in range(N)]
    ids[:6] = ["rs 1", 'q"uote', "1:5:A:G", "", "NA", "a;b,c=d"]
    pairs[:6] = ("A", "G")
    share = N // len(CONTIGS)
    return pd.DataFrame(
        {
            "contig": np.repeat(CONTIGS, share).astype(object),
            "variant_id": ids,
            "position": np.tile(np.arange(share) // 2 * 10 + 1, len(CONTIGS)),
            "allele1": pairs[:, 0].astype(object),
            "allele2": pairs[:, 1].astype(object),
        }
    )


def results():
    rng = np.random.default_rng(9)
    frame = pd.DataFrame(np.nan, index=range(N), columns=list(RESULT_NAMES))
    frame["n_samples"] = rng.integers(900, 1000, N).astype(float)
    frame["effect_allele_frequency"] = rng.uniform(0.05, 0.95, N)
    for name in ("add", "var"):
        frame[name] = rng.normal(size=N)
        frame[f"{name}_se"] = rng.uniform(0.1, 0.9, N)
        # p far below the smallest double.
        frame.loc[10:12, name] = [-40.0, 39.0, 38.0]
        frame[f"{name}_neg_log10_p"] = neg_log10_p_normal(frame[name] / frame[f"{name}_se"])
        frame[f"{name}_robust_se"] = frame[f"{name}_se"] * 1.25
    frame["status"] = 0.0
    frame.loc[::7, "status"] = float(Status.LOW_MAF)
    frame.loc[::7, "add":"av_neg_log10_p"] = np.nan
    frame.loc[8, "var_se"] = np.nan
    return frame


def make(path, *, table=None, frame=None, count_a2=False, finish=True):
    table = variants() if table is None else table
    frame = results() if frame is None else frame
    store = ResultsStore.create(
        path, n_variants=N, block_size=SIZE, variants=[table], fingerprint={}, count_a2=count_a2,
        columns=list(frame.columns),
        attrs={"phenotype": "body height", "model": "HLM", "n_analysed_samples": 1000},
    )  # fmt: skip
    values = frame.to_numpy()
    for block in store.blocks()[: None if finish else -1]:
        store.write_block(block.index, values[block.start : block.stop], record={})
    return store


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(rows, "_BATCH_VARIANTS", 880)


@pytest.fixture
def store(tmp_path):
    return make(tmp_path / "out.zarr")


def write(store, *formats, **options):
    effects = options.pop("effects", effects_in(store.columns))
    prefix = str(store.path.with_suffix(""))
    return write_formats(store, prefix, formats=formats, effects=effects, **options)


def expected(*, alleles=("A", "C", "G", "T"), effect="var"):
    """The store's rows that a format can hold, by ID."""
    frame = pd.concat([variants(), results()], axis=1)
    sequence = rf"[{''.join(alleles)}]+"
    good = (frame["status"] == 0) & frame[f"{effect}_se"].notna()
    for name in ("allele1", "allele2"):
        good &= frame[name].str.upper().str.fullmatch(sequence)
    return frame[good]


def by_id(frame, column):
    assert frame[column].is_unique
    return frame.assign(key=frame[column]).set_index("key")


def same(found, wanted):
    np.testing.assert_allclose(found.astype(float), wanted.astype(float), rtol=1e-6, atol=0)


def test_ssf_holds_the_store_s_numbers_in_the_standard_s_columns(tmp_path, store):
    notes = write(store, "ssf")
    path = tmp_path / "out.variance.ssf.tsv.gz"
    found = pd.read_csv(path, sep="\t", dtype={"study_variant_id": str}, keep_default_na=False)
    assert list(found.columns) == SSF_HEADER
    wanted = expected()
    wanted = wanted[wanted["contig"] != "0"]
    assert len(found) == len(wanted) > 1000
    key = found["chromosome"] * 10**9 + found["base_pair_location"]
    assert key.is_monotonic_increasing
    assert set(found["chromosome"]) == set(range(1, 26))
    found = by_id(found, "study_variant_id")
    wanted = wanted.set_axis(
        wanted["variant_id"].replace({"rs 1": "rs_1", 'q"uote': "q_uote", "": "."})
    ).loc[found.index]
    human = wanted["contig"].replace({"chrX": "23", "Y": "24", "26": "25"})
    same(found["chromosome"], human)
    same(found["base_pair_location"], wanted["position"])
    assert (found["effect_allele"] == wanted["allele1"].str.upper()).all()
    assert (found["other_allele"] == wanted["allele2"].str.upper()).all()
    for header, name in (
        ("beta", "var"), ("standard_error", "var_se"), ("neg_log_10_p_value", "var_neg_log10_p"),
        ("effect_allele_frequency", "effect_allele_frequency"), ("n", "n_samples"),
    ):  # fmt: skip
        same(found[header], wanted[name])
    assert found["neg_log_10_p_value"].astype(float).max() > 330
    assert set(found["rsid"]) - set(wanted["variant_id"]) == {"#NA"}
    assert notes[1].startswith(f"{path}: {len(found):,} variants; left out: 372 not fitted, 1 with")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *(f"out.{e}.ssf.tsv.gz{end}" for e in ("mean", "variance") for end in ("", "-meta.yaml")),
        "out.zarr",
    ]


def test_ssf_metadata_name_the_file_and_its_sum(tmp_path, store):
    write(store, "ssf", assembly="GRCh38")
    path = tmp_path / "out.variance.ssf.tsv.gz"
    about = yaml.safe_load((tmp_path / f"{path.name}-meta.yaml").read_text())
    assert about["data_file_name"] == path.name
    assert about["data_file_md5sum"] == hashlib.md5(path.read_bytes()).hexdigest()
    assert about["file_type"] == "GWAS-SSF v1.0"
    assert about["trait_description"] == ["variance of body height"]
    assert about["samples"] == [{"sample_size": 1000, "case_control_study": False}]
    assert (about["genome_assembly"], about["coordinate_system"]) == ("GRCh38", "1-based")
    assert (about["is_sorted"], about["is_harmonised"]) == (True, False)
    assert "log variance" in about["author_notes"]


def test_the_order_of_the_store_changes_nothing(tmp_path):
    shuffled = np.random.default_rng(2).permutation(N)
    table = variants()
    # Of variants at one place the file's order is kept.
    table["position"] = np.tile(np.arange(N // len(CONTIGS)) + 1, len(CONTIGS))
    plain = make(tmp_path / "plain.zarr", table=table)
    mixed = make(
        tmp_path / "mixed.zarr", table=table.iloc[shuffled], frame=results().iloc[shuffled]
    )
    for one in (plain, mixed):
        write(one, "ssf", effects=[EFFECTS["variance"]])
    texts = [
        gzip.decompress((tmp_path / f"{name}.variance.ssf.tsv.gz").read_bytes())
        for name in ("plain", "mixed")
    ]
    assert texts[0] == texts[1]


def test_ldsc_has_snps_with_signed_z(tmp_path, store):
    write(store, "ldsc")
    path = tmp_path / "out.mean.sumstats.gz"
    found = pd.read_csv(path, sep="\t", keep_default_na=False)
    assert list(found.columns) == ["SNP", "A1", "A2", "N", "Z"]
    assert found["A1"].str.fullmatch("[ACGT]").all()
    assert not (found["A1"] + found["A2"]).isin(["AT", "TA", "CG", "GC"]).any()
    wanted = expected(effect="add").set_index("variant_id")
    found = by_id(found, "SNP")
    found = found[found.index.isin(wanted.index)]
    assert len(found) > 800
    wanted = wanted.loc[found.index]
    same(found["Z"], wanted["add"] / wanted["add_se"])
    same(found["N"], wanted["n_samples"])
    assert (found["A1"] == wanted["allele1"].str.upper()).all()


def test_regenie_has_every_fitted_variant(tmp_path, store):
    write(store, "regenie")
    text = gzip.decompress((tmp_path / "out.variance.regenie.gz").read_bytes()).decode()
    assert text.startswith(" ".join(REGENIE_HEADER) + "\n")
    assert {line.count(" ") for line in text.splitlines()} == {12}
    found = by_id(pd.read_csv(tmp_path / "out.variance.regenie.gz", sep=" "), ["GENPOS", "ID"][1])
    wanted = expected(alleles="ACGTID").set_index("variant_id")
    assert len(found) == len(wanted)
    found = found[found.index.isin(wanted.index)]
    wanted = wanted.loc[found.index]
    assert set(found["TEST"]) == {"VAR"}
    assert found["EXTRA"].isna().all()
    assert (found["ALLELE1"] == wanted["allele1"]).all()
    assert (found["ALLELE0"] == wanted["allele2"]).all()
    same(found["CHISQ"], (wanted["var"] / wanted["var_se"]) ** 2)
    for header, name in (
        ("BETA", "var"), ("SE", "var_se"), ("LOG10P", "var_neg_log10_p"), ("N", "n_samples"),
        ("GENPOS", "position"), ("A1FREQ", "effect_allele_frequency"),
    ):  # fmt: skip
        same(found[header], wanted[name])


@pytest.mark.parametrize("count_a2", [False, True])
def test_gwas_vcf_has_a_sample_column_for_each_effect(tmp_path, count_a2):
    store = make(tmp_path / "out.zarr", count_a2=count_a2)
    write(store, "gwas-vcf", assembly="GRCh37")
    path = tmp_path / "out.gwas.vcf.gz"
    assert bgzf.has_end(path)
    text = gzip.decompress(path.read_bytes()).decode()
    header, lines = text.split("#CHROM", 1)
    assert re.fullmatch(
        r"##fileformat=VCFv4\.2\n##source=hlmm-dask\S*\n##FILTER=<ID=PASS,.*>\n"
        r"(##FORMAT=<ID=(ES|SE|LP|AF|SS|ID),Number=[A1],Type=\w+,Description=\"[^\"]*\">\n){6}"
        r"(##META=<ID=\w+,Number=1,Type=\w+,Description=\"[^\"]*\">\n){3}"
        r"(##contig=<ID=\w+,assembly=GRCh37>\n){25}"
        r"(##SAMPLE=<ID=body_height_\w+,TotalVariants=2600,\S*StudyType=Continuous>\n){2}",
        header,
    )
    names, *rows_ = (line.split("\t") for line in lines.splitlines())
    assert names == [
        "", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT",
        "body_height_mean", "body_height_variance",
    ]  # fmt: skip
    wanted = expected(effect="add")
    wanted = wanted[wanted["contig"] != "0"]
    assert len(rows_) == len(wanted)
    effect, other = ("allele2", "allele1") if count_a2 else ("allele1", "allele2")
    effects = {"add": [], "var": []}
    for row, want in zip(rows_, wanted.to_dict("records"), strict=True):
        assert row[:2] == [want["contig"], str(want["position"])]
        assert row[3:9] == [
            want[other].upper(), want[effect].upper(), ".", "PASS", ".", "ES:SE:LP:AF:SS:ID",
        ]  # fmt: skip
        for cell, (stem, cells) in zip(row[9:], effects.items(), strict=True):
            assert (cell == ".") == np.isnan(want[f"{stem}_se"])
            if cell != ".":
                *numbers, name = cell.split(":")
                assert name in (re.sub(r'[\s":;,=]', "_", want["variant_id"]), ".")
                cells.append(numbers)
    for stem, cells in effects.items():
        columns = [stem, f"{stem}_se", f"{stem}_neg_log10_p", "effect_allele_frequency"]
        fitted = wanted[wanted[f"{stem}_se"].notna()]
        same(np.array(cells), fitted[[*columns, "n_samples"]].to_numpy())
    assert sum(row[10] == "." for row in rows_) == 1


def test_gwas_vcf_is_read_by_region(tmp_path):
    pysam = pytest.importorskip("pysam")
    table = variants()
    backwards = np.arange(N)[::-1]
    store = make(
        tmp_path / "out.zarr", table=table.iloc[backwards], frame=results().iloc[backwards]
    )
    write(store, "gwas-vcf")
    wanted = expected(effect="add")
    wanted = wanted[(wanted["contig"] == "7") & wanted["position"].between(101, 300)]
    with pysam.VariantFile(str(tmp_path / "out.gwas.vcf.gz")) as file:
        found = list(file.fetch("7", 100, 300))
        assert list(file.header.samples) == ["body_height_mean", "body_height_variance"]
    assert [(r.chrom, r.pos) for r in found] == [("7", p) for p in wanted["position"]]
    assert {r.id for r in found} == set(wanted["variant_id"])
    by_name = wanted.set_index("variant_id")
    for record in found:
        sample = record.samples["body_height_variance"]
        want = by_name.loc[record.id]
        same(np.array(sample["ES"]), np.array([want["var"]]))
        same(np.array(sample["LP"]), np.array([want["var_neg_log10_p"]]))
        assert (sample["SS"], sample["ID"]) == ((want["n_samples"],), record.id)


def test_the_test_to_rely_on_gives_p_and_z(tmp_path):
    frame = results()
    best = frame["var_neg_log10_p"] * 0.7
    best[20:40] = np.nan
    frame["var_best_neg_log10_p"] = best
    store = make(tmp_path / "out.zarr", frame=frame)
    write(store, "regenie", "ldsc")
    found = pd.read_csv(tmp_path / "out.variance.regenie.gz", sep=" ").set_index("ID")
    frame.index = variants()["variant_id"]
    wanted = frame.loc[found.index[found.index.isin(frame.index)]]
    found = found.loc[wanted.index]
    relied = wanted["var_best_neg_log10_p"].notna()
    assert 0 < (~relied).sum() < 20
    same(found["LOG10P"], wanted["var_best_neg_log10_p"].where(relied, wanted["var_neg_log10_p"]))
    same(found["SE"], wanted["var_robust_se"].where(relied, wanted["var_se"]))
    same(found["LOG10P"], neg_log10_p_normal(np.sqrt(found["CHISQ"])))
    z = pd.read_csv(tmp_path / "out.variance.sumstats.gz", sep="\t").set_index("SNP")["Z"]
    z = z[z.index.isin(found.index)]
    same(z**2, found.loc[z.index, "CHISQ"])
    assert (np.sign(z) == np.sign(found.loc[z.index, "BETA"])).all()
    mean = pd.read_csv(tmp_path / "out.mean.regenie.gz", sep=" ").set_index("ID")
    same(mean.loc["rs30", ["SE"]], frame.loc["rs30", ["add_se"]])


# -- the command ------------------------------------------------------------------------------


def munge(run_script, folder, *options):
    return run_script("munge", folder / "out", *options)


def test_the_command_writes_all_effects_and_replaces_only_when_told(tmp_path, run_script, capsys):
    frame = results()
    frame["add"] *= 3
    make(tmp_path / "new.zarr", frame=frame)
    prefix = tmp_path / "new"
    assert run_script("munge", prefix, "--format", "ssf,ldsc,regenie,gwas-vcf") == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    table = pd.read_csv(f"{prefix}.dispersion.regenie.gz", sep=" ").set_index("ID")
    result = dispersion_effects(frame["add"], frame["add_se"], frame["var"], frame["var_se"])
    values = pd.Series(result.dispersion, index=variants()["variant_id"])
    shared = table.index[table.index.isin(values.index)]
    same(table.loc[shared, "BETA"], values[shared])
    before = {p: p.read_bytes() for p in tmp_path.glob("new.*") if p.is_file()}
    assert len(before) == 14
    assert run_script("munge", prefix, "--format", "ldsc", "--effect", "mean") == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert re.search(r"new\.mean\.sumstats\.gz: exists; give --overwrite", message)
    assert {p: p.read_bytes() for p in before} == before
    assert run_script("munge", f"{prefix}.zarr", "--format", "ldsc", "--overwrite") == 0
    assert {p: p.read_bytes() for p in before} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "vcf"], r"--format 'vcf': expected one or more of ssf,ldsc,regenie,gwas-vcf"),
        (["--format", "ssf,"], r"--format '': expected"),
        (["--format", "ssf", "--effect", "var"], r"--effect 'var': expected one or more of mean,"),
        (["--format", "ssf", "--effect", "variance"], r"has no effect 'variance', expected mean$"),
    ],
)
def test_a_wrong_choice_is_one_line_and_writes_nothing(
    tmp_path, run_script, capsys, options, message
):
    frame = results().drop(columns=[n for n in RESULT_NAMES if n.startswith(("var", "av"))])
    make(tmp_path / "out.zarr", frame=frame)
    assert munge(run_script, tmp_path, *options) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error.strip())
    assert [p.name for p in tmp_path.iterdir()] == ["out.zarr"]


def test_a_store_without_variance_effects_gives_the_mean(tmp_path, run_script):
    frame = results().drop(columns=[n for n in RESULT_NAMES if n.startswith(("var", "av"))])
    make(tmp_path / "out.zarr", frame=frame)
    assert munge(run_script, tmp_path, "--format", "ldsc") == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.mean.sumstats.gz", "out.zarr"]


def test_an_unfinished_store_is_refused(tmp_path, run_script, capsys):
    make(tmp_path / "out.zarr", finish=False)
    assert munge(run_script, tmp_path, "--format", "ldsc") == 2
    assert "1 of 52 blocks are missing" in capsys.readouterr().err
    assert munge(run_script, tmp_path / "elsewhere", "--format", "ldsc") == 2
    assert [p.name for p in tmp_path.iterdir()] == ["out.zarr"]


def test_a_scan_writes_them_too(study, run_script, capsys):
    arguments = [study.bed, study.pheno, study.out("out"), "--format", "ldsc,gwas-vcf"]
    study.out("out.mean.sumstats.gz").write_bytes(b"")
    assert run_script("scan", *arguments) == 2
    assert "out.mean.sumstats.gz: exists" in capsys.readouterr().err
    study.out("out.dispersion.regenie.gz").write_bytes(b"")
    assert run_script("scan", *arguments, "--overwrite") == 0
    assert not study.out("out.dispersion.regenie.gz").exists()
    models = pd.read_csv(study.out("out.models.gz"), sep="\t").set_index("SNP")
    found = pd.read_csv(study.out("out.variance.sumstats.gz"), sep="\t").set_index("SNP")
    assert len(found) == (models["status"] == "ok").sum()
    fitted = models.loc[found.index]
    same(found["Z"], np.sign(fitted["var"]) * normal_quantile(fitted["var_best_pval"]))
    assert study.out("out.gwas.vcf.gz").exists()


def test_a_full_disk_keeps_the_old_files(tmp_path, store):
    write(store, "ssf", "gwas-vcf")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    assert len(before) == 6
    for name in ("ssf", "gwas-vcf"):
        line = [sys.executable, SCRIPT, "out", "--format", name, "--effect", "mean", "--overwrite"]
        shell = f"ulimit -f 8; exec {shlex.join(map(str, line))}"
        done = subprocess.run(
            ["bash", "-c", shell], cwd=tmp_path, stderr=subprocess.PIPE, text=True
        )
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert "File too large" in done.stderr
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before


# -- programs that read them ------------------------------------------------------------------


def test_the_catalogue_s_validator_takes_ssf(tmp_path, store):
    program = shutil.which("gwas-ssf")
    if program is None:
        pytest.skip("gwas-ssf (pip install gwas-sumstats-tools) is not on the PATH")
    write(store, "ssf")
    for effect in ("mean", "variance"):
        path = tmp_path / f"out.{effect}.ssf.tsv.gz"
        command = [program, "validate", path, "-m", "100", "--infer-from-metadata"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert "Validation status: True" in done.stdout, done.stdout + done.stderr


def test_effects_are_known_by_their_columns():
    assert [e.name for e in effects_in(RESULT_NAMES)] == ["mean", "variance"]
    assert list(EFFECTS) == ["mean", "variance", "dispersion"]


def test_alleles_that_are_the_same_are_in_no_format_that_needs_a_direction(tmp_path):
    table = variants()
    fitted = expected().index[9:]
    # In either case of the letters.
    table.loc[fitted[:3], ["allele1", "allele2"]] = [["A", "A"], ["g", "G"], ["AC", "AC"]]
    store = make(tmp_path / "same.zarr", table=table)
    names = set(table["variant_id"][fitted[:3]])
    effects = [effect for effect in effects_in(store.columns) if effect.name == "variance"]
    notes = write(store, "ssf", "ldsc", "gwas-vcf", "regenie", effects=effects)
    for note, n in zip(notes, (3, 2, 3, 0), strict=True):
        assert (f", {n} with the same allele twice" in note) == (n > 0)
    for suffix in ("variance.ssf.tsv", "variance.sumstats", "gwas.vcf", "variance.regenie"):
        text = gzip.decompress((tmp_path / f"same.{suffix}.gz").read_bytes()).decode()
        there = {name for name in names if re.search(rf"\b{re.escape(name)}\b", text)}
        assert there == (names if suffix == "variance.regenie" else set())


def test_regenie_has_no_variant_without_a_position(tmp_path):
    table = variants()
    fitted = expected(alleles=("A", "C", "G", "T")).index
    table.loc[fitted[:2], "position"] = [0, -9]
    store = make(tmp_path / "nowhere.zarr", table=table)
    effects = [effect for effect in effects_in(store.columns) if effect.name == "variance"]
    (note,) = write(store, "regenie", effects=effects)
    assert ", 2 without a position" in note
    found = pd.read_csv(tmp_path / "nowhere.variance.regenie.gz", sep=" ")
    assert (found["GENPOS"] > 0).all()
