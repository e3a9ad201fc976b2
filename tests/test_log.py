"""OUTPREFIX.log and OUTPREFIX.run.json: the same figures as the results, however a run ends."""

import json
import logging
import os
import re
import shlex
import warnings
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from studies import Study, write_values

import hlmm_dask
from hlmm_dask.errors import InputError, ScanError
from hlmm_dask.scanning.events import BlockDone, BlockFailed, Note, Phase, ScanStarted
from hlmm_dask.scanning.log import RunLog
from hlmm_dask.scanning.logs import off_terminal
from hlmm_dask.store import ResultsStore

Run = Callable[..., int]
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d  \S.*")


def runs(study: Study, out: str = "out") -> list[dict[str, Any]]:
    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    text = study.out(f"{out}.run.json").read_text()
    content = json.loads(text, parse_constant=no_constant)
    assert content["schema"] == 1
    return list(content["runs"])


def test_figures_are_those_of_the_results(study: Study, run_script: Run) -> None:
    values = study.y.copy()
    values[:7] = np.nan
    write_values(study.pheno, study.samples, values)
    write_values(study.covar, study.samples.iloc[10:], study.covariates[10:])
    options = ["--mean_covar", study.covar, "--block-size", 7, "--min_maf", "0.04"]
    assert run_script("scan", study.bed, study.pheno, study.out("out"), *options) == 0
    (run,) = runs(study)
    summary = ResultsStore.open(study.out("out.zarr")).summary()
    assert run["tables"] == {str(study.out("out.models.gz")): summary}
    assert run["blocks"]["n_done"] == run["plan"]["n_blocks"] == 9
    assert run["blocks"]["n_variants"] == len(study.variants)
    assert run["blocks"]["n_fitted"] == summary["n_fitted"]
    assert run["plan"]["block_size"] == 7
    assert (run["outcome"], run["exit_code"], run["error"]) == ("done", 0, None)
    (phenotype,) = run["phenotypes"]
    null = hlmm_dask.fit_null(study.bed, study.pheno, mean_covariates=study.covar)
    assert [tuple(step.values()) for step in phenotype["accounting"]] == list(null.accounting)
    assert [step["n"] for step in phenotype["accounting"]] == [300, 293, 290, 290]
    mean = [row for row in phenotype["effects"] if row["part"] == "mean"]
    assert [row["name"] for row in mean] == list(null.mean_effects.names)
    np.testing.assert_allclose([row["effect"] for row in mean], null.mean_effects.effects)
    assert run["seed"] is None
    assert run["options"]["min_maf"] == 0.04
    assert run["options"]["max_missing"] == 5.0
    assert run["versions"]["numpy"] == np.__version__
    given = [str(x) for x in (study.bed, study.pheno, study.out("out"), *options)]
    # The script's test adds the scheduler's address.
    assert run["command"][2:-2] == given
    began, ended = (datetime.fromisoformat(run[key]) for key in ("started", "ended"))
    assert began.tzinfo is not None
    parts = ("input", "null model", "cluster", "blocks", "summary", "tables")
    assert tuple(run["seconds"]) == parts
    assert sum(run["seconds"].values()) <= (ended - began).total_seconds() + 2.0
    lines = study.out("out.log").read_text().splitlines()
    assert lines[0] == f"hlmm_dask, run of {run['started']}"
    for line in lines[1:]:
        assert LINE.fullmatch(line), line
    text = "\n".join(lines)
    for part in (
        shlex.join(run["command"]), "min_maf=0.04", "nothing in a scan is random", "290 with gen",
        "numpy=" + np.__version__, f'"n_fitted": {summary["n_fitted"]}', "done, exit code 0",
        "are not in it",
    ):  # fmt: skip
        assert part in text


def test_parts_of_a_run_follow_each_other(study: Study, run_script: Run) -> None:
    options = [study.bed, study.pheno, study.out("out"), "--block-size", 20]
    assert run_script("scan", *options) == 0
    first = study.out("out.log").read_text()
    ResultsStore.open(study.out("out.zarr")).discard(1)
    assert run_script("scan", *options, "--resume") == 0
    assert study.out("out.log").read_text().startswith(first)
    assert [run["blocks"]["n_done"] for run in runs(study)] == [3, 1]
    assert [run["scan"]["n_done_blocks"] for run in runs(study)] == [0, 2]
    # Nothing to do is done, too.
    assert run_script("scan", *options, "--resume") == 0
    assert [run["blocks"]["n_done"] for run in runs(study)] == [3, 1, 0]
    assert runs(study)[2]["tables"] == runs(study)[1]["tables"]
    assert run_script("scan", *options, "--overwrite") == 0
    assert [run["blocks"]["n_done"] for run in runs(study)] == [3]
    assert study.out("out.log").read_text().count("hlmm_dask, run of ") == 1
    # A refused run is no run.
    before = study.out("out.log").read_text()
    assert run_script("scan", *options) == 2
    assert study.out("out.log").read_text() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("which", ["log", "run.json"])
def test_a_log_that_can_not_be_written_breaks_nothing(
    study: Study, run_script: Run, capsys: pytest.CaptureFixture[str], which: str
) -> None:
    path = study.out(f"out.{which}")
    if which == "log":
        os.symlink("/dev/full", path)
    else:
        path.write_text("not ours")
    assert run_script("scan", study.bed, study.pheno, study.out("out")) == 0
    assert capsys.readouterr().err.count("no record of this run") == 1
    assert study.out("out.models.gz").exists()
    assert which == "log" or path.read_text() == "not ours"


def test_hlmm_chr_writes_none(study: Study, run_chr: Run, client: object) -> None:
    assert run_chr(study.bed, 0, 9, study.pheno, study.out("out"), client=client) == 0
    assert not list(study.folder.glob("*.log")) + list(study.folder.glob("*.json"))


# -- the record by itself ---------------------------------------------------------------------


def log_of(study: Study) -> RunLog:
    return RunLog(str(study.out("out")), command=["scan", "a\nb"], options={"x": 1})


ENDS = [
    (ScanError("2 of 9 blocks failed"), "failed", 1),
    (KeyboardInterrupt(), "interrupted", 75),
    (OSError(28, "No space left on device"), "interrupted", 75),
    (ZeroDivisionError("a\nbug"), "crashed", 1),
]


@pytest.mark.parametrize(("error", "outcome", "code"), ENDS)
def test_how_a_run_ended(study: Study, error: BaseException, outcome: str, code: int) -> None:
    def run() -> None:
        with log_of(study) as log:
            log(Phase("input"))
            log(ScanStarted(n_variants=90, n_blocks=9))
            # What is killed now has left a record without an end.
            assert runs(study)[0]["ended"] is None
            for block in range(7):
                log(BlockDone(block, 10, 9, 1.5))
            for block in (7, 8):
                log(BlockFailed(block, "worker died", 10))
            for _ in range(3):
                log(Note("said often"))
            raise error

    with pytest.raises(type(error)):
        run()
    (record,) = runs(study)
    assert (record["outcome"], record["exit_code"]) == (outcome, code)
    assert record["ended"] is not None
    assert [row["block"] for row in record["failed_blocks"]] == [7, 8]
    assert record["blocks"] == {
        "n_done": 7, "n_variants": 70, "n_fitted": 63, "worker_seconds": 10.5, "n_retried": 0,
    }  # fmt: skip
    assert record["notes"] == [{"text": "said often", "count": 3}]
    text = study.out("out.log").read_text()
    assert text.count("  note: said often\n") == 1
    assert "3 times the note: said often" in text
    assert "block 8 failed (10 variants): worker died" in text
    assert f"{outcome}, exit code {code}" in text
    for line in text.splitlines()[1:]:
        assert LINE.fullmatch(line), line


def test_nothing_is_kept_of_what_never_began(study: Study) -> None:
    def run() -> None:
        with log_of(study) as log:
            log(Phase("input"))
            log(Note("something"))
            raise InputError("no such file")

    before = sorted(study.folder.iterdir())
    with pytest.raises(InputError):
        run()
    assert sorted(study.folder.iterdir()) == before


def test_warnings_are_counted_and_shown_once(study: Study) -> None:
    shown: list[tuple[object, ...]] = []
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.showwarning = lambda *arguments: shown.append(arguments)
        with log_of(study):
            for _ in range(4):
                warnings.warn("doubtful\nvalue", RuntimeWarning, stacklevel=1)
            warnings.warn("old", UserWarning, stacklevel=1)
    (record,) = runs(study)
    assert record["warnings"] == [
        {"text": "RuntimeWarning: doubtful value", "count": 4},
        {"text": "UserWarning: old", "count": 1},
    ]
    text = study.out("out.log").read_text()
    assert text.count("warning: RuntimeWarning: doubtful value\n") == 2
    assert "4 times the warning: RuntimeWarning: doubtful value" in text
    assert [category for _, category, *_ in shown] == [RuntimeWarning, UserWarning]


def test_logged_warnings_are_counted(study: Study) -> None:
    dask = logging.getLogger("distributed.scheduler")
    with off_terminal(), log_of(study):
        for _ in range(3):
            dask.warning("Worker %s is gone\nTraceback ...", "w1")
        dask.info("of no matter")
    dask.warning("after the end")
    (record,) = runs(study)
    assert record["warnings"] == [{"text": "distributed.scheduler: Worker w1 is gone", "count": 3}]


def test_values_that_json_has_not(study: Study) -> None:
    with log_of(study) as log:
        log(BlockDone(0, 1, 1, float("nan")))
    assert runs(study)[0]["blocks"]["worker_seconds"] is None
