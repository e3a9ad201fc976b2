"""An output that one run takes from another: nothing of the old one stays, or comes after."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from runs import markers
from studies import Study, write_values

from hlmm_dask import fit_null, scan
from hlmm_dask.ending import EXIT_INTERRUPTED
from hlmm_dask.errors import ScanError, TakenOverError
from hlmm_dask.scanning import lmm_model
from hlmm_dask.scanning.events import BlockDone, Event, ScanFinished
from hlmm_dask.store import ResultsStore

Run = Callable[..., int]

# Made from a finished scan, by the scan itself and by other commands.
DERIVED = (
    ".report.html", ".loci.tsv", ".check.tsv", ".interaction.tsv", ".null_h2.txt", ".parquet",
    ".null_variance_effects.txt",
)  # fmt: skip


def test_interrupted_after_a_scan_was_replaced(
    study: Study, run_script: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_values(study.folder / "other.txt", study.samples, study.y[::-1])
    out = study.out("out")
    for name in ("whole", "out"):
        pheno = other if name == "whole" else study.pheno
        assert run_script("scan", study.bed, pheno, study.out(name), "--block-size", 20) == 0
    derived = [Path(f"{out}{suffix}") for suffix in DERIVED]
    for folder in ("plots", "loci", "interaction"):
        study.out(f"out.{folder}").mkdir()
        derived.append(study.out(f"out.{folder}") / "rs1.png")
    kept = study.out("out.loci") / "mine.txt"
    for path in (*derived, kept):
        path.write_text("of the old scan")
    arguments = [study.bed, other, out, "--block-size", 20]

    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        # Before there is a new store nothing is lost.
        patch.setattr("hlmm_dask.scanning.run._open_store", interrupted)
        assert run_script("scan", *arguments, "--overwrite") == EXIT_INTERRUPTED
        assert all(path.exists() for path in derived)
    with monkeypatch.context() as patch:
        patch.setattr("hlmm_dask.scanning.run.run_blocks", interrupted)
        assert run_script("scan", *arguments, "--overwrite", "--parquet") == EXIT_INTERRUPTED
        assert [path.name for path in derived if path.exists()] == []
    kept.unlink()
    kept.parent.rmdir()
    assert run_script("scan", *arguments, "--resume") == 0
    suffixes = {path.name.removeprefix("out") for path in study.folder.glob("out.*")}
    assert suffixes == {p.name.removeprefix("whole") for p in study.folder.glob("whole.*")}
    tables = [study.out(f"{name}.models.gz").read_bytes() for name in ("whole", "out")]
    assert tables[0] == tables[1]


def run_with(study: Study, client: Client, observer: Callable[[Event], None]) -> None:
    null = fit_null(study.bed, study.pheno)
    scan(
        study.bed, null, client=client, out=study.out("out.zarr"), block_size=5,
        observers=[observer],
    )  # fmt: skip


def test_blocks_after_the_store_was_replaced(study: Study, client: Client) -> None:
    """As after a run that was asleep while another took its output over."""
    run_dir = study.out("out.zarr") / ".run"
    done: list[int] = []

    def replace(event: Event) -> None:
        if isinstance(event, BlockDone):
            done.append(event.block)
            if len(done) == 1:
                (run_dir / "null_model.bin").write_bytes(bytes(64))

    with pytest.raises(TakenOverError, match=r"out\.zarr: replaced or taken over by another run"):
        run_with(study, client, replace)
    assert len(done) < 12
    # Nor is anything noted in what is another's.
    assert not (run_dir / "failures.jsonl").exists()


def test_lock_that_another_run_has(
    study: Study, run_script: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at before the first block and after the last; the other run's record stays."""
    arguments = [study.bed, study.pheno, study.out("out"), "--block-size", 5]
    record = study.out("out.run.json")
    lock = study.out("out.zarr") / ".run" / "lock.json"

    def take(*arguments: Any, **options: Any) -> list[Any]:
        lock.write_text(json.dumps(json.loads(lock.read_text()) | {"token": "another's"}))
        record.write_text("another's")
        return []

    for name in ("check_genotypes", "run_blocks"):
        with monkeypatch.context() as patch:
            patch.setattr(f"hlmm_dask.scanning.run.{name}", take)
            if name == "check_genotypes":
                assert run_script("scan", *arguments) == 0
                (study.out("out.zarr") / ".run" / "blocks" / "0000002.json").unlink()
                patch.setattr("hlmm_dask.scanning.run.run_blocks", None)
                assert run_script("scan", *arguments, "--resume") == 2
            else:
                assert run_script("scan", *arguments, "--overwrite") == 2
        assert record.read_text() == "another's"
        lock.unlink()
    assert not ResultsStore.open(study.out("out.zarr")).is_finished


def test_block_of_a_mixed_model_is_mended_when_its_arrays_are_gone(
    study: Study, run_script: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its null model is made again, perhaps with other last bits: the other blocks stay."""
    arguments = [study.bed, study.pheno, study.out("out"), "--block-size", 10, "--model", "lmm"]
    arguments += ["--grm-from", study.bed]
    assert run_script("scan", *arguments) == 0
    table = study.out("out.models.gz").read_bytes()
    before = markers(study.out("out.zarr"))
    chunk = study.out("out.zarr") / "results" / "c.3.0"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    publish = lmm_model.publish_model

    def publish_another(store: ResultsStore, model: Any) -> Any:
        filters = replace(model.filters, max_missing=model.filters.max_missing + 1e-9)
        return publish(store, replace(model, filters=filters))

    monkeypatch.setattr(lmm_model, "publish_model", publish_another)
    for _ in range(2):
        assert run_script("scan", *arguments, "--resume") == 0
        after = markers(study.out("out.zarr"))
        assert {name for name in before if after[name] != before[name]} == {"0000003.json"}
        assert study.out("out.models.gz").read_bytes() == table


def test_a_late_block_of_another_run(study: Study, client: Client) -> None:
    path = study.out("out.zarr")

    def write(event: Event) -> None:
        if isinstance(event, ScanFinished):
            store = ResultsStore.open(path)
            marker = store.marker(3)
            assert marker is not None
            values = store.read_blocks(3, 4) + 1.0
            store.write_block(3, values, record=marker | {"null_model": "another's"})

    with pytest.raises(ScanError, match=r"1 of 12 blocks were written by another run \(first: 3"):
        run_with(study, client, write)
    assert not ResultsStore.open(path).is_finished
    null = fit_null(study.bed, study.pheno)
    options: dict[str, Any] = {"client": client, "block_size": 5}
    resumed = scan(study.bed, null, out=path, resume=True, **options).load()
    shutil.rmtree(path)
    assert resumed.equals(scan(study.bed, null, out=path, **options).load())
