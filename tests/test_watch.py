import json
import math
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from scans import columns_of, make_store, names_of

from hlmm_dask import StoreError, open_results
from hlmm_dask.scanning.events import BlockFailed, ScanStarted
from hlmm_dask.scanning.failures import FailureLog
from hlmm_dask.schema import RESULT_NAMES
from hlmm_dask.store import ResultsStore
from hlmm_dask.view.feed import PIECES, TILES, Feed
from hlmm_dask.view.thinning import Thinner
from hlmm_dask.view.watch import Watcher

N = 1000


@pytest.fixture
def columns() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    add_t, var_t = rng.standard_normal((2, N))
    add_t[333], var_t[700] = 8.0, -7.0
    add_t[[5, 250]] = np.nan
    return columns_of(add_t, var_t + 0.0 * add_t, rng.uniform(0.05, 0.5, N))


def unfinished(path: Path, columns: dict[str, np.ndarray], left_out: list[int]) -> ResultsStore:
    return make_store(path, columns, names_of(N), leave_out=left_out)


def write(store: ResultsStore, columns: dict[str, np.ndarray], block: int, worker: str) -> None:
    rows = slice(store.block(block).start, store.block(block).stop)
    values = np.full((rows.stop - rows.start, len(RESULT_NAMES)), np.nan)
    for name, column in columns.items():
        values[:, RESULT_NAMES.index(name)] = column[rows]
    values[:, -1] = 0.0
    store.write_block(block, values, record={"worker": worker, "seconds": 0.1})


def test_a_finished_store(tmp_path, columns) -> None:
    make_store(tmp_path / "s.zarr", columns, names_of(N))
    watcher = Watcher(tmp_path / "s.zarr")
    progress = watcher.poll(10)
    assert (progress.state, progress.owner) == ("finished", "")
    assert (progress.n_done_variants, progress.n_done_blocks) == (N, 10)
    assert (progress.n_fitted, progress.counts) == (N - 2, {"ok": N - 2, "low_maf": 2})
    assert (progress.elapsed, progress.seconds_left) == (12.0, None)
    assert not watcher.behind
    assert [(c.name, c.first) for c in watcher.contigs] == [("1", 1), ("2", 1), ("X", 1)]
    whole = Thinner(N)
    whole.add(0, names_of(N), columns)
    assert watcher.thinned is not None
    for test in ("mean", "variance", "joint"):
        assert watcher.thinned.lambda_gc(test) == pytest.approx(whole.thinned().lambda_gc(test))
    best = watcher.thinned.points["id"][watcher.thinned.loci("mean", 1)]
    assert best.tolist() == ["rs333"]


def test_a_run_that_goes_on(tmp_path, columns) -> None:
    store = unfinished(tmp_path / "s.zarr", columns, [3, 7, 8])
    watcher = Watcher(store.path)
    assert watcher.poll(10).state == "stopped"
    with store.lock("pid 1 on here"):
        time.sleep(0.01)
        write(store, columns, 7, "tcp://b")
        write(store, columns, 3, "tcp://a")
        progress = watcher.poll(10)
        assert progress.state == "running"
        assert progress.owner.startswith("process ")
        assert (progress.n_done_blocks, progress.n_seen_blocks) == (9, 9)
        # Only what this run has done counts for its rate.
        assert progress.elapsed is not None
        assert progress.rate == pytest.approx(200 / progress.elapsed, rel=0.2)
        assert progress.seconds_left == pytest.approx(100 / progress.rate)
        shares = {w.name: (w.n_blocks, w.n_variants, w.last_block) for w in progress.workers}
        assert shares == {"": (7, 700, 9), "tcp://a": (1, 100, 3), "tcp://b": (1, 100, 7)}
    assert watcher.poll(10).state == "stopped"


def test_a_poll_reads_new_blocks_only(tmp_path, columns, monkeypatch) -> None:
    store = unfinished(tmp_path / "s.zarr", columns, [3])
    read: list[int] = []
    original = ResultsStore.read

    def counted(self: ResultsStore, start: int, stop: int) -> np.ndarray:
        read.append(start)
        return original(self, start, stop)

    monkeypatch.setattr(ResultsStore, "read", counted)
    watcher = Watcher(store.path)
    watcher.poll(10)
    assert sorted(read) == [0, 100, 200, 400, 500, 600, 700, 800, 900]
    write(store, columns, 3, "w")
    watcher.poll(10)
    watcher.poll(10)
    assert read[9:] == [300]


def test_no_time_is_enough_for_a_little(tmp_path, columns) -> None:
    make_store(tmp_path / "s.zarr", columns, names_of(N))
    watcher = Watcher(tmp_path / "s.zarr")
    seen = []
    while watcher.behind or not seen:
        seen.append(watcher.poll(0).n_seen_blocks)
        assert len(seen) < 40
    assert seen[-1] == 10
    assert len(set(seen)) > 5


def test_a_store_that_is_not_there_yet_and_one_that_is_replaced(tmp_path, columns) -> None:
    path = tmp_path / "s.zarr"
    watcher = Watcher(path)
    assert watcher.poll().state == "waiting"
    first = make_store(path, columns, names_of(N))
    assert watcher.poll(10).n_done_blocks == 10
    first.path.rename(tmp_path / "old.zarr")
    unfinished(path, columns, [1, 2, 3])
    progress = watcher.poll(10)
    assert (progress.n_done_blocks, progress.n_seen_blocks) == (7, 7)


def test_a_block_that_is_taken_back(tmp_path, columns) -> None:
    store = unfinished(tmp_path / "s.zarr", columns, [3])
    watcher = Watcher(store.path)
    watcher.poll(10)
    store.discard(5)
    assert watcher.poll(10).n_seen_blocks == 8
    assert watcher.thinned is not None
    assert watcher.thinned.n_added == 800


def test_a_damaged_block_is_counted_not_drawn(tmp_path, columns) -> None:
    store = make_store(tmp_path / "s.zarr", columns, names_of(N))
    chunk = store.path / "results" / "c.4.0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    watcher = Watcher(store.path)
    progress = watcher.poll(10)
    assert (progress.n_done_blocks, progress.n_seen_blocks) == (10, 9)
    assert not watcher.behind


def test_failures_of_blocks_that_are_still_missing(tmp_path, columns) -> None:
    store = unfinished(tmp_path / "s.zarr", columns, [3, 4])
    log = FailureLog([store.run_dir])
    log(ScanStarted(N, 10))
    for block in (3, 4, 5):
        log(BlockFailed(block, "KilledWorker: no memory", 100))
    assert [f.block for f in Watcher(store.path).poll(10).failures] == [3, 4]


# The pieces that views get


def drain(feed: Feed) -> dict:
    for _ in range(50):
        time.sleep(min(feed.poll(every=0.01), 0.2))
        if feed.complete:
            break
    return feed.since(0)


def test_pieces_match_the_store(tmp_path, columns) -> None:
    make_store(tmp_path / "s.zarr", columns, names_of(N))
    feed = Feed(tmp_path / "s.zarr")
    pieces = json.loads(json.dumps(drain(feed)))  # NaN would not pass
    assert feed.complete
    assert pieces.keys() <= set(PIECES)
    assert pieces["progress"]["n_done_variants"] == N
    assert pieces["progress"]["elapsed_text"] == "12 s"
    shown: dict[str, set[str]] = {"mean": set(), "variance": set()}
    for name in TILES:
        tile = pieces[name]
        for i, variant in enumerate(tile["id"]):
            row = int(variant.removeprefix("rs"))
            assert tile["mean"][i] == pytest.approx(columns["add_neg_log10_p"][row], rel=1e-3)
            assert tile["var"][i] == pytest.approx(columns["var"][row], rel=1e-3)
            for bit, test in ((1, "mean"), (2, "variance")):
                if tile["in"][i] & bit:
                    shown[test].add(variant)
    assert "rs333" in shown["mean"]
    assert "rs700" in shown["variance"]
    assert pieces["loci"]["mean"]["id"][0] == "rs333"
    assert pieces["loci"]["variance"]["id"][0] == "rs700"
    lambda_gc = pieces["qq"]["mean"]["lambda"]
    median = np.nanmedian(columns["add_t"] ** 2)
    assert lambda_gc == pytest.approx(median / 0.4549, rel=0.01)
    assert pieces["qq"]["joint"]["n"] == N - 2


def test_only_what_changed_is_sent(tmp_path, columns) -> None:
    store = unfinished(tmp_path / "s.zarr", columns, [0, 9])
    feed = Feed(store.path)
    feed.poll(every=0.0)
    before = feed.version
    with store.lock("me"):
        write(store, columns, 9, "w")
        time.sleep(0.01)
        feed.poll(every=0.0)
        tiles = {name for name in feed.since(before) if name in TILES}
        # The last tenth of the file, and what its extremes took out of the plot of effects.
        assert {"tile22", "tile23"} <= tiles
        assert "progress" in feed.since(before)
        last = feed.version
        assert math.isfinite(feed.poll(every=60.0))
        assert "tile23" not in feed.since(last)


def test_a_look_at_a_running_scan_takes_little(tmp_path, columns) -> None:
    """After a look that took long the next one waits."""
    store = unfinished(tmp_path / "s.zarr", columns, [0, 9])
    with store.lock("me"):
        feed = Feed(store.path)
        feed.poll(every=0.001)
        time.sleep(0.01)
        began = time.perf_counter()
        wait = feed.poll(every=0.001)
        spent = time.perf_counter() - began
    assert wait > 10 * spent
    assert feed.poll(every=0.001) <= wait


# A store that is replaced


def test_views_start_over_with_a_store_that_replaces_another(tmp_path, columns) -> None:
    """Also when the first one was finished, and a page has seen all of it."""
    path = tmp_path / "s.zarr"
    make_store(path, columns, names_of(N))
    feed = Feed(path)
    drain(feed)
    seen = feed.version
    assert feed.complete
    shutil.rmtree(path)
    other = {name: values[::-1] for name, values in columns.items()}
    make_store(path, other, names_of(N), leave_out=[0])
    deadline = time.monotonic() + 30
    while feed.complete or feed.progress.n_seen_blocks < 9:
        assert time.monotonic() < deadline
        time.sleep(min(feed.poll(every=0.01), 0.2))
    changed = feed.since(seen)
    assert changed["progress"]["state"] == "stopped"
    assert changed["loci"]["mean"]["id"][0] == "rs666"
    # A page that has seen another feed gets every piece of a new one.
    later = Feed(path)
    assert later.since(seen).keys() == set(PIECES)
    assert Feed(tmp_path / "none.zarr").since(0).keys() == set(PIECES)


def test_a_notebooks_view_follows_the_store_that_replaces_a_finished_one(tmp_path, columns) -> None:
    widget = pytest.importorskip("hlmm_dask.view.widget")
    path = tmp_path / "s.zarr"
    make_store(path, columns, names_of(N))
    shown = widget.dashboard(path, every=0.01)
    try:
        wait_until(lambda: shown.progress["n_seen_blocks"] == 10)
        time.sleep(0.2)
        shutil.rmtree(path)
        make_store(path, columns, names_of(N), leave_out=[0, 1, 2])
        wait_until(lambda: shown.progress["n_seen_blocks"] == 7)
        assert shown.progress["state"] == "stopped"
    finally:
        shown.close()


def wait_until(there) -> None:
    deadline = time.monotonic() + 30
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_dataset_of_a_store_that_was_replaced(tmp_path, columns) -> None:
    path = tmp_path / "s.zarr"
    make_store(path, columns, names_of(N))
    dataset = open_results(path)
    assert float(dataset["add"][333]) == pytest.approx(0.8)
    shutil.rmtree(path)
    make_store(path, columns, names_of(N))
    for name in ("add", "variant_id"):
        with pytest.raises(StoreError, match="replaced by another scan"):
            dataset[name].compute()
