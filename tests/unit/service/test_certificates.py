"""Certificates as files, real ones: what is taken, and what is said of the others."""

import ssl
from pathlib import Path

import pytest
from cryptography import x509

from service import certificates, tls
from service.config import load_settings
from service.errors import SetupError
from tests.certificates import Authority, Pair
from tests.conftest import Lines


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Return an authority."""
    return Authority(tmp_path)


@pytest.fixture
def pair(authority: Authority) -> Pair:
    """Return a certificate of a server."""
    return authority.sign("server")


def test_a_pair(pair: Pair) -> None:
    """A certificate and its key are taken as they are; nobody's own certificate is asked for."""
    read = certificates.read(pair.certificate_file, pair.key_file, None)
    assert (read.certificate, read.key, read.client_ca) == (pair.certificate, pair.key, None)
    assert read.context.verify_mode is ssl.CERT_NONE


def test_client_ca(pair: Pair, authority: Authority) -> None:
    """With the CA of callers their certificates are required."""
    read = certificates.read(pair.certificate_file, pair.key_file, authority.file)
    assert read.client_ca == authority.certificate
    assert read.context.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize("days", [-1, 1, 400, 20_000], ids=["expired", "soon", "next year", "after 2050"])
def test_expiry(authority: Authority, days: int) -> None:
    """It is told when a certificate expires, in either form that X.509 has for a time."""
    pair = authority.sign("server", days=days)
    read = certificates.read(pair.certificate_file, pair.key_file, None)
    assert read.expires == x509.load_pem_x509_certificate(pair.certificate).not_valid_after_utc


@pytest.mark.parametrize(("days", "said"), [(-1, "has expired"), (3, "expires soon"), (30, None)])
def test_warned_of_expiry(authority: Authority, lines: Lines, days: int, said: str | None) -> None:
    """A certificate that callers refuse, or will within a week, is warned of when it is read."""
    pair = authority.sign("server", days=days)
    tls.certificates(load_settings(tls_certificate=pair.certificate_file, tls_key=pair.key_file))
    told = [line["event"] for line in lines()]
    assert len(told) == (said is not None)
    assert all(str(said) in event for event in told)


def test_a_chain(authority: Authority) -> None:
    """Of a chain it is the server's own certificate whose expiry counts, whatever text is before it."""
    pair = authority.sign("server", days=5)
    pair.certificate_file.write_bytes(b"subject=server\n" + pair.certificate + authority.certificate)
    read = certificates.read(pair.certificate_file, pair.key_file, None)
    assert read.expires == x509.load_pem_x509_certificate(pair.certificate).not_valid_after_utc


def test_keys_are_not_shown(pair: Pair, authority: Authority) -> None:
    """The key is in no text that a log or a traceback could hold."""
    assert "PRIVATE" not in repr(certificates.read(pair.certificate_file, pair.key_file, authority.file))


def test_mismatch(pair: Pair, authority: Authority) -> None:
    """A certificate with the key of another does not belong to it."""
    with pytest.raises(SetupError, match="do not belong together"):
        certificates.read(pair.certificate_file, authority.sign("other").key_file, None)


@pytest.mark.parametrize("flag", ["--tls-certificate", "--tls-key", "--tls-client-ca"])
def test_missing(pair: Pair, authority: Authority, tmp_path: Path, flag: str) -> None:
    """A file that is not there is an error that names the flag, the file, and what to do."""
    files = {
        "--tls-certificate": pair.certificate_file,
        "--tls-key": pair.key_file,
        "--tls-client-ca": authority.file,
        flag: tmp_path / "nowhere.pem",
    }
    with pytest.raises(SetupError, match=rf"{flag} .*nowhere\.pem cannot be read: No such file.*; name a file"):
        certificates.read(*files.values())


def test_a_key_instead_of_its_file(pair: Pair) -> None:
    """A key that was given where its file's name belongs is in no error."""
    with pytest.raises(SetupError, match=r"--tls-key \*\*\* cannot be read") as caught:
        certificates.read(pair.certificate_file, Path(pair.key.decode()), None)
    assert "PRIVATE" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nMII"])
def test_no_certificate(pair: Pair, content: bytes) -> None:
    """A file without a whole certificate is an error that names it."""
    pair.certificate_file.write_bytes(content)
    with pytest.raises(SetupError, match=r"server\.crt .* cannot be used; give PEM files"):
        certificates.read(pair.certificate_file, pair.key_file, None)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nMII"])
def test_no_client_ca(pair: Pair, authority: Authority, content: bytes) -> None:
    """A CA file without a certificate is an error that names it: it would let nobody in, or everybody."""
    authority.file.write_bytes(content)
    with pytest.raises(SetupError, match=r"--tls-client-ca .*authority\.pem holds no certificate"):
        certificates.read(pair.certificate_file, pair.key_file, authority.file)


def test_key_with_a_password(authority: Authority) -> None:
    """A key with a password is an error; nobody is asked for it on the terminal."""
    pair = authority.sign("server", password=b"secret")
    with pytest.raises(SetupError, match="its key without a password"):
        certificates.read(pair.certificate_file, pair.key_file, None)


def test_other_headers(authority: Authority) -> None:
    """A form that OpenSSL reads by another header is taken, and its expiry is not known."""
    pair = authority.sign("server")
    pair.certificate_file.write_bytes(pair.certificate.replace(b"CERTIFICATE-----", b"X509 CERTIFICATE-----"))
    assert certificates.read(pair.certificate_file, pair.key_file, None).expires is None
