"""Files of bearer tokens: what a line may be, whom a header stands for, what is never said."""

import hashlib
from pathlib import Path

import pytest

from service.errors import SetupError
from service.tokens import Caller, Tokens, read

TOKEN, OTHER = "0123456789abcdef", "fedcba9876543210-._~+/=="
HASH = hashlib.sha256(TOKEN.encode()).hexdigest()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the tokens lie."""
    return tmp_path / "tokens"


def tokens(path: Path, text: str) -> Tokens:
    """Return the tokens of a file that holds this."""
    path.write_text(text)
    return read(path)


@pytest.mark.parametrize(
    ("line", "caller"),
    [
        (f"alice:{TOKEN}", Caller("alice")),
        (f"alice:{TOKEN} repository", Caller("alice", frozenset({"repository"}))),
        (f"  alice:{TOKEN}   # of the first team", Caller("alice")),
        (TOKEN, Caller(f"token-{HASH[:8]}")),
        (f"{TOKEN} repository", Caller(f"token-{HASH[:8]}", frozenset({"repository"}))),
        (f"sha256:{HASH}", Caller(f"token-{HASH[:8]}")),
        (f"alice:sha256:{HASH}", Caller("alice")),
        (f"team/alice@example.org:{TOKEN}", Caller("team/alice@example.org")),
    ],
)
def test_lines(path: Path, line: str, caller: Caller) -> None:
    """A line is a token or its hash, with a name before it and rights after it, if wanted."""
    assert tokens(path, f"# callers\n\n{line}\n").caller(f"Bearer {TOKEN}") == caller


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER  {TOKEN} "])
def test_headers(path: Path, header: str) -> None:
    """The scheme is told in any case, as RFC 7235 has it."""
    assert tokens(path, f"alice:{TOKEN}").caller(header) == Caller("alice")


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        TOKEN,
        f"Basic {TOKEN}",
        f"Bearer{TOKEN}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN} {TOKEN}",
        f"Bearer alice:{TOKEN}",
        f"Bearer sha256:{HASH}",
        f"Bearer {HASH}",
        "Bearer \ud800",
    ],
)
def test_wrong_headers(path: Path, header: str) -> None:
    """Anything but the whole token after the scheme stands for nobody, the hash in the file least of all."""
    assert tokens(path, f"alice:{TOKEN}\nbob:sha256:{HASH[::-1]}").caller(header) is None


def test_several(path: Path) -> None:
    """Several tokens of one name are one caller, while one takes over from the other."""
    both = tokens(path, f"alice:{TOKEN}\nalice:{OTHER}\nbob:{TOKEN}0\n")
    assert both.caller(f"Bearer {TOKEN}") == both.caller(f"Bearer {OTHER}") == Caller("alice")
    assert both.caller(f"Bearer {TOKEN}0") == Caller("bob")


def test_many(path: Path) -> None:
    """Of thousands of tokens, many of which begin alike when hashed, each stands for its own."""
    many = tokens(path, "".join(f"c{number}:{TOKEN}{number}\n" for number in range(5000)))
    assert all(many.caller(f"Bearer {TOKEN}{number}") == Caller(f"c{number}") for number in range(5000))
    assert many.caller(f"Bearer {TOKEN}5000") is None


def test_only_hashes_are_kept(path: Path) -> None:
    """No token is left in what was read."""
    kept = tokens(path, f"alice:{TOKEN}\n")
    assert TOKEN not in str(vars(kept)) + repr(kept)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("alice:short", "at least 16"),
        ("alice:", "at least 16"),
        (f"alice: {TOKEN}", "no right; there is: repository"),
        (f"alice:{TOKEN}!", "A-Z a-z 0-9"),
        (f":{TOKEN}", "before the colon is no name"),
        (f"al ice:{TOKEN}", "no right; there is: repository"),
        (f"{'x' * 65}:{TOKEN}", "at most 64"),
        (f"alice:{TOKEN} admin", "1 words after the token are no right; there is: repository"),
        (f"alice:sha256:{HASH[1:]}", "64 digits"),
        (f"alice:sha256:{HASH.upper()}", "64 digits"),
        (f"bob:{TOKEN}\nalice:{TOKEN}", "line 4: the token of a line above"),
    ],
)
def test_wrong_lines(path: Path, line: str, text: str) -> None:
    """A wrong line is an error with its number; the error never holds what could be a token."""
    with pytest.raises(SetupError, match=text) as caught:
        tokens(path, f"# callers\n\n{line}\n")
    assert f"--tokens-file {path}, line " in str(caught.value)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"# nobody yet\n", b"\n \n"])
def test_empty(path: Path, content: bytes) -> None:
    """A file without a token is an error: nobody could call."""
    path.write_bytes(content)
    with pytest.raises(SetupError, match="holds no token: nobody could call; make one with `openssl rand"):
        read(path)


def test_no_text(path: Path) -> None:
    """A file that is no ASCII text is an error."""
    path.write_bytes(b"alice:\xff" + TOKEN.encode())
    with pytest.raises(SetupError, match="not ASCII"):
        read(path)


def test_missing(path: Path) -> None:
    """A file that is not there is an error that says what to do."""
    with pytest.raises(SetupError, match="cannot be read: No such file or directory; name a file"):
        read(path)


def test_a_token_instead_of_its_file() -> None:
    """A token that was given where its file's name belongs is in no error."""
    with pytest.raises(SetupError, match=r"--tokens-file \*\*\* cannot be read") as caught:
        read(Path(f"alice:{TOKEN}"))
    assert TOKEN not in str(caught.value)
