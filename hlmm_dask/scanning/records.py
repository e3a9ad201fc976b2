"""Records of finished blocks, which reach the client together with the news that they are finished.

Dask keeps a result on its worker until the client asks for it, by way of the scheduler: for each
block one more question and answer between each two of the three.
"""

import pickle
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

import numpy as np
from distributed import Client, Future, Scheduler, get_worker
from numpy.typing import NDArray

Record: TypeAlias = dict[str, Any]


def boxed(record: Record) -> NDArray[np.object_]:
    """Put a task's record in an array; an error in there isn't tried again, nor logged."""
    box = np.empty((1, 1), dtype=object)
    box[0, 0] = record
    return box


def announced(topic: str, block: int, record: Record) -> NDArray[np.object_]:
    """Send a record ahead of the task's result, and return it as that too."""
    # As bytes: an event that can't be packed, for a text of a file's name, ends the connection.
    content = pickle.dumps(record)
    with suppress(ValueError):  # no worker
        get_worker().log_event(topic, [block, content])
    return boxed(record)


class Records:
    """Records as they come in.

    Attributes
    ----------
    topic : str
        Under which workers send them.
    """

    def __init__(self) -> None:
        self.topic = f"hlmm-dask-records-{uuid.uuid4().hex}"
        self._found: dict[int, Record] = {}

    @contextmanager
    def heard(self, client: Client) -> Iterator[None]:
        """Listen to a cluster's workers."""
        client.subscribe_topic(self.topic, self._take)
        try:
            yield
        finally:
            # Without a scheduler there is nothing to take back; why there is none, the scan says.
            with suppress(Exception):
                if client.status == "running":
                    client.run_on_scheduler(_forgetting(self.topic))

    def pop(self, block: int, future: "Future[Any]") -> Record | BaseException:
        """Return the record of a block whose future is done, or its error.

        Raises
        ------
        CancelledError
            If the future was cancelled, or the scheduler is gone.
        """
        if (found := self._found.pop(block, None)) is not None:
            return found
        # Records come before the news that their task has ended, unless it is one that raised.
        if future.status == "error":
            error: BaseException = future.exception()
            return error
        record: Record = future.result()[0, 0]
        return record

    def _take(self, event: tuple[float, tuple[int, bytes]]) -> None:
        block, content = event[1]
        self._found[block] = pickle.loads(content)


def _forgetting(topic: str) -> Callable[[Scheduler], None]:
    # A function of a function's own is sent whole: the scheduler may not have this package.
    def forget(dask_scheduler: Scheduler) -> None:
        """Drop the topic, with its events and subscribers, which a scheduler keeps for ever."""
        dask_scheduler._broker._topics.pop(topic, None)

    return forget
