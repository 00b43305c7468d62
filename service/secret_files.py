"""Files that hold secrets: what may be said of their names, and who may read them. Standard library only."""

from pathlib import Path

from service import logs

MASK = "***"


def shown(path: Path) -> str:
    """Return the name of a file that holds a secret; masked where somebody may have given the secret itself.

    That is what names no file and begins like none either: a path from / or . on is shown, so that a slip of the pen
    in it can be seen.
    """
    text = str(path)
    try:
        named = path.is_file() or (text.isprintable() and text[0] in "/.")
    except (OSError, ValueError):  # too long for a name, or a NUL in it
        named = False
    return text if named else MASK


def warn_of_readers(path: Path, flag: str) -> None:
    """Warn if everybody on this machine may read a file that holds a secret."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return
    if mode & 0o004:
        logs.warning("a secret that everybody here may read; take that away: chmod o-r", flag=flag, path=path)
