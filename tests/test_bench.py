"""The benchmarks' command line: every command runs at a tiny size and prints its JSON."""

import json
import multiprocessing
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
from clusters import FORKED, fork_server

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
KEYS = {"benchmark", "machine", "sizes", "seconds", "median_seconds", "figures", "skipped"}
TINY = {
    "class-sums": ["--samples", "203", "--variants", "40"],
    "hlm": ["--samples", "203", "--variants", "40"],
    "solver": ["--samples", "203", "--variants", "40"],
    "covariates": ["--samples", "203", "--variants", "8", "--covariates", "2"],
    "hlmm": ["--samples", "203", "--variants", "8", "--random", "5"],
    "hlmm-linear": ["--samples", "203", "--variants", "8", "--random", "5", "--compare", "2"],
}
CLUSTER = {
    "plink": ["--samples", "203", "--variants", "40", "--threads", "1"],
    "small": ["--samples", "203", "--variants", "40", "--workers", "1"],
    "lmm": ["--samples", "203", "--variants", "40", "--threads", "1"],
    "phenotypes": [
        "--samples", "203", "--variants", "40", "--phenotypes", "2", "--workers", "1",
    ],
    "workers": [
        "--samples", "203", "--variants", "40", "--random-samples", "203",
        "--random-variants", "8", "--random", "5",
    ],
    "scheduling": ["--blocks", "20", "--workers", "1"],
    "drawing": ["--variants", "3000"],
    "watching": ["--samples", "203", "--variants", "40", "--workers", "1", "--times", "1"],
    "memory": ["--samples", "203", "--variants", "40", "--workers", "1", "--times", "1"],
    "profile": [
        "--samples", "203", "--variants", "40", "--few-samples", "203", "--few-variants", "40",
        "--random-variants", "8", "--random", "5", "--some", "20",
    ],
    "plan": [
        "--samples", "2000", "--variants", "10000", "--measure-samples", "203",
        "--measure-variants", "40", "--measure-rows", "500", "--blocks", "20",
        "--cores", "1", "10", "100",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(SCRIPTS)
    yield
    for name in [x for x in sys.modules if x == "bench" or x.split(".")[0] == "benchmarks"]:
        del sys.modules[name]


def measured(name: str, work: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    import bench  # type: ignore[import-not-found]  # a script

    options = TINY.get(name) or CLUSTER[name]
    arguments = [name, *options, "--repeats", "1", "--no-warm-up", "--work", str(work)]
    assert bench.main(arguments) == 0
    out = capsys.readouterr()
    assert name in out.err
    found: dict[str, Any] = json.loads(out.out)
    assert set(found) == KEYS
    assert found["benchmark"] == name
    assert found["machine"]["cores"] >= 1
    assert set(found["median_seconds"]) == set(found["seconds"])
    assert all(x > 0 for values in found["seconds"].values() for x in values)
    assert found["figures"] or found["skipped"]
    return found


@pytest.mark.usefixtures("scripts")
@pytest.mark.parametrize("name", TINY)
def test_inner_rates(name: str, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured(name, work, capsys)


@pytest.mark.slow
@pytest.mark.usefixtures("scripts")
@pytest.mark.parametrize("name", CLUSTER)
def test_whole_scans(
    name: str, work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # No process need import everything anew.
    fork_server()
    forked = multiprocessing.get_context("forkserver")
    monkeypatch.setattr(multiprocessing, "get_context", lambda *_: forked)
    with dask.config.set(FORKED):
        found = measured(name, work, capsys)
    if name == "plink":
        assert ("plink2" in found["skipped"]) == (shutil.which("plink2") is None)
    if name == "plan":
        hours = [row["hours"] for row in found["figures"]["schedule"]]
        assert hours == sorted(hours, reverse=True)


@pytest.mark.usefixtures("scripts")
def test_schedule_without_waiting() -> None:
    """100 blocks of 2 s each on 10 cores, and what is serial."""
    from benchmarks.schedule import Rates, simulate  # type: ignore[import-not-found]  # a script

    rates = Rates(
        start=5.0, read=1e12, storage=1e15, kernel_per_genotype=0.0, kernel_per_variant=0.015,
        schedule_per_block=0.0, write_per_block=0.5, table_rows=1000.0,
    )  # fmt: skip
    assert simulate(rates, 1000, 10_000, 100, 10) == pytest.approx(5 + 10 * 2 + 10, rel=1e-6)
    slow = Rates(**{**vars(rates), "schedule_per_block": 1.0})
    assert simulate(slow, 1000, 10_000, 100, 10) == pytest.approx(5 + 100 + 2 + 10, rel=1e-6)


@pytest.mark.usefixtures("scripts")
def test_reduced_sizes() -> None:
    import bench

    for name in bench.COMMANDS:
        options = bench.parser().parse_args([name, *bench.scaled(name, 1e-9)])
        assert options.command == name
    assert bench.parser().parse_args(["all", "--scale", "0.1"]).scale == 0.1
