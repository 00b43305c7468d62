"""The provider `openvino`: Intel's CPUs, GPUs and NPUs.

Three things it does without a word, each found by running it (onnxruntime-openvino 1.24.1), are refused here: it takes
any device's name (`QPU` ran on the CPU), it computes in fp32 where a CPU lacks bf16 or fp16, and it leaves the session
to the CPU's provider where an option is wrong.
"""

import json
from pathlib import Path

from service import hosts
from service.errors import ModelRejected
from service.providers import OpenVinoOptions
from service.session.plan import Plan, Wanted, check_folder
from service.session.runtime import NAMES

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_AVX512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
_NEEDS = {"bf16": _AVX512, "fp16": {"avx512_fp16"}}
"""The CPU's features without which OpenVINO's CPU plugin computes in fp32 whatever the hint says."""


def plan(options: OpenVinoOptions, wanted: Wanted, cpuinfo: Path = hosts.CPUINFO) -> Plan:
    """Return how a session is asked for.

    Raises:
        ModelRejected: this CPU cannot compute in the precision, or the cache is no folder that can be written to.
    """
    on_cpu = options.device == "CPU"
    if on_cpu and options.precision != "fp32":
        _check_features(options.precision, cpuinfo)
    properties = {"INFERENCE_PRECISION_HINT": _HINTS[options.precision]}
    if on_cpu:
        threads = options.threads or wanted.threads
        properties |= {"INFERENCE_NUM_THREADS": str(threads), "NUM_STREAMS": str(options.streams)}
        # Its threads would each stay on a core, as those of every other session and process beside it.
        properties |= {"ENABLE_CPU_PINNING": "NO"}
    else:
        properties |= {"NUM_STREAMS": str(options.streams)}
    given = {"device_type": options.device, "load_config": json.dumps({options.device.split(".")[0]: properties})}
    if options.cache is not None:
        check_folder("cache", options.cache)
        given["cache_dir"] = str(options.cache)
    return Plan(
        providers=[(NAMES["openvino"], given)],
        threads=1,  # ONNX Runtime's own threads have nothing to do
        device=options.device,
        floats=options.precision,
        config={"session.intra_op.allow_spinning": "0"},
        pads=True,  # each new batch size costs 5 ms (LeNet-5) to tens of milliseconds once
    )


def _check_features(precision: str, cpuinfo: Path) -> None:
    missing = sorted(_NEEDS[precision] - hosts.cpu_flags(cpuinfo))
    if missing:
        raise ModelRejected(
            f"precision={precision} was asked for and this CPU has no {', '.join(missing)}: OpenVINO would compute in "
            "fp32 without a word. Choose precision=fp32"
        )
