import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scans import columns_of, make_store, names_of
from studies import make_study, write_values

from hlmm_dask import fit_null, open_bed, scan
from hlmm_dask.cli import report_main, scan_main
from hlmm_dask.genotypes.plink import open_plink, write_plink
from hlmm_dask.models.dispersion import DispersionOptions, dispersion_effects
from hlmm_dask.results import open_results
from hlmm_dask.store import ResultsStore
from hlmm_dask.view.page_parts import lead_table, table
from hlmm_dask.view.report import read_report

TYPES = {"u1": np.uint8, "u2": "<u2", "u4": "<u4", "f4": "<f4", "f8": "<f8"}


class Page(HTMLParser):
    """Text, elements and the embedded data of a report."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.words, self._script = [], [], None
        self.scripts = {}
        self.source = path.read_text("utf-8")
        self.feed(self.source)
        self.close()
        self.data = json.loads(self.scripts["data"])
        self.points = {
            name: np.frombuffer(base64.b64decode(text), TYPES[kind])
            for name, (kind, text) in self.data["points"].items()
        }

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self._script = dict(attrs).get("id", "code")

    def handle_endtag(self, tag):
        if tag == "script":
            self._script = None

    def handle_data(self, data):
        if self._script:
            self.scripts[self._script] = data
        else:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(self.words)


def make_linked(folder, n=600, m=120):
    """Genotypes in linked fives, with an effect on the mean and one on the variance."""
    rng = np.random.default_rng(8)
    base = rng.binomial(1, 0.4, (m // 5, 2, n))
    flips = rng.random((m, 2, n)) < 0.01
    counts = (np.repeat(base, 5, axis=0) ^ flips).sum(axis=1).astype(np.int8)
    counts[7, :20] = -1
    samples = pd.DataFrame({"fid": [f"f{i}" for i in range(n)], "iid": [f"i{i}" for i in range(n)]})
    variants = pd.DataFrame(
        {
            "contig": ["1"] * (m // 2) + ["2"] * (m // 2),
            "variant_id": [f"rs{j}" for j in range(m - 1)] + ["</script>&<b>"],
            "position": np.arange(m) * 20_000 + 5, "allele1": "A", "allele2": "G",
        }
    )  # fmt: skip
    spread = np.exp(0.4 * (counts[42] - 1))
    y = 0.9 * counts[17] + 0.8 * counts[22] + spread * rng.standard_normal(n)
    write_plink(folder / "linked.bed", counts, samples, variants)
    write_values(folder / "pheno.txt", samples, y)
    write_values(folder / "covar.txt", samples, rng.standard_normal((n, 2)))
    return counts


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report with space")
    counts = make_linked(folder)
    files = [str(folder / name) for name in ("linked.bed", "pheno.txt", "out")]
    arguments = ["--mean_covar", str(folder / "covar.txt"), "--workers", "1", "--block_size", "50"]
    assert scan_main([*files, *arguments, "--report", "--plots", "--min_maf", "0.01"]) == 0
    return folder, counts, Page(folder / "out.report.html")


def test_page_needs_nothing_outside_it(scanned):
    _, _, page = scanned
    assert not re.search(r"https?://", page.source)
    for tag, attrs in page.elements:
        assert tag not in ("link", "img", "iframe")
        assert not {"src", "href", "srcset"} & attrs.keys()
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|import\(", page.source)
    assert "prefers-color-scheme: dark" in page.source
    # The ID that looks like markup is shown as it is, and ends no element.
    assert len([1 for tag, _ in page.elements if tag == "script"]) == 2
    assert "</script>&<b>" in page.data["ids"]


def test_the_summary_has_the_reports_lambda(scanned):
    folder, _, page = scanned
    summary = ResultsStore.open(folder / "out.zarr").summary()
    for test in ("mean", "variance", "joint"):
        assert f"all, λ {summary[f'lambda_gc_{test}']:.3f}" in page.text


def test_points_are_those_of_the_store(scanned):
    folder, _, page = scanned
    results = open_results(folder / "out.zarr")
    assert len(page.data["ids"]) == results.sizes["variants"] == 120
    assert page.data["ids"] == list(results["variant_id"].to_numpy())
    for name, column in (
        ("mean", "add_neg_log10_p"), ("variance", "var_best_neg_log10_p"),
        ("joint", "av_score_neg_log10_p"),
        ("add", "add"), ("var", "var"), ("maf", "minor_allele_frequency"),
    ):  # fmt: skip
        np.testing.assert_allclose(page.points[name], results[column].to_numpy(), rtol=1e-6)
    np.testing.assert_array_equal(page.points["position"], results["variant_position"])
    assert [c["name"] for c in page.data["contigs"]] == ["1", "2"]
    fit = dispersion_effects(
        *(results[c] for c in ("add", "add_se", "var", "var_se")),
        options=DispersionOptions(blocks="auto"),
    )
    assert page.data["slope"] == pytest.approx(fit.r_av)
    assert page.data["slope_se"] == pytest.approx(fit.errors.r_se)
    assert f"(SE {fit.errors.r_se:#.2g}, by 20 windows), with its 95% confidence band" in page.text
    assert fit.errors.terciles.text in page.text
    np.testing.assert_allclose(page.points["dispersion"], fit.dispersion_neg_log10_p, rtol=1e-6)
    for test in page.data["tests"]:
        y = np.sort(page.points[test["name"]])[::-1]
        np.testing.assert_allclose(test["qq"][0]["observed"], y, atol=1e-4)
        assert dict(test["lines"])["5e-8"] == pytest.approx(7.30103)


def test_leads_are_independent_by_linkage(scanned, tmp_path):
    folder, _, page = scanned
    report = read_report(str(folder / "out"))
    rows = report.leads["mean"]
    ids = [report.thinned.points["id"][row] for row in rows]
    y = report.thinned.points["add_neg_log10_p"][rows]
    hits = [name for name, height in zip(ids, y, strict=True) if height > 7.3]
    # 100 kb apart and not linked: one of each five, though within 500 kb.
    assert sorted(int(name[2:]) // 5 for name in hits) == [3, 4]
    assert f"{len(hits)} lead variants with p < 5e-8 (none better within 500 kb, or r²" in page.text
    without = read_report(without_record(folder, tmp_path))
    alone = without.thinned.points["add_neg_log10_p"][without.leads["mean"]]
    assert (alone > 7.3).sum() == 1
    table = [attrs for tag, attrs in page.elements if tag == "tr" and "data-point" in attrs]
    assert all(attrs["tabindex"] == "0" for attrs in table)
    assert len(table) == sum(len(each) for each in report.leads.values())


def test_leads_are_drawn_by_genotype(scanned):
    folder, counts, page = scanned
    report = read_report(str(folder / "out"))
    pictures = [attrs["aria-label"] for tag, attrs in page.elements if tag == "svg"]
    assert len(pictures) == len(report.drawn_leads) > 1
    null = report.here.null
    for row, label in zip(report.drawn_leads, pictures, strict=True):
        g = counts[report.thinned.points["index"][row]][null.sample_index]
        for k in range(3):
            y = null.model.y[g == k]
            assert f"{k} copies: mean {y.mean():.3f}, SD {y.std(ddof=1):.3f}" in label


def test_pictures_are_files_in_two_formats(scanned):
    folder, _, _ = scanned
    names = {path.name for path in (folder / "out.plots").iterdir()}
    stems = {name.rpartition(".")[0] for name in names}
    assert names == {f"{stem}.{suffix}" for stem in stems for suffix in ("png", "svg")}
    assert {
        "effects", "miami",
        *(f"{kind}_{test}" for kind in ("manhattan", "qq")
          for test in ("mean", "variance", "joint", "dispersion")),
    } <= stems  # fmt: skip
    assert any(stem.startswith("spread_") for stem in stems)
    assert (folder / "out.plots" / "miami.png").read_bytes().startswith(b"\x89PNG")
    svg = (folder / "out.plots" / "manhattan_mean.svg").read_text("utf-8")
    assert ">Chromosome<" in svg  # words that can be searched and edited


def test_record_of_the_run_fills_the_page(scanned):
    folder, _, page = scanned
    (run,) = json.loads((folder / "out.run.json").read_text("utf-8"))["runs"]
    (null,) = run["phenotypes"]
    assert "does not have it" not in page.text
    assert run["outcome"] == "done"
    command = f"hlmm-scan {folder}/linked.bed"
    for words in (
        *(step["step"] for step in null["accounting"]), "600", "Intercept", "Null model",
        f"log-likelihood −{-null['loglik']:,.2f}", command, "Versions", "max missing 5.0",
    ):  # fmt: skip
        assert words.replace("max missing", "max_missing") in page.text
    assert len(null["effects"]) == 4
    for each in null["effects"]:
        assert f"{each['effect']:#.3g}".replace("-", "−") in page.text


def without_record(folder, to):
    shutil.copytree(folder / "out.zarr", to / "out.zarr")
    return str(to / "out")


def test_without_genotypes_and_record_the_page_says_so(scanned, tmp_path):
    folder, counts, _ = scanned
    out = without_record(folder, tmp_path)
    assert report_main([f"{out}.zarr"]) == 0
    page = Page(tmp_path / "out.report.html")
    assert "Not drawn: the record of the run (.run.json)" in page.text
    assert "the record of the run (.run.json) does not have it" in page.text
    assert not [1 for tag, _ in page.elements if tag == "svg"]
    record = json.loads((folder / "out.run.json").read_text("utf-8"))
    run = record["runs"][-1]
    run["warnings"] = [{"text": "RuntimeWarning: watch out", "count": 2}]
    make_study(tmp_path)
    linked = open_plink(folder / "linked.bed")
    # The same people have others' genotypes.
    write_plink(
        tmp_path / "linked.bed", counts[:, ::-1], linked.samples, next(linked.iter_variants())
    )
    for genofile, message in (
        (tmp_path / "gone.bed", "gone.bed: "),
        (tmp_path / "study.bed", "study.bed is not the file that was scanned"),
        (tmp_path / "linked.bed", "linked.bed: genotypes differ from those that block 0"),
    ):
        run["options"]["genofile"] = str(genofile)
        (tmp_path / "out.run.json").write_text(json.dumps(record), "utf-8")
        assert report_main([out]) == 0
        page = Page(tmp_path / "out.report.html")
        assert re.search(f"Not drawn: .*{message}", page.text)
        assert len(re.findall("By distance alone: .*?" + re.escape(message), page.text)) == 4
        # With nothing near that could be linked, too.
        assert message in read_report(out, window=0).here
    assert "RuntimeWarning: watch out" in page.text


def test_other_phenotypes_than_those_scanned_are_not_drawn(scanned, tmp_path):
    folder, _, _ = scanned
    out = without_record(folder, tmp_path)
    record = json.loads((folder / "out.run.json").read_text("utf-8"))
    lines = (folder / "pheno.txt").read_text().splitlines()
    lines[0] = lines[0].rpartition("\t")[0] + "\t5.0"
    (tmp_path / "pheno.txt").write_text("\n".join(lines))
    record["runs"][-1]["options"]["phenofile"] = str(tmp_path / "pheno.txt")
    (tmp_path / "out.run.json").write_text(json.dumps(record), "utf-8")
    assert report_main([out]) == 0
    text = Page(tmp_path / "out.report.html").text
    assert re.search(r"Not drawn: .*pheno\.txt or covariates are not what was scanned", text)


def test_mixed_model_of_the_mean(tmp_path):
    counts = make_linked(tmp_path)
    out = str(tmp_path / "out")
    files = [str(tmp_path / name) for name in ("linked.bed", "pheno.txt")]
    options = ["--mean_covar", str(tmp_path / "covar.txt"), "--grm-from", files[0]]
    assert scan_main([*files, out, "--model", "lmm", *options, "--workers", "1"]) == 0
    assert float((tmp_path / "out.null_h2.txt").read_text().split()[0]) > 0.1
    report = read_report(out)
    assert "random effects not removed" in report.here.scale
    row = report.leads["mean"][0]
    index = report.thinned.points["index"][row]
    np.testing.assert_array_equal(report.here.counts(index), counts[index])
    assert report_main([out]) == 0
    page = Page(tmp_path / "out.report.html")
    assert "r² ≤ 0.1 with it" in page.text
    assert [1 for tag, _ in page.elements if tag == "svg"]
    for name, column in (("covar.txt", 2), ("pheno.txt", 2)):
        kept = (tmp_path / name).read_text()
        table = pd.read_csv(tmp_path / name, sep="\t", header=None)
        table.loc[5, column] += 1e-3
        table.to_csv(tmp_path / name, sep="\t", header=False, index=False)
        assert read_report(out).here.endswith("pheno.txt or covariates are not what was scanned")
        (tmp_path / name).write_text(kept)


@pytest.mark.slow
def test_files_by_chromosome_phenotypes_and_loco_from_another_folder(tmp_path, monkeypatch):
    """Paths as the command gave them, from where it was given; a report for each phenotype."""
    counts = make_linked(tmp_path)
    genotypes = open_plink(tmp_path / "linked.bed")
    variants = pd.concat(genotypes.iter_variants())
    for i, rows in enumerate((slice(0, 60), slice(60, 120)), 1):
        write_plink(tmp_path / f"chr{i}.bed", counts[rows], genotypes.samples, variants[rows])
    ys = np.stack([counts[17] + 2.0 * counts[81], np.exp(0.3 * counts[30])], axis=1)
    ys = ys + ys * np.random.default_rng(0).standard_normal(ys.shape)
    write_values(tmp_path / "two.txt", genotypes.samples, ys)
    write_plink(tmp_path / "g.bed", counts[::6], genotypes.samples, variants[::6])
    monkeypatch.chdir(tmp_path)
    command = ["chr@.bed", "two.txt", "out", "--phen_index", "all", "--random_gts", "g.bed"]
    assert scan_main([*command, "--loco", "--workers", "1", "--range", "2", "120"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert report_main([str(tmp_path / "out")]) == 0
    files = set()
    for k in (1, 2):
        page = Page(tmp_path / f"out.{k}.report.html")
        assert "Not drawn" not in page.text
        assert f"Phenotype {k} (SD, random effects not removed)." in page.text
        assert "chr@.bed two.txt out" in page.text
        report = read_report(str(tmp_path / f"out.{k}"))
        for row in report.drawn_leads:
            index = report.thinned.points["index"][row] + 2
            g = report.here.counts(report.thinned.points["index"][row])
            np.testing.assert_array_equal(np.nan_to_num(g, nan=-1), counts[index])
            files.add(bool(index >= 60))
    assert files == {False, True}


def test_a_scan_of_a_dataset_has_leads_by_distance(study, client):
    null = fit_null(study.bed, study.pheno)
    scan(open_bed(study.bed), null, client=client, out=study.out("out.zarr"))
    assert report_main([str(study.out("out"))]) == 0
    text = Page(study.out("out.report.html")).text
    assert re.search(r"By distance alone: the record .* \(a scan from Python has none\)", text)
    assert "r² ≤" not in text


def test_a_table_alone_is_no_scan(tmp_path, capsys):
    (tmp_path / "out.models.gz").touch()
    assert report_main([str(tmp_path / "out")]) == 2
    assert "hlmm-chr keeps no results store" in capsys.readouterr().err


def test_a_record_that_is_none_is_refused(scanned, tmp_path, capsys):
    out = without_record(scanned[0], tmp_path)
    (tmp_path / "out.run.json").write_text("[]", "utf-8")
    assert report_main([out]) == 2
    assert "out.run.json: not the record of a run" in capsys.readouterr().err
    assert not (tmp_path / "out.report.html").exists()


def test_what_is_odd_is_said(tmp_path, capsys):
    rng = np.random.default_rng(2)
    n = 6000
    columns = columns_of(
        1.2 * rng.standard_normal(n), rng.standard_normal(n), rng.uniform(0, 0.5, n)
    )
    make_store(tmp_path / "out.zarr", columns, names_of(n), block_size=1000, leave_out=(2,))
    assert report_main([str(tmp_path / "out"), "--window", "100"]) == 0
    page = Page(tmp_path / "out.report.html")
    assert "The scan is not complete: 1 of 6 blocks have no results." in page.text
    assert re.search(r"λ_GC of the test 'mean' is 1\.[34]\d\d: many small effects", page.text)
    assert "test 'variance' is" not in page.text
    assert "No dispersion effects" not in page.text
    assert "none better within 100 kb" in page.text
    printed = capsys.readouterr().err
    assert "Effect on the mean: the best loci, more than 100 kb apart" in printed


def test_loci_are_printed_at_the_end_of_a_scan(tmp_path, capsys):
    study = make_study(tmp_path)
    arguments = [str(study.bed), str(study.pheno), str(study.out("o")), "--workers", "1"]
    assert scan_main([*arguments, "--dispersion"]) == 0
    lines = capsys.readouterr().err.splitlines()
    results = open_results(study.out("o.zarr"))
    for title, column, p in (
        ("Effect on the mean", "add", "add_neg_log10_p"),
        ("Effect on the variance (score test, saddlepoint)", "var", "var_best_neg_log10_p"),
    ):
        at = next(i for i, line in enumerate(lines) if line.startswith(f"{title}: the best loci"))
        assert lines[at + 1].split() == [
            "variant", "chr", "position", "MAF", column, f"{column}_se", "p",
        ]  # fmt: skip
        best = int(np.nanargmax(results[p].to_numpy()))
        cells = lines[at + 2].split()
        assert cells[0] == f"rs{best}"
        assert float(cells[4]) == pytest.approx(float(results[column][best]), rel=1e-2)
        shown = 10.0 ** -float(results[p][best])
        assert float(cells[6]) == pytest.approx(shown, rel=0.05)
    assert any(line.startswith("Dispersion effect: the best loci") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "missing.zarr: does not exist"),
        (["empty"], "no variant has results yet"),
        (["empty", "--window=-1"], "--window -1: expected kilobases, 0 or more"),
    ],
)
def test_what_can_not_be_reported_is_refused(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    columns = columns_of(np.zeros(10), np.zeros(10), np.full(10, 0.3))
    make_store(Path("empty.zarr"), columns, names_of(10), block_size=10, leave_out=(0,))
    assert report_main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.html"))


# Moves over a point, clicks on it, and writes down what the page then shows.
PROBE = """<script>
window.trouble = [];
addEventListener("error", (e) => trouble.push(e.message));
const look = () => {
  const canvas = document.querySelector(".manhattan canvas");
  const box = canvas.getBoundingClientRect();
  const send = (kind, x, y) => canvas.dispatchEvent(new MouseEvent(kind,
    { clientX: box.left + x, clientY: box.top + y, bubbles: true }));
  let found = "";
  for (let k = 0; k < 1e6 && !found; k++) {
    const x = 50 + (3 * k) % 1200, y = 5 + 3 * Math.floor(k / 400);
    send("mousemove", x, y);
    if (document.querySelector(".tip").style.display === "block") {
      found = document.querySelector(".tip").innerText;
      send("click", x, y);
    }
  }
  const row = document.querySelector("tr[aria-selected=true]");
  document.body.innerHTML = "<pre id=seen></pre>";
  document.getElementById("seen").textContent = JSON.stringify({ found, trouble,
    row: row && row.cells[0].textContent, ready: document.documentElement.dataset.ready });
};
addEventListener("load", look);
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_hover_and_click_in_a_browser(scanned, tmp_path):
    _, _, page = scanned
    probed = tmp_path / "probed.html"
    probed.write_text(page.source.replace("<main>", f"{PROBE}<main>"), "utf-8")
    # The page draws as it loads, and its DOM is dumped after that.
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu",
               f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1366,768",
               "--dump-dom", probed.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    seen = json.loads(re.search(r'<pre id="seen">(.*?)</pre>', done.stdout)[1])
    assert seen["trouble"] == []
    assert seen["ready"] == "1"
    best = int(np.argmax(page.points["mean"]))
    lines = seen["found"].splitlines()
    assert lines[0] == page.data["ids"][best] == seen["row"]
    assert lines[1] == f"chr {1 + best // 60}: {page.points['position'][best]:,}"
    assert f"mean {page.points['mean'][best]:.2f}" in lines[3]


def test_a_table_with_many_rows_says_that_it_scrolls():
    """All rows are in the page; the box around them scrolls with the keyboard, too."""
    some, many = (table(["a", "b"], [(f"<{i}>", "x") for i in range(n)]) for n in (5, 40))
    assert "scrolls" not in some
    assert "40 rows; the table scrolls." in many
    assert many.count("<tr>") == 41
    assert '<div class="scroll" tabindex="0">' in many
    leads = lead_table([(i, True, ["rs", "1"]) for i in range(30)], ["Variant", "Chr"])
    assert "30 rows; the table scrolls." in leads
    assert leads.count("data-point=") == 30
