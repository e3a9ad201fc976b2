"""The blocks of a scan on a cluster: models published, tasks sent, records collected."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, TypeAlias

from distributed import Client, Future, KilledWorker, as_completed

from hlmm_dask.errors import ChangedInputError, ClusterLostError, InputError, ScanError, StoreError
from hlmm_dask.kernels.block_model import BlockModel, block_model
from hlmm_dask.kernels.packed import PackedLayout
from hlmm_dask.layout import Block
from hlmm_dask.scanning.cancelled import CANCELLED
from hlmm_dask.scanning.config import ScanConfig
from hlmm_dask.scanning.events import (
    BlockDone,
    BlockFailed,
    BlockRetried,
    Note,
    Observer,
    ScanFinished,
    ScanStarted,
    Warned,
    tell,
)
from hlmm_dask.scanning.graph import delayed_records, lazy_genotypes, lazy_records
from hlmm_dask.scanning.left_out import left_out_sets, with_nulls, write_set_nulls
from hlmm_dask.scanning.lmm import AnyNull, LMMNullModel
from hlmm_dask.scanning.lmm_model import publish_lmm
from hlmm_dask.scanning.null import NullModel
from hlmm_dask.scanning.probe import Needs, gate
from hlmm_dask.scanning.published import BlockTask, publish_model, published_model
from hlmm_dask.scanning.records import Record, Records
from hlmm_dask.scanning.source import Source
from hlmm_dask.scanning.tries import Tries
from hlmm_dask.scanning.watch import WorkerWatch
from hlmm_dask.store import ResultsStore

_Outcome: TypeAlias = BlockDone | BlockFailed | BlockRetried


@dataclass(frozen=True)
class PhenotypeScan:
    """One phenotype: its null model, its store, and the blocks that are not in it yet.

    ``earlier`` holds the digests of the null models that fitted those that are.
    """

    null: "AnyNull"
    store: ResultsStore
    pending: list[int]
    earlier: frozenset[str | None] = frozenset()


def run_blocks(
    scans: Sequence[PhenotypeScan],
    source: Source,
    config: ScanConfig,
    client: Client,
    observers: Sequence[Observer],
    *,
    passed: frozenset[str] = frozenset(),
    no_workers_timeout: float = 300.0,
) -> list[BlockFailed]:
    """Fit the pending blocks of all phenotypes on a cluster; return those that failed.

    Workers that are not in ``passed`` are probed when they join.

    Raises
    ------
    ClusterLostError
        If the scheduler is gone, or all workers for longer than ``no_workers_timeout`` seconds.
    InputError, StoreError
        If a block found that input or store can't be used; the same would happen anywhere.
    """
    began = time.perf_counter()
    tasks = tuple(_publish(scan, config, source, observers) for scan in scans)
    store = scans[0].store
    pending = sorted(set().union(*(scan.pending for scan in scans)))
    blocks = lazy_genotypes(source, store.block_size)
    todo = sum(store.block(i).stop - store.block(i).start for i in pending)
    n_workers = len(client.scheduler_info(n_workers=-1)["workers"])
    started = ScanStarted(
        n_variants=store.n_variants,
        n_blocks=store.n_blocks,
        n_done_variants=store.n_variants - todo,
        n_done_blocks=store.n_blocks - len(pending),
        n_samples=max(scan.null.n_samples for scan in scans),
        n_workers=n_workers,
        model=scans[0].null.name,
    )
    tell(observers, started)
    records = Records()
    delayed = dict(delayed_records(lazy_records(blocks, tasks, records.topic), pending))
    needs = Needs(source.files, tuple(str(scan.store.run_dir) for scan in scans))
    lost = f"the scheduler {client.scheduler_info(n_workers=0)['address']} is gone"
    outcomes: list[_Outcome] = []
    with gate(client, needs, passed, observers) as report, records.heard(client):
        tries = Tries(client, delayed)
        try:
            with WorkerWatch(client, tries, no_workers_timeout) as watch:
                completed = as_completed(tries.futures, loop=client.loop)
                for future in chain.from_iterable(completed.batches()):
                    report()
                    for text in watch.new_notes():
                        tell(observers, Note(text))
                    block = store.block(tries.take(future))
                    if tries.is_stranded(future) and not watch.gave_up:
                        completed.add(tries.again(future))
                        continue
                    record = records.pop(block.index, future)
                    outcome: _Outcome = _outcome(block, record, store)
                    if isinstance(outcome, BlockFailed):
                        outcome, following = _another_try(outcome, future, tries)
                        if following is not None:
                            completed.add(following)
                    outcomes.append(outcome)
                    tell(observers, outcome)
                    if isinstance(record, dict):
                        for text, count in record["warnings"].items():
                            tell(observers, Warned(text, count))
                    # What is released is not computed again when its worker dies.
                    future.release()
        except CANCELLED:
            gone = f"no worker for {no_workers_timeout:g} s" if watch.gave_up else lost
            raise ClusterLostError(
                f"{store.path}: {gone}; finished blocks are kept, run again with --resume"
            ) from None
        except BaseException:
            tries.cancel()
            raise
    done = [outcome for outcome in outcomes if isinstance(outcome, BlockDone)]
    failed = [outcome for outcome in outcomes if isinstance(outcome, BlockFailed)]
    tell(
        observers,
        ScanFinished(
            seconds=time.perf_counter() - began,
            n_variants=sum(block.n_variants for block in done),
            n_fitted=sum(block.n_fitted for block in done),
            n_failed_blocks=len(failed),
        ),
    )
    return failed


def _outcome(
    block: Block, record: Record | BaseException, store: ResultsStore
) -> BlockDone | BlockFailed:
    """Say what became of a block; raise what would become of every other too."""
    if isinstance(record, BaseException):
        if isinstance(record, InputError | StoreError):
            raise _stopped(record, block, store)
        return BlockFailed(block.index, _reason(record), block.stop - block.start)
    if "error" in record:
        raise _stopped(record["error"], block, store)
    return BlockDone(
        block=block.index,
        n_variants=record["n_variants"],
        n_fitted=record["n_fitted"],
        seconds=record["seconds"],
        worker=record["worker"],
    )


def _another_try(
    failure: BlockFailed, future: "Future[Any]", tries: Tries
) -> tuple[BlockFailed | BlockRetried, "Future[Any] | None"]:
    """Give a block to another worker, unless it has failed too often."""
    error = future.exception()
    assert error is not None
    following = tries.failed(future, error)
    where = tries.workers(failure.block)
    if following is None:
        return replace(failure, workers=where), None
    return BlockRetried(failure.block, failure.error, where[-1]), following


def _reason(error: BaseException) -> str:
    if isinstance(error, KilledWorker):
        return (
            f"workers died {error.allowed_failures + 1} times while computing it, mostly for lack "
            "of memory; raise --memory-limit, or start again with a lower --block-size"
        )
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _publish(
    scan: PhenotypeScan, config: ScanConfig, source: Source, observers: Sequence[Observer]
) -> BlockTask:
    if isinstance(scan.null, LMMNullModel):
        return publish_lmm(scan.null, config, source, scan.store, observers)
    # A resumed run goes on with the model of its first part, to the last bit.
    if (task := published_model(scan.store)) is not None:
        return task
    model = scan_model(scan.null, config, source)
    if config.loco and model.left_out is not None:
        write_set_nulls(scan.store, model.left_out)
        if untouched := model.left_out.n_untouched(scan.store.n_variants):
            text = f"{untouched:,} variants are on chromosomes without a column of G"
            tell(observers, Note(f"--loco: {text}, nothing is left out for them"))
    return publish_model(scan.store, model)


def scan_model(null: NullModel, config: ScanConfig, source: Source) -> BlockModel:
    """Lay out all that fitting a block of the heteroskedastic model needs."""
    model = replace(null.model, fix_h2=config.h2 == "null")
    layout = PackedLayout(null.n_file_samples, null.sample_index)
    whole = block_model(
        model, layout, config.filters, method=config.method, engine=config.engine,
        spa_threshold=config.spa_threshold, tests=config.tests,
    )  # fmt: skip
    if not config.leaves_out:
        return whole
    whole = replace(whole, left_out=left_out_sets(source.variants(), null, config.exclude_window))
    return with_nulls(whole) if config.loco else whole


def _stopped(error: Exception, block: Block, store: ResultsStore) -> Exception:
    """Say what an error means after which the other blocks would fail too."""
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror, str(store.path))
    if isinstance(error, ChangedInputError):
        return ScanError(
            f"{error}; finished blocks of {store.path} are kept: restore the file and give "
            "--resume, or start again with --overwrite"
        )
    return type(error)(f"block {block.index}: {error}")
