"""The blocks of a scan on their way: a block that failed on one worker is given to another."""

from collections.abc import Iterable, Mapping
from typing import Any

from dask.graph_manipulation import clone
from distributed import Client, Future, KilledWorker, Scheduler

# Attempts at a block, each on a worker where it has not failed as long as there is one.
_TRIES = 3


class Tries:
    """The futures of all blocks, and where each has failed so far.

    Dask's own retries go to whichever worker is free, and that is often the one that fails.

    Parameters
    ----------
    client : Client
        Connected.
    delayed : mapping of int to Delayed
        What computes each block.
    """

    def __init__(self, client: Client, delayed: Mapping[int, Any]) -> None:
        self._client, self._delayed = client, delayed
        self.futures: list[Future[Any]] = client.compute(list(delayed.values()))
        self._block = {f.key: i for f, i in zip(self.futures, delayed, strict=True)}
        self._failed_on: dict[int, list[str]] = {}
        # Futures that only these workers may compute.
        self._bound: dict[Future[Any], frozenset[str]] = {}
        self._stranded: set[Any] = set()

    def take(self, future: "Future[Any]") -> int:
        """Return the block of a future that is done, which needs no watching any more."""
        self._bound.pop(future, None)
        return self._block[future.key]

    def workers(self, block: int) -> tuple[str, ...]:
        """Return the workers where a block has failed, in that order."""
        return tuple(self._failed_on.get(block, ()))

    def failed(self, future: "Future[Any]", error: BaseException) -> "Future[Any] | None":
        """Note where a block has failed; return the next attempt's future, None after the last."""
        block = self._block[future.key]
        places = self._failed_on.setdefault(block, [])
        if isinstance(error, KilledWorker):
            # Dask has tried it on several.
            places.append(str(error.last_worker.address))
            return None
        places.append(_place(self._client, future))
        return None if len(places) >= _TRIES else self.again(future)

    def again(self, future: "Future[Any]") -> "Future[Any]":
        """Submit a block again, for workers where it has not failed, if there are any."""
        block = self._block[future.key]
        # An error stays with its key as long as anyone holds that: the next attempt has others.
        delayed = clone(self._delayed[block])
        others = frozenset(self._client.nthreads()).difference(self._failed_on.get(block, ()))
        following: Future[Any] = self._client.compute(
            delayed, **({"workers": sorted(others)} if others else {})
        )
        self._block[following.key] = block
        self.futures.append(following)
        if others:
            self._bound[following] = others
        return following

    def is_stranded(self, future: "Future[Any]") -> bool:
        """Whether a future was cancelled because all workers that might compute it had left."""
        return future.key in self._stranded

    def cancel_stranded(self, there: Iterable[str]) -> None:
        """Cancel what is bound to workers none of which is ``there``: it would wait for ever."""
        for future, allowed in list(self._bound.items()):
            if allowed.isdisjoint(there):
                self._stranded.add(future.key)
                self._client.cancel([future])

    def cancel(self) -> None:
        """Cancel all."""
        self._client.cancel(list(self.futures))


def _place(client: Client, future: "Future[Any]") -> str:
    """Ask the scheduler on which worker a future's task has failed."""
    key = future.key

    # A function of a function's own is sent whole: the scheduler may not have this package.
    def ask(dask_scheduler: Scheduler) -> list[str]:
        task = dask_scheduler.tasks.get(key)
        return [] if task is None else sorted((task.exception_blame or task).erred_on or ())

    places: list[str] = client.run_on_scheduler(ask)
    return places[-1] if places else "a worker that is gone"
