"""Workers as jobs of a batch system: Slurm, LSF, SGE, PBS, through dask-jobqueue."""

import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
from distributed import Client, Security
from distributed.core import Status

from hlmm_dask.durable import aside, leftovers
from hlmm_dask.errors import InputError

if TYPE_CHECKING:
    from hlmm_dask.scanning.cluster import ClusterOptions

SYSTEMS = ("slurm", "lsf", "sge", "pbs")
# Workers show their state to their scheduler, by TLS; what they serve without, nobody else reaches.
_NO_HTTP = ("--no-dashboard", "--dashboard-address", "127.0.0.1:0")
_LISTS = ("job_extra_directives", "job_directives_skip", "job_script_prologue", "worker_extra_args")
_INSTALL = "install it with: pip install 'hlmm-dask[hpc]'"
_WALLTIME = re.compile(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?")


def queue_settings(options: "ClusterOptions") -> dict[str, Any]:
    """Translate options into the keywords of dask-jobqueue's cluster.

    What isn't given is left to Dask's configuration (``jobqueue.slurm`` and so on).

    Raises
    ------
    InputError
        If options are missing or can't be understood, or the batch system isn't there.
    """
    system = options.jobqueue
    cluster_class = _cluster_class(system)
    command = cluster_class.job_cls.submit_command
    if shutil.which(command) is None:
        raise InputError(f"--jobqueue {system}: no {command} here; run where jobs are submitted")
    given = _given(options.jobqueue_option)

    def configured(key: str) -> Any:
        return dask.config.get(f"jobqueue.{system}.{key}", None)

    cores = options.cores or configured("cores") or options.threads_per_worker
    processes, rest = divmod(cores, options.threads_per_worker)
    if rest or processes < 1:
        raise InputError(
            f"--cores {cores}: expected a multiple of --threads-per-worker "
            f"({options.threads_per_worker})"
        )
    if options.memory_limit not in ("auto", "0", 0):
        memory = f"{processes * dask.utils.parse_bytes(options.memory_limit)}B"
    elif "memory" in given or configured("memory"):
        memory = given.get("memory") or configured("memory")
    else:
        raise InputError(
            f"--jobqueue {system}: say how much memory a worker needs, as in --memory-limit 4GiB"
        )
    walltime = options.walltime or str(given.get("walltime") or configured("walltime"))
    seconds = _seconds(walltime, system)
    # Workers leave before the batch system kills them, and not all at once.
    margin = min(300.0, seconds / 20)
    lifetime = ["--lifetime", f"{seconds - 2 * margin:.0f}s",
                "--lifetime-stagger", f"{margin:.0f}s"]  # fmt: skip
    settings: dict[str, Any] = {
        "cores": cores,
        "processes": processes,
        "memory": memory,
        "walltime": _written(seconds, system),
        "scheduler_options": {"dashboard_address": "127.0.0.1:0"}
        | (configured("scheduler-options") or {}),
    }
    if options.queue:
        settings["queue"] = options.queue
    if options.account:
        settings["account" if system in ("slurm", "pbs") else "project"] = options.account
    if options.local_directory:
        settings["local_directory"] = options.local_directory
    more = given.pop("worker_extra_args", None) or configured("worker-extra-args") or []
    given.pop("walltime", None)
    return settings | given | {"worker_extra_args": [*lifetime, *_NO_HTTP, *more]}


@contextmanager
def queue_client(options: "ClusterOptions") -> Iterator[Client]:
    """Submit the jobs and give a client; jobs that end are replaced, all are cancelled at the end.

    Connections are encrypted, with credentials for this run alone, unless ``insecure``.

    Raises
    ------
    InputError
        If the batch system refuses the jobs.
    """
    settings = queue_settings(options)
    refusals: list[str] = []
    cluster_class = _cluster_class(options.jobqueue)
    jobs = -(-(options.workers or 1) // settings["processes"])
    with ExitStack() as stack:
        security = None if options.insecure else stack.enter_context(_credentials(options))
        try:
            cluster = cluster_class(
                security=security, job_cls=_noting(cluster_class.job_cls, refusals), **settings
            )
        except (TypeError, ValueError, OSError) as error:
            raise InputError(f"--jobqueue {options.jobqueue}: {error}") from error
        stack.enter_context(cluster)
        cluster.scale(jobs=jobs)
        cluster.sync(_settled, cluster)
        if refusals:
            raise InputError(f"--jobqueue {options.jobqueue}: {_refusal(refusals[0])}")
        # From now on jobs that end, at their walltime for instance, are submitted again.
        cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)
        yield stack.enter_context(Client(cluster, set_as_default=False))


@contextmanager
def _credentials(options: "ClusterOptions") -> Iterator[Security]:
    """Give credentials for this run alone, in files that jobs and nobody else can read."""
    held = Security.temporary().get_tls_config_for_role("client")
    where = Path(options.shared_directory or ".").absolute()
    with ExitStack() as stack:
        for old in leftovers(where, "hlmm-tls", "keys", elsewhere=False):
            shutil.rmtree(old, ignore_errors=True)
        folder = aside(where / "hlmm-tls", "keys")
        folder.mkdir(mode=0o700)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        files = {name: str(folder / f"{name}.pem") for name in held if held[name]}
        for name, path in files.items():
            Path(path).write_text(held[name])
        roles = {
            f"tls_{role}_{name}": files[name]
            for role in ("scheduler", "worker", "client")
            for name in ("cert", "key")
        }
        yield Security(require_encryption=True, tls_ca_file=files["ca_file"], **roles)


def _noting(job_class: Any, refusals: list[str]) -> Any:
    """Extend a class of jobs: Dask only logs that a job was refused."""

    class NotingJob(job_class):  # type: ignore[misc]  # no types
        async def start(self) -> None:
            try:
                await super().start()
            except RuntimeError as error:
                refusals.append(str(error))
                # As a job without a number it can be closed with the others.
                self.status = Status.running

    return NotingJob


async def _settled(cluster: Any) -> None:
    await cluster


def _refusal(account: str) -> str:
    """Find what the batch system's command said, from dask-jobqueue's account of it."""
    said = account.partition("stderr:")[2] or account
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[0] if lines else "the jobs were refused"


def _cluster_class(system: str | None) -> Any:
    handler = signal.getsignal(signal.SIGINT)
    try:
        import dask_jobqueue
    except ImportError:
        raise InputError(f"--jobqueue needs the package dask-jobqueue; {_INSTALL}") from None
    except ValueError:
        raise InputError(
            "--jobqueue: dask-jobqueue can be imported by the main thread alone; "
            "import dask_jobqueue before"
        ) from None
    finally:
        # Its import replaces the handler: an interrupt would end the process with exit code 0.
        if signal.getsignal(signal.SIGINT) is not handler:
            signal.signal(signal.SIGINT, handler)
    return getattr(dask_jobqueue, f"{str(system).upper()}Cluster")


def _given(pairs: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not (equals and key.isidentifier()):
            raise InputError(
                f"--jobqueue-option '{pair}': expected KEY=VALUE, a keyword of dask-jobqueue's "
                "cluster, as in interface=ib0"
            )
        if key in _LISTS:
            found.setdefault(key, []).append(value)
        elif value.lower() in ("true", "false"):
            found[key] = value.lower() == "true"
        else:
            found[key] = int(value) if value.isdecimal() else value
    return found


def _seconds(walltime: str, system: str | None) -> int:
    match = _WALLTIME.fullmatch(walltime.strip())
    if match is None or (system != "lsf" and match[4] is None and match[1] is None):
        raise InputError(f"--walltime {walltime}: expected hours, minutes, seconds as in 08:00:00")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if total < 60:
        raise InputError(f"--walltime {walltime}: expected at least a minute")
    return total


def _written(seconds: int, system: str | None) -> str:
    minutes = seconds // 60
    text = f"{minutes // 60:02d}:{minutes % 60:02d}"
    return text if system == "lsf" else f"{text}:{seconds % 60:02d}"
