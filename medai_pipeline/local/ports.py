"""Ports: is one free, who has it, does something answer."""

from __future__ import annotations

import socket

import psutil

from medai_pipeline.errors import StackError

LOOPBACK = "127.0.0.1"


def require_free(port: int, setting: str) -> None:
    """Raises StackError that names the setting and, where the system tells, the process that has the port."""
    if not 0 < port < 65536:
        raise StackError(f"{setting} must be a port number from 1 to 65535")
    for address in (LOOPBACK, ""):  # "" is every interface: Orthanc before 1.12.10 binds all of them
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except PermissionError as error:
                raise StackError(
                    f"port {port} ({setting}) is reserved for root: set {setting} to 1024 or more"
                ) from error
            except OSError as error:
                raise StackError(
                    f"port {port} ({setting}) is in use{_holder(port)}: stop that, or set {setting} to another port"
                ) from error


def require_distinct(ports: dict[str, int]) -> None:
    """`ports`: setting -> port. Raises StackError when two settings name the same port."""
    seen: dict[int, str] = {}
    for setting, port in ports.items():
        if port in seen:
            raise StackError(f"{seen[port]} and {setting} name the same port {port}: change one")
        seen[port] = setting


def answers(port: int, host: str = LOOPBACK) -> bool:
    """Whether something accepts connections there; on every interface is on loopback, too."""
    place = LOOPBACK if host in ("0.0.0.0", "::", "") else host
    try:
        with socket.create_connection((place, port), timeout=1):
            return True
    except OSError:
        return False


def free_port() -> int:
    """A port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def _holder(port: int) -> str:
    """ " by pid 12 (name)"; "" when the system does not tell (another user's process)."""
    try:
        connections = psutil.net_connections(kind="tcp")
        pid = next(c.pid for c in connections if c.status == psutil.CONN_LISTEN and c.laddr.port == port and c.pid)
        return f" by pid {pid} ({psutil.Process(pid).name()})"
    except (StopIteration, psutil.Error):
        return ""
