"""HAProxy in front of the replicas, told who serves as Kubernetes tells its proxies."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

_CONFIGURATION = """
global
  stats socket {folder}/balancer.sock mode 600 level admin
defaults
  mode {mode}
  timeout connect 2s
  timeout client 1m
  timeout server 1m
frontend calls
  bind 127.0.0.1:{port}{listen}
  default_backend replicas
backend replicas
  balance roundrobin
{servers}
"""
_WAIT = 10.0


class Balancer:
    """One HAProxy with places for a number of replicas, all empty at first.

    Args:
        folder: where its configuration and its socket are.
        places: most replicas at a time.
        authority: PEM of who signed the replicas' certificates; None where they speak no TLS.
        certificate: PEM of certificate and key that callers see; None: the TLS of the callers ends in the replicas, and
            the balancer passes bytes, as a Kubernetes Service does; with one it spreads calls, as a Gateway does.

    Raises:
        FileNotFoundError: HAProxy is not installed.
    """

    def __init__(self, folder: Path, *, places: int, authority: Path | None, certificate: Path | None) -> None:
        program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            raise FileNotFoundError("haproxy is not installed; on Debian: apt-get install haproxy")
        self._folder, self._certificate = folder, certificate
        self.port = _free_port()
        calls = certificate is not None or authority is None
        to_replicas = (
            f" ssl verify required ca-file {authority} sni str(localhost) alpn h2" if authority else " proto h2"
        )
        places_text = "\n".join(
            f"  server r{place} 127.0.0.1:1 disabled{to_replicas if calls else ''}" for place in range(places)
        )
        listen = f" ssl crt {certificate} alpn h2" if certificate else " proto h2" if calls else ""
        path = folder / "haproxy.cfg"
        path.write_text(
            _CONFIGURATION.format(
                folder=folder, mode="http" if calls else "tcp", port=self.port, listen=listen, servers=places_text
            )
        )
        self._log = (folder / "haproxy.log").open("w")
        self._process = subprocess.Popen([program, "-f", str(path), "-db"], stdout=self._log, stderr=self._log)
        self._wait()

    def add(self, place: int, port: int) -> None:
        """Send calls to a replica: what follows when Kubernetes finds it ready."""
        self._ask(f"set server replicas/r{place} addr 127.0.0.1 port {port}")
        self._ask(f"set server replicas/r{place} state ready")

    def remove(self, place: int) -> None:
        """Send nothing new to a replica, and leave what it has under way: what follows when its pod is to leave."""
        self._ask(f"set server replicas/r{place} state drain")

    def renew(self) -> None:
        """Take the certificate of callers from its file again."""
        if self._certificate:
            self._ask(f"set ssl cert {self._certificate} <<\n{self._certificate.read_text()}\n")
            self._ask(f"commit ssl cert {self._certificate}")

    def served(self) -> Iterator[int]:
        """Yield how many calls (or connections, where bytes are passed) each place was sent."""
        header, *rows = self._ask("show stat").lstrip("# ").splitlines()
        column = header.split(",").index("stot")
        yield from (int(row.split(",")[column]) for row in rows if row.startswith("replicas,r"))

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(_WAIT)
        self._log.close()

    def _wait(self) -> None:
        end = time.monotonic() + _WAIT
        while True:
            try:
                self._ask("show info")
            except OSError:
                if self._process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"haproxy: {(self._folder / 'haproxy.log').read_text()}") from None
                time.sleep(0.05)
            else:
                return

    def _ask(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(_WAIT)
            asked.connect(os.fspath(self._folder / "balancer.sock"))
            asked.sendall(f"{command}\n".encode())
            answer = b"".join(iter(lambda: asked.recv(65536), b"")).decode()
        return answer.strip()


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
