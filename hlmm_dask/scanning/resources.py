"""What a scan has to run on: workers, their threads, their memory."""

import logging
import os
from dataclasses import dataclass

from dask.utils import parse_bytes
from distributed import Client
from distributed.system import MEMORY_LIMIT
from distributed.worker_memory import parse_memory_limit

from hlmm_dask.scanning.cluster import ClusterOptions
from hlmm_dask.scanning.connection import Connection
from hlmm_dask.scanning.jobqueue import queue_settings


@dataclass(frozen=True)
class Resources:
    """Workers, all alike; where they differ, the one with the least memory a thread counts.

    Attributes
    ----------
    n_workers : int
        Worker processes.
    threads : int
        Threads of each: so many blocks are fitted at the same time.
    memory_limit : int or None
        Bytes that each may take; None without a limit.
    """

    n_workers: int
    threads: int = 1
    memory_limit: int | None = None


def resources_of(connection: Connection) -> Resources:
    """Resources of the cluster that is there, or of the one that would be started."""
    if connection.is_there:
        return cluster_resources(connection.client())
    if connection.options.jobqueue:
        return job_resources(connection.options)
    return local_resources(connection.options)


def job_resources(options: ClusterOptions) -> Resources:
    """Resources of the jobs that the options would submit."""
    settings = queue_settings(options)
    processes = settings["processes"]
    limit = parse_bytes(settings["memory"]) // processes
    n_jobs = -(-(options.workers or 1) // processes)
    return Resources(n_jobs * processes, options.threads_per_worker, limit)


def local_resources(options: ClusterOptions) -> Resources:
    """Resources of the cluster that the options would start on this machine."""
    n_workers = options.workers or len(os.sched_getaffinity(0))
    threads = options.threads_per_worker
    # What it has to say, the workers say.
    quiet = logging.Logger(__name__, logging.CRITICAL)
    limit = parse_memory_limit(options.memory_limit, threads, logger=quiet)
    if limit is not None and options.memory_limit == "auto":
        # Dask shares by cores: of more workers than cores, each gets too much.
        limit = min(limit, MEMORY_LIMIT // n_workers)
    return Resources(n_workers, threads, limit)


def cluster_resources(client: Client) -> Resources:
    """Resources of a cluster that runs."""
    workers = list(client.scheduler_info(n_workers=-1)["workers"].values())
    limited = [worker for worker in workers if worker["memory_limit"]]
    if not limited:
        return Resources(len(workers), max((w["nthreads"] for w in workers), default=1))
    least = min(limited, key=lambda worker: worker["memory_limit"] / worker["nthreads"])
    return Resources(len(workers), least["nthreads"], least["memory_limit"])
