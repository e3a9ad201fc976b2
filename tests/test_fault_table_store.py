"""The fault table's rows about output, kills, disks and damage, each with the test that shows it.

============================================  =====================================================
fault                                         shown by
============================================  =====================================================
.bed changed during the run                   test_genotypes_changed_during_the_run,
                                              test_change_while_a_block_is_read, test_plink.py,
                                              test_dataset_changed_during_the_run
genotypes changed between runs                test_genotypes_changed_between_runs,
                                              test_dosages_changed_between_runs
output exists                                 test_store.py, test_resume.py, test_cli.py
folder not writable                           test_read_only_disk, test_read_only_store,
                                              test_link_into_a_missing_folder, test_store.py
disk full                                     test_no_room_is_found_before_the_null_fit,
                                              test_disk_filled_by_others,
                                              test_disk_full_when_the_table_is_written
worker, scheduler or client killed            test_random_kills.py, test_resume.py, test_scan.py
killed while a store is made or replaced      test_kill_while_a_store_is_made
what killed runs leave                        test_leftovers_of_the_dead_are_removed,
                                              test_what_another_host_is_working_on_stays
an output taken over by another run           test_takeover.py
Ctrl-C                                        test_resume.py
second run on the same output                 test_resume.py, test_store.py
changed input or options on resume            test_every_option_that_decides_numbers_is_compared
chunk, marker or any other file damaged       test_flipped_bits, test_flipped_bits_of_loco,
                                              test_damage_is_found_by_what_reads_results,
                                              test_store.py, test_resume.py
============================================  =====================================================
"""

import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from distributed import Client
from runs import markers, start, wait_for_blocks, wait_for_end
from studies import Study, make_study, write_values

import hlmm_dask
from hlmm_dask import InputError, ScanError, StoreError, durable, fit_null, open_bed, processes
from hlmm_dask.durable import aside, working_folder
from hlmm_dask.export import TextTable, write_tsv
from hlmm_dask.genotypes import dataset as dataset_module
from hlmm_dask.genotypes import plink as plink_module
from hlmm_dask.genotypes.plink import open_plink, write_plink
from hlmm_dask.scanning import job as job_module
from hlmm_dask.scanning.events import BlockDone, Event
from hlmm_dask.scanning.outputs import tidy_up
from hlmm_dask.store import ResultsStore

Run = Callable[..., int]
Capture = pytest.CaptureFixture[str]
RANDOM = ("--random_gts_txt", "--min_maf", "0.01", "--method", "exact")


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time and content of all files but the lock's guard, which every look at the lock touches."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".guard")
    }


def one_line(capsys: Capture) -> str:
    """Return the last line of the error output, after checking that it stands for a refusal."""
    err = capsys.readouterr().err
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert "error: " in last
    return last


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(data))


@pytest.fixture
def lasting(tmp_path: Path) -> tuple[Study, list[object]]:
    """Arguments of a scan whose blocks take a noticeable time, without OUTPREFIX."""
    study = make_study(tmp_path, n=800, m=100)
    table = write_values(
        tmp_path / "random.txt", study.samples, np.random.default_rng(4).normal(size=(800, 150))
    )
    return study, ["--random_gts", table, *RANDOM, "--block-size", 2]


# -- genotypes --------------------------------------------------------------------------------


@pytest.mark.slow
def test_genotypes_changed_during_the_run(
    lasting: tuple[Study, list[object]], run_script: Run, capsys: Capture
) -> None:
    study, options = lasting
    assert run_script("scan", study.bed, study.pheno, study.out("whole"), *options) == 0
    original = study.bed.read_bytes()
    process = start(study.folder, study.bed, study.pheno, study.out("out"), *options)
    store = study.out("out.zarr")
    wait_for_blocks(process, store, 3)
    block = int(min(markers(store)).removesuffix(".json"))
    with study.bed.open("r+b") as file:  # one genotype of a block that is finished
        file.seek(3 + 200 * 2 * block + 50)
        file.write(bytes([original[file.tell()] ^ 1]))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in err, err
    assert f"{study.bed}: changed while it was scanned" in err.splitlines()[-1]
    assert "--resume" in err.splitlines()[-1]
    wait_for_end(process.pid)
    before = markers(store)
    assert 3 <= len(before) < 50
    assert not study.out("out.models.gz").exists()

    resume = ["scan", study.bed, study.pheno, study.out("out"), *options, "--resume"]
    capsys.readouterr()
    assert run_script(*resume) == 2
    assert f"block {block} (variants {2 * block} to {2 * block + 1}, from 0)" in one_line(capsys)
    study.bed.write_bytes(original)
    assert run_script(*resume) == 0
    after = markers(store)
    assert {name: after[name] for name in before} == before
    assert study.out("out.models.gz").read_bytes() == study.out("whole.models.gz").read_bytes()


def test_change_while_a_block_is_read(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first look finds nothing: the file changes between it and the end of the reading."""
    genotypes = open_plink(study.bed)
    look = plink_module.open_binary

    def open_and_change(path: Path, buffering: int = -1) -> object:
        stream = look(path, buffering=buffering)
        with study.bed.open("r+b") as file:
            file.seek(9)
            file.write(b"\x00")
        return stream

    monkeypatch.setattr(plink_module, "open_binary", open_and_change)
    with pytest.raises(InputError, match=r"study\.bed: changed while it was scanned"):
        genotypes.read_packed(0, 10)


def test_dataset_changed_during_the_run(study: Study, client: Client) -> None:
    dataset = open_bed(study.bed, chunk_variants=10)
    null = fit_null(dataset, study.pheno)
    out, done = study.out("out.zarr"), []

    def change(event: Event) -> None:
        if isinstance(event, BlockDone):
            done.append(event.block)
            with study.bed.open("ab") as file:
                file.write(b"x")

    with pytest.raises(ScanError, match=r"study\.bed: changed while it was .* --resume"):
        hlmm_dask.scan(dataset, null, client=client, out=out, block_size=1, observers=[change])
    assert 1 <= len(done) < 60
    assert {int(name.removesuffix(".json")) for name in markers(out)} >= set(done)


def test_genotypes_replaced_with_the_same_size_and_time(study: Study, client: Client) -> None:
    null = fit_null(study.bed, study.pheno)
    out, done = study.out("out.zarr"), []
    times, content = study.bed.stat(), bytearray(study.bed.read_bytes())
    content[3:] = bytes(byte ^ 0xFF for byte in content[3:])

    def replace(event: Event) -> None:
        if isinstance(event, BlockDone):
            done.append(event.block)
            if len(done) == 1:
                other = study.out("other")
                other.write_bytes(content)
                os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
                other.replace(study.bed)

    with pytest.raises(ScanError, match=r"study\.bed: changed while it was .* same size and time"):
        hlmm_dask.scan(study.bed, null, client=client, out=out, block_size=1, observers=[replace])
    assert study.bed.stat().st_mtime_ns == times.st_mtime_ns
    assert 1 <= len(done) < 60


def test_dataset_truncated_while_it_is_read(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """What bed-reader makes of it is not what the user is told."""
    dataset = open_bed(study.bed)
    look = dataset_module.open_bed_file

    def truncate_and_open(path: Path, **options: int) -> object:
        os.truncate(path, 100)
        return look(path, **options)

    monkeypatch.setattr(dataset_module, "open_bed_file", truncate_and_open)
    with pytest.raises(InputError, match=r"study\.bed: changed while it was scanned: 100 bytes"):
        dataset.call_dosage.compute(scheduler="sync")


def test_genotypes_changed_between_runs(study: Study, run_script: Run, capsys: Capture) -> None:
    """Also where several files hold them, and where all blocks are finished."""
    beds = []
    for name, rows in (("chr1", slice(0, 25)), ("chr2", slice(25, 60))):
        part = study.variants.iloc[rows].assign(contig=name[3:])
        beds.append(write_plink(study.out(f"{name}.bed"), study.counts[rows], study.samples, part))
    options = [study.out("chr@.bed"), study.pheno, study.out("out"), "--block-size", 10]
    options += ["--range", 3, 60]
    assert run_script("scan", *options) == 0
    store, table = study.out("out.zarr"), study.out("out.models.gz")
    expected = table.read_bytes()
    (store / ".run" / "blocks" / "0000004.json").unlink()
    (store / ".run" / "finished.json").unlink()
    table.unlink()
    before = content(study.folder)

    original = beds[1].read_bytes()
    width = -(-len(study.y) // 4)
    for block, variant in ((2, 29), (3, 40)):
        flip(beds[1], 8 * (3 + (variant - 25) * width + 2) + 4)
        changed = content(study.folder)
        capsys.readouterr()
        assert run_script("scan", *options, "--resume") == 2
        first = 3 + 10 * block
        message = one_line(capsys)
        assert f"block {block} (variants {first} to {first + 9}, from 0)" in message
        assert str(beds[1]) in message
        assert "--overwrite" in message
        assert str(beds[0]) in message if first < 25 else str(beds[0]) not in message
        assert content(study.folder) == changed
        beds[1].write_bytes(original)
    # A copy is newer, and the same.
    assert run_script("scan", *options, "--resume") == 0
    assert table.read_bytes() == expected
    after = content(store)
    for name, kept in before.items():
        if name.startswith("out.zarr") and "0000004" not in name and "c.4." not in name:
            assert after[name.removeprefix("out.zarr/")] == kept

    flip(beds[0], 8 * 300)
    capsys.readouterr()
    assert run_script("scan", *options, "--resume") == 2
    assert "genotypes differ from those that block 0" in one_line(capsys)
    assert run_script("scan", *options, "--overwrite") == 0


def test_dosages_changed_between_runs(study: Study, client: Client) -> None:
    null = fit_null(study.bed, study.pheno)
    out = study.out("out.zarr")
    dataset = open_bed(study.bed, count_a1=False).load()
    one = hlmm_dask.scan(dataset, null, client=client, out=out, block_size=20)
    assert one.attrs["effect_allele"] == "A2"
    assert set(one.variant_allele.values[:, 1]) == {"G"}
    hlmm_dask.scan(dataset, null, client=client, out=out, block_size=20, resume=True)
    dataset["call_dosage"][45, 7] = 1.5
    with pytest.raises(InputError, match=r"the Dataset: .* block 2 \(variants 40 to 59, from 0\)"):
        hlmm_dask.scan(dataset, null, client=client, out=out, block_size=20, resume=True)
    # A Dataset of files looks at them as the files' own reader does.
    lazy = open_bed(study.bed)
    os.utime(study.bed, (0, 0))
    with pytest.raises(InputError, match="changed while it was scanned"):
        lazy["call_dosage"][0].compute()


# -- kills ------------------------------------------------------------------------------------

MAKER = """
import os, random, signal, sys, traceback
from pathlib import Path
import numpy as np, pandas as pd
from hlmm_dask.placement import clean_up
from hlmm_dask.store import ResultsStore

target, overwrite, n_kills = Path(sys.argv[1]), sys.argv[2] == "1", int(sys.argv[3])
CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}
table = pd.DataFrame({"contig": "1", "variant_id": ["a", "b", "c"], "position": [1, 2, 3],
                      "allele1": "A", "allele2": "C"})

def make(size, overwrite=False):
    return ResultsStore.create(target, n_variants=3, block_size=size, variants=[table],
                               fingerprint={}, columns=("x",), overwrite=overwrite)

def in_fork(work):
    # The parent never uses zarr, whose threads a fork would lose.
    pid = os.fork()
    if not pid:
        code = 1
        try:
            code = work() or 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]

def fill():
    store = make(3)
    store.write_block(0, np.ones((3, 1)), record={})

def replace_until(step):
    count = 0
    def hook(event, arguments):
        nonlocal count
        if event in CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    make(2, overwrite)
    if step == 0:
        (target.parent.parent / "count").write_text(str(count))

def check():
    clean_up(target)
    found = os.listdir(target.parent)
    if not overwrite and not found:
        return 11
    assert found == [target.name], found
    store = ResultsStore.open(target)
    store.require_intact()
    if store.block_size == 3:
        assert store.pending() == []
        return 12
    assert store.block_size == 2 and len(store.pending()) == 2
    return 13

def clear():
    import shutil
    shutil.rmtree(target, ignore_errors=True)

if overwrite:
    assert in_fork(fill) == 0
assert in_fork(lambda: replace_until(0)) == 0
total = int((target.parent.parent / "count").read_text())
steps = random.Random(7).sample(range(1, total - 25), n_kills) + list(range(total - 25, total + 1))
seen = []
for step in steps:
    clear()
    if overwrite:
        assert in_fork(fill) == 0
    assert in_fork(lambda: replace_until(step)) == signal.SIGKILL, step
    state = in_fork(check) >> 8
    assert state in (11, 12, 13), (step, state)
    seen.append(state)
print(sorted(set(seen)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("overwrite", "states"), [(False, [11]), (True, [12, 13])])
def test_kill_while_a_store_is_made(tmp_path: Path, overwrite: bool, states: list[int]) -> None:
    """Killed at any change on disk, the old store or the new one is there, and nothing else."""
    (tmp_path / "out").mkdir()
    root = str(Path(hlmm_dask.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", MAKER, str(tmp_path / "out" / "s.zarr"), str(int(overwrite)), "12"],
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(states)


LEAVER = """
import os, signal, sys
from pathlib import Path
from hlmm_dask.durable import aside
prefix = sys.argv[1]
for suffix in (".zarr", ".models.gz", ".log"):
    aside(Path(prefix + suffix)).write_text("half")
folder = aside(Path(prefix + ".zarr"))
(folder / "results").mkdir(parents=True)
if Path(prefix + ".zarr").exists():
    os.rename(prefix + ".zarr", aside(Path(prefix + ".zarr"), "old"))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_another_host_is_working_on_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another OUTPREFIX that starts alike, and a folder that is not written to for long."""
    monkeypatch.setattr(processes, "place", lambda: "another host")
    processes.signature.cache_clear()
    try:
        with working_folder(tmp_path / "chr10.kinship") as folder:
            (folder / "matrix.npy").touch()
            kept = aside(tmp_path / "chr10.models.gz")
    finally:
        monkeypatch.undo()
        processes.signature.cache_clear()
    kept.touch()
    old = time.time() - 2 * processes.ABANDONED_SECONDS
    os.utime(kept, (old, old))
    tidy_up(str(tmp_path / "chr1"))
    assert kept.exists()
    tidy_up(str(tmp_path / "chr10"))
    assert not kept.exists()
    monkeypatch.setattr(durable, "ABANDONED_SECONDS", 1.0)
    with working_folder(tmp_path / "chr10.kinship") as folder:
        os.utime(folder, (old, old))
        until = time.monotonic() + 10
        while folder.stat().st_mtime < old + 1 and time.monotonic() < until:
            time.sleep(0.05)
        assert folder.stat().st_mtime > old + 1
    assert not folder.exists()


def test_leftovers_of_the_dead_are_removed(study: Study, run_script: Run) -> None:
    out = study.out("out")
    options = ["scan", study.bed, study.pheno, out]
    assert run_script(*options) == 0
    expected = sorted(os.listdir(study.folder))
    table = study.out("out.models.gz").read_bytes()
    root = str(Path(hlmm_dask.__file__).parents[1])
    for option in ("--resume", "--overwrite"):
        subprocess.run(
            [sys.executable, "-c", LEAVER, str(out)],
            env=os.environ | {"PYTHONPATH": root},
            check=False,
        )
        assert len(os.listdir(study.folder)) == len(expected) + 4
        assert not study.out("out.zarr").exists()
        mine = [aside(study.out("out.zarr")), aside(study.out("out.models.gz"), "old")]
        others = [study.out(".out.zarr.partial"), study.out(".outer.txt.partial")]
        for path in (*mine, *others):
            path.write_text("of a process that lives, or of someone else")
        assert run_script(*options, option) == 0
        assert sorted(os.listdir(study.folder)) == sorted(
            [*expected, *(path.name for path in (*mine, *others))]
        )
        for path in (*mine, *others):
            path.unlink()
    # Whose process table can't be seen is judged by age.
    signed = aside(study.out("out.zarr")).name.split(".")
    signed[-3] = "00000000-1-1"
    foreign = study.out(".".join(signed))
    for age, left in ((0, True), (601, False)):
        foreign.mkdir(exist_ok=True)
        (foreign / "file").touch()
        for path in (foreign / "file", foreign):
            os.utime(path, times=(time.time() - age,) * 2)
        assert run_script(*options, "--resume") == 0
        assert foreign.exists() == left
        assert study.out("out.models.gz").read_bytes() == table


# -- options ----------------------------------------------------------------------------------


def test_every_option_that_decides_numbers_is_compared(
    study: Study, run_script: Run, capsys: Capture
) -> None:
    random_table = write_values(
        study.out("random.txt"), study.samples, np.random.default_rng(1).normal(size=(300, 5))
    )
    flipped = write_plink(study.out("b.bed"), study.counts[:, ::-1], study.samples, study.variants)
    fewer = write_plink(study.out("c.bed"), study.counts[:59], study.samples, study.variants[:59])
    write_values(study.out("two.txt"), study.samples, np.stack([study.y, study.y**2], axis=1))
    out = study.out("out")
    given = ["--mean_covar", study.covar]
    blocks = ["--block-size", 20]
    assert run_script("scan", study.bed, study.out("two.txt"), out, *given, *blocks) == 0
    before = content(study.folder)

    def refused(key: str, *options: object, bed: Path = study.bed, pheno: str = "two.txt") -> None:
        capsys.readouterr()
        size = [] if "--block-size" in options else blocks
        code = run_script("scan", bed, study.out(pheno), out, *given, *size, *options, "--resume")
        assert code == 2
        assert f"{key}: store" in one_line(capsys)

    refused("start", "--range", 1, 60)
    refused("stop", "--range", 0, 59)
    refused("min_maf", "--min_maf", 0.01)
    refused("max_missing", "--max_missing", 7)
    refused("count_a2", "--count_A2")
    effects = ["--random_gts", random_table, "--random_gts_txt"]
    refused("h2", "--h2", "null", *effects)
    refused("method", "--method", "exact", *effects)
    refused("engine", "--engine", "numpy")
    refused("model", *effects)
    refused("loco", "--loco", "--random_gts", study.bed)
    refused("exclude_window", "--exclude-window", 1, "--random_gts", study.bed)
    refused("phenotype", "--phen_index", 2)
    refused("fit_covariates", "--fit_covariates")
    refused("phenotype_and_covariates_sha256", "--var_covar", study.covar)
    refused("phenotype_and_covariates_sha256", "--mean_covar_cols", 1)
    refused("block_size", "--block-size", 19)
    refused("genotypes", bed=fewer)
    assert content(study.folder) == before
    # The same tables and the same size: told by the genotypes' checksums.
    capsys.readouterr()
    options = [flipped, study.out("two.txt"), out, *given, *blocks, "--resume"]
    assert run_script("scan", *options) == 2
    assert f"{flipped}: genotypes differ from those that block" in one_line(capsys)
    assert content(study.folder) == before


# -- damage -----------------------------------------------------------------------------------

DEAD = """
import os, signal, sys
from pathlib import Path
from hlmm_dask.lock import hold_lock
with hold_lock(Path(sys.argv[1]), "a run that was killed"):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize("finished", [True, False])
def test_flipped_bits(study: Study, run_script: Run, capsys: Capture, finished: bool) -> None:
    """In any file of a store: the table is the same, or the run refused in one line."""
    options = [study.bed, study.pheno, study.out("out"), "--block-size", 20]
    assert run_script("scan", *options) == 0
    store, table = study.out("out.zarr"), study.out("out.models.gz")
    expected = table.read_bytes()
    table.unlink()
    if not finished:
        root = str(Path(hlmm_dask.__file__).parents[1])
        lock = str(store / ".run" / "lock.json")
        subprocess.run(
            [sys.executable, "-c", DEAD, lock],
            env=os.environ | {"PYTHONPATH": root},
            check=False,
        )
        (store / ".run" / "blocks" / "0000001.json").unlink()
        (store / ".run" / "finished.json").unlink()
    kept = study.out("kept.zarr")
    shutil.copytree(store, kept)
    rng = random.Random(20 + finished)
    files = [str(p.relative_to(kept)) for p in sorted(kept.rglob("*")) if p.is_file()]
    assert len(files) >= 20
    refusals = set()
    for name in files:
        size = (kept / name).stat().st_size
        for _ in range(2 if size else 0):
            shutil.rmtree(store)
            shutil.copytree(kept, store)
            table.unlink(missing_ok=True)
            flip(store / name, rng.randrange(8 * size))
            if finished:
                # Without a resume, it is never a silently different table.
                with suppress(StoreError):
                    write_tsv(ResultsStore.open(store), table)
                    assert table.read_bytes() == expected, name
            capsys.readouterr()
            code = run_script("scan", *options, "--resume")
            if code == 2:
                refusals.add(name)
                assert str(store) in one_line(capsys)
            else:
                assert code == 0, (name, capsys.readouterr().err)
                assert table.read_bytes() == expected, name
                ResultsStore.open(store).require_intact()
    # All else is mended; the lock lapses, a damaged manifest stays.
    assert refusals <= {".run/manifest.json", ".run/lock.json"}
    assert ".run/manifest.json" in refusals
    assert run_script("scan", *options, "--overwrite") == 0
    assert table.read_bytes() == expected


def test_flipped_bits_of_loco(study: Study, run_script: Run) -> None:
    options = [study.bed, study.pheno, study.out("out"), "--block-size", 20, "--loco"]
    options += ["--random_gts", study.bed, "--range", 9, 40]
    assert run_script("scan", *options) == 0
    files = [study.out("out.models.gz"), study.out("out.null_h2_loco.tsv")]
    expected = [file.read_bytes() for file in files]
    for name, bit in (("left_out_null.json", 300), ("null_model.json", 100)):
        flip(study.out("out.zarr") / ".run" / name, bit)
        for file in files:
            file.unlink()
        assert run_script("scan", *options, "--resume") == 0
        assert [file.read_bytes() for file in files] == expected


def test_damage_is_found_by_what_reads_results(
    study: Study, run_script: Run, capsys: Capture
) -> None:
    out, folder = study.out("out"), study.out("out.zarr")
    options = [study.bed, study.pheno, out, "--block-size", 20]
    assert run_script("scan", *options) == 0
    commands = [
        ["report", out], ["loci", out], ["munge", out, "--format", "regenie"],
        ["check", out, "--top", 1, "--permutations", 10, "--bootstrap", 0],
        ["interact", out, "--all", "--covar", f"{study.covar}:1"],
    ]  # fmt: skip
    chunk, names = folder / "results" / "c.1.0", folder / "variant_id" / "c.0"
    kept = {file: file.read_bytes() for file in (chunk, names)}
    files = {path.name for path in study.folder.iterdir()}

    def refused(said: str) -> None:
        capsys.readouterr()
        for command in commands:
            assert run_script(*command) == 2, command
            assert said in one_line(capsys)
        assert {path.name for path in study.folder.iterdir()} == files
        assert run_script("scan", *options, "--resume") == 0
        assert all(file.read_bytes() == content for file, content in kept.items())

    flip(chunk, 4 * len(kept[chunk]))
    refused("block 1 is missing or damaged; run the scan again with --resume")
    chunk.unlink()
    with pytest.raises(StoreError, match="block 1 is missing"):
        hlmm_dask.open_results(folder)
    refused("block 1 is missing or damaged; run the scan again with --resume")
    flip(names, 4 * len(kept[names]))
    refused("c.0: damaged or missing; run the scan again with --resume")
    for command in commands:
        assert run_script(*command) == 0, command
    # What an unfinished scan has is reported; of its other blocks it is no matter what is there.
    (folder / ".run" / "blocks" / "0000001.json").unlink()
    flip(chunk, 4 * len(kept[chunk]))
    assert run_script("report", out) == 0
    assert "1 of 3 blocks have no results" in study.out("out.report.html").read_text("utf-8")


# -- disks ------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Give a function that mounts a small disk, or skip the test."""
    folder = tmp_path / "disk"

    def mount(size: str) -> Path:
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            pytest.skip(f"no mount here: {error}")
        if done.returncode:
            pytest.skip(f"may not mount a small disk: {done.stderr.strip()}")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_no_room_is_found_before_the_null_fit(
    study: Study,
    run_script: Run,
    disk: Callable[[str], Path],
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = disk("600k")

    def too_late(*_: object, **__: object) -> None:
        pytest.fail("the null model was fitted")

    monkeypatch.setattr("hlmm_dask.scanning.null_input.fit_null_arrays", too_late)
    assert run_script("scan", study.bed, study.pheno, folder / "out") == 2
    message = one_line(capsys)
    assert f"{folder}: the output needs about 1.0 MB, 0.6 MB are free" in message
    assert list(folder.iterdir()) == []


def test_read_only_disk(
    study: Study, run_script: Run, disk: Callable[[str], Path], capsys: Capture
) -> None:
    folder = disk("4m")
    options = [study.bed, study.pheno, folder / "out"]
    assert run_script("scan", *options) == 0
    before = content(folder)
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    for option in ([], ["--resume"], ["--overwrite"]):
        capsys.readouterr()
        assert run_script("scan", *options, *option) == 2
        assert f"{folder}: not writable" in one_line(capsys)
    assert content(folder) == before


def test_read_only_store(
    study: Study, run_script: Run, disk: Callable[[str], Path], capsys: Capture
) -> None:
    """The output folder can be written, but its store is on a disk that can't."""
    folder = disk("4m")
    study.out("out.zarr").symlink_to(folder / "out.zarr")
    options = [study.bed, study.pheno, study.out("out")]
    assert run_script("scan", *options) == 0
    shutil.copytree(folder / "out.zarr", study.out("kept.zarr"))
    before = content(folder)
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    capsys.readouterr()
    assert run_script("scan", *options, "--resume") == 2
    assert f"{folder / 'out.zarr'}: not writable, the run can't go on there" in one_line(capsys)
    assert content(folder) == before
    # Its whole folder can be written, one within can not.
    study.out("out.zarr").unlink()
    study.out("kept.zarr").rename(study.out("out.zarr"))
    blocks = study.out("out.zarr") / ".run" / "blocks"
    subprocess.run(["mount", "--bind", str(folder), str(blocks)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(blocks)], check=True)
        assert run_script("scan", *options, "--resume") == 2
        assert f"{blocks}: not writable" in one_line(capsys)
    finally:
        subprocess.run(["umount", str(blocks)], check=True)
    assert run_script("scan", *options, "--resume") == 0


@pytest.mark.parametrize("option", [[], ["--resume"], ["--overwrite"], ["--dry-run"]])
def test_link_into_a_missing_folder(
    study: Study, run_script: Run, capsys: Capture, option: list[str]
) -> None:
    study.out("out.zarr").symlink_to(study.out("gone") / "out.zarr")
    before = content(study.folder)
    assert run_script("scan", study.bed, study.pheno, study.out("out"), *option) == 2
    assert f"out.zarr: a link to {study.out('gone')}/out.zarr, and there is no" in one_line(capsys)
    assert content(study.folder) == before


def test_report_that_can_not_be_written(study: Study, run_script: Run, capsys: Capture) -> None:
    """The table stands, and the command that repeats the report is named."""
    pytest.importorskip("matplotlib")
    study.out("out.plots").write_text("no folder")
    assert run_script("scan", study.bed, study.pheno, study.out("out"), "--plots") == 1
    message = one_line(capsys)
    command = message.partition("only its report is missing: ")[2]
    assert "the scan is complete" in message
    assert len(pd.read_csv(study.out("out.models.gz"), sep="\t")) == 60
    assert shlex.split(command) == ["hlmm-report", str(study.out("out")), "--plots"]


def fill(folder: Path) -> None:
    """Fill a disk to the last byte."""
    with (folder / "another's").open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    file.write(b"x" * size)


def test_disk_full_when_the_table_is_written(
    study: Study,
    run_script: Run,
    disk: Callable[[str], Path],
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All blocks are finished by then, and the resumed run fits none again."""
    folder = disk("4m")
    write = job_module.write_tables

    def fill_and_write(tables: Iterable[TextTable]) -> Iterator[tuple[TextTable, int]]:
        fill(folder)
        return write(tables)

    monkeypatch.setattr(job_module, "write_tables", fill_and_write)
    options = [study.bed, study.pheno, folder / "out", "--block-size", 20]
    assert run_script("scan", *options) == 75
    err = capsys.readouterr().err
    assert f"No space left on device: '{folder / 'out.models.gz'}'" in err
    assert err.strip().endswith("--resume")
    assert not (folder / "out.models.gz").exists()
    before = markers(folder / "out.zarr")
    assert len(before) == 3
    (folder / "another's").unlink()
    monkeypatch.setattr(job_module, "write_tables", write)
    assert run_script("scan", *options, "--resume") == 0
    assert markers(folder / "out.zarr") == before
    assert len(pd.read_csv(folder / "out.models.gz", sep="\t")) == 60
    assert not list(folder.rglob("*.partial"))


@pytest.mark.slow
def test_disk_filled_by_others(
    lasting: tuple[Study, list[object]], run_script: Run, disk: Callable[[str], Path]
) -> None:
    study, options = lasting
    assert run_script("scan", study.bed, study.pheno, study.out("whole"), *options) == 0
    folder = disk("24m")
    process = start(study.folder, study.bed, study.pheno, folder / "out", *options)
    store = folder / "out.zarr"
    wait_for_blocks(process, store, 3)
    fill(folder)
    _, err = process.communicate(timeout=60)
    wait_for_end(process.pid)
    assert process.returncode == 75, err
    assert "Traceback" not in err
    complaint, _, command = err.strip().splitlines()[-3:]
    assert f"No space left on device: '{store}'" in complaint
    before = markers(store)
    assert 3 <= len(before) < 50
    found = ResultsStore.open(store)
    assert all(found.verify(index) for index in found.done())
    assert len(found.done()) == len(before)
    (folder / "another's").unlink()
    again = subprocess.run(
        shlex.split(command), cwd=study.folder, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    after = markers(store)
    assert {name: after[name] for name in before} == before
    assert (folder / "out.models.gz").read_bytes() == study.out("whole.models.gz").read_bytes()
    assert not list(folder.rglob("*.partial"))


def test_scan_of_a_full_store_counts_what_is_there(study: Study, run_script: Run) -> None:
    """The summary of a resumed run is that of the whole run."""
    options = [study.bed, study.pheno, study.out("out"), "--block-size", 20]
    assert run_script("scan", *options) == 0
    run = study.out("out.zarr") / ".run"
    first = json.loads((run / "finished.json").read_text())
    flip(run / "finished.json", 100)
    assert run_script("scan", *options, "--resume") == 0
    second = json.loads((run / "finished.json").read_text())
    assert second["counts"] == first["counts"]
