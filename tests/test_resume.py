"""Runs that are killed, interrupted or repeated: finished blocks stay, the table is the same."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from runs import markers, start, wait_for_blocks, wait_for_end
from studies import Study, make_study, write_values

from hlmm_dask import read_models_table
from hlmm_dask.durable import read_record, write_record
from hlmm_dask.store import ResultsStore

Run = Callable[..., int]


@pytest.fixture
def slow(tmp_path: Path) -> Study:
    """A study whose random effects make every block take a noticeable time."""
    study = make_study(tmp_path, n=800, m=160)
    rng = np.random.default_rng(4)
    write_values(tmp_path / "random.txt", study.samples, rng.normal(size=(800, 90)))
    return study


def arguments(study: Study, out: str, block_size: int = 4) -> list[str]:
    random = study.folder / "random.txt"
    return [
        str(study.bed), str(study.pheno), str(study.out(out)), "--random_gts", str(random),
        "--random_gts_txt", "--block-size", str(block_size), "--min_maf", "0.01",
    ]  # fmt: skip


def assert_same(path: Path, expected: pd.DataFrame) -> None:
    """Compare tables of two runs, whose null models may differ in their last bits."""
    pd.testing.assert_frame_equal(read_models_table(path), expected, rtol=1e-10, atol=1e-10)


@pytest.fixture
def expected(slow: Study, run_script: Run) -> pd.DataFrame:
    assert run_script("scan", *arguments(slow, "whole")) == 0
    return read_models_table(slow.out("whole.models.gz"))


def test_killed_and_resumed(
    slow: Study, expected: pd.DataFrame, run_script: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    process = start(slow.folder, *arguments(slow, "killed"))
    store = slow.out("killed.zarr")
    wait_for_blocks(process, store, 12)
    os.killpg(process.pid, signal.SIGSTOP)
    # While it lives, another run is refused.
    for option in ("--resume", "--overwrite"):
        assert run_script("scan", *arguments(slow, "killed"), option) == 2
        assert f"pid {process.pid}" in capsys.readouterr().err
    process.kill()
    os.killpg(process.pid, signal.SIGCONT)
    process.communicate()
    # Workers end by themselves when their client is gone.
    wait_for_end(process.pid)
    assert not slow.out("killed.models.gz").exists()
    before = markers(store)
    assert 12 <= len(before) < 40

    # Neither by chance nor with other options.
    assert run_script("scan", *arguments(slow, "killed")) == 2
    assert run_script("scan", *arguments(slow, "killed"), "--resume", "--overwrite") == 2
    for size, option, key in (
        (4, ["--max_missing", "7"], "max_missing"),
        (4, ["--count_A2"], "count_a2"),
        (5, [], "block_size"),
        (4, ["--mean_covar", slow.covar], "phenotype_and_covariates_sha256"),
    ):
        capsys.readouterr()
        assert run_script("scan", *arguments(slow, "killed", size), "--resume", *option) == 2
        assert f"{key}: store" in capsys.readouterr().err
    assert markers(store) == before

    assert run_script("scan", *arguments(slow, "killed"), "--resume") == 0
    after = markers(store)
    assert len(after) == 40
    assert {name: after[name] for name in before} == before
    assert_same(slow.out("killed.models.gz"), expected)
    table = slow.out("killed.models.gz").read_bytes()
    # Once more: nothing to do, the same table.
    assert run_script("scan", *arguments(slow, "killed"), "--resume") == 0
    assert markers(store) == after
    assert slow.out("killed.models.gz").read_bytes() == table


def test_interrupted_and_resumed_as_told(slow: Study, expected: pd.DataFrame) -> None:
    """Ctrl-C in a terminal reaches all processes."""
    process = start(slow.folder, *arguments(slow, "ctrl c"))
    store = slow.out("ctrl c.zarr")
    wait_for_blocks(process, store, 4)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert "Traceback" not in err
    wait_for_end(process.pid)
    before = markers(store)
    assert len(before) < 40
    (run,) = json.loads(slow.out("ctrl c.run.json").read_text())["runs"]
    assert (run["outcome"], run["exit_code"]) == ("interrupted", 75)
    assert 1 <= run["blocks"]["n_done"] <= len(before)
    assert "interrupted, exit code 75" in slow.out("ctrl c.log").read_text()
    command = err.strip().splitlines()[-1].strip()
    assert shlex.split(command)[-1] == "--resume"
    again = subprocess.run(
        command, shell=True, cwd=slow.folder, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    after = markers(store)
    assert {name: after[name] for name in before} == before
    assert_same(slow.out("ctrl c.models.gz"), expected)
    first, second = json.loads(slow.out("ctrl c.run.json").read_text())["runs"]
    assert first == run
    assert second["outcome"] == "done"
    assert second["blocks"]["n_done"] == second["scan"]["n_blocks"] - len(before)


def test_damaged_blocks_are_computed_again(study: Study, run_script: Run) -> None:
    options = [study.bed, study.pheno, study.out("out"), "--block-size", 10]
    assert run_script("scan", *options) == 0
    table = study.out("out.models.gz").read_bytes()
    store = study.out("out.zarr")
    before = markers(store)
    chunks = sorted(
        p for p in (store / "results").rglob("*") if p.is_file() and "json" not in p.name
    )
    assert len(chunks) == 6
    data = bytearray(chunks[1].read_bytes())
    data[len(data) // 2] ^= 1
    chunks[1].write_bytes(bytes(data))
    chunks[3].unlink()
    study.out("out.models.gz").unlink()
    assert run_script("scan", *options, "--resume") == 0
    assert study.out("out.models.gz").read_bytes() == table
    after = markers(store)
    changed = [name for name in before if after[name] != before[name]]
    assert len(changed) == 2


def test_block_size_beyond_the_variants(study: Study, run_script: Run) -> None:
    options = [study.bed, study.pheno, study.out("out"), "--block-size", 1000]
    assert run_script("scan", *options) == 0
    assert run_script("scan", *options, "--resume") == 0


def test_changed_input_is_refused(
    study: Study, run_script: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [study.bed, study.pheno, study.out("out"), "--block-size", 10]
    assert run_script("scan", *options) == 0
    study.pheno.write_text(study.pheno.read_text().replace("f0\ti0\t", "f0\ti0\t1", 1))
    capsys.readouterr()
    assert run_script("scan", *options, "--resume") == 2
    assert "phenotype_and_covariates_sha256" in capsys.readouterr().err
    assert run_script("scan", *options, "--overwrite") == 0


def test_summary_counts_every_variant(study: Study, run_script: Run) -> None:
    options = [study.bed, study.pheno, study.out("out"), "--block-size", 7]
    assert run_script("scan", *options) == 0
    summary = json.loads(next(study.out("out.zarr").glob("*/finished.json")).read_text())
    assert sum(summary["counts"].values()) == summary["n_variants"] == len(study.variants)
    assert summary["counts"]["ok"] == summary["n_fitted"]


# Output options, and parts of the store that are gone


def test_a_resumed_scan_writes_all_that_it_has_written(
    study: Study, run_script: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without an option of its output nothing is rewritten; more may be given."""
    out = study.out("out")
    options: list[Any] = [study.bed, study.pheno, out, "--block-size", 20]
    assert run_script("scan", *options, "--dispersion", "--dispersion-exclude", 0.5,
                      "--format", "regenie") == 0  # fmt: skip
    table = study.out("out.models.gz").read_bytes()
    (study.out("out.zarr") / ".run" / "finished.json").unlink()
    for given, said in (
        ([], "--format regenie --dispersion --dispersion-exclude 0.5"),
        (["--dispersion", "--format", "regenie"], "--dispersion --dispersion-exclude 0.5"),
        (["--dispersion", "--dispersion-exclude", 0.5, "--format", "gwas-vcf"], "--format regenie"),
    ):
        capsys.readouterr()
        assert run_script("scan", *options, *given, "--resume") == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert f"give {said} again, or start again with --overwrite" in line
        assert study.out("out.models.gz").read_bytes() == table
    again = [*options, "--dispersion", "--dispersion-exclude", 0.5, "--format", "regenie"]
    assert run_script("scan", *again, "--parquet", "--resume") == 0
    assert study.out("out.models.gz").read_bytes() == table
    assert study.out("out.parquet").exists()
    # From now on that is one of them.
    assert run_script("scan", *again, "--resume") == 2
    assert "give --parquet again" in capsys.readouterr().err
    assert run_script("scan", *options, "--overwrite") == 0
    assert run_script("scan", *options, "--resume") == 0


def parts_of(store: Path) -> list[str]:
    """All files and folders of a store, but those of which there are many alike."""
    found = [str(path.relative_to(store)) for path in sorted(store.rglob("*"))]
    return [name for name in found if not re.search(r"c\.[1-9]|000000[1-9]", name)]


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("change", ["removed", "a file", "a folder"])
def test_any_part_of_a_store_may_be_lost(
    change: str, finished: bool, tmp_path: Path, run_script: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is made again, or the refusal names --overwrite, which then works."""
    study = make_study(tmp_path, n=60, m=24)
    out, store = study.out("out"), study.out("out.zarr")
    options: list[Any] = [study.bed, study.pheno, out, "--block-size", 12]
    assert run_script("scan", *options) == 0
    table = study.out("out.models.gz").read_bytes()
    if not finished:
        (store / ".run" / "finished.json").unlink()
        (store / ".run" / "blocks" / "0000001.json").unlink()
    kept = Path(shutil.copytree(store, study.out("kept")))
    refused = set()
    for name in parts_of(kept):
        place = store / name
        if change == ("a folder" if place.is_dir() else "a file"):
            continue
        shutil.rmtree(store)
        shutil.copytree(kept, store)
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        if change != "removed":
            place.write_text("x") if change == "a file" else place.mkdir()
        capsys.readouterr()
        code = run_script("scan", *options, "--resume")
        err = capsys.readouterr().err
        assert code in (0, 2), (name, err)
        if code == 2:
            refused.add(name)
            assert "--overwrite" in err.strip().splitlines()[-1], (name, err)
            assert "--resume" not in err.strip().splitlines()[-1], (name, err)
            assert run_script("scan", *options, "--overwrite") == 0, name
        assert study.out("out.models.gz").read_bytes() == table, name
        ResultsStore.open(store).require_intact()
        assert ResultsStore.open(store).is_finished
    if change == "removed":
        assert refused == {".run", ".run/manifest.json"}


def test_a_scan_of_another_version_is_refused_before_any_work(
    study: Study, run_script: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    options: list[Any] = [study.bed, study.pheno, study.out("out"), "--block-size", 20]
    assert run_script("scan", *options) == 0
    path = study.out("out.zarr") / ".run" / "manifest.json"
    manifest = read_record(path, {"fingerprint": {str: object}})
    write_record(path, manifest | {"fingerprint": manifest["fingerprint"] | {"hlmm_dask": "0.0.1"}})
    capsys.readouterr()
    assert run_script("scan", *options, "--resume") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "out.zarr: begun with hlmm-dask 0.0.1, this is" in line
