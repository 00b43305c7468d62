"""Bearer tokens from a file; only their SHA-256 is kept. Standard library only.

One caller a line: `TOKEN`, `NAME:TOKEN`, and `repository` after it for who may load and unload models. Instead of a
token its hash, `sha256:HEX`. What follows a # at the start or after a space is a comment. Lines of one name are one
caller: several while a token is changed.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from service import secret_files
from service.errors import SetupError

Right = Literal["repository"]
"""What not every caller may: `repository` is to load and unload models."""
RIGHTS: frozenset[str] = frozenset({"repository"})

SHORTEST = 16
"""Characters of a token: what is shorter can be guessed."""
_HASH = "sha256:"
_HEX = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@/-]{0,63}")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""What a bearer token is made of: RFC 6750, b64token."""
_MAKE = "make one with `openssl rand -hex 32`"
_SCHEME = "bearer "
_START = 2
"""Bytes of a hash by which it is looked up, before it is compared in constant time."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a token stands for.

    Attributes:
        name: for the log and the limits.
        rights: see RIGHTS.
    """

    name: str
    rights: frozenset[str] = frozenset()


class Tokens:
    """Who may call.

    Args:
        callers: pairs of a token's SHA-256 and who it stands for.
    """

    def __init__(self, callers: Iterable[tuple[bytes, Caller]]) -> None:
        self._callers: dict[bytes, list[tuple[bytes, Caller]]] = {}
        for digest, caller in callers:
            self._callers.setdefault(digest[:_START], []).append((digest, caller))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokens) and self._callers == other._callers

    __hash__ = None  # type: ignore[assignment]

    def caller(self, header: str) -> Caller | None:
        """Return whom the value of an `authorization` header stands for; None: nobody known.

        Takes 1.3 us, whatever the number of tokens.
        """
        if header[: len(_SCHEME)].lower() != _SCHEME:
            return None
        digest = hashlib.sha256(header[len(_SCHEME) :].strip().encode("utf-8", "replace")).digest()
        found = None
        for known, caller in self._callers.get(digest[:_START], ()):
            if hmac.compare_digest(known, digest):
                found = caller
        return found


def read(path: Path) -> Tokens:
    """Return the tokens of a file.

    Raises:
        SetupError: it cannot be read, a line is none of these, or there is no token in it; no text holds a token.
    """
    try:
        text = path.read_text("ascii")
    except OSError as error:
        raise SetupError(
            f"--tokens-file {secret_files.shown(path)} cannot be read: {error.strerror}; name a file that this process "
            "may read"
        ) from None
    except UnicodeDecodeError:
        raise SetupError(f"--tokens-file {path} holds characters that are not ASCII; {_MAKE}") from None
    found: dict[bytes, Caller] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = re.sub(r"(^|\s)#.*", "", line).split()
        if words:
            digest, caller = _caller(words, f"--tokens-file {path}, line {number}")
            if digest in found:
                raise SetupError(f"--tokens-file {path}, line {number}: the token of a line above, again")
            found[digest] = caller
    if not found:
        raise SetupError(f"--tokens-file {path} holds no token: nobody could call; {_MAKE}, one a line")
    return Tokens(found.items())


def _caller(words: list[str], where: str) -> tuple[bytes, Caller]:
    """Return a line's hash and caller; `where` begins what is said of a wrong one."""
    credential, *rights = words
    if unknown := [right for right in rights if right not in RIGHTS]:
        raise SetupError(f"{where}: {len(unknown)} words after the token are no right; there is: repository")
    name, token = "", credential
    if ":" in credential and not credential.startswith(_HASH):
        name, _, token = credential.partition(":")
        if not _NAME.fullmatch(name):
            raise SetupError(f"{where}: what is before the colon is no name: letters, digits and ._@/- , at most 64")
    if token.startswith(_HASH):
        if not _HEX.fullmatch(token.removeprefix(_HASH)):
            raise SetupError(f"{where}: after {_HASH} come 64 digits from 0 to f, as sha256sum writes them")
        digest = bytes.fromhex(token.removeprefix(_HASH))
    else:
        if len(token) < SHORTEST or not _TOKEN.fullmatch(token):
            raise SetupError(
                f"{where}: a token has at least {SHORTEST} of the characters A-Z a-z 0-9 . _ ~ + / - and = at its "
                f"end; {_MAKE}"
            )
        digest = hashlib.sha256(token.encode("ascii")).digest()
    return digest, Caller(name or f"token-{digest.hex()[:8]}", frozenset(rights))
