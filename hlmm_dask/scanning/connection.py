"""A cluster that is connected to when it is needed, or ahead of that in the background."""

from asyncio import CancelledError
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from distributed import Client

from hlmm_dask.errors import ClusterLostError, InputError, ScanError
from hlmm_dask.scanning.cluster import ClusterOptions, connect


class Connection:
    """Context that ends with the cluster that it started, if it did.

    A scheduler of another process that is lost meanwhile is told as a `ClusterLostError`.

    Parameters
    ----------
    options : ClusterOptions
        How to connect or what to start.
    client : distributed.Client, optional
        A connection that is there already, used instead and left open.
    remedy : str
        What to do when it is lost.
    """

    def __init__(
        self,
        options: ClusterOptions,
        client: Client | None = None,
        *,
        remedy: str = "finished blocks are kept, run again with --resume",
    ) -> None:
        options.check()
        self._remedy = remedy
        self._options = options
        self._given = client
        self._stack = ExitStack()
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="connect")
        self._starting: Future[Client] | None = None

    @property
    def options(self) -> ClusterOptions:
        """How to connect or what to start."""
        return self._options

    @property
    def is_there(self) -> bool:
        """Whether a cluster is named, or is being started already."""
        named = self._options.scheduler or self._options.scheduler_file
        return self._given is not None or self._starting is not None or bool(named)

    def page(self) -> str:
        """Return the address of the page of scans, of Dask's pages, or nothing without any."""
        try:
            link = str(self.client().dashboard_link or "")
        except KeyError:  # a scheduler without HTTP
            return ""
        own = self._given is None and self._options.address is None
        # Only a scheduler that a scan has started is sure to have the page.
        return f"{link.removesuffix('/status')}/hlmm" if link and own else link

    def begin(self) -> None:
        """Start a cluster on this machine without waiting for it: most of the time nothing is done.

        Another one is waited for: that can take long, and must be possible to interrupt.
        """
        if not self.options.is_local:
            self.client()
        elif self._given is None and self._starting is None:
            self._starting = self._starter.submit(self._stack.enter_context, connect(self.options))

    def client(self) -> Client:
        """Wait for the connection, and give its client.

        Raises
        ------
        InputError
            If there is no scheduler, or no worker, in the given time.
        """
        if self._given is not None:
            return self._given
        if self._starting is None and not self.options.is_local:
            self._given = self._stack.enter_context(connect(self.options))
            return self._given
        self.begin()
        assert self._starting is not None
        # Started in another thread, an interrupt leaves no cluster without a context to end it.
        try:
            return self._starting.result()
        except (InputError, ScanError) as error:
            # The frames of that thread say nothing.
            raise error.with_traceback(None) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._starter.shutdown(cancel_futures=True)
        self._stack.close()
        # Whatever it was asked at that moment; unlike those of files, such errors have no number.
        lost = isinstance(error, CancelledError) or (
            isinstance(error, OSError) and error.errno is None
        )
        if lost and self._given is not None and not self._options.is_local:
            raise ClusterLostError(
                f"the scheduler {self._options.address or self._options.jobqueue} is gone; "
                f"{self._remedy}"
            ) from error
