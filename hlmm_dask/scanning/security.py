"""Which scheduler a scan may talk to, and with which credentials."""

import ipaddress
import json
import socket
import ssl
import time
from contextlib import suppress
from pathlib import Path

from distributed import Security
from distributed.comm.addressing import get_address_host_port, parse_address
from distributed.comm.inproc import global_manager

from hlmm_dask.errors import InputError

_ENCRYPTED = ("tls", "wss")
# Seconds in which a scheduler that has been reached says something.
_PATIENCE = 5.0
_SCHEMES = ("tcp", "tls", "ws", "wss", "ucx", "inproc")
# Dask's messages begin with their length, and a greeting is short.
_LENGTH_BYTES, _GREETING_BYTES = 8, 1 << 20


def scheduler_address(scheduler_file: str) -> str:
    """Read the address that a scheduler left in its file.

    Raises
    ------
    InputError
        If there is no such file, or no address in it.
    """
    try:
        address = json.loads(Path(scheduler_file).read_text())["address"]
        if not (isinstance(address, str) and "://" in address):
            raise ValueError
        return address
    except FileNotFoundError:
        raise InputError(f"{scheduler_file}: no such scheduler file") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{scheduler_file}: no address in it; expected what 'dask scheduler "
            f"--scheduler-file {scheduler_file}' writes"
        ) from None


def is_loopback(address: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    scheme, location = parse_address(address)
    if scheme == "inproc":
        return True
    host = location.rpartition(":")[0] or location
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_address(address: str, *, insecure: bool) -> None:
    """Refuse an unencrypted connection to another machine, unless it is asked for.

    Whoever reaches a Dask scheduler can run code on its workers.
    """
    try:
        scheme, _ = parse_address(address)
        local = is_loopback(address)
    except ValueError as error:
        raise InputError(
            f"--scheduler {address}: {error}; expected such as tls://host:8786"
        ) from None
    if scheme not in _SCHEMES:
        raise InputError(f"--scheduler {address}: expected such as tls://host:8786")
    if not (insecure or local or scheme in _ENCRYPTED):
        raise InputError(
            f"{address}: an unencrypted scheduler beyond this machine lets anyone on the network "
            "run code as you; start it with TLS and give tls://, --tls-ca, --tls-cert and "
            "--tls-key, or give --insecure"
        )


def client_security(
    address: str, *, ca: str | None, cert: str | None, key: str | None
) -> Security | None:
    """Credentials for an encrypted address: the given files, else those of Dask's configuration.

    Returns
    -------
    Security or None
        None for an address without TLS.

    Raises
    ------
    InputError
        If there are none, or they can't be used.
    """
    encrypted = parse_address(address)[0] in _ENCRYPTED
    if not encrypted:
        if ca or cert or key:
            raise InputError(f"{address}: --tls-ca, --tls-cert and --tls-key need a tls:// address")
        return None
    files = {"tls_ca_file": ca, "tls_client_cert": cert, "tls_client_key": key}
    security = Security(require_encryption=True, **{k: v for k, v in files.items() if v})
    held = security.get_tls_config_for_role("client")
    if not (held["ca_file"] and held["cert"]):
        raise InputError(
            f"{address}: needs --tls-ca, --tls-cert and --tls-key: the authority that signed the "
            "scheduler's certificate, and a certificate of yours with its key"
        )
    for option, path in (("ca", ca), ("cert", cert), ("key", key)):
        if path and not Path(path).is_file():
            raise InputError(f"--tls-{option} {path}: no such file")
    try:
        security.get_connection_args("client")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{cert or held['cert']}: can't be used as a TLS certificate with its key ({error})"
        ) from None
    return security


def require_answer(address: str, security: Security | None, *, timeout: float) -> None:
    """Wait until a scheduler answers, or say why it will not.

    Dask tries again until its time is over, whatever the reason.

    Raises
    ------
    InputError
        If nothing answers in time, or the two sides don't accept each other.
    """
    scheme, location = parse_address(address)
    if scheme == "inproc" and not _is_in_this_process(location):
        raise InputError(
            f"{address}: no such scheduler in this process; one of another process is reached by "
            "its tcp:// or tls:// address"
        )
    if scheme not in ("tcp", "tls"):
        return
    try:
        host, port = get_address_host_port(address)
    except ValueError as error:
        raise InputError(f"{address}: {error}") from None
    until = time.monotonic() + timeout
    while True:
        try:
            with socket.create_connection((host, port), timeout=_PATIENCE) as plain:
                _listen(address, plain, security)
            return
        except ssl.SSLCertVerificationError as error:
            raise InputError(
                f"{address}: the scheduler's certificate was not signed by --tls-ca "
                f"({error.verify_message})"
            ) from None
        except ssl.SSLError as error:
            raise InputError(
                f"{address}: the scheduler refuses this certificate ({error.reason}); give one "
                "that its authority has signed with --tls-cert and --tls-key"
            ) from None
        except OSError as error:
            if time.monotonic() > until:
                raise InputError(f"{address}: no Dask scheduler answers ({error})") from error
        time.sleep(0.1)


def _is_in_this_process(location: str) -> bool:
    try:
        return global_manager.get_listener_for(location) is not None
    except ValueError:
        return False


def _listen(address: str, plain: socket.socket, security: Security | None) -> None:
    # Both sides begin with a greeting: its first bytes, or none, tell whether we are accepted.
    if security is None:
        if not _greets(plain):
            raise InputError(
                f"{address}: no Dask scheduler answers without TLS; if it uses TLS, give "
                "tls://, --tls-ca, --tls-cert and --tls-key"
            )
        return
    context = security.get_connection_args("client")["ssl_context"]
    with context.wrap_socket(plain) as encrypted:
        if not _greets(encrypted):
            raise InputError(f"{address}: no Dask scheduler with TLS answers")


def _greets(connection: socket.socket) -> bool:
    """Whether the other side begins as Dask does; it may be any other server."""
    heard = b""
    with suppress(TimeoutError):
        while len(heard) < _LENGTH_BYTES and (more := connection.recv(_LENGTH_BYTES - len(heard))):
            heard += more
    return len(heard) == _LENGTH_BYTES and int.from_bytes(heard, "little") < _GREETING_BYTES
