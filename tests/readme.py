"""Keeps tables in the documentation what the code says: settings in the README, options in the providers' manual.

python -m tests.readme
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from service.providers import options_table
from service.shown import settings_table

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
TABLES: Mapping[Path, tuple[str, Callable[[], str]]] = {
    README: ("settings", settings_table),
    ROOT / "service/session/README.md": ("options", options_table),
}


def with_table(text: str, name: str, table: str) -> str:
    """Return a document with what is between `<!-- name: ... -->` and `<!-- /name -->` made anew."""
    between = re.compile(rf"(<!-- {name}: .*? -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    return between.sub(lambda match: f"{match[1]}{table}\n{match[2]}", text)


def with_settings(text: str) -> str:
    """Return the README with its settings table made anew."""
    return with_table(text, "settings", settings_table())


def main() -> None:
    """Write the tables into the documents."""
    for path, (name, table) in TABLES.items():
        path.write_text(with_table(path.read_text(), name, table()))


if __name__ == "__main__":
    main()
