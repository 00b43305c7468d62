"""Reads a Dockerfile: its stages, and the instructions of each."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Stage:
    """One stage: its name, what it stands on, and its instructions as (word, rest)."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        """Return what follows every instruction of a kind."""
        return [rest for kind, rest in self.instructions if kind == word]


def stages(path: Path) -> dict[str, Stage]:
    """Return the stages in the order of the file."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    found: dict[str, Stage] = {}
    current: Stage | None = None
    for line in filter(str.strip, joined.splitlines()):
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            current = found[name] = Stage(name, base)
        elif current is not None:
            current.instructions.append((word, " ".join(rest.split())))
    return found


def chain(found: dict[str, Stage], name: str) -> list[Stage]:
    """Return a stage and those that it stands on, the lowest first: what is in an image."""
    stage = found[name]
    return [*(chain(found, stage.base) if stage.base in found else []), stage]
