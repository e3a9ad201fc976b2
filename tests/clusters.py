"""Schedulers, workers and batch systems that tests start as processes of their own."""

import asyncio
import datetime
import importlib
import ipaddress
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from distributed import Client, Security, rpc
from distributed.protocol.pickle import dumps

from hlmm_dask.cli import scan_main
from hlmm_dask.scanning.fork_server import start_fork_server

# By default each process of Dask looks at itself 50 to 100 times a second, idle ones too.
HOUSEKEEPING = {
    "DASK_DISTRIBUTED__WORKER__PROFILE__INTERVAL": "1s",
    "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "500ms",
}
FORKED = {"distributed.worker.multiprocessing-method": "forkserver"}

ROOT = Path(__file__).resolve().parents[1]
SCAN = ROOT / "scripts" / "scan.py"


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.02)


def environment(more: Mapping[str, str] = {}) -> dict[str, str]:
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
    return os.environ | {"PYTHONPATH": path} | dict(more)


@cache
def fork_server() -> None:
    """Let the process that others are forked from have done their imports."""
    start_fork_server()


def settle(folder: Path, log: str) -> None:
    """Make a forked process one of a session of its own, in a folder, with its output in a file."""
    os.setsid()
    os.chdir(folder)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(file, stream)


def serve(role: str, arguments: Sequence[str], folder: Path) -> None:
    """Be Dask's scheduler or worker: the whole of a forked process."""
    settle(folder, "processes.log")
    module = importlib.import_module(f"distributed.cli.dask_{role}")
    module.main(arguments, prog_name=f"dask {role}")


def scan(arguments: Sequence[str], folder: Path, log: str) -> None:
    """Be a scan on a cluster that is there."""
    settle(folder, log)
    sys.exit(scan_main(arguments))


@dataclass(frozen=True)
class Forked:
    """A process with all imports done, as one that `subprocess` has started."""

    process: ForkServerProcess

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> None:
        self.process.join(timeout)
        assert self.poll() is not None


Process = subprocess.Popen[str] | Forked


@dataclass(frozen=True)
class Processes:
    """A scheduler and workers; ended with the test.

    ``within`` is the start of a command that runs another one somewhere else.
    """

    folder: Path
    stack: ExitStack

    def start(
        self,
        command: Sequence[str],
        *,
        within: Sequence[str] = (),
        env: Mapping[str, str] = {},
    ) -> Process:
        log = self.stack.enter_context((self.folder / "processes.log").open("a"))
        process = subprocess.Popen(
            [*within, *command], stdout=log, stderr=log, text=True, start_new_session=True,
            cwd=self.folder, env=environment(env),
        )  # fmt: skip
        self.stack.callback(end, process)
        return process

    def dask(
        self, role: str, *arguments: str, within: Sequence[str] = (), env: Mapping[str, str] = {},
    ) -> Process:  # fmt: skip
        if within or env:
            command = [sys.executable, "-m", f"distributed.cli.dask_{role}", *arguments]
            return self.start(command, within=within, env=env)
        return self.fork(serve, role, arguments, self.folder)

    def fork(self, target: Callable[..., None], *arguments: object) -> Forked:
        fork_server()
        process = multiprocessing.get_context("forkserver").Process(target=target, args=arguments)
        process.start()
        forked = Forked(process)
        self.stack.callback(end, forked)
        return forked

    def scheduler(
        self, *options: str, host: str = "127.0.0.1", name: str = "scheduler",
        within: Sequence[str] = (),
    ) -> tuple[Process, Path]:  # fmt: skip
        file = self.folder / f"{name}.json"
        process = self.dask(
            "scheduler", "--host", host, "--port", "0", "--dashboard-address", "127.0.0.1:0",
            "--scheduler-file", str(file), *options, within=within,
        )  # fmt: skip
        wait_until(lambda: file.exists() and address_in(file))
        return process, file

    def worker(
        self, file: Path, *options: str, within: Sequence[str] = (), env: Mapping[str, str] = {},
    ) -> Process:  # fmt: skip
        return self.dask(
            "worker", address_in(file), "--no-nanny", "--nthreads", "1", "--memory-limit", "0",
            "--no-dashboard", *options, within=within, env=env,
        )  # fmt: skip


def address_in(file: Path) -> str:
    try:
        return str(json.loads(file.read_text())["address"])
    except ValueError:
        return ""


def end(process: Process) -> None:
    """Kill a process and those that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # One that was just forked may not lead its group yet.
    process.kill()
    process.wait()


@contextmanager
def processes(folder: Path) -> Iterator[Processes]:
    with ExitStack() as stack:
        yield Processes(folder, stack)


def run_scan(
    *arguments: object,
    cwd: Path,
    within: Sequence[str] = (),
    env: Mapping[str, str] = {},
) -> "subprocess.CompletedProcess[str]":
    """Run scan.py as a process."""
    return subprocess.run(
        [*within, sys.executable, str(SCAN), *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, check=False, timeout=120, env=environment(env),
    )  # fmt: skip


def intruder(uid: int, addresses: Sequence[tuple[str, str]], found: Connection) -> None:
    """Be another user, who tries to run a function at each address, by TLS and without."""
    own = Security.temporary()
    # What Dask imports when it connects may lie where the other user can't read.
    asyncio.run(_intrude(addresses[:1], own))
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    found.send((os.getuid(), asyncio.run(_intrude(addresses, own))))


def visitor(uid: int, address: str, found: Connection) -> None:
    """Be another user, who looks at a page."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            found.send((os.getuid(), answer.status))
    except urllib.error.HTTPError as error:
        found.send((os.getuid(), error.code))


async def _intrude(addresses: Sequence[tuple[str, str]], own: Security) -> list[list[str]]:
    async def by_rpc(address: str, security: Security | None) -> object:
        arguments = security.get_connection_args("client") if security else {}
        async with rpc(address, connection_args=arguments) as other:
            return await other.run(function=dumps(os.getuid))

    async def by_client(address: str, security: Security | None) -> object:
        async with Client(address, security=security, asynchronous=True, timeout=3) as client:
            return await client.submit(os.getuid, pure=False)

    found = []
    for role, address in addresses:
        place = address.partition("://")[2]
        for way in (by_client, by_rpc) if role == "scheduler" else (by_rpc,):
            for protocol, security in (("tcp", None), ("tls", own)):
                try:
                    answer = await asyncio.wait_for(way(f"{protocol}://{place}", security), 4)
                except Exception as error:
                    answer = type(error).__name__
                found.append([role, way.__name__, protocol, str(answer)])
    return found


# Certificates


@dataclass(frozen=True)
class Authority:
    """A certificate authority in a folder, and one certificate signed by it."""

    ca: Path
    cert: Path
    key: Path

    @property
    def options(self) -> list[str]:
        return ["--tls-ca", str(self.ca), "--tls-cert", str(self.cert), "--tls-key", str(self.key)]

    @property
    def dask_options(self) -> list[str]:
        return [
            "--tls-ca-file", str(self.ca), "--tls-cert", str(self.cert), "--tls-key", str(self.key),
        ]  # fmt: skip


def make_authority(folder: Path) -> Authority:
    folder.mkdir()
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority {folder.name}")])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, folder.name)])
    now = datetime.datetime.now(datetime.UTC)

    def certificate(subject: x509.Name, public: ec.EllipticCurvePublicKey, ca: bool) -> bytes:
        signed = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
                critical=False,
            )
            .sign(ca_key, hashes.SHA256())
        )
        return signed.public_bytes(serialization.Encoding.PEM)

    made = Authority(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    made.ca.write_bytes(certificate(ca_name, ca_key.public_key(), True))
    made.cert.write_bytes(certificate(name, key.public_key(), False))
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return made
