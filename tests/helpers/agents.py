"""Agents of torchrun that stand for hosts: each in a network namespace of its own, where this machine allows that."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

_BRIDGE = "10.77.9"


class Hosts:
    """Machines that are joined by a network, as far as processes can tell.

    Args:
        names: of the hosts.
        namespaces: they have networks of their own.
    """

    def __init__(self, names: Sequence[str], *, namespaces: bool) -> None:
        self._names = list(names)
        self._namespaces = namespaces
        self._agents: dict[str, subprocess.Popen[bytes]] = {}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]

    def start(self, name: str, nodes: str, arguments: Sequence[str], log: Path) -> None:
        """Starts torchrun on a host; its output is added to a file."""
        number = self._names.index(name)
        own = f"{_BRIDGE}.{number + 1}" if self._namespaces else "127.0.0.1"
        first = f"{_BRIDGE}.1" if self._namespaces else "127.0.0.1"
        inside = ["ip", "netns", "exec", _namespace(number)] if self._namespaces else []
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", nodes, "--nproc-per-node", "1"]
        torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{first}:{self._port}", "--rdzv-id", "hosts"]
        torchrun += ["--rdzv-conf", f"last_call_timeout=3,is_host={int(number == 0)}", "--local-addr", own]
        torchrun += ["--max-restarts", "20", "--monitor-interval", "0.2", "-m", "drlpp", "run", *arguments]
        interface = "eth0" if self._namespaces else "lo"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": interface, "DRLPP_HOST": name}
        environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        with log.open("ab") as file:
            self._agents[name] = subprocess.Popen(
                [*inside, *torchrun], stdout=file, stderr=file, env=environment, start_new_session=True
            )

    def kill(self, name: str) -> None:
        """The host is gone: its agent and its ranks are killed."""
        agent = self._agents.pop(name)
        for process in _family(agent.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        agent.wait()

    def wait(self, timeout_s: float) -> dict[str, int]:
        """Exit status of every agent that is left."""
        return {name: agent.wait(timeout_s) for name, agent in self._agents.items()}

    def stop(self) -> None:
        """Kills all."""
        for name in list(self._agents):
            self.kill(name)


def _family(process: int) -> list[int]:
    """A process and its descendants, the youngest first."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found = [process]
    for one in found:
        found += children.get(one, [])
    return found[::-1]


def _namespace(number: int) -> str:
    return f"drlpp-{os.getpid()}-{number}"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextlib.contextmanager
def hosts(names: Sequence[str]) -> Iterator[Hosts]:
    """Hosts of these names; the first one keeps the rendezvous."""
    bridge = f"drlpp{os.getpid() % 100000}"
    made = False
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("link", "set", bridge, "up")
        for number in range(len(names)):
            outer, inner = f"{bridge}{number}"[:15], _namespace(number)
            _ip("netns", "add", inner)
            _ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", inner)
            _ip("link", "set", outer, "master", bridge, "up")
            _ip("-n", inner, "addr", "add", f"{_BRIDGE}.{number + 1}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", inner, "link", "set", device, "up")
        made = True
    except (OSError, subprocess.CalledProcessError):
        pass
    found = Hosts(names, namespaces=made)
    try:
        yield found
    finally:
        found.stop()
        for number in range(len(names)):
            subprocess.run(["ip", "netns", "del", _namespace(number)], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", bridge], check=False, capture_output=True)
