"""Triton's own Python client, driven line by line: its generated code cannot share a process with ours.

python -m tests.triton_child HOST:PORT OPTIONS    (one JSON object a line, {"do": ..., arguments}; one answer a line)
"""

import asyncio
import base64
import json
import queue
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from tritonclient.grpc import aio, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.descriptors import protocol

WAIT = 20.0
"""Seconds after which an answer counts as lost."""


def shown(value: Any) -> Any:  # noqa: ANN401 - whatever the client gives
    """Return what the client gave as JSON can hold it."""
    if isinstance(value, Message):
        return MessageToDict(value, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    if isinstance(value, InferenceServerException):
        return {"error": value.message(), "status": value.status()}
    if isinstance(value, triton.InferResult):
        return result(value)
    return value


def result(value: triton.InferResult) -> dict[str, Any]:
    """Return an answer: what its head says, and the values as the client's `as_numpy` gives them."""
    response = value.get_response()
    values = {output.name: value.as_numpy(output.name) for output in response.outputs}
    return {
        "model": response.model_name,
        "version": response.model_version,
        "id": response.id,
        "final": response.parameters["triton_final_response"].bool_param
        if "triton_final_response" in response.parameters
        else None,
        "outputs": {
            name: [each.decode() for each in array.ravel()] if array.dtype == object else array.tolist()
            for name, array in values.items()
        },
        "shapes": {output.name: list(output.shape) for output in response.outputs},
        "datatypes": {output.name: output.datatype for output in response.outputs},
    }


def request(
    *,
    model: str = "linear",
    version: str = "",
    pixels: list[Any] | None = None,
    files: list[str] | None = None,
    name: str = "image",
    datatype: str = "UINT8",
    output: str = "probabilities",
    classes: int = 0,
    all_outputs: bool = False,
    **more: Any,  # noqa: ANN401 - as the client takes them
) -> dict[str, Any]:
    """Return the arguments of the client's `infer`: pictures as nested lists of pixels, or as files in base64."""
    if files is not None:
        array, datatype = np.array([base64.b64decode(file) for file in files], np.object_), "BYTES"
    else:
        array = np.array(pixels, {"UINT8": np.uint8, "FP32": np.float32}[datatype])
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    asked = {} if all_outputs else {"outputs": [triton.InferRequestedOutput(output, class_count=classes)]}
    return {"model_name": model, "model_version": version, "inputs": [tensor], **asked, **more}


class Child:
    """The commands.

    Args:
        address: of the server.
        options: of the client, beside the address.
    """

    def __init__(self, address: str, options: dict[str, Any]) -> None:
        self._address = address
        self._client = triton.InferenceServerClient(address, **options)
        self._results: queue.Queue[Any] = queue.Queue()
        self._handle: Any = None

    def call(self, method: str, **given: Any) -> Any:  # noqa: ANN401 - whatever the client gives
        """Call a method of the client by its name."""
        return getattr(self._client, method)(**given)

    def infer(self, **given: Any) -> Any:  # noqa: ANN401 - see request
        """Call `infer`."""
        return self._client.infer(**request(**given))

    def begin(self, **given: Any) -> None:  # noqa: ANN401 - see request
        """Call `async_infer`; `result` gives what came of it."""
        self._handle = self._client.async_infer(callback=self._put, **request(**given))

    def cancel(self) -> None:
        """Cancel what was begun."""
        self._handle.cancel()

    def result(self) -> Any:  # noqa: ANN401 - an answer or an error
        """Return the next answer or error that a callback was given."""
        return self._results.get(timeout=WAIT)

    def start_stream(self, **given: Any) -> None:  # noqa: ANN401 - as the client takes it
        """Open a stream; `result` gives its answers."""
        self._client.start_stream(self._put, **given)

    def send(self, **given: Any) -> None:  # noqa: ANN401 - see request
        """Send a request on the stream."""
        self._client.async_stream_infer(**request(**given))

    def stop_stream(self, **given: Any) -> None:  # noqa: ANN401 - as the client takes it
        """Close the stream."""
        self._client.stop_stream(**given)

    def aio_infer(self, **given: Any) -> Any:  # noqa: ANN401 - see request
        """Call `infer` of the asynchronous client."""

        async def ask() -> Any:  # noqa: ANN401 - an answer
            async with aio.InferenceServerClient(self._address) as client:
                return await client.infer(**request(**given))

        return asyncio.run(ask())

    def aio_stream(self, requests: list[dict[str, Any]]) -> list[Any]:
        """Return the answers to a stream of the asynchronous client."""

        async def each() -> AsyncIterator[dict[str, Any]]:
            for given in requests:
                yield request(**given)

        async def ask() -> list[Any]:
            async with aio.InferenceServerClient(self._address) as client:
                return [shown(answer or error) async for answer, error in client.stream_infer(each())]

        return asyncio.run(ask())

    def raw(self, method: str, message: dict[str, Any]) -> Any:  # noqa: ANN401 - a message
        """Call a method of the generated stub with a message as JSON has it, for what the client never sends."""
        service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
        kind = GetMessageClass(service.methods_by_name[method].input_type)
        with grpc.insecure_channel(self._address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            try:
                return getattr(stub, method)(ParseDict(message, kind()), timeout=WAIT)
            except grpc.RpcError as error:
                return {"error": error.details(), "status": str(error.code())}

    def protocol(self) -> dict[str, Any]:
        """Return the messages and methods that the client was generated from."""
        return protocol(service_pb2.DESCRIPTOR, *service_pb2.DESCRIPTOR.dependencies)

    def _put(self, result: Any, error: Any) -> None:  # noqa: ANN401 - as the client gives them
        self._results.put(error or result)


def main() -> None:
    """Answer commands until there are no more."""
    child = Child(sys.argv[1], json.loads(sys.argv[2]))
    for line in sys.stdin:
        command = json.loads(line)
        do: Callable[[], Any] = partial(getattr(child, command.pop("do")), **command)
        try:
            answer = do()
        except InferenceServerException as error:
            answer = error
        sys.stdout.write(json.dumps(shown(answer)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
