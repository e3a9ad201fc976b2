"""Records of blocks: sent ahead of the result, and asked for where they were not."""

import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from distributed import Client, Future, Scheduler, as_completed
from studies import Study

from hlmm_dask import fit_null, scan
from hlmm_dask.errors import StoreError
from hlmm_dask.scanning.records import Record, Records, announced, boxed

N = 20


def record(block: int) -> Record:
    return {"n_variants": block, "warnings": {"a text": block}}


def ended(future: "Future[Any]") -> "Future[Any]":
    return next(as_completed([future], loop=future.client.loop))


@pytest.fixture
def records(client: Client) -> Iterator[Records]:
    found = Records()
    with found.heard(client):
        yield found


def test_a_scan_asks_for_no_results(study: Study, client: Client) -> None:
    null = fit_null(study.bed, study.pheno)

    def topics(dask_scheduler: Scheduler) -> list[str]:
        return [name for name in dask_scheduler._broker._topics if "hlmm-dask-records" in name]

    # Blocks that are on their way when a scan is cancelled may still send theirs.
    before = set(client.run_on_scheduler(topics))
    with patch.object(Future, "result", side_effect=AssertionError("results are asked for")):
        found = scan(study.bed, null, client=client, block_size=7)
    assert found.sizes["variants"] == 60
    # Nor does it leave anything with a scheduler that goes on.
    assert set(client.run_on_scheduler(topics)) == before


def test_texts_that_are_no_utf_8_and_errors_arrive(client: Client, records: Records) -> None:
    """Names of files may be any bytes; warnings and errors name files."""
    contents = [
        {"warnings": {"donn\udce9es.bed: a text": np.int64(2)}},
        {"error": StoreError("donn\udce9es.zarr: full")},
    ]

    def task(block: int, topic: str) -> object:
        return announced(topic, block, contents[block])

    futures = [client.submit(task, i, records.topic, pure=False) for i in range(2)]
    with patch.object(Future, "result", side_effect=AssertionError("results are asked for")):
        first, second = (records.pop(i, ended(each)) for i, each in enumerate(futures))
    assert first == contents[0]
    assert isinstance(second, dict)
    assert str(second["error"]) == str(contents[1]["error"])


def test_records_are_there_when_their_tasks_have_ended(client: Client, records: Records) -> None:
    def task(block: int, topic: str) -> object:
        return announced(topic, block, {"n_variants": block, "warnings": {"a text": block}})

    futures = {client.submit(task, i, records.topic): i for i in range(N)}
    with patch.object(client, "_gather", side_effect=AssertionError("results are asked for")):
        for future in as_completed(futures, loop=client.loop):
            assert records.pop(futures[future], future) == record(futures[future])


def test_what_was_not_sent_is_asked_for(client: Client, records: Records) -> None:
    error = client.submit(lambda: boxed({"error": OSError(28, "No space left on device")}))
    found = records.pop(0, ended(error))
    assert isinstance(found, dict)
    assert found["error"].errno == 28

    def fails() -> None:
        raise ValueError("reason")

    failed = client.submit(fails)
    assert isinstance(records.pop(0, ended(failed)), ValueError)
    # Those of other runs are not taken for it.

    def of_two() -> object:
        announced("another topic", 3, {"n_variants": 1})
        return boxed({"n_variants": 7})

    assert records.pop(3, ended(client.submit(of_two))) == {"n_variants": 7}


def test_cancelled_without_a_record(client: Client, records: Records) -> None:
    future = client.submit(time.sleep, 0.2)
    client.cancel([future])
    with pytest.raises(CancelledError):
        records.pop(0, future)


def test_result_outside_of_a_worker() -> None:
    assert announced("topic", 1, record(1))[0, 0] == record(1)
