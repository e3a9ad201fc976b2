"""The Dask cluster that a scan runs on: on this machine, jobs of a queue, or a running one."""

import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import dask
from distributed import Client
from distributed.versions import VersionMismatchWarning

from hlmm_dask.errors import InputError
from hlmm_dask.option_rules import require_of
from hlmm_dask.scanning.jobqueue import SYSTEMS, queue_client, queue_settings
from hlmm_dask.scanning.local_cluster import local_client
from hlmm_dask.scanning.machine import private_folder, require_open_files, require_sockets
from hlmm_dask.scanning.security import (
    check_address,
    client_security,
    require_answer,
    scheduler_address,
)

# Bytes below which a memory limit is a mistake: no process starts in so little.
_LEAST_MEMORY = 2**20
# Seconds to wait for workers. A job may stand in its queue for a day.
_CONNECT, _NO_WORKERS, _QUEUE = 60.0, 300.0, 86400.0

# Named, not imported: what watches stands above what computes.
_PAGE = "hlmm_dask.view.preload"
_PRELOAD = "distributed.scheduler.preload"


@dataclass(frozen=True)
class ClusterOptions:
    """Where a scan runs.

    Attributes
    ----------
    scheduler : str, optional
        Address of a running scheduler (``tcp://host:port``, ``tls://host:port``).
    scheduler_file : str, optional
        File in which a running scheduler left its address.
    workers : int, optional
        Worker processes of a cluster of one's own; one for each core by default.
    threads_per_worker : int
        Threads of each.
    memory_limit : str or int
        Memory of each, as Dask takes it (``"4GiB"``, bytes, ``"auto"``, 0 for no limit).
    timeout : float, optional
        Seconds to wait for a scheduler and its first worker: a minute, a day for a batch system.
    no_workers_timeout : float, optional
        Seconds without any worker after which a scan ends: five minutes, or a day.
    tls_ca, tls_cert, tls_key : str, optional
        Files of the authority, and of the client's certificate and key, for ``tls://``.
    insecure : bool
        Allow unencrypted connections beyond this machine.
    jobqueue : str, optional
        Start workers as jobs of this batch system: slurm, lsf, sge or pbs.
    queue, account, walltime, local_directory : str, optional
        Of these jobs. What is not given comes from Dask's configuration.
    cores : int, optional
        Cores of each job; by default those of one worker.
    jobqueue_option : tuple of str
        Further keywords of dask-jobqueue's cluster, ``"key=value"``.
    shared_directory : str, optional
        Folder that jobs see too, for temporary credentials.
    """

    scheduler: str | None = None
    scheduler_file: str | None = None
    workers: int | None = None
    threads_per_worker: int = 1
    memory_limit: str | int = "auto"
    timeout: float | None = None
    no_workers_timeout: float | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    insecure: bool = False
    jobqueue: str | None = None
    queue: str | None = None
    account: str | None = None
    walltime: str | None = None
    local_directory: str | None = None
    cores: int | None = None
    jobqueue_option: tuple[str, ...] = ()
    shared_directory: str | None = None

    @property
    def address(self) -> str | None:
        """Address of the running scheduler, None where a cluster is started."""
        return scheduler_address(self.scheduler_file) if self.scheduler_file else self.scheduler

    @property
    def is_local(self) -> bool:
        """Whether a cluster is started on this machine."""
        return not (self.scheduler or self.scheduler_file or self.jobqueue)

    @property
    def connect_timeout(self) -> float:
        """Seconds to wait for a scheduler and its first worker."""
        return self.timeout or (_QUEUE if self.jobqueue else _CONNECT)

    @property
    def patience(self) -> float:
        """Seconds without any worker after which a scan ends."""
        return self.no_workers_timeout or (_QUEUE if self.jobqueue else _NO_WORKERS)

    def check(self) -> None:
        """Raise an `InputError` for options that contradict each other or can't be met."""
        require_of(self)
        for name, value in (
            ("workers", self.workers),
            ("threads-per-worker", self.threads_per_worker),
            ("cores", self.cores),
        ):
            if value is not None and value < 1:
                raise InputError(f"--{name} {value}: expected at least 1")
        for name, seconds in (
            ("connect-timeout", self.timeout),
            ("no-workers-timeout", self.no_workers_timeout),
        ):
            if seconds is not None and not seconds > 0:
                raise InputError(f"--{name} {seconds:g}: expected seconds above 0, or inf")
        self._check_memory_limit()
        if self.jobqueue:
            if self.jobqueue not in SYSTEMS:
                raise InputError(f"--jobqueue {self.jobqueue}: expected {', '.join(SYSTEMS)}")
            queue_settings(self)
        if self.is_local:
            require_open_files(self.workers or len(os.sched_getaffinity(0)))
            require_sockets()
            private_folder()
        elif self.jobqueue:
            require_open_files(self.workers or 1)
        address = self.address
        if address is not None:
            check_address(address, insecure=self.insecure)
            client_security(address, ca=self.tls_ca, cert=self.tls_cert, key=self.tls_key)

    def _check_memory_limit(self) -> None:
        if self.memory_limit in ("auto", "0", 0):
            return
        try:
            size = dask.utils.parse_bytes(self.memory_limit)
        except (ValueError, OverflowError, TypeError, AttributeError):
            size = 0
        # Dask takes numbers up to 1 for shares of the machine's memory.
        if size < _LEAST_MEMORY:
            raise InputError(
                f"--memory-limit {self.memory_limit}: expected a size such as 4GiB, auto, or 0 for "
                "no limit"
            )


@contextmanager
def connect(options: ClusterOptions) -> Iterator[Client]:
    """Connect to the cluster that the options name, or start one.

    Raises
    ------
    InputError
        If there is no scheduler, or no worker, in the given time, or they can't be used.
    """
    options.check()
    with ExitStack() as stack:
        stack.enter_context(dask.config.set({_PRELOAD: [*dask.config.get(_PRELOAD), _PAGE]}))
        if options.address is not None:
            client = stack.enter_context(_running(options, options.address))
        elif options.jobqueue:
            client = stack.enter_context(queue_client(options))
        else:
            client = stack.enter_context(local_client(options))
        try:
            client.wait_for_workers(1, timeout=options.connect_timeout)
        except TimeoutError as error:
            raise InputError(_no_worker(options)) from error
        except OSError as error:
            place = options.address or "the cluster of this scan"
            raise InputError(
                f"{place}: the scheduler went away before the scan began; start it again"
            ) from error
        yield client


def _running(options: ClusterOptions, address: str) -> Client:
    security = client_security(
        address, ca=options.tls_ca, cert=options.tls_cert, key=options.tls_key
    )
    require_answer(address, security, timeout=options.connect_timeout)
    try:
        with warnings.catch_warnings():
            # Different versions are named by the probe of the workers, in one line.
            warnings.simplefilter("ignore", VersionMismatchWarning)
            client: Client = Client(
                address, security=security, timeout=options.connect_timeout, set_as_default=False
            )
            return client
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        reason = f"{error}".partition("\n")[0] or type(error).__name__
        raise InputError(f"{address}: no Dask scheduler answers ({reason})") from error


def _no_worker(options: ClusterOptions) -> str:
    waited = f"no worker within {options.connect_timeout:g} s"
    if options.jobqueue:
        return f"--jobqueue {options.jobqueue}: {waited}; are the jobs waiting, or did they fail?"
    return f"{options.address}: {waited}; start workers with 'dask worker {options.address}'"
