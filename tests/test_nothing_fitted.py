"""A scan of which no variant can be fitted is complete, and every command says so."""

import shutil
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from studies import write_values

import hlmm_dask
from hlmm_dask import plot
from hlmm_dask.cli import loci_main, munge_main, report_main, scan_main
from hlmm_dask.cli_followup import check_main, interact_main
from hlmm_dask.genotypes.plink import write_plink
from hlmm_dask.view.feed import Feed

N = 150


def write_study(folder, *, frequency):
    """A .bed whose variants are all rare or monomorphic, and one to compute a matrix from."""
    rng = np.random.default_rng(3)
    samples = pd.DataFrame({"fid": [f"f{i}" for i in range(N)], "iid": [f"i{i}" for i in range(N)]})
    for name, m, maf in (("none", 12, frequency), ("good", 60, 0.3)):
        counts = rng.binomial(2, maf, (m, N)).astype(np.int8)
        variants = pd.DataFrame(
            {
                "contig": np.where(np.arange(m) < m // 2, "1", "2"),
                "variant_id": [f"{name}{j}" for j in range(m)],
                "position": np.arange(m) * 1000 + 1, "allele1": "A", "allele2": "G",
            }
        )  # fmt: skip
        write_plink(folder / f"{name}.bed", counts, samples, variants)
    write_values(folder / "y.txt", samples, rng.standard_normal(N))
    write_values(folder / "e.txt", samples, rng.standard_normal(N))
    return [str(folder / "none.bed"), str(folder / "y.txt")]


@pytest.fixture(scope="module")
def study(tmp_path_factory, client):
    """The scan of such a study."""
    folder = tmp_path_factory.mktemp("none")
    files = write_study(folder, frequency=0.004)
    where = ["--scheduler", client.scheduler.address]
    assert scan_main([*files, str(folder / "out"), *where]) == 0
    return folder, files, where


@pytest.mark.parametrize(
    "options",
    [["--transform", "none,rint"], ["--dispersion", "--tests", "drm"], ["--model", "lmm"]],
    ids=["scales", "dispersion", "lmm"],
)
def test_its_report_is_written(study, tmp_path, capsys, options):
    folder, files, where = study
    if "lmm" in options:
        options = [*options, "--grm-from", str(folder / "good.bed")]
    if plots := options == ["--transform", "none,rint"]:
        options = [*options, "--plots"]
    words = [*files, str(tmp_path / "new"), *options, *where, "--report"]
    assert scan_main(words) == 0
    printed = capsys.readouterr().err
    assert "no variant was fitted: " in printed
    assert "nan" not in printed
    n = 2 if "--transform" in options else 1
    pages = list(tmp_path.glob("new*.report.html"))
    assert len(pages) == n
    for page in pages:
        text = page.read_text("utf-8")
        assert "No variant was fitted: " in text
        assert "λ –" in text
        assert "nan" not in text.partition("<script>")[0].replace("dominance", "")
    assert len(list(tmp_path.glob("new*.plots/manhattan_mean.png"))) == (n if plots else 0)


def test_every_command_answers(study, tmp_path, capsys, monkeypatch):
    folder = shutil.copytree(study[0], tmp_path / "copy")
    monkeypatch.chdir(folder)
    capsys.readouterr()
    out = str(folder / "out")
    for main, arguments, said in (
        (report_main, [out], "report: "),
        (munge_main, [out, "--format", "ssf,ldsc,regenie,gwas-vcf"], "12 not fitted"),
        (loci_main, [out], "no leads: no variant was fitted: "),
        (check_main, [out, "--top", "2"], "out.check.tsv (no variant was fitted: "),
        (interact_main, [out, "--covar", "e.txt", "--top", "2"], "no variant was fitted: "),
    ):
        assert main(arguments) == 0, arguments
        printed = capsys.readouterr()
        assert said in printed.out + printed.err
    for table in ("check", "interaction"):
        frame = pd.read_csv(f"{out}.{table}.tsv", sep="\t")
        assert len(frame) == 0
        assert "status" in frame


def test_views_and_pictures_of_it(study):
    store = study[0] / "out.zarr"
    feed = Feed(store)
    while not feed.complete:
        time.sleep(feed.poll(every=0.01))
    pieces = feed.since(0)
    assert pieces["progress"]["n_fitted"] == 0
    assert pieces["qq"]["mean"]["lambda"] is None
    assert pieces["loci"]["mean"]["id"] == []
    ax = plot.manhattan(hlmm_dask.open_results(store))
    assert "no variant was fitted" in {text.get_text() for text in ax.texts}
    plt.close("all")
