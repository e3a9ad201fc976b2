"""Whether a cluster's workers can do the work: their packages, the genotypes, the output folder.

What runs on workers is sent whole, as code: a worker without this package, or with another
version of it, must be able to say so.
"""

import asyncio
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from distributed import Client, LocalCluster, Scheduler, SchedulerPlugin, Worker, WorkerPlugin
from distributed.core import Status

from hlmm_dask.durable import aside, sweep
from hlmm_dask.errors import InputError
from hlmm_dask.scanning.events import Note, Observer, tell

# What the two sides of a connection must have in common.
_PROTOCOL = ("dask", "distributed", "msgpack", "cloudpickle")
_NUMERICS = ("numpy", "numba", "zarr", "hlmm-dask")
_MAX_WORKERS_NAMED = 3
# Seconds in which all workers answer; who has shown no sign of life for a part of that is named.
_LIMIT, _SILENT = 60.0, 0.5
# Seconds in which they drop what the scan has told them.
_FORGET = 5.0


@dataclass(frozen=True)
class Needs:
    """What every worker must have.

    Attributes
    ----------
    files : tuple of (str, int)
        Files that it must see, with their sizes in bytes.
    folders : tuple of str
        Folders in which it must be able to write.
    """

    files: tuple[tuple[str, int], ...] = ()
    folders: tuple[str, ...] = ()


def probe_workers(
    client: Client,
    files: Sequence[tuple[str, int]],
    parents: Iterable[Path],
    *,
    limit: float = _LIMIT,
) -> frozenset[str]:
    """Ask every worker for its packages, the files, and whether it may write.

    Workers of a cluster on this machine that this process has started are not asked: they can't
    differ.

    Parameters
    ----------
    client : Client
        Connected, with at least one worker.
    files : sequence of (str, int)
        Files that all must see, with their sizes in bytes.
    parents : iterable of Path
        Folders in which output will be made.
    limit : float
        Seconds to wait for their answers.

    Returns
    -------
    frozenset of str
        Addresses of the workers that can be used.

    Raises
    ------
    InputError
        With the workers that can't be used, or don't answer, and why.
    """
    if isinstance(client.cluster, LocalCluster):
        return frozenset()
    # First, and by Dask's own means: another Python can't run the code that is sent below.
    _check_protocol(_answer(client, client.get_versions, limit))
    with ExitStack() as stack:
        seen = list(files)
        folders = []
        for parent in dict.fromkeys(path.absolute() for path in parents):
            folder = aside(parent / "hlmm-probe")
            try:
                sweep(parent, "hlmm-probe")
                folder.mkdir()
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
                (folder / "token").write_text("probe")
            except OSError as error:
                raise InputError(f"{parent}: can't be written ({error.strerror})") from None
            # Seen by both sides: it is the same folder.
            seen.append((str(folder / "token"), 5))
            folders.append(str(folder))
        examine = _examination(Needs(tuple(seen), tuple(folders)))
        found = _answer(client, partial(client.run, examine, on_error="return"), limit)
    bad = []
    for worker, problem in found.items():
        if isinstance(problem, OSError):
            continue  # gone meanwhile
        if isinstance(problem, Exception):
            problem = f"the probe failed ({type(problem).__name__}: {problem})"
        if problem is not None:
            bad.append(f"worker {worker}: {problem}")
    if bad:
        rest = len(bad) - _MAX_WORKERS_NAMED
        more = f"; and {rest} more" if rest > 0 else ""
        raise InputError("; ".join(bad[:_MAX_WORKERS_NAMED]) + more)
    return frozenset(worker for worker, problem in found.items() if problem is None)


@contextmanager
def gate(
    client: Client, needs: Needs, passed: frozenset[str], observers: Sequence[Observer]
) -> Iterator[Callable[[], None]]:
    """Let a worker that joins take part only if it has what is needed; else it is closed.

    The check runs while a worker registers, before it takes its first task. It ends with the
    client, also with one that is killed.

    Parameters
    ----------
    client : Client
        Connected.
    needs : Needs
        What a worker must have.
    passed : frozenset of str
        Addresses of workers that need no check.
    observers : sequence of Observer
        Told about workers that are turned away.

    Yields
    ------
    callable
        Tells the observers which workers were turned away since it was last called.
    """
    if isinstance(client.cluster, LocalCluster):
        yield lambda: None
        return
    name = f"hlmm-dask-gate-{uuid.uuid4().hex}"
    turned_away: list[dict[str, str]] = []
    worker_gate, end_of_gate = _plugins(name, _examination(needs), passed, client.id)

    def report() -> None:
        while turned_away:
            event = turned_away.pop(0)
            tell(observers, Note(f"worker {event['worker']} is not used: {event['problem']}"))

    client.subscribe_topic(name, lambda event: turned_away.append(event[1]))
    client.register_plugin(end_of_gate)
    client.register_plugin(worker_gate)
    try:
        yield report
    finally:
        # Without a scheduler there is nothing to take away.
        with suppress(OSError, TimeoutError, ValueError, RuntimeError):
            if client.status == "running":
                # One that hangs would never forget it.
                _within(client, partial(client.unregister_worker_plugin, name), _FORGET)
                client.unregister_scheduler_plugin(f"{name}-end")
                client.unsubscribe_topic(name)


def _plugins(
    name: str, examine: Callable[[], str | None], passed: frozenset[str], client_id: str
) -> tuple[WorkerPlugin, SchedulerPlugin]:
    # Classes of a function's own are sent whole.
    class Gate(WorkerPlugin):
        def __init__(self) -> None:
            self.name = name
            self.closing: asyncio.Task[str | None] | None = None

        async def setup(self, worker: Worker) -> None:
            problem = None if worker.address in passed else examine()
            if problem is not None:
                worker.log_event(name, {"worker": worker.address, "problem": problem})
                # It starts no task from now on.
                worker.status = Status.paused
                # Its nanny answers only when the worker has started, and that waits for us.
                self.closing = asyncio.create_task(
                    worker.close(executor_wait=False, reason=problem)
                )

    class EndOfGate(SchedulerPlugin):
        def __init__(self) -> None:
            self.name: str | None = f"{name}-end"

        def remove_client(self, scheduler: Scheduler, client: str) -> None:
            if client == client_id:
                scheduler.worker_plugins.pop(name, None)
                scheduler.remove_plugin(name=f"{name}-end")

    return Gate(), EndOfGate()


def _answer(client: Client, ask: Callable[[], Any], limit: float) -> dict[str, Any]:
    """Ask all workers; one that hangs, on a file system for instance, is not waited for."""
    try:
        answers: dict[str, Any] = _within(client, ask, limit)
    except TimeoutError:
        known = client.scheduler_info(n_workers=-1)["workers"]
        since = time.time() - _SILENT * limit
        silent = [name for name, worker in known.items() if worker["last_seen"] < since]
        which = ", ".join(silent[:_MAX_WORKERS_NAMED]) or "not known which"
        rest = len(silent) - _MAX_WORKERS_NAMED
        raise InputError(
            f"{len(silent) or 'some'} of {len(known)} workers ({which}"
            f"{f' and {rest} more' if rest > 0 else ''}) did not answer within {limit:g} s; do "
            "they hang, or a file system of theirs? end them, or wait, and start again"
        ) from None
    return answers


def _within(client: Client, ask: Callable[[], Any], limit: float) -> Any:
    async def asked() -> Any:
        # In the client's own thread its calls are coroutines.
        return await ask()

    return client.sync(asked, callback_timeout=limit)


def _check_protocol(versions: dict[str, Any]) -> None:
    here = versions["client"]
    there = {"the scheduler": versions["scheduler"]}
    there |= {f"worker {address}": found for address, found in versions["workers"].items()}
    for who, found in there.items():
        if found is None:
            continue
        for package in ("python", *_PROTOCOL):
            ours, theirs = (v["packages"].get(package) for v in (here, found))
            if package == "python":
                # Code is the same for all patch releases.
                ours, theirs = (".".join(str(v).split(".")[:2]) for v in (ours, theirs))
            if ours != theirs:
                raise InputError(
                    f"{who} has {package} {theirs}, this process {ours}; install the same"
                )


def _examination(needs: Needs) -> Callable[[], str | None]:
    """Make the function that a worker runs; it returns what is wrong, in one line, or None."""
    packages = (*_PROTOCOL, *_NUMERICS)

    def source() -> str | None:
        """Digest of the package's modules."""
        import hashlib
        import importlib.util
        from pathlib import Path

        spec = importlib.util.find_spec("hlmm_dask")
        if spec is None or spec.origin is None:
            return None
        total = hashlib.sha256()
        folder = Path(spec.origin).parent
        for path in sorted(folder.rglob("*.py")):
            name = path.relative_to(folder)
            # Hidden ones are copies and locks of editors.
            if not any(part.startswith(".") for part in name.parts):
                total.update(f"{name}\n".encode() + path.read_bytes())
        return total.hexdigest()

    def versions() -> dict[str, str | None]:
        from importlib.metadata import PackageNotFoundError, version

        found: dict[str, str | None] = {}
        for package in packages:
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                found[package] = None
        return found

    expected, expected_source = versions(), source()

    def examine() -> str | None:
        import os
        import uuid

        for package, theirs in versions().items():
            if theirs != expected[package]:
                return f"has {package} {theirs}, the client {expected[package]}; install the same"
        if source() != expected_source:
            return "has another source of hlmm_dask than the client; install the same"
        for path, size in needs.files:
            try:
                found = os.stat(path).st_size
                with open(path, "rb"):
                    pass
            except OSError as error:
                return f"can't read {path} ({error.strerror}); it must be there on every worker"
            if found != size:
                return f"sees {found} bytes in {path}, the client {size}"
        for folder in needs.folders:
            path = os.path.join(folder, f".hlmm-probe-{uuid.uuid4().hex}")
            try:
                with open(path, "xb"):
                    pass
                os.unlink(path)
            except OSError as error:
                return f"can't write in {folder} ({error.strerror})"
        return None

    return examine
