"""What this machine's processor is, as Linux tells it."""

from pathlib import Path


def name() -> str:
    """Return the processor's name; `cpu` where the system does not tell."""
    return _entry("model name") or "cpu"


def flags() -> set[str]:
    """Return its features, for example `avx2` and `amx_bf16`; none where the system does not tell."""
    return set(_entry("flags").split())


def _entry(word: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(word)), "")
