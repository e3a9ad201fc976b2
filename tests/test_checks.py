"""What is wrong with a command is found before any work, and leaves nothing behind."""

import os
import shutil
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from studies import Study, write_values

from hlmm_dask.cli import scan_main
from hlmm_dask.scanning.cluster import ClusterOptions
from hlmm_dask.scanning.job import ScanJob

Run = Callable[..., int]


def listing(folder: Path) -> dict[str, int]:
    """Times of all files and folders: a file that came and went changes its folder's."""
    return {str(p): p.lstat().st_mtime_ns for p in [folder, *sorted(folder.rglob("*"))]}


@pytest.fixture
def refused(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Give a function that runs a command which must be refused, and returns its message."""

    def no_work(*arguments: object, **settings: object) -> None:
        raise AssertionError("the null model was about to be fitted")

    def run(*options: str, out: str = "out") -> str:
        monkeypatch.chdir(study.folder)
        monkeypatch.setattr("hlmm_dask.scanning.null_input.fit_null_arrays", no_work)
        before = listing(study.folder)
        try:
            code = scan_main([str(study.bed), str(study.pheno), out, *options])
        except SystemExit as end:
            code = int(end.code or 0)
        err = capsys.readouterr().err.splitlines()
        assert code == 2, err
        assert listing(study.folder) == before
        errors = [line for line in err if line.startswith("hlmm-scan: error: ")]
        assert len(errors) == 1, err
        assert "Traceback" not in "".join(err)
        return errors[0]

    return run


RANDOM_TABLE = ["--random_gts", "covar.txt", "--random_gts_txt"]
OPTIONS: list[tuple[list[str], str]] = [
    (["--phen_index", "height"], "no column 'height'"),
    (["--phen_index", "1,2"], "no column '2'"),
    (["--mean_covar", "nowhere.txt"], "nowhere.txt: no such file"),
    (["--var_covar", "nowhere.txt"], "nowhere.txt: no such file"),
    (["--mean_covar", "covar.txt", "--mean_covar_cols", "9"], "no column '9'"),
    (["--mean_covar_cols", "2"], "--mean-covar-cols requires --mean-covar"),
    (["--var-covar-cols", "2"], "--var-covar-cols requires --var-covar"),
    (["--random_gts", "nowhere"], "nowhere.bed: no such file"),
    (["--random_gts", "nowhere.txt", "--random_gts_txt"], "nowhere.txt: no such file"),
    (["--random_gts", "covar.txt"], "covar"),
    (["--random_gts_txt"], "--random-gts"),
    (["--loco"], "--loco requires --random-gts"),
    (["--loco", *RANDOM_TABLE], "give them as a .bed"),
    (["--exclude-window", "-1", "--random_gts", "study.bed"], "--exclude-window -1"),
    (["--h2_init", "1", "--random_gts", "study.bed"], "--h2-init 1"),
    (["--range", "0", "61"], "range 0 61"),
    (["--block-size", "0"], "block size 0"),
    (["--memory-limit", "100MB"], "80,000,000 of its limit of 100,000,000 can be used"),
    (["--memory-limit", "3 apples"], "--memory-limit 3 apples"),
    (["--resume", "--overwrite"], "exclude each other"),
    (["--scheduler-file", "nowhere.json"], "nowhere.json"),
]


@pytest.mark.parametrize(("options", "message"), OPTIONS, ids=[" ".join(o) for o, _ in OPTIONS])
@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry"])
def test_options(
    refused: Callable[..., str], options: list[str], message: str, dry: list[str]
) -> None:
    assert message in refused(*options, *dry)


def test_tabix_without_pysam(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pysam", None)
    assert "pip install 'hlmm-dask[tabix]'" in refused("--tabix")


def test_scheduler_that_does_not_answer(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    short = partial(ClusterOptions, timeout=0.5)
    monkeypatch.setattr(ScanJob, "cluster", property(lambda job: short(scheduler=job.scheduler)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        for dry in ([], ["--dry-run"]):
            assert "no Dask scheduler answers" in refused("--scheduler", address, *dry)


@pytest.mark.parametrize("option", ["--overwrite", "--resume", "--dry-run"])
def test_foreign_store(study: Study, refused: Callable[..., str], option: str) -> None:
    study.out("out.zarr").mkdir()
    (study.out("out.zarr") / "precious").write_text("mine")
    assert "out.zarr" in refused(option)


@pytest.mark.parametrize("suffix", [".log", ".models.gz", ".null_mean_effects.txt"])
def test_output_that_is_input(study: Study, refused: Callable[..., str], suffix: str) -> None:
    """OUTPREFIX.log may well be the phenotypes: they are not replaced by the log."""
    shutil.copy(study.covar, study.folder / f"trait{suffix}")
    options = ["--mean_covar", f"trait{suffix}", "--overwrite"]
    assert "is an input file" in refused(*options, out="trait")


def test_full_disk(
    study: Study, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(study.folder)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    assert "are free" in refused("--dry-run")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file that can't be read")
def test_read_errors_are_errors_of_input(
    study: Study, run_script: Run, refused: Callable[..., str]
) -> None:
    """An old store does not make a file that can't be read an interruption of this run."""
    assert run_script("scan", study.bed, study.pheno, study.out("out")) == 0
    study.pheno.unlink()
    os.symlink("/proc/self/mem", study.pheno)
    for option in ("--overwrite", "--resume"):
        assert refused(option)


def test_log_is_no_output_that_refuses_a_run(study: Study, run_script: Run) -> None:
    study.out("out.log").write_text("another program's\n")
    values = study.folder / "two.txt"
    write_values(values, study.samples, study.covariates)
    assert run_script("scan", study.bed, values, study.out("out"), "--phen_index", "all") == 0
    text = study.out("out.log").read_text()
    assert text.startswith("another program's\nhlmm_dask, run of ")
    assert not study.out("out.1.log").exists()
    assert run_script("scan", study.bed, values, study.out("out"), "--phen_index", "2",
                      "--overwrite") == 0  # fmt: skip
    assert study.out("out.log").read_text().startswith(text)
