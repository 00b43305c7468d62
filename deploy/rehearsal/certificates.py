"""Certificates for the rehearsal, made by the openssl command."""

import subprocess
from pathlib import Path

_NAMES = "subjectAltName=DNS:localhost,IP:127.0.0.1"


class Authority:
    """A certificate authority of its own in a folder, and the one certificate that it renews.

    Args:
        folder: gets ca.crt, tls.crt, tls.key, and both.pem (certificate and key, as HAProxy wants them).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ca, self.both = folder / "ca.crt", folder / "both.pem"
        self.certificate, self.key = folder / "tls.crt", folder / "tls.key"
        _openssl(folder, "req", "-x509", *_new("ca"), "-days", "2", "-subj", "/CN=rehearsal")
        self.renew()

    def renew(self) -> str:
        """Replace certificate and key by new ones; return the certificate's PEM."""
        for name in ("tls.crt.new", "tls.key.new"):
            (self._folder / name).unlink(missing_ok=True)
        (self._folder / "names").write_text(_NAMES)
        _openssl(self._folder, "req", *_new("tls", ".new", kind=".csr"), "-subj", "/CN=localhost")
        signed = ["-req", "-in", "tls.csr.new", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"]
        _openssl(self._folder, "x509", *signed, "-days", "1", "-extfile", "names", "-out", "tls.crt.new")
        both = (self._folder / "tls.crt.new").read_text() + (self._folder / "tls.key.new").read_text()
        self.both.write_text(both)
        for path in (self.key, self.certificate):
            (self._folder / f"{path.name}.new").replace(path)
        return self.certificate.read_text()


def _new(name: str, suffix: str = "", *, kind: str = ".crt") -> list[str]:
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key{suffix}"]
    return [*key, "-out", f"{name}{kind}{suffix}"]


def _openssl(folder: Path, *words: str) -> None:
    done = subprocess.run(["openssl", *words], cwd=folder, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise RuntimeError(f"openssl {' '.join(words)}: {done.stderr}")
