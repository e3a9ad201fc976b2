"""--dry-run: all checks, a plan that the run keeps to, and nothing written."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from clusters import environment
from distributed import Client
from studies import Study, make_study, write_values

from hlmm_dask.cli import scan_main
from hlmm_dask.errors import StoreError
from hlmm_dask.scanning.dry_run import DryRun, dry_run, timed
from hlmm_dask.scanning.job import ScanJob
from hlmm_dask.store import ResultsStore

Run = Callable[..., int]


def listing(folder: Path) -> dict[str, int]:
    return {str(p): p.lstat().st_mtime_ns for p in [folder, *sorted(folder.rglob("*"))]}


def plan(text: str) -> dict[str, str]:
    """Lines of a printed plan: what, and how much."""
    lines = text[text.index("Plan (nothing was written)") :].splitlines()[1:]
    return dict(re.split(r"  +", line.strip(), maxsplit=1) for line in lines)


@pytest.mark.parametrize("random", [False, True])
def test_the_run_is_as_planned(
    study: Study, run_script: Run, capsys: pytest.CaptureFixture[str], random: bool
) -> None:
    rng = np.random.default_rng(0)
    values = np.where(rng.random(study.y.shape) < 0.1, np.nan, study.y)
    write_values(study.pheno, study.samples, values)
    write_values(study.folder / "g.txt", study.samples, rng.normal(size=(300, 12)))
    options = [study.bed, study.pheno, study.out("out"), "--range", 5, 55]
    if random:
        options += ["--random_gts", study.folder / "g.txt", "--random_gts_txt"]
    before = listing(study.folder)
    assert scan_main([*map(str, options), "--dry-run", "--workers", "3", "--memory-limit",
                      "1 GiB"]) == 0  # fmt: skip
    assert listing(study.folder) == before
    lines = plan(capsys.readouterr().out)
    n = int(np.sum(~np.isnan(values)))
    assert lines["phenotype '1'"].startswith(f"{n} of 300 samples of the file")
    assert lines["phenotype '1', model"].startswith("HLMM, exact; 12" if random else "HLM, from")
    assert "ms a variant on one core" in lines["phenotype '1', probe"]
    assert lines["variants"] == "50"
    assert lines["workers"] == "3, 1 thread each"
    assert lines["memory of a worker"].endswith("819.2 MiB of 1.0 GiB usable")
    assert lines["expected time"].startswith("about ")
    assert int(lines["largest n in that memory"].split()[0].replace(",", "")) > 100_000
    assert run_script("scan", *options) == 0
    store = ResultsStore.open(study.out("out.zarr"))
    size = store.block_size
    assert lines["blocks"] == f"{store.n_blocks} block{'s' * (store.n_blocks > 1)} of at most " + (
        f"{size} variants"
    )


def of_job(study: Study, **options: object) -> DryRun:
    return dry_run(ScanJob(str(study.bed), str(study.pheno), str(study.out("out")), **options))


def test_sizes_and_counts_of_several_phenotypes(tmp_path: Path, run_script: Run) -> None:
    study = make_study(tmp_path, m=4000)
    rng = np.random.default_rng(0)
    values = np.stack([study.y, rng.normal(size=300)], axis=1)
    values[:50, 1] = np.nan
    write_values(study.pheno, study.samples, values)
    dry = of_job(study, phen_index="all", parquet=True)
    assert [null.n_samples for null in dry.nulls] == [300, 250]
    assert run_script("scan", study.bed, study.pheno, study.out("out"), "--phen_index", "all",
                      "--parquet") == 0  # fmt: skip
    stores = [ResultsStore.open(study.out(f"out.{i}.zarr")) for i in (1, 2)]
    for store, probe in zip(stores, dry.probes, strict=True):
        assert store.block_size == dry.plan.block_size
        summary = store.summary()
        assert summary is not None
        assert probe.fitted == pytest.approx(summary["n_fitted"] / 4000, abs=0.02)
    for suffix in (".models.gz", ".parquet", ".zarr"):
        written = sum(
            file.stat().st_size
            for i in (1, 2)
            for file in [study.out(f"out.{i}{suffix}"), *study.out(f"out.{i}{suffix}").rglob("*")]
            if file.is_file()
        )
        assert written / 2 < dry.sizes[suffix] < written * 2, suffix
    assert dry.free_bytes > 0
    assert 3.0 < dry.seconds < 60.0


def test_on_a_cluster_and_after_an_earlier_part(
    study: Study, run_script: Run, client: Client
) -> None:
    """The workers are those of the cluster; what is done is not counted again."""
    options = ["--block-size", 10]
    assert run_script("scan", study.bed, study.pheno, study.out("out"), *options) == 0
    store = ResultsStore.open(study.out("out.zarr"))
    for block in (0, 3):
        store.discard(block)
    before = listing(study.folder)
    dry = of_job(study, scheduler=client.scheduler.address, resume=True)
    assert listing(study.folder) == before
    assert dry.plan.resources.n_workers == 2
    assert dry.plan.resources.memory_limit is None
    assert dry.plan.largest_n is None
    assert dry.plan.block_size == 10
    assert dry.n_done_blocks == 4
    with pytest.raises(StoreError, match="min_maf"):
        of_job(study, resume=True, min_maf=0.01)


@pytest.mark.parametrize("per_variant", [1e-5, 0.004, 0.4, 30.0])
@pytest.mark.parametrize("compiled", ["once", "each size", "each place"])
def test_what_is_done_once_does_not_count(per_variant: float, compiled: str) -> None:
    """Compiling, loading and a chromosome's own model take a minute each time, not each variant."""
    seen: set[object] = set()
    fits: list[int] = []

    def fit(start: int, size: int) -> tuple[float, int]:
        key = {"once": 0, "each size": size, "each place": start}[compiled]
        fits.append(size)
        first = key not in seen
        seen.add(key)
        return per_variant * size + 60.0 * first, size

    probe = timed(fit, 100_000, 2_000, 2.0)
    assert probe.seconds == pytest.approx(per_variant, rel=1e-6)
    assert probe.fitted == 1.0
    # It ends in time.
    assert per_variant * sum(fits) / 2 < 2.0 + max(per_variant * fits[-1], 2.0)


def test_one_variant_alone_is_timed_when_warm() -> None:
    taken = iter([100.0, 0.25])
    assert timed(lambda start, size: (next(taken), 0), 1, 1, 0.1).seconds == 0.25


# Runs a command in a process of its own; the last line says the most memory that it took.
COMMAND = """
import sys
from hlmm_dask.cli import scan_main
from hlmm_dask.scanning.machine import peak_bytes
if __name__ == "__main__":
    code = scan_main(sys.argv[1:])
    print(code, peak_bytes())
"""


@pytest.mark.slow
def test_memory_of_the_command_is_as_planned(tmp_path: Path) -> None:
    """Most of what the process with the scheduler takes above its libraries: tables, null models.

    The README says "within a third".
    """
    study = make_study(tmp_path, n=60_000, m=4)
    rng = np.random.default_rng(3)
    values = rng.normal(size=(60_000, 4))
    values[rng.random(values.shape) < 0.05] = np.nan
    write_values(study.pheno, study.samples, values)
    script = tmp_path / "command.py"
    script.write_text(COMMAND)
    arguments = [study.bed, study.pheno, study.out("out"), "--phen-index", "all", "--workers", 1]

    def run(*more: str) -> tuple[str, int]:
        done = subprocess.run(
            [sys.executable, str(script), *map(str, arguments), *more], capture_output=True,
            text=True, check=False, timeout=300, cwd=tmp_path, env=environment(),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        *lines, last = done.stdout.splitlines()
        code, peak = map(int, last.split())
        assert code == 0, done.stderr
        return "\n".join(lines), peak

    line = plan(run("--dry-run")[0])["memory of this command"]
    planned = float(re.fullmatch(r"about ([\d.]+) MiB, besides the workers", line)[1]) * 2**20  # type: ignore[index]
    _, measured = run()
    assert measured / 1.1 < planned < measured * 4 / 3
