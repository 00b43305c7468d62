"""The ceiling of every call: a bare synchronous gRPC server that answers each message with fixed bytes.

python -m tests.benchmarks.echo BYTES    (prints its port; ends with standard input)
"""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

THREADS = 8
UNARY, STREAM = "/echo/Unary", "/echo/Stream"


def main() -> None:
    """Serve until standard input ends."""
    answer = bytes(int(sys.argv[1]))

    def unary(_: bytes, __: grpc.ServicerContext) -> bytes:
        return answer

    def stream(requests: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
        for _request in requests:
            yield answer

    handlers: dict[str, Any] = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Stream": grpc.stream_stream_rpc_method_handler(stream),
    }
    server = grpc.server(ThreadPoolExecutor(THREADS), options=[("grpc.max_receive_message_length", 1 << 30)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.stop(None)


if __name__ == "__main__":
    main()
