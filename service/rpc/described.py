"""What the Open Inference Protocol tells of a model: metadata, configuration, statistics, index."""

from service.config import Settings
from service.counts import Counts, Duration
from service.looks import FILE
from service.model import Model
from service.rpc.pb.inference import extensions_pb2, model_config_pb2
from service.rpc.pb.inference import service_pb2 as pb
from service.rpc.tensors import tensors_of
from service.tensors import Tensor
from service.versions import State, Version

PLATFORM = "onnxruntime_onnx"
BACKEND = "onnxruntime"

_TYPES = {
    "UINT8": model_config_pb2.TYPE_UINT8,
    "FP16": model_config_pb2.TYPE_FP16,
    "FP32": model_config_pb2.TYPE_FP32,
}
_FORMATS = {
    None: model_config_pb2.ModelInput.FORMAT_NONE,
    "NHWC": model_config_pb2.ModelInput.FORMAT_NHWC,
    "NCHW": model_config_pb2.ModelInput.FORMAT_NCHW,
}
_STATES = {
    State.LOADING: "LOADING",
    State.READY: "READY",
    State.FAILED: "UNAVAILABLE",
    State.DRAINING: "UNLOADING",
}


def metadata(model: Model, versions: list[int]) -> pb.ModelMetadataResponse:
    """Return what a model takes and gives."""
    taken, given = tensors_of(model)
    return pb.ModelMetadataResponse(
        name=model.facts.name,
        versions=[str(version) for version in versions],
        platform=PLATFORM,
        inputs=[_tensor(taken)],
        outputs=[_tensor(given)],
    )


def configuration(model: Model, settings: Settings) -> model_config_pb2.ModelConfig:
    """Return how a model is set up, as Triton would say it."""
    taken, given = tensors_of(model)
    group = model_config_pb2.ModelInstanceGroup
    kind = group.KIND_CPU if model.facts.device == "CPU" else group.KIND_GPU  # OpenVINO has either
    return model_config_pb2.ModelConfig(
        name=model.facts.name,
        platform=PLATFORM,
        backend=BACKEND,
        max_batch_size=model.max_batch_size,
        input=[
            model_config_pb2.ModelInput(
                name=taken.name,
                data_type=_TYPES[taken.datatype],
                format=_FORMATS[taken.layout],
                dims=taken.shape[1:],
            )
        ],
        output=[model_config_pb2.ModelOutput(name=given.name, data_type=_TYPES[given.datatype], dims=given.shape[1:])],
        instance_group=[group(name=model.facts.provider, count=model.instances, kind=kind)],
        default_model_filename=FILE,
        dynamic_batching=model_config_pb2.ModelDynamicBatching(
            max_queue_delay_microseconds=round(settings.queue_delay_ms * 1000),
            default_queue_policy=model_config_pb2.ModelQueuePolicy(
                allow_timeout_override=True, max_queue_size=settings.queue_size
            ),
        ),
        model_transaction_policy=model_config_pb2.ModelTransactionPolicy(decoupled=False),
        response_cache=model_config_pb2.ModelResponseCache(enable=False),
    )


def statistics(name: str, version: int, counts: Counts) -> extensions_pb2.ModelStatistics:
    """Return what was counted of one version."""
    return extensions_pb2.ModelStatistics(
        name=name,
        version=str(version),
        last_inference=int(counts.last_batch * 1000),
        inference_count=sum(size * runs.count for size, runs in counts.batches.items()),
        execution_count=sum(runs.count for runs in counts.batches.values()),
        inference_stats=extensions_pb2.InferStatistics(
            success=_duration(counts.success),
            fail=_duration(counts.fail),
            queue=_duration(counts.queue),
            compute_input=_duration(counts.decode),
            compute_infer=_duration(counts.inference),
            # perf_analyzer ends with an error unless the three are counted alike.
            compute_output=_duration(Duration(counts.inference.count)),
        ),
        batch_stats=[
            extensions_pb2.InferBatchStatistics(batch_size=size, compute_infer=_duration(runs))
            for size, runs in sorted(counts.batches.items())
        ],
    )


def index(versions: list[Version], *, only_ready: bool) -> extensions_pb2.RepositoryIndexResponse:
    """Return the list of versions."""
    return extensions_pb2.RepositoryIndexResponse(
        models=[
            extensions_pb2.RepositoryIndexResponse.ModelIndex(
                name=entry.name,
                version=str(entry.version),
                state=_STATES[entry.state],
                reason=entry.notice,
            )
            for entry in versions
            if entry.state is State.READY or not only_ready
        ]
    )


def _tensor(tensor: Tensor) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)


def _duration(duration: Duration) -> extensions_pb2.StatisticDuration:
    return extensions_pb2.StatisticDuration(count=duration.count, ns=round(duration.seconds * 1e9))
