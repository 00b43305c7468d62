"""What kind of machine this is, as far as a model's speed depends on it. Standard library only."""

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
_GPUS = Path("/proc/driver/nvidia/gpus")


def host_type(cores: int, runtime: str, cpuinfo: Path = CPUINFO, gpus: Path = _GPUS) -> str:
    """Return the name of this kind of machine: its processor, its cores, its GPUs, and the ONNX Runtime it has.

    Args:
        cores: how many the process may keep busy.
        runtime: ONNX Runtime's distribution, which says what providers there are; a version behind it does not count.
        cpuinfo: what Linux tells of the processor.
        gpus: where NVIDIA's driver tells of each GPU.
    """
    parts = [cpu_name(cpuinfo), f"{cores} core{'s' * (cores != 1)}", *gpu_names(gpus), runtime.partition(" ")[0]]
    return ", ".join(parts)


def cpu_name(cpuinfo: Path = CPUINFO) -> str:
    """Return the processor's name; `cpu` where the system does not tell."""
    arm = [_entry("CPU implementer", cpuinfo), _entry("CPU part", cpuinfo)]  # arm64 has numbers and no name
    return _entry("model name", cpuinfo) or ("CPU " + " ".join(arm) if all(arm) else "cpu")


def cpu_flags(cpuinfo: Path = CPUINFO) -> set[str]:
    """Return the processor's features, for example `avx2` and `amx_bf16`; none where the system does not tell."""
    return set(_entry("flags", cpuinfo).split())


def gpu_names(gpus: Path = _GPUS) -> list[str]:
    """Return the name of each of NVIDIA's GPUs; none where there is no driver."""
    return [_entry("Model", path) or "GPU" for path in sorted(gpus.glob("*/information"))]


def _entry(word: str, path: Path) -> str:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(word)), "")
