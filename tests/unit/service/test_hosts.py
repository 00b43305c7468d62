from pathlib import Path

from service import hosts


def test_host_type(tmp_path: Path) -> None:
    """Processor, cores, GPUs and the distribution of ONNX Runtime make a kind of machine; its version does not."""
    cpuinfo, gpus = tmp_path / "cpuinfo", tmp_path / "gpus"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: AMD EPYC 7B13\nflags\t\t: fpu avx2\n" * 2)
    for number in range(2):
        (gpus / f"0000:0{number}:00.0").mkdir(parents=True)
        (gpus / f"0000:0{number}:00.0/information").write_text("Model: \t\t NVIDIA L4\nIRQ: 1\n")
    found = hosts.host_type(4, "onnxruntime-gpu 1.31.1", cpuinfo, gpus)
    assert found == "AMD EPYC 7B13, 4 cores, NVIDIA L4, NVIDIA L4, onnxruntime-gpu"
    assert hosts.cpu_flags(cpuinfo) == {"fpu", "avx2"}


def test_arm(tmp_path: Path) -> None:
    """Linux has no name for arm64's processors: who made them and which part they are tell them apart."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd40\n" * 2)
    assert hosts.cpu_name(cpuinfo) == "CPU 0x41 0xd40"


def test_a_machine_that_does_not_tell(tmp_path: Path) -> None:
    """Without /proc it is still a name."""
    assert hosts.host_type(1, "onnxruntime 1.31.1", tmp_path / "no", tmp_path / "no") == "cpu, 1 core, onnxruntime"
