"""The provider `tensorrt`: engines that TensorRT builds for the very GPU that is here."""

import os
from collections.abc import Sequence

from service.providers import Computed, TensorRtOptions
from service.session.plan import Plan, Wanted, check_folder, flag
from service.session.runtime import NAMES
from service.tensors import Input, Tensor

_MIB = 1 << 20


def plan(options: TensorRtOptions, wanted: Wanted, taken: Input) -> Plan:
    """Return how a session is asked for; what TensorRT cannot run goes to CUDA rather than to the CPU.

    Raises:
        ModelRejected: the cache is no folder that can be written to.
    """
    device = options.devices[wanted.instance % len(options.devices)]
    given = {
        "device_id": str(device),
        "trt_fp16_enable": flag(options.precision == "fp16"),
        "trt_bf16_enable": flag(options.precision == "bf16"),
        "trt_builder_optimization_level": str(options.level),
        **_profile(taken.tensor, wanted.buckets if taken.fixed is None else [taken.fixed]),
    }
    if options.workspace_mb:
        given["trt_max_workspace_size"] = str(options.workspace_mb * _MIB)
    if options.cache is not None:
        check_folder("cache", options.cache)
        given |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(options.cache),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(options.cache),
        }
    others = {"device_id": str(device), "use_tf32": flag(_floats(options) != "fp32")}
    return Plan(
        providers=[(NAMES["tensorrt"], given), (NAMES["cuda"], others)],
        threads=1,
        device=f"cuda:{device}",
        floats=_floats(options),
        config={"session.intra_op.allow_spinning": "0"},
        pads=True,
        gpu=device,
        pinned=options.pinned,
    )


def _profile(inputs: Tensor, buckets: Sequence[int]) -> dict[str, str]:
    """Return the shapes that an engine is built for: without them each new shape would build it anew."""

    def shape(batch: int) -> str:
        return f"{inputs.name}:{'x'.join(map(str, (batch, *inputs.shape[1:])))}"

    return {
        "trt_profile_min_shapes": shape(min(buckets)),
        "trt_profile_opt_shapes": shape(max(buckets)),
        "trt_profile_max_shapes": shape(max(buckets)),
    }


def _floats(options: TensorRtOptions) -> Computed:
    if options.precision == "tf32" and os.environ.get("NVIDIA_TF32_OVERRIDE") == "0":
        return "fp32"
    return options.precision
