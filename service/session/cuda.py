"""The provider `cuda`: CUDA and cuDNN on NVIDIA's GPUs."""

from dataclasses import replace

from service.providers import CudaOptions
from service.session.plan import Plan, Wanted, flag
from service.session.runtime import NAMES

_MIB = 1 << 20


def plan(options: CudaOptions, wanted: Wanted) -> Plan:
    """Return how a session is asked for; an `auto` is settled here, but for CUDA graphs."""
    device = options.devices[wanted.instance % len(options.devices)]
    nhwc = options.nhwc == "on" or (options.nhwc == "auto" and (wanted.precision == "fp16" or options.tf32))
    given = {
        "device_id": str(device),
        "use_tf32": flag(options.tf32),  # ONNX Runtime's own default is 1: float32 would not be float32
        "prefer_nhwc": flag(nhwc),
        "cudnn_conv_algo_search": options.search.upper(),
        "cudnn_conv_use_max_workspace": flag(options.workspace),
        "arena_extend_strategy": "kSameAsRequested" if options.arena == "same-as-requested" else "kNextPowerOfTwo",
        "do_copy_in_default_stream": "1",  # in the stream of the computation, so that nothing waits for two
        "enable_cuda_graph": flag(options.graphs != "off"),
    }
    if options.memory_limit_mb:
        given["gpu_mem_limit"] = str(options.memory_limit_mb * _MIB)
    return Plan(
        providers=[(NAMES["cuda"], given)],
        threads=1,  # for the nodes that stay on the CPU: shapes, at most
        device=f"cuda:{device}",
        floats="tf32" if options.tf32 else "fp32",
        config={"session.intra_op.allow_spinning": "0"},
        pads=True,
        gpu=device,
        graphs=options.graphs,
        pinned=options.pinned,
    )


def without_graphs(plan: Plan) -> Plan:
    """Return how the same session is asked for without CUDA graphs."""
    (name, given), *others = plan.providers
    return replace(plan, providers=[(name, {**given, "enable_cuda_graph": "0"}), *others], graphs="off")
