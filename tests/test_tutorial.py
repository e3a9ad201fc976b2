import json
import re
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(scope="module")
def tutorial():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLBACKEND", "Agg")
        return runpy.run_path(str(EXAMPLES / "tutorial.py"), run_name="tutorial")


@pytest.fixture(scope="module")
def run(tutorial, tmp_path_factory):
    """The whole script at a small size: folder, and what it printed."""
    out = tmp_path_factory.mktemp("tutorial with space") / "out"
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *parts, **_: lines.append(" ".join(map(str, parts))))
        tutorial["main"](
            [
                *("--samples=4000", "--variants=60", "--random-variants=8"),
                *("--seed=3", "--workers=1", f"--out={out}"),
            ]
        )
    return out, "\n".join(lines)


def test_script_writes_tables_plots_and_report(run):
    out, _ = run
    for name in ("coupling", "dispersion", "qq", "power"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    for label in ("hlm", "hlmm"):
        report = (out / f"{label}.report.html").read_text(encoding="utf-8")
        assert "Dispersion effect" in report
        assert report.count("<svg") > 0  # phenotype by genotype
        table = pd.read_csv(out / f"{label}.models.gz", sep="\t")
        assert len(table) == 60
        assert (table["status"] == "ok").all()


def test_findings_stand_beside_theory(run):
    _, printed = run
    rows = {
        line[:38].strip(): re.split(r"\s{2,}", line[38:].strip()) for line in printed.splitlines()
    }
    expected, found = (float(x) for x in rows["Median t² of additive effects"][:2])
    assert found == pytest.approx(expected, rel=0.6)
    assert "0.455" in rows["Median t² of dispersion effects*"]


def test_hits_are_judged(run, tutorial):
    out, printed = run
    assert "Is it real?" in printed
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda text: lines.append(text))
        found = pd.DataFrame({"SNP": ["rs1"], "tests": ["mean,variance"], "verdict": ["holds"]})
        tutorial["print_verdicts"](found)
    assert lines == ["\nIs it real?", "  rs1 (mean, variance): holds"]
    assert (out / "hlm.loci.tsv").read_text().startswith("SNP\tchrom\tpos")


def test_dispersion_columns_of_the_scan_are_those_of_the_tutorial(run, tutorial):
    out, _ = run
    table = tutorial["read_table"](out / "hlm.models.gz")
    fit = tutorial["analyse"]("HLM", out / "hlm", table, 0.0).fit
    np.testing.assert_allclose(table["dispersion"], fit.dispersion, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(table["dispersion_pval"], fit.dispersion_neg_log10_p, rtol=1e-8)


def test_notebook_is_executed():
    notebook = json.loads((EXAMPLES / "tutorial.ipynb").read_text(encoding="utf-8"))
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert all(output["output_type"] != "error" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
