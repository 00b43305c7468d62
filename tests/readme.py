"""Keeps the README's settings table what service/config.py says.

python -m tests.readme
"""

import re
from pathlib import Path

from service.config import settings_table

README = Path(__file__).parents[1] / "README.md"
_BETWEEN = re.compile(r"(<!-- settings: .*? -->\n).*?(<!-- /settings -->)", re.DOTALL)


def with_settings(text: str) -> str:
    """Return the README with its settings table made anew."""
    return _BETWEEN.sub(lambda match: f"{match[1]}{settings_table()}\n{match[2]}", text)


def main() -> None:
    """Write the table into the README."""
    README.write_text(with_settings(README.read_text()))


if __name__ == "__main__":
    main()
