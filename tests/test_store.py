import errno
import itertools
import json
import os
import pickle
import re
import stat
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import hlmm_dask
from hlmm_dask import durable
from hlmm_dask import lock as lock_module
from hlmm_dask.durable import aside
from hlmm_dask.errors import InputError, StoreError
from hlmm_dask.layout import Block
from hlmm_dask.results import open_results
from hlmm_dask.schema import INDEX, N_COLUMNS, RESULT_NAMES, Status
from hlmm_dask.store import ResultsStore

N, SIZE = 23, 5


def variants(n=N):
    return pd.DataFrame(
        {
            "contig": ["1"] * (n // 2) + ["X"] * (n - n // 2),
            "variant_id": [f"rs{i}" if i != 3 else "sn\u00f6p#1" for i in range(n)],
            "position": np.arange(n) * 10 - 5,
            "allele1": ["A"] * n,
            "allele2": ["G" * (i % 3 + 1) for i in range(n)],
        }
    )


def results(n=N, seed=1):
    values = np.random.default_rng(seed).normal(size=(n, N_COLUMNS))
    values[:, INDEX["n_samples"]] = 100
    values[:, INDEX["status"]] = 0
    values[2, 1:-1] = np.nan
    values[2, INDEX["status"]] = Status.LOW_MAF
    return values


def make(path, **options):
    given = {"n_variants": N, "block_size": SIZE, "variants": [variants()], "fingerprint": {}}
    return ResultsStore.create(path, **(given | options))


def fill(store, values=None):
    values = results(store.n_variants) if values is None else values
    for block in store.blocks():
        store.write_block(block.index, values[block.start : block.stop], record={})
    return values


@pytest.fixture
def store(tmp_path):
    return make(tmp_path / "out.zarr")


def chunk(store, index):
    return store.path / "results" / f"c.{index}.0"


def indices(blocks):
    return [block.index for block in blocks]


def test_blocks_cover_all_variants(store):
    assert store.blocks()[0] == Block(0, 0, 5)
    assert store.blocks()[-1] == Block(4, 20, 23)
    assert store.pending() == store.blocks()


def test_what_is_written_is_read_in_another_process_s_copy(store):
    values = fill(pickle.loads(pickle.dumps(store)))
    again = ResultsStore.open(store.path)
    assert again == store
    np.testing.assert_array_equal(again.read(3, 21), values[3:21])
    np.testing.assert_array_equal(again.read_blocks(1, 5), values[5:])
    assert again.done() == {0, 1, 2, 3, 4}
    assert again.pending() == []


def test_marker_keeps_range_counts_and_record(store):
    marker = store.write_block(0, results()[:5], record={"worker": "w1", "n": np.int64(3)})
    assert marker["counts"] == {"ok": 4, "low_maf": 1}
    (found,) = store.markers()
    assert (found["start"], found["stop"], found["worker"], found["n"]) == (0, 5, "w1", 3)


def test_chunk_without_marker_is_pending(store):
    fill(store)
    (store.run_dir / "blocks" / "0000002.json").unlink()
    assert indices(store.pending(verify=False)) == [2]


def test_marker_without_chunk_is_pending_also_when_all_is_nan(store):
    values = results()
    values[5:10] = np.nan
    fill(store, values)
    assert store.pending() == []
    chunk(store, 1).unlink()
    assert indices(store.pending()) == [1]
    chunk(store, 3).unlink()
    with pytest.raises(StoreError, match="block 3 is missing or damaged"):
        store.read_blocks(2, 5)
    with pytest.raises(StoreError, match="block 1 is missing or damaged"):
        store.read_blocks(0, 2)
    with pytest.raises(StoreError, match="block 1 is missing or damaged"):
        store.read(9, 12)
    # Not done, it has no results.
    store.discard(1)
    np.testing.assert_array_equal(store.read(3, 14), values[3:14])


def test_a_block_that_is_done_while_it_is_read(store, monkeypatch):
    values = results()
    marker = ResultsStore.marker

    def written(self, index):
        fill(self, values)
        return marker(self, index)

    monkeypatch.setattr(ResultsStore, "marker", written)
    np.testing.assert_array_equal(store.read_block(4), values[20:])


def test_order_of_writing_survives_a_stop_between_chunk_and_marker(store, monkeypatch):
    def stop(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("hlmm_dask.block_markers.write_record", stop)
    with pytest.raises(KeyboardInterrupt):
        store.write_block(0, results()[:5], record={})
    assert chunk(store, 0).is_file()
    assert 0 in indices(store.pending())


def test_stop_before_the_chunk_leaves_no_marker(store, monkeypatch):
    def stop(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hlmm_dask.durable.os.fsync", stop)
    with pytest.raises(OSError, match="No space"):
        store.write_block(0, results()[:5], record={})
    assert store.done() == set()


def test_what_a_mark_speaks_of_is_on_disk_before_it(store, monkeypatch):
    synced, sync = [], os.fsync

    def note(handle):
        synced.append(os.fstat(handle).st_ino)
        sync(handle)

    monkeypatch.setattr("hlmm_dask.durable.os.fsync", note)
    fill(store)
    store.finish({})
    run, markers = store.run_dir, store.run_dir / "blocks"
    order = []
    for i in range(store.n_blocks):
        order += [chunk(store, i), chunk(store, i).parent, markers / f"{i:07d}.json"]
    order += [markers, run / "finished.json", run]
    assert synced == [path.stat().st_ino for path in order]


@pytest.mark.parametrize("index", [1, 4])
@pytest.mark.parametrize("place", [0.3, 0.6, 0.99])
def test_flipped_bit_is_found_and_the_block_can_be_written_again(store, index, place):
    values = fill(store)
    file = chunk(store, index)
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 4
    file.write_bytes(content)
    assert indices(store.pending()) == [index]
    block = store.block(index)
    for read, *which in (
        (store.read_blocks, 0, 5), (store.read_block, index), (store.read, 0, 23),
        (store.read, block.stop - 1, block.stop),
    ):  # fmt: skip
        with pytest.raises(StoreError, match=f"block {index} is .* again with --resume"):
            read(*which)
    store.write_block(index, values[block.start : block.stop], record={})
    assert store.pending() == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"block": 1, "start": 5, "stop": 9}'])
def test_damaged_marker_is_pending(store, text):
    fill(store)
    (store.run_dir / "blocks" / "0000001.json").write_text(text)
    assert indices(store.pending(verify=False)) == [1]


@pytest.mark.parametrize("size", [0, 7])
def test_truncated_chunk_is_pending(store, size):
    fill(store)
    os.truncate(chunk(store, 2), size)
    assert indices(store.pending()) == [2]
    with pytest.raises(StoreError, match="block 2"):
        store.read(0, N)


def test_block_of_nan_is_recorded(store):
    store.write_block(2, np.full((5, N_COLUMNS), np.nan), record={})
    assert store.done() == {2}
    assert store.verify(2)
    assert chunk(store, 2).is_file()


def test_writing_twice_is_fine(store):
    fill(store, results(seed=1))
    second = fill(store, results(seed=2))
    assert store.pending() == []
    np.testing.assert_array_equal(store.read(0, N), second)


@pytest.mark.parametrize("shape", [(4, N_COLUMNS), (5, N_COLUMNS - 1)])
def test_wrong_shape_is_refused(store, shape):
    with pytest.raises(StoreError, match=f"expected \\(5, {N_COLUMNS}\\)"):
        store.write_block(0, np.zeros(shape), record={})
    with pytest.raises(StoreError, match="no block 5"):
        store.block(5)


def test_existing_output_is_refused(tmp_path, store):
    with pytest.raises(StoreError, match=r"--resume .* --overwrite"):
        make(store.path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    for path in (tmp_path / "mine", tmp_path / "mine" / "thesis.txt"):
        with pytest.raises(StoreError, match="not a results store"):
            make(path, overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"


def test_overwrite_gives_an_empty_store_and_leaves_nothing_beside(tmp_path, store):
    fill(store)
    make(store.path, overwrite=True, block_size=4)
    assert ResultsStore.open(store.path).block_size == 4
    assert ResultsStore.open(store.path).done() == set()
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr"]


def test_overwrite_follows_a_link(tmp_path, store):
    (tmp_path / "link.zarr").symlink_to(store.path)
    assert make(tmp_path / "link.zarr", overwrite=True).path == store.path
    assert (tmp_path / "link.zarr").is_symlink()


def test_folder_must_exist(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        make(tmp_path / "nowhere" / "out.zarr")
    with pytest.raises(StoreError, match="does not exist"):
        ResultsStore.open(tmp_path / "nowhere.zarr")
    with pytest.raises(StoreError, match="is not a results store"):
        ResultsStore.open(tmp_path)


def test_store_like_another_is_as_if_made_from_the_variants(tmp_path, store):
    fill(store)
    attrs = {"phenotype": "Gr\u00f6\u00dfe", "n": 3}
    made = make(tmp_path / "made.zarr", attrs=attrs)
    copied = make(tmp_path / "copied.zarr", attrs=attrs, variants=[], like=store)
    files = [
        {file.relative_to(each.path): file.read_bytes() for file in each.path.rglob("*")
         if file.is_file()}
        for each in (made, copied)
    ]  # fmt: skip
    assert files[0] == files[1]
    assert len(files[0]) == 13


@pytest.mark.parametrize(("n", "found"), [(N - 1, "22"), (N + 1, "more than 23")])
def test_number_of_variants_must_fit(tmp_path, n, found):
    with pytest.raises(StoreError, match=f"hold {found} variants, expected 23"):
        make(tmp_path / "out.zarr", variants=[variants(n)])
    assert list(tmp_path.iterdir()) == []


def test_failure_while_reading_the_variants_leaves_nothing(tmp_path):
    def tables():
        yield variants(10)
        raise InputError("x.bim:11: broken")

    with pytest.raises(InputError, match="broken"):
        make(tmp_path / "out.zarr", variants=tables())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count_a2", [False, True])
@pytest.mark.parametrize("cuts", [[], [0, 7], [5, 10, 15, 20]])
def test_variants_come_back_whatever_their_pieces(tmp_path, monkeypatch, cuts, count_a2):
    monkeypatch.setattr("hlmm_dask.layout._METADATA_ROWS", 7)
    table = variants()
    edges = [0, *cuts, N]
    pieces = (table.iloc[a:b] for a, b in itertools.pairwise(edges))
    store = make(tmp_path / "out.zarr", variants=pieces, count_a2=count_a2)
    pd.testing.assert_frame_equal(store.read_variants(0, N), table)
    pd.testing.assert_frame_equal(store.read_variants(4, 11), table[4:11].reset_index(drop=True))
    effect = open_results(store.path)["variant_allele"][:, 1].values
    assert effect.tolist() == table["allele2" if count_a2 else "allele1"].tolist()


def test_variants_of_which_nothing_is_known_come_back(tmp_path):
    """Zarr leaves out a chunk in which only fill values stand."""
    given = variants().assign(position=0, allele1="", allele2="")
    store = make(tmp_path / "out.zarr", variants=[given])
    assert not (store.path / "variant_position" / "c.0").exists()
    found = store.read_variants(2, 7)
    pd.testing.assert_frame_equal(found, given[2:7].reset_index(drop=True))


def test_fingerprint_names_every_difference(tmp_path):
    kept = {"min_maf": 0.05, "samples": "ab12", "h2": None, "a2": True, "gone": 1}
    store = make(tmp_path / "out.zarr", fingerprint=kept)
    store.check_fingerprint(dict(reversed(kept.items())))
    with pytest.raises(StoreError) as caught:
        store.check_fingerprint({"min_maf": 0.01, "samples": "ab12", "h2": None, "a2": 1, "new": 2})
    message = str(caught.value)
    assert "min_maf: store 0.05, now 0.01; gone: store 1, now nothing; " in message
    assert "new: store nothing, now 2" in message
    assert "samples" not in message
    assert "\n" not in message


def test_finish_needs_every_block(store):
    values = results()
    store.write_block(0, values[:5], record={})
    with pytest.raises(StoreError, match=r"4 of 5 blocks are missing \(first: 1\)"):
        store.finish({})
    assert not store.is_finished
    assert store.summary() is None
    fill(store)
    store.finish({"n_variants": N, "lambda_gc_add": np.float64(1.01)})
    assert store.is_finished
    assert store.summary() == {"n_variants": N, "lambda_gc_add": 1.01}


def test_finish_removes_what_killed_writers_left(store):
    fill(store)
    old = store.path / "results" / "c.1.ab12.partial"
    old_marker = store.run_dir / "blocks" / ".0000001.json.ab12.partial"
    mine = store.run_dir / aside(Path("lock.json")).name
    for file in (old, old_marker, mine):
        file.write_bytes(b"half")
    assert store.pending() == []
    store.finish({})
    assert [file.exists() for file in (old, old_marker, mine)] == [False, False, True]


def test_killed_writer_leaves_blocks_that_are_whole_or_pending(tmp_path):
    store = make(tmp_path / "out.zarr", block_size=1)
    endless = WRITER.replace("\nfor", "\nprint(1, flush=True)\nfor").replace("::2]", ":] * 1000")
    for delay in (0.0, 0.013, 0.031):
        writer = python(endless, store.path, 0)
        assert writer.stdout.readline() == "1\n"
        threading.Event().wait(delay)
        writer.kill()
        writer.communicate()
        pending = store.pending()
        assert pending == store.pending(verify=False)
        done = sorted(store.done())
        np.testing.assert_array_equal(store.read(0, N)[done, 4], done)


def test_xarray_reads_the_store_without_a_warning(store):
    values = fill(store)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        raw = xr.open_zarr(store.path)
        raw.load()
    assert raw["results"].dims == ("variants", "column")
    assert tuple(raw["column"].values) == RESULT_NAMES
    np.testing.assert_array_equal(raw["results"].sel(column="add"), values[:, INDEX["add"]])
    assert set(raw.coords) >= {"variant_id", "variant_contig", "variant_position"}
    assert raw["variant_id"].values[3] == "sn\u00f6p#1"


def test_open_results_names_every_column(tmp_path):
    store = make(tmp_path / "out.zarr", attrs={"model": "HLM"})
    values = results()
    for block in store.blocks()[:-1]:
        store.write_block(block.index, values[block.start : block.stop], record={})
    dataset = open_results(store.path)
    assert tuple(dataset.data_vars) == RESULT_NAMES
    assert dataset.attrs["model"] == "HLM"
    assert dataset.attrs["effect_allele"] == "A1"
    assert dataset.attrs["complete"] == 0
    assert dataset["add"].attrs["units"] == "SD per allele"
    assert dataset.chunks["variants"] == (5, 5, 5, 5, 3)
    assert dataset["status"].dtype == np.int8
    assert dataset["status"].values[[0, 2, 22]].tolist() == [0, Status.LOW_MAF, -1]
    meanings = dataset["status"].attrs["flag_meanings"].split()
    assert dict(zip(dataset["status"].attrs["flag_values"], meanings, strict=True))[5] == "low_maf"
    np.testing.assert_array_equal(dataset["var_t"][:20], values[:20, INDEX["var_t"]])
    assert np.isnan(dataset["var_t"][20:]).all()


def test_other_models_may_have_other_columns(tmp_path):
    store = make(tmp_path / "out.zarr", columns=("beta", "p_wald"))
    values = fill(store, np.random.default_rng(3).normal(size=(N, 2)))
    np.testing.assert_array_equal(open_results(store.path)["p_wald"], values[:, 1])
    assert next(store.markers())["counts"] == {}


def python(code, *arguments):
    root = str(Path(hlmm_dask.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": root},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


WRITER = """
import sys
import numpy as np
from hlmm_dask.store import ResultsStore
store = ResultsStore.open(sys.argv[1])
for block in store.blocks()[int(sys.argv[2])::2]:
    n = block.stop - block.start
    store.write_block(block.index, np.full((n, len(store.columns)), float(block.index)), record={})
"""


def test_two_processes_write_at_once(tmp_path):
    store = make(tmp_path / "out.zarr", block_size=1)
    writers = [python(WRITER, store.path, first) for first in (0, 1)]
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    assert store.pending() == []
    np.testing.assert_array_equal(store.read(0, N)[:, 4], np.arange(N))


HOLDER = """
import sys
from hlmm_dask.store import ResultsStore
with ResultsStore.open(sys.argv[1]).lock("scan of pheno.txt"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_lock_is_refused_while_held_and_taken_over_when_its_process_is_dead(store):
    holder = python(HOLDER, store.path)
    assert holder.stdout.readline() == "held\n"
    expected = f"in use by scan of pheno.txt \\(process {holder.pid} on .* s ago\\)"
    with pytest.raises(StoreError, match=expected), store.lock("second"):
        pass
    with pytest.raises(StoreError, match="in use by"):
        make(store.path, overwrite=True)
    holder.kill()
    holder.communicate()
    assert (store.run_dir / "lock.json").exists()
    with store.lock("second") as held:
        held.check()
        assert lock_module.read_lock(held.path)["owner"] == "second"
    assert not (store.run_dir / "lock.json").exists()


@pytest.mark.parametrize(("age", "taken"), [(5, False), (-5, False), (61, True), (-3600, True)])
def test_lock_of_another_host_lapses(store, monkeypatch, age, taken):
    """Also one from a host whose clock was an hour ahead."""
    monkeypatch.setattr(lock_module, "HEARTBEAT_SECONDS", 0.1)
    path = store.run_dir / "lock.json"
    with store.lock("first"):
        content = json.loads(path.read_text())
    content |= {"place": "elsewhere", "host": "node7", "heartbeat": content["heartbeat"] - age}
    path.write_text(json.dumps(content))
    if taken:
        with store.lock("second"):
            pass
        return
    with pytest.raises(StoreError, match="on node7"), store.lock("second"):
        pass


@pytest.mark.parametrize("skew", [-3600, 3600])
def test_living_lock_of_a_host_whose_clock_is_wrong(store, monkeypatch, skew):
    """It is renewed while it is watched."""
    monkeypatch.setattr(lock_module, "HEARTBEAT_SECONDS", 0.2)
    path = store.run_dir / "lock.json"
    with store.lock("first"):
        content = json.loads(path.read_text())
    content |= {"place": "elsewhere", "host": "node7", "heartbeat": content["heartbeat"] + skew}
    path.write_text(json.dumps(content))
    ended = threading.Event()

    def beat():
        while not ended.wait(0.05):
            content["heartbeat"] += 0.05
            lock_module.write_json(path, content)

    beats = threading.Thread(target=beat)
    beats.start()
    try:
        with pytest.raises(StoreError, match="on node7"), store.lock("second"):
            pass
    finally:
        ended.set()
        beats.join()


def test_lock_that_was_taken_over_is_noticed_and_left_alone(store):
    path = store.run_dir / "lock.json"
    with store.lock("first") as held:
        content = json.loads(path.read_text()) | {"token": "other"}
        path.write_text(json.dumps(content))
        with pytest.raises(StoreError, match="taken this output over"):
            held.check()
    assert path.exists()


def test_lock_beats(store, monkeypatch):
    monkeypatch.setattr(lock_module, "HEARTBEAT_SECONDS", 0.01)
    path = store.run_dir / "lock.json"
    with store.lock("first"):
        begin = json.loads(path.read_text())["heartbeat"]
        waiting = threading.Event()
        for _ in range(500):
            if lock_module.read_lock(path)["heartbeat"] > begin:
                break
            waiting.wait(0.01)
        else:
            pytest.fail("no heartbeat")


def test_unreadable_lock_does_not_lock_out(store):
    (store.run_dir / "lock.json").write_text("{")
    with store.lock("first"):
        pass


def refusing(number, only):
    """Give os.fsync that fails with this error for folders, or for files."""

    def fsync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode) == (only == "folders"):
            raise OSError(number, os.strerror(number))

    return fsync


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP])
def test_folders_of_file_systems_that_cannot_sync_them(tmp_path, monkeypatch, number):
    monkeypatch.setattr(os, "fsync", refusing(number, "folders"))
    store = make(tmp_path / "out.zarr")
    with store.lock("run"):
        store.write_block(0, np.zeros((SIZE, len(store.columns))), record={})
    assert 0 in store.done()
    # A folder that is damaged, and files, are told of.
    monkeypatch.setattr(os, "fsync", refusing(errno.EIO, "folders"))
    with pytest.raises(OSError, match="Input/output error"):
        make(tmp_path / "other.zarr")
    monkeypatch.setattr(os, "fsync", refusing(number, "files"))
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        durable.write_json(tmp_path / "x.json", {})


def test_a_folder_on_two_devices_is_named(tmp_path, monkeypatch):
    """As in containers, whose overlay can't rename a folder of its lower layer."""
    first = make(tmp_path / "out.zarr")
    replace = Path.replace

    def across(path, target):
        if Path(target).name == "out.zarr" and path.name.endswith(".partial"):
            raise OSError(errno.EXDEV, "Invalid cross-device link", str(path))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", across)
    with pytest.raises(StoreError, match=r"out\.zarr: can't be put in its place .* two devices"):
        make(tmp_path / "out.zarr", overwrite=True)
    monkeypatch.undo()
    # The old one is where it was.
    assert ResultsStore.open(first.path).pending() == first.pending()
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr"]

    def refused(path, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link", str(path))

    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(OSError, match="two devices"):
        durable.write_json(tmp_path / "x.json", {})
