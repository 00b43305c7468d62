"""inference.GRPCInferenceService: the Open Inference Protocol with Triton's extensions, on the models of Classify."""

import importlib.metadata
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Literal, NoReturn, TypeAlias

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from service.config import Settings
from service.counts import Counts
from service.errors import InvalidInput, UnknownModel, Unsupported
from service.looks import is_name
from service.repository import Repository
from service.rpc import described
from service.rpc.calls import Call, Calls, Handler
from service.rpc.infer import begin
from service.rpc.pb.inference import extensions_pb2, model_config_pb2
from service.rpc.pb.inference import service_pb2 as pb
from service.versions import State

DESCRIPTOR = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
SERVICE = DESCRIPTOR.full_name
NAME = "saccade"

Change: TypeAlias = Literal["load", "unload"]
"""What a caller may ask of a model by its name."""

_SHARED_MEMORY = "shared memory is not supported; send tensors in the message"
_UNSERVED = {
    **dict.fromkeys(
        [
            f"{kind}SharedMemory{action}"
            for kind in ("System", "Cuda")
            for action in ("Status", "Register", "Unregister")
        ],
        _SHARED_MEMORY,
    ),
    "TraceSetting": "tracing is not supported; the metrics time every stage of a call",
    "LogSettings": "what is logged is set when the server starts: --log-format, --access-log",
}
"""Methods that are answered UNIMPLEMENTED, and what to do instead."""
_CONTENT = "no file, path or configuration is taken over the network; put the version into the repository and load it"


class Inference:
    """The methods of the service.

    Args:
        repository: where the models are.
        settings: of the server.
        ready: whether the server counts as ready.
        change: loads new versions of a model or unloads it, in every server of this port.
        counts: returns what was counted of each (model, version), by every server of this port.
    """

    def __init__(
        self,
        repository: Repository,
        settings: Settings,
        *,
        ready: Callable[[], bool],
        change: Callable[[Change, str], None],
        counts: Callable[[Sequence[tuple[str, int]]], Sequence[Counts]],
    ) -> None:
        self._repository = repository
        self._settings = settings
        self._ready = ready
        self._change = change
        self._counts = counts

    def handlers(self, calls: Calls, control: Executor, changes: Executor, statistics: Executor) -> dict[str, Handler]:
        """Return the gRPC handler of each unary method by its name.

        Args:
            calls: what they belong to.
            control: runs what takes a while.
            changes: runs what changes the repository, which may take minutes.
            statistics: runs what waits for other workers.
        """
        methods: dict[str, Callable[..., Message]] = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ServerMetadata": self.server_metadata,
            "ModelReady": self.model_ready,
            "ModelMetadata": self.model_metadata,
            "ModelConfig": self.model_config,
            "ModelStatistics": self.model_statistics,
            "RepositoryIndex": self.repository_index,
            "RepositoryModelLoad": self.repository_model_load,
            "RepositoryModelUnload": self.repository_model_unload,
            **{name: partial(_refuse, f"{name}: {why}") for name, why in _UNSERVED.items()},
        }
        pools = {
            "RepositoryModelLoad": changes,
            "RepositoryModelUnload": changes,
            "ModelStatistics": statistics,
        }
        handlers = {
            name: calls.blocking(
                handle,
                GetMessageClass(DESCRIPTOR.methods_by_name[name].input_type),
                name,
                pools.get(name, control),
            )
            for name, handle in methods.items()
        }
        return {
            **handlers,
            "ModelInfer": calls.unary(partial(begin, self._repository), pb.ModelInferRequest, "ModelInfer"),
        }

    def server_live(self, _: pb.ServerLiveRequest, __: Call) -> pb.ServerLiveResponse:
        """Answer ServerLive."""
        return pb.ServerLiveResponse(live=True)

    def server_ready(self, _: pb.ServerReadyRequest, __: Call) -> pb.ServerReadyResponse:
        """Answer ServerReady."""
        return pb.ServerReadyResponse(ready=self._ready())

    def server_metadata(self, _: pb.ServerMetadataRequest, __: Call) -> pb.ServerMetadataResponse:
        """Answer ServerMetadata."""
        control = ["model_repository"] if self._settings.allow_repository_control else []
        return pb.ServerMetadataResponse(
            name=NAME,
            version=importlib.metadata.version(NAME),
            extensions=["classification", "model_configuration", "statistics", *control],
        )

    def model_ready(self, request: pb.ModelReadyRequest, _: Call) -> pb.ModelReadyResponse:
        """Answer ModelReady; a model that is not there is not ready, as Triton's clients poll for it."""
        try:
            ready = self._repository.meant(request.name, request.version).state is State.READY
        except UnknownModel:
            ready = False
        return pb.ModelReadyResponse(ready=ready)

    def model_metadata(self, request: pb.ModelMetadataRequest, _: Call) -> pb.ModelMetadataResponse:
        """Answer ModelMetadata."""
        model = self._repository.find(request.name, request.version)
        versions = [model.facts.version] if request.version else self._served(model.facts.name)
        return described.metadata(model, versions)

    def model_config(
        self, request: model_config_pb2.ModelConfigRequest, _: Call
    ) -> model_config_pb2.ModelConfigResponse:
        """Answer ModelConfig."""
        model = self._repository.find(request.name, request.version)
        return model_config_pb2.ModelConfigResponse(config=described.configuration(model, self._settings))

    def model_statistics(
        self, request: extensions_pb2.ModelStatisticsRequest, _: Call
    ) -> extensions_pb2.ModelStatisticsResponse:
        """Answer ModelStatistics."""
        if request.version:
            facts = self._repository.find(request.name, request.version).facts
            asked = [(facts.name, facts.version)]
        else:
            names = (
                [self._repository.find(request.name, "").facts.name]
                if request.name
                else sorted(self._repository.readiness())
            )
            asked = [(name, version) for name in names for version in self._served(name)]
        return extensions_pb2.ModelStatisticsResponse(
            model_stats=[
                described.statistics(*each, counts) for each, counts in zip(asked, self._counts(asked), strict=True)
            ]
        )

    def repository_index(
        self, request: extensions_pb2.RepositoryIndexRequest, _: Call
    ) -> extensions_pb2.RepositoryIndexResponse:
        """Answer RepositoryIndex."""
        _check_repository(request.repository_name)
        return described.index(self._repository.versions(), only_ready=request.ready)

    def repository_model_load(
        self, request: extensions_pb2.RepositoryModelLoadRequest, call: Call
    ) -> extensions_pb2.RepositoryModelLoadResponse:
        """Answer RepositoryModelLoad."""
        self._check_control("RepositoryModelLoad", request)
        if request.parameters:
            names = ", ".join(sorted(request.parameters))[:80]
            raise InvalidInput("parameters", f"failed to load: got {names!r}, expected none; {_CONTENT}")
        self._control("load", request.model_name, call)
        return extensions_pb2.RepositoryModelLoadResponse()

    def repository_model_unload(
        self, request: extensions_pb2.RepositoryModelUnloadRequest, call: Call
    ) -> extensions_pb2.RepositoryModelUnloadResponse:
        """Answer RepositoryModelUnload."""
        self._check_control("RepositoryModelUnload", request)
        self._control("unload", request.model_name, call)
        return extensions_pb2.RepositoryModelUnloadResponse()

    def _check_control(
        self,
        method: str,
        request: extensions_pb2.RepositoryModelLoadRequest | extensions_pb2.RepositoryModelUnloadRequest,
    ) -> None:
        if not self._settings.allow_repository_control:
            raise Unsupported(f"{method} is off; start the server with --allow-repository-control to allow it")
        _check_repository(request.repository_name)
        if not is_name(request.model_name):
            raise InvalidInput(
                "model_name", f"{request.model_name[:80]!r} is no name of a model: letters, digits, '.', '_' and '-'"
            )

    def _control(self, change: Change, name: str, call: Call) -> None:
        """Load or unload; the call is counted by the model's name only where there is one of it, before or after."""
        if name in self._repository.readiness():
            call.model = name  # before: the caller may leave meanwhile
        try:
            self._change(change, name)
        finally:
            if name in self._repository.readiness():
                call.model = name

    def _served(self, name: str) -> list[int]:
        """Return the versions of a model that are served, rising."""
        return sorted(
            entry.version for entry in self._repository.versions() if entry.name == name and entry.state is State.READY
        )


def _check_repository(name: str) -> None:
    if name:
        raise InvalidInput(
            "repository_name",
            f"is {name[:80]!r}; there is one repository, leave it empty (field 1; the model's name is field 2)",
        )


def _refuse(why: str, _: Message, __: Call) -> NoReturn:
    raise Unsupported(why)
