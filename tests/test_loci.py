"""Loci that hold, and loci that something else explains."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtri
from studies import make_study

import hlmm_dask
from hlmm_dask.cli import loci_main, report_main, scan_main
from hlmm_dask.errors import ChangedInputError, InputError
from hlmm_dask.followup import loci
from hlmm_dask.followup.linkage import linkage
from hlmm_dask.followup.refit import Design, Refit, refit
from hlmm_dask.followup.sex import sex_of_fam, sex_of_table
from hlmm_dask.followup.verdict import Check, Checks, Rules, Slope, verdict
from hlmm_dask.genotypes.plink import open_plink, write_plink
from hlmm_dask.missing import Missing
from hlmm_dask.models.hlm import HLM
from hlmm_dask.models.hlmm import HLMM
from hlmm_dask.models.inference import neg_log10_p_normal
from hlmm_dask.results import open_results
from hlmm_dask.scanning.scanned import ScannedGenotypes
from hlmm_dask.store import ResultsStore
from hlmm_dask.view.verdicts import read_loci

N, M = 4000, 40
VARIANCE, TAG, CAUSE, DOMINANT, SCALED, MIXED = 0, 10, 11, 20, 25, 30


def people():
    return pd.DataFrame({"fid": [f"f{i}" for i in range(N)], "iid": [f"i{i}" for i in range(N)]})


def alleles(rng, frequency):
    return rng.random((2, N)) < frequency


def write_table(path, columns):
    pd.concat([people(), pd.DataFrame(columns)], axis=1).rename(
        columns={"fid": "FID", "iid": "IID"}
    ).to_csv(path, sep="\t", index=False)
    return path


@pytest.fixture(scope="module")
def scanned(tmp_path_factory, client):
    """Phenotypes: a variance locus and a phantom; dominance; log-normal; variance by group."""
    folder = tmp_path_factory.mktemp("loci with space")
    rng = np.random.default_rng(5)
    group = rng.integers(0, 2, N)
    haplotypes = [alleles(rng, 0.3) for _ in range(M)]
    # The cause's allele is on a tenth of the haplotypes that carry the tag's: r² 0.05, D′ 1.
    haplotypes[TAG] = alleles(rng, 0.5)
    haplotypes[CAUSE] = haplotypes[TAG] & alleles(rng, 0.1)
    haplotypes[MIXED] = alleles(rng, np.where(group, 0.7, 0.2))
    counts = np.array([h.sum(axis=0) for h in haplotypes], dtype=np.int8)
    counts[[VARIANCE, DOMINANT], :50] = -1
    contigs = ["1"] * 5 + ["2"] * 10 + ["chr3"] * 25
    table = pd.DataFrame(
        {
            "contig": contigs, "variant_id": [f"rs{j}" for j in range(M)],
            "position": np.arange(M) * 10_000 + 5, "allele1": "A", "allele2": "G",
        }
    )  # fmt: skip
    bed = write_plink(folder / "g.bed", counts, people(), table)
    g = np.array([h.sum(axis=0) for h in haplotypes], dtype=float)
    sex = rng.integers(1, 3, N)
    noise = rng.standard_normal((4, N))
    spread = np.exp(0.5 * g[VARIANCE] * np.where(sex == 1, 0.9, 0.0))
    spread_of_females = np.exp(0.6 * g[VARIANCE])
    phenotypes = {
        "spread": 30.0 + 2.5 * g[CAUSE] + spread * noise[0],
        "dominance": 30.0 + 3.0 * (g[DOMINANT] == 2) + noise[1],
        "lognormal": np.exp(0.5 * (0.6 * g[SCALED] + noise[2])),
        "group": np.exp(0.6 * group) * noise[3],
        "limited": np.where(sex == 1, 0.0, 5.0 + spread_of_females * noise[1]),
    }
    pheno = write_table(folder / "pheno.txt", phenotypes)
    write_table(folder / "sex.txt", {"age": rng.normal(50, 5, N), "Sex": sex})
    write_table(folder / "covar.txt", {"group": group, "age": rng.normal(50, 5, N)})
    files = [str(bed), str(pheno), str(folder / "out")]
    cluster = ["--scheduler", client.scheduler.address]
    assert scan_main([*files, "--phen_index", "all", *cluster]) == 0
    return folder, counts, phenotypes, sex


@pytest.fixture(scope="module")
def tables(scanned):
    """What `loci` finds in each phenotype, as it returns it."""
    folder = scanned[0]
    options = {"sex": str(folder / "sex.txt"), "mean_covar": str(folder / "covar.txt")}
    return {
        name: hlmm_dask.loci(
            folder / f"out.{name}", say=[].append, plots=name == "spread", **options
        )
        for name in scanned[2]
    }


def copy_of(folder, tmp_path):
    """A scan that a test may follow up anew: its OUTPREFIX, and where its files are."""
    shutil.copytree(folder / "out.spread.zarr", tmp_path / "copy.zarr")
    files = {"genofile": str(folder / "g.bed"), "phenofile": str(folder / "pheno.txt")}
    return str(tmp_path / "copy"), files


def row(table, j):
    return table.set_index("SNP").loc[f"rs{j}"]


def genotypes(counts, j):
    """Copies of a variant, NaN where missing."""
    return np.where(counts[j] < 0, np.nan, counts[j].astype(float))


def scaled(y):
    return (y - y.mean()) / y.std()


def dense(y, g, *extra, covariates=None, rows=slice(None)):
    """HLM of samples with a call: add, its SE, var, its SE, effects of further columns."""
    called = np.isfinite(g[rows])
    given = [] if covariates is None else [covariates[rows][called]]
    x = g[rows][called]
    X = np.column_stack([np.ones(len(x)), *given, x, *(e[rows][called] for e in extra)])
    fit = HLM(y[rows][called], X, np.column_stack([np.ones(len(x)), *given, x])).fit()
    at = 1 + (0 if covariates is None else covariates.shape[1])
    return [fit.alpha[at], fit.alpha_se[at], fit.beta[-1], fit.beta_se[-1], *fit.alpha[at + 1 :]]


def refitted(found, name):
    columns = ("add", "add_se", "var", "var_se")
    return [found[f"{column}_{name}"] for column in columns]


def test_a_variance_locus_holds(scanned):
    folder, *_ = scanned
    table = hlmm_dask.loci(folder / "out.spread", tests="variance", top=1)
    assert table["verdict"].tolist() == ["holds"]
    assert table["SNP"].tolist() == [f"rs{VARIANCE}"]


def test_a_phantom_is_explained_by_its_neighbour(tables):
    found = row(tables["spread"], TAG)
    assert f"variance: explained by the mean effect of rs{CAUSE}" in found["verdict"]
    assert found["neighbour"] == f"rs{CAUSE}"
    assert found["mean_leads"] == f"rs{CAUSE}"
    assert found["neighbour_r2"] < 0.1
    assert found["neighbour_dprime"] > 0.9
    assert found["var_best_pval"] > 8
    assert found["var_pval_mean_leads"] < 2
    # It leads for the mean, too, and that effect is the neighbour's as well.
    assert f"mean: explained by the mean effect of rs{CAUSE}" in found["verdict"]
    assert row(tables["spread"], CAUSE)["verdict"] == "holds"


def test_dominance_of_the_mean_explains_a_variance_effect(tables):
    assert (
        row(tables["dominance"], DOMINANT)["verdict"]
        == "mean: holds | variance: explained by dominance"
    )


def test_a_variance_effect_of_the_scale_alone(tables):
    found = row(tables["lognormal"], SCALED)
    assert found["verdict"] == "mean: holds | variance: only on the raw scale"
    assert found["var_pval_scale_log"] < 3 < found["var_best_pval"]


def test_a_group_that_differs_in_spread_and_in_allele_frequency(tables):
    assert row(tables["group"], MIXED)["verdict"] == "explained by covariates"
    assert "scale_log" not in " ".join(tables["group"].columns)  # negative values have none


def test_an_effect_in_one_sex(tables):
    found = row(tables["spread"], VARIANCE)
    assert found["verdict"] == "only in males"
    assert found["var_male"] > 0.7
    assert abs(found["var_female"]) < 4 * found["var_se_female"]
    assert found["var_pval_sex"] > 5


def test_a_sex_that_can_not_be_fitted_is_said(scanned, tables, tmp_path, capsys):
    """A trait of females alone, and samples without a male, or of unknown sex."""
    folder, _, _, sex = scanned
    found = row(tables["limited"], VARIANCE)
    limit = "males can't be fitted: the phenotype is constant"
    assert limit in found["verdict"]
    assert found["n_male"] == (sex[50:] == 1).sum()
    assert found["n_unknown_sex"] == 0
    assert np.isnan(found["var_male"])
    out, options = copy_of(folder, tmp_path)
    options |= {"tests": "variance", "top": 1, "transform": "none"}
    for gone, name, kept in ((2, "females", "male"), (1, "males", "female")):
        known = write_table(tmp_path / "s.txt", {"sex": np.where(sex == gone, np.nan, sex)})
        text = known.read_text().replace("\t\n", "\tNA\n").replace(".0\n", "\n")
        known.write_text(text)
        said = []
        table = hlmm_dask.loci(out, sex=str(known), say=said.append, **options)
        assert f"no {name} among the 4,000 analysed samples: the sexes can't be compared" in said
        assert table["verdict"][0] == f"holds (no {name} among the analysed samples)"
        assert table["n_unknown_sex"][0] == (sex[50:] == gone).sum()
        assert table[f"n_{kept}"][0] == (sex[50:] != gone).sum()
        assert report_main([out]) == 0
        page = Path(f"{out}.report.html").read_text("utf-8")
        assert f"holds (no {name} among the analysed samples)" in page


def test_a_sex_without_variation_is_found_with_covariates(scanned, client, tmp_path):
    """Projected covariates leave residuals of a phenotype that is constant; one sample has none."""
    folder = scanned[0]
    out = str(tmp_path / "out")
    words = [folder / "g.bed", folder / "pheno.txt", out, "--phen-index", "limited",
             "--mean-covar", folder / "covar.txt",
             "--scheduler", client.scheduler.address]  # fmt: skip
    assert scan_main([str(word) for word in words]) == 0
    options = {"tests": "variance", "p": 1.0, "top": 1, "transform": "none"}
    said = []
    table = hlmm_dask.loci(out, sex=str(folder / "sex.txt"), say=said.append, **options)
    assert "males can't be fitted: the phenotype is constant" in table["verdict"][0]
    assert "the phenotype has repeated or nearly constant values" in table["verdict"][0]
    assert any("has one frequent value" in line for line in said)
    one = write_table(tmp_path / "s.txt", {"sex": np.where(np.arange(N) == 60, 1, 2)})
    table = hlmm_dask.loci(out, sex=str(one), say=[].append, **options)
    assert "(males can't be fitted: a single sample" in table["verdict"][0]


def test_cautions_of_the_scan_are_in_the_verdict(scanned, monkeypatch, tmp_path):
    out, options = copy_of(scanned[0], tmp_path)
    monkeypatch.setattr(loci, "MIN_FOR_LAMBDA", 10)
    monkeypatch.setattr(loci, "LAMBDA", (0.0, 0.0))
    said = []
    table = hlmm_dask.loci(out, tests="variance,dispersion", top=1, say=said.append, **options)
    cautions = [line for line in said if "slope of var on add" in line]
    assert cautions  # a few variants lead the slope
    found = row(table, VARIANCE)
    for each in found["verdict"].split(" | "):
        assert "the slope of var on add is not reliable; λ_GC of the test is" in each


def test_refits_are_those_of_the_dense_model(scanned, tables):
    folder, counts, phenotypes, sex = scanned
    y = scaled(phenotypes["spread"])
    tag, cause = genotypes(counts, TAG), genotypes(counts, CAUSE)
    found = row(tables["spread"], TAG)
    np.testing.assert_allclose(refitted(found, "refit"), dense(y, tag), rtol=1e-6)
    np.testing.assert_allclose(refitted(found, "mean_leads"), dense(y, tag, cause)[:4], rtol=1e-6)
    own = genotypes(counts, VARIANCE)
    found = row(tables["spread"], VARIANCE)
    expected = dense(y, own, (own == 1).astype(float))
    np.testing.assert_allclose(refitted(found, "dominance"), expected[:4], rtol=1e-6)
    assert found["dominance"] == pytest.approx(expected[4], rel=1e-6)
    for name, code in (("male", 1), ("female", 2)):
        expected = dense(y, own, rows=sex == code)
        np.testing.assert_allclose(refitted(found, name), expected, rtol=1e-6)
    expected = dense(scaled(np.log(phenotypes["spread"])), own)
    np.testing.assert_allclose(refitted(found, "scale_log"), expected, rtol=1e-6)
    ranks = np.argsort(np.argsort(phenotypes["spread"])) + 1.0
    expected = dense(scaled(ndtri((ranks - 0.375) / (N + 0.25))), own)
    np.testing.assert_allclose(refitted(found, "scale_rint"), expected, rtol=1e-6)
    covariates = pd.read_csv(folder / "covar.txt", sep="\t")[["group", "age"]].to_numpy(float)
    expected = dense(phenotypes["spread"], own, covariates=scaled(covariates))
    np.testing.assert_allclose(refitted(found, "covariates"), expected, rtol=1e-6)


def test_the_first_refit_is_the_scan(scanned, tables):
    results = open_results(scanned[0] / "out.spread.zarr")
    found = row(tables["spread"], VARIANCE)
    for name in ("add", "add_se", "var", "var_se"):
        assert found[f"{name}_refit"] == pytest.approx(float(results[name][VARIANCE]), rel=1e-7)
        assert found[name] == float(results[name][VARIANCE])
    best = float(results["var_best_neg_log10_p"][VARIANCE])
    # The scan puts residuals in classes for its tails.
    assert found["var_pval_refit"] == pytest.approx(best, rel=1e-2)


def of(add, var, score):
    """A refit with these t of mean and variance, and this score."""
    p = neg_log10_p_normal
    return Refit(n=900, add=add / 10, add_se=0.1, var=var / 10, var_se=0.1, var_robust_se=0.1,
                 add_neg_log10_p=float(p(add)), score=score,
                 var_neg_log10_p=float(p(score)))  # fmt: skip


def said(effect, slope=None, rules=None, cautions=(), **changed):
    """Verdict on a variant of t 6 for the mean, 7 for the variance, in models with changes."""
    base = of(6, 7, 7)
    checks = Checks(base=base, carriers=300, neighbours=(), together=None, dominance=None,
                    covariates=None, scale="none", scales={}, sexes={})  # fmt: skip
    return verdict(replace(checks, **changed), effect, rules or Rules(), slope or Slope(), cautions)


def test_rules_of_verdicts():
    base = of(6, 7, 7)
    assert said("variance") == "holds"
    assert said("variance", base=of(6, 7, 1)) == "only by the classical test"
    assert said("mean", base=of(1, 7, 7)) == "not found again"
    assert said("variance", base=Refit(900)) == "can't be fitted again"
    assert said("variance", carriers=12) == "too few carriers of the rarer allele (12)"
    # Gone is what has less than half of its statistic, and p above 1e-3.
    gone, weak, kept = (Check(of(6, z, z), base) for z in (3.2, 3.4, 3.6))
    assert said("variance", dominance=gone) == "explained by dominance"
    assert said("variance", dominance=weak) == "holds, but weaker with dominance"
    assert said("variance", dominance=kept) == "holds"
    assert said("variance", dominance=gone, rules=Rules(gone_p=1e-2)).startswith("holds, but")
    assert said("variance", dominance=gone, rules=Rules(share=0.4)) == "holds"
    assert said("variance", dominance=Check(of(6, -9, -9), base)) == "explained by dominance"
    # A refit that failed, or was not asked for, says nothing.
    assert said("variance", dominance=Check(Refit(900), base), covariates=None) == "holds"
    assert said("mean", dominance=Check(of(1, 7, 7), base)) == "holds"
    # Several neighbours: the first that does it alone, else all.
    near = (("rs1", of(6, 7, 7)), ("rs2", of(6, 0, 0)), ("rs3", of(6, 0, 0)))
    by = "explained by the mean effect of"
    assert said("variance", neighbours=near, together=gone) == f"{by} rs2"
    assert said("variance", neighbours=near[:1] * 2, together=gone) == f"{by} rs1 and rs1"
    assert said("variance", neighbours=near, together=gone, covariates=gone) == (
        f"{by} rs2; explained by covariates"
    )
    some = {"log": of(6, 0, 0), "rint": of(6, 7, 7)}
    assert said("variance", scales=some) == "not on the log scale"
    assert said("variance", scales={"log": of(6, 0, 0), "rint": Refit(9)}) == (
        "only on the raw scale"
    )
    assert said("variance", scale="rint", scales={"none": of(6, 0, 0)}) == "only on the rank scale"
    sexes = {"male": of(6, 0, 0), "female": of(6, 7, 7)}
    assert said("variance", sexes=sexes) == "only in females"
    assert said("variance", sexes={"male": of(6, 2.9, 2.9), "female": of(6, 6, 6)}) == "holds"
    # What limits a verdict.
    none, flat = Refit(0, reason="no samples"), Refit(9, reason="the phenotype is constant")
    sexes = {"male": none, "female": of(6, 7, 7)}
    assert said("variance", sexes=sexes) == "holds (no males among the analysed samples)"
    sexes = {"male": of(6, 7, 7), "female": flat}
    limit = "females can't be fitted: the phenotype is constant"
    assert said("mean", sexes=sexes) == f"holds ({limit})"
    assert said("variance", sexes=sexes, dominance=gone, cautions=["λ_GC is 2"]) == (
        f"explained by dominance ({limit}; λ_GC is 2)"
    )
    assert said("variance", base=flat, cautions=["λ_GC is 2"]) == (
        "can't be fitted again (the phenotype is constant)"
    )


@pytest.mark.parametrize("residuals", ["normal", "gamma", "t"])
def test_verdicts_on_many_draws(residuals):
    """A variance effect on residuals of any distribution holds; one of the scale never does."""
    rng = np.random.default_rng(7)
    n, found = 3000, {"variance": [], "scale": []}
    one = np.ones((n, 1))
    for _ in range(8):
        g = rng.binomial(2, 0.3, n).astype(float)
        e = {
            "normal": rng.standard_normal(n),
            "gamma": (rng.gamma(2.0, size=n) - 2.0) / 2.0**0.5,
            "t": np.clip(rng.standard_t(5, n), -6, 6) * 0.6**0.5,
        }[residuals]
        for kind, y in (
            ("variance", 20.0 + np.exp(0.3 * (g - 0.6)) * e),
            ("scale", np.exp(0.4 * (0.9 * g + e))),
        ):
            base = refit(Design(scaled(y), one, one), g)
            if base.var_neg_log10_p < 7.3:
                continue
            ranks = ndtri((np.argsort(np.argsort(y)) + 0.625) / (n + 0.25))
            scales = {"log": np.log(y), "rint": ranks}
            het = (g == 1).astype(float)[:, None]
            changes = {
                "base": base,
                "dominance": Check(refit(Design(scaled(y), one, one), g, het), base),
                "scales": {k: refit(Design(scaled(v), one, one), g) for k, v in scales.items()},
            }
            found[kind].append(said("variance", **changes))
    assert len(found["variance"]) > 5
    assert set(found["variance"]) == {"holds"}
    assert found["scale"] or residuals != "normal"
    assert not any(text.startswith("holds") for text in found["scale"])


def test_variance_effects_that_follow_the_mean():
    # Of a t of 7 a slope of 1 leaves (7 - 6)/√2.
    assert said("variance", Slope(1.0)) == "explained by its own effect on the mean"
    noisy = Slope(1.0, "the slope is noise")
    assert said("variance", noisy) == "holds (the slope is noise)"
    assert said("dispersion", noisy) == "not found again (the slope is noise)"
    assert said("mean", noisy) == "holds"
    assert said("dispersion", Slope(caution="no slope")) == "can't be fitted again (no slope)"
    assert said("variance", Slope(-0.5)) == "holds"
    assert said("dispersion", Slope(-0.5)) == "holds"
    assert said("dispersion", Slope(1.0)) == "not found again"
    assert said("dispersion", Slope(0.0), scales={"log": of(6, 0, 0)}) == "holds"


def test_score_of_a_refit():
    rng = np.random.default_rng(1)
    n = 4000
    V = np.column_stack([np.ones(n), rng.standard_normal(n)])
    g = rng.binomial(2, 0.3, n).astype(float)
    y = np.exp(0.2 * V[:, 1]) * rng.standard_normal(n)
    g[:9] = np.nan
    fit = refit(Design(y, V, V), g)
    assert fit.n == n - 9
    # The genotype's part that V explains is none of the score's.
    moved = refit(Design(y, V, V), g + 3.0 - 2.0 * V[:, 1])
    assert moved.score == pytest.approx(fit.score, abs=1e-7)
    # The score test and the likelihood's agree where residuals are normal.
    assert fit.score == pytest.approx(fit.var / fit.var_robust_se, abs=0.15)
    collinear = refit(Design(y, V, V), V[:, 1])
    assert np.isnan(collinear.var)


def test_linkage_is_that_of_the_haplotypes():
    rng = np.random.default_rng(2)
    one = rng.random((2, 200_000)) < 0.5
    two = one & (rng.random(one.shape) < 0.1)
    r2, d_prime = linkage(one.sum(axis=0).astype(float), two.sum(axis=0).astype(float))
    assert r2 == pytest.approx(np.corrcoef(one.ravel(), two.ravel())[0, 1] ** 2, abs=2e-3)
    assert d_prime == pytest.approx(1.0, abs=0.03)
    assert np.isnan(linkage(np.ones(5), np.arange(5.0))[0])


def test_sex_of_a_fam_and_of_a_table(tmp_path):
    fam = tmp_path / "g.fam"
    fam.write_text("f a 0 0 1 -9\nf b 0 0 2 -9\nf c 0 0 0 -9\n")
    assert sex_of_fam(fam).tolist() == [1, 2, 0]
    table = tmp_path / "sex.txt"
    table.write_text("FID IID SEX age\nf b 1 30\nf c 2 31\nf d 1 32\nf a NA 33\n")
    samples = pd.DataFrame({"fid": ["f"] * 3, "iid": ["a", "b", "c"]})
    assert sex_of_table(str(table), samples, Missing()).tolist() == [0, 1, 2]


def test_leads_for_the_dispersion(scanned, tmp_path):
    out, files = copy_of(scanned[0], tmp_path)
    table = hlmm_dask.loci(out, tests="dispersion,joint", p=1e-12, **files)
    results = open_results(f"{out}.zarr")
    found = row(table, VARIANCE)
    assert found["tests"] == "joint,dispersion"
    assert found["verdict"] == "holds (the slope of var on add is not reliable)"
    slope = (found["var"] - found["dispersion"]) / found["add"]
    t = found["dispersion"] / np.hypot(found["var_se"], slope * found["add_se"])
    assert found["dispersion_t"] == pytest.approx(t)
    # Joint alone: judged by what is stronger, here the mean.
    assert row(table, CAUSE)["tests"] == "joint"
    assert row(table, CAUSE)["av_pval"] == float(results["av_neg_log10_p"][CAUSE])


def test_table_and_pictures(scanned, tables):
    folder, *_ = scanned
    read = read_loci(folder / "out.spread.loci.tsv")
    pd.testing.assert_frame_equal(read, tables["spread"], check_dtype=False)
    pictures = sorted(path.name for path in (folder / "out.spread.loci").iterdir())
    assert pictures == sorted(f"{j}_rs{j}.png" for j in (VARIANCE, TAG, CAUSE))
    for name in pictures:
        assert (folder / "out.spread.loci" / name).read_bytes().startswith(b"\x89PNG")


def test_report_says_the_verdicts(scanned, tables, capsys):
    folder, *_ = scanned
    assert report_main([str(folder / "out.spread")]) == 0
    page = (folder / "out.spread.report.html").read_text("utf-8")
    assert "Do the loci hold?" in page
    assert f"explained by the mean effect of rs{CAUSE}" in page
    (folder / "out.group.loci.tsv").write_text("SNP\nrs1\n")
    capsys.readouterr()
    assert report_main([str(folder / "out.group")]) == 2
    assert "out.group.loci.tsv: no column chrom" in capsys.readouterr().err


def test_command(scanned, capsys):
    folder, *_ = scanned
    shutil.copytree(folder / "out.dominance.zarr", folder / "moved.zarr")
    given = ["--genofile", str(folder / "g.bed"), "--phenofile", str(folder / "pheno.txt")]
    few = ["--tests", "variance", "--min-carriers", "4000"]
    assert loci_main([str(folder / "moved.zarr"), *given, *few]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"rs{DOMINANT}  chr3:200005  variance: too few carriers of the rarer")
    assert loci_main([str(folder / "moved"), *given, "--p", "1e-300", "--plots"]) == 0
    assert capsys.readouterr().out == ""
    assert len(read_loci(folder / "moved.loci.tsv")) == 0
    assert not list((folder / "moved.loci").iterdir())


def test_refused(scanned, tmp_path, capsys):
    folder, _, phenotypes, sex = scanned
    out = str(folder / "out.spread")
    before = (folder / "out.spread.loci.tsv").read_bytes()
    other = write_table(tmp_path / "other.txt", {"spread": phenotypes["group"]})
    code = write_table(tmp_path / "sex.txt", {"sex": sex + 1})
    age = write_table(tmp_path / "age.txt", {"age": sex, "height": sex})
    shutil.copytree(folder / "out.spread.zarr", tmp_path / "alone.zarr")
    shutil.copytree(folder / "out.spread.zarr", tmp_path / "half.zarr")
    next((tmp_path / "half.zarr").glob("*/blocks/*.json")).unlink()
    for arguments, said in (
        ([str(tmp_path / "none")], "none.zarr"),
        ([str(tmp_path / "half")], "1 of 1 blocks are missing"),
        ([str(tmp_path / "alone")], "does not name the genotypes; give --genofile"),
        ([out, "--phenofile", str(other)], "not those that were scanned"),
        ([out, "--phenofile", str(tmp_path / "gone.txt")], "gone.txt"),
        ([out, "--tests", "variances"], "--tests variances: expected some of mean,variance"),
        ([out, "--transform", "sqrt"], "transform 'sqrt'"),
        ([out, "--p", "0"], "--p 0: expected a p-value"),
        ([out, "--gone-p", "2"], "--gone-p 2"),
        ([out, "--window", "-1"], "--window -1"),
        ([out, "--by-sex"], "g.fam: no sample has a sex"),
        ([out, "--sex", str(code)], "sex '3', expected 1 or M (male), 2 or F (female)"),
        ([out, "--sex", str(age)], "no column named sex among 'age', 'height'"),
    ):
        assert loci_main(arguments) == 2, arguments
        error = capsys.readouterr().err
        assert said in error
        assert len(error.splitlines()) == 1
    assert (folder / "out.spread.loci.tsv").read_bytes() == before
    with pytest.raises(InputError, match="no option windows"):
        hlmm_dask.loci(out, windows=3)


@pytest.mark.parametrize("options", [[], ["--plots"]])
def test_changed_genotypes_are_refused(scanned, tmp_path, capsys, options):
    """Files of the same size whose tables are the same, where the order of people is another."""
    folder, counts, *_ = scanned
    shutil.copytree(folder / "out.spread.zarr", tmp_path / "x.zarr")
    variants = next(open_plink(folder / "g.bed").iter_variants())
    bed = write_plink(tmp_path / "g.bed", counts[:, ::-1], people(), variants)
    given = ["--genofile", str(bed), "--phenofile", str(folder / "pheno.txt")]
    assert loci_main([str(tmp_path / "x"), *given, *options]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert f"{bed}: genotypes differ from those that block 0 (variants 0 to 39, from 0)" in error
    assert error.endswith("restore the file, or scan again")
    assert not list(tmp_path.glob("x.loci*"))


def test_blocks_that_are_looked_at_must_be_what_was_scanned(tmp_path, client):
    study = make_study(tmp_path)
    words = [study.bed, study.pheno, study.out("o"), "--block-size", "10", "--range", "5", "58"]
    scan = [*map(str, words), "--count_A2", "--scheduler", client.scheduler.address]
    assert scan_main(scan) == 0
    content = bytearray(study.bed.read_bytes())
    content[3 + 30 * 75] ^= 1
    study.bed.write_bytes(content)
    store = ResultsStore.open(study.out("o.zarr"))
    scanned = ScannedGenotypes(open_plink(study.bed), store, 5, count_a2=True)
    expected = np.where(study.counts < 0, np.nan, 2.0 - study.counts)
    np.testing.assert_array_equal(scanned.counts(8, 20), expected[13:25])
    message = r"study\.bed: .* block 2 \(variants 25 to 34, from 0\)"
    with pytest.raises(ChangedInputError, match=message):
        scanned.counts(29, 30)
    np.testing.assert_array_equal(scanned.counts(30, 53), expected[35:58])
    store.discard(2)
    assert scanned.counts(29, 30).shape == (1, 300)


def test_random_effects_are_taken_off(tmp_path, client):
    """Against the dense mixed model, with covariates in every model and --loco."""
    rng = np.random.default_rng(3)
    n, m, n_random = 1500, 8, 30
    samples = people().iloc[:n]
    counts = rng.binomial(2, 0.4, (m, n)).astype(np.int8)
    related = rng.binomial(2, 0.5, (n_random, n)).astype(np.int8)
    G = (related - related.mean(axis=1, keepdims=True)) / related.std(axis=1, keepdims=True)
    c = rng.standard_normal(n)
    y = G.T @ rng.normal(0, 0.15, n_random) + 0.5 * c + 0.3 * counts[3]
    y += np.exp(0.5 * (0.9 * counts[3] + 0.3 * c)) * rng.standard_normal(n)
    names = {"allele1": "A", "allele2": "G"}
    for name, values, contigs in (
        ("g", counts, ["1"] * m),
        ("related", related, ["1"] * 5 + ["2"] * (n_random - 5)),
    ):
        at = range(len(values))
        table = pd.DataFrame({"contig": contigs, "variant_id": [f"{name}{j}" for j in at],
                              "position": [1000 * j + 1 for j in at], **names})  # fmt: skip
        write_plink(tmp_path / f"{name}.bed", values, samples, table)
    for name, values in (("pheno", y), ("covar", c)):
        pd.concat([samples, pd.DataFrame({name: values})], axis=1).to_csv(
            tmp_path / f"{name}.txt", sep="\t", index=False, header=False
        )
    options = [str(tmp_path / name) for name in ("g.bed", "pheno.txt", "out")]
    for name in ("mean_covar", "var_covar"):
        options += [f"--{name}", str(tmp_path / "covar.txt")]
    options += ["--random_gts", str(tmp_path / "related.bed"), "--fit_covariates", "--loco"]
    assert scan_main([*options, "--scheduler", client.scheduler.address]) == 0
    said = []
    table = hlmm_dask.loci(tmp_path / "out", tests="variance", say=said.append)
    assert any("random effects" in line for line in said)
    found = row(table.assign(SNP=table["SNP"].str.replace("g", "rs")), 3)
    X = np.column_stack([np.ones(n), c, counts[3] - counts[3].mean()])
    fit = HLMM(y, X, X, G[5:].T / np.sqrt(n_random - 5)).fit()
    expected = [fit.alpha[-1], fit.alpha_se[-1], fit.beta[-1], fit.beta_se[-1]]
    got = refitted(found, "refit")
    assert abs(got[0] - expected[0]) < 0.2 * expected[1]
    assert got[2] == pytest.approx(expected[2], rel=0.05)
    assert got[1] == pytest.approx(expected[1], rel=0.05)
    assert got[3] == pytest.approx(expected[3], rel=0.05)
    # With the random effects left in, y has more variance, and the effect on it is less.
    plain = dense(y, counts[3].astype(float), covariates=c[:, None])
    assert abs(plain[2] - expected[2]) > abs(got[2] - expected[2])
    assert found["verdict"] == "holds"
