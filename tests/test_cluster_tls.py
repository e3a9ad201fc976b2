"""Encrypted clusters: two machines made of network namespaces, and who is let in."""

import json
import socket
import ssl
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from clusters import Authority, address_in, environment, make_authority, processes
from distributed import Client
from distributed.comm.addressing import get_address_host_port
from studies import Study

import hlmm_dask
from hlmm_dask import InputError, fit_null, read_models_table
from hlmm_dask.scanning.cluster import ClusterOptions, connect


@dataclass(frozen=True)
class Machine:
    """A machine: its address, and the start of a command that runs another one on it."""

    host: str
    within: list[str]


@pytest.fixture
def machines() -> Iterator[tuple[Machine, Machine]]:
    """Two network namespaces joined by a cable."""
    tag = uuid.uuid4().hex[:8]
    names = [f"hlmm-{tag}-a", f"hlmm-{tag}-b"]
    hosts = ["10.213.77.1", "10.213.77.2"]

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    with ExitStack() as stack:
        try:
            for name in names:
                ip("netns", "add", name)
                stack.callback(ip, "netns", "del", name)
            ip("link", "add", "cable", "netns", names[0], "type", "veth",
               "peer", "name", "cable", "netns", names[1])  # fmt: skip
            for name, host in zip(names, hosts, strict=True):
                ip("-n", name, "addr", "add", f"{host}/24", "dev", "cable")
                ip("-n", name, "link", "set", "cable", "up")
                ip("-n", name, "link", "set", "lo", "up")
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"network namespaces are not allowed here ({error})")
        a, b = (
            Machine(host, ["ip", "netns", "exec", name])
            for name, host in zip(names, hosts, strict=True)
        )
        yield a, b


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "theirs")


SCANS = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from hlmm_dask.cli import scan_main
found = []
for arguments in json.load(sys.stdin):
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as err:
        found.append((scan_main(arguments), err.getvalue()))
print(json.dumps(found))
"""


@pytest.mark.slow
def test_two_machines(
    study: Study, machines: tuple[Machine, Machine], ours: Authority, theirs: Authority
) -> None:
    """A scheduler with TLS on one, one without on the other; each is used from the other one."""
    here, there = machines
    with processes(study.folder) as started:
        _, secure = started.scheduler(
            *ours.dask_options, "--protocol", "tls", host=here.host, name="secure",
            within=here.within,
        )  # fmt: skip
        _, plain = started.scheduler(host=there.host, name="plain", within=there.within)
        # A worker on the other machine than its scheduler.
        started.worker(secure, *ours.dask_options, within=there.within)
        started.worker(plain, within=there.within)
        address = address_in(secure)
        assert address.startswith(f"tls://{here.host}:")

        def scan(machine: Machine, *scans: list[object]) -> list[tuple[int, str]]:
            """Exit codes and last lines of scans, one after another in a process over there."""
            common = [study.bed, study.pheno, "--connect-timeout", 20]
            told = json.dumps([[*map(str, [*common, *options])] for options in scans])
            done = subprocess.run(
                [*machine.within, sys.executable, "-c", SCANS], input=told, capture_output=True,
                text=True, cwd=study.folder, timeout=120, env=environment(), check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            assert "Traceback" not in done.stdout
            return [(code, err.strip().splitlines()[-1]) for code, err in json.loads(done.stdout)]

        foreign = ["--tls-ca", ours.ca, "--tls-cert", theirs.cert, "--tls-key", theirs.key]
        unencrypted = address.replace("tls://", "tcp://")
        tls, no = study.out("tls"), study.out("no")
        (code, last), *refused = scan(
            there,
            [tls, "--scheduler", address, *ours.options],
            # Refused: without a certificate, with another authority's, without encryption.
            [no, "--scheduler-file", secure],
            [no, "--scheduler", address, *foreign],
            [no, "--scheduler", address, *theirs.options],
            [no, "--scheduler", unencrypted],
            [no, "--scheduler", unencrypted, "--insecure"],
        )
        assert code == 0, last
        for (code, last), expected in zip(
            refused,
            (
                "needs --tls-ca, --tls-cert and --tls-key",
                "refuses this certificate",
                "not signed by --tls-ca",
                "--insecure",
                "without TLS; if it uses TLS",
            ),
            strict=True,
        ):
            assert (code, expected in last) == (2, True), last
        # The other scheduler is only used when it is asked for.
        (code, last), (done, text) = scan(
            here,
            [no, "--scheduler-file", plain],
            [study.out("plain"), "--scheduler-file", plain, "--insecure"],
        )
        assert (code, "--insecure" in last) == (2, True), last
        assert not list(study.folder.glob("no*"))
        assert done == 0, text
    tables = [read_models_table(study.out(f"{name}.models.gz")) for name in ("tls", "plain")]
    assert tables[0].equals(tables[1])


def test_on_loopback(study: Study, ours: Authority, theirs: Authority, client: Client) -> None:
    """Dask itself refuses who has no certificate; the scan says why."""
    null = fit_null(study.bed, study.pheno)
    with processes(study.folder) as started:
        _, file = started.scheduler(*ours.dask_options, "--protocol", "tls")
        started.worker(file, *ours.dask_options)
        address = address_in(file)
        files = {"tls_ca": str(ours.ca), "tls_cert": str(ours.cert), "tls_key": str(ours.key)}
        results = hlmm_dask.scan(
            study.bed, null, cluster=ClusterOptions(scheduler_file=str(file), **files)
        )
        context = ssl.create_default_context(cafile=ours.ca)
        with (
            socket.create_connection(get_address_host_port(address)) as plain,
            pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"),
            context.wrap_socket(plain, server_hostname="127.0.0.1") as encrypted,
        ):
            encrypted.recv(1)
        foreign = files | {"tls_cert": str(theirs.cert), "tls_key": str(theirs.key)}
        for change, message in (
            (foreign, "refuses this certificate"),
            (files | {"tls_ca": str(theirs.ca)}, "not signed by --tls-ca"),
            (files | {"tls_key": str(theirs.key)}, "can't be used as a TLS certificate"),
            (files | {"tls_cert": ""}, "needs --tls-ca"),
        ):
            options = ClusterOptions(scheduler=address, timeout=20.0, **change)
            with pytest.raises(InputError, match=message), connect(options):
                pass
    assert results.equals(hlmm_dask.scan(study.bed, null, client=client))
