"""PyTriton: Triton's own server in front, the Open Inference Protocol over gRPC."""

import os
import sysconfig

import numpy as np
import numpy.typing as npt
from classifier import DELAY_MS, MOST, PORT, Classifier
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

_classify = Classifier()


@batch
def infer(image: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.bytes_]]:
    """Run a batch."""
    labels = _classify([picture.tobytes() for picture in image])
    return {"label": np.char.encode(np.array(labels)[:, None])}


if __name__ == "__main__":
    # Triton's Python backend is linked to libpython: to this interpreter's, not to whichever the system has.
    libraries = [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH")]
    os.environ["LD_LIBRARY_PATH"] = ":".join(filter(None, libraries))
    shape = tuple(int(side) for side in os.environ["PEER_SHAPE"].split("x"))
    loopback = "127.0.0.1"
    config = TritonConfig(
        grpc_address=loopback,
        grpc_port=PORT,
        http_address=loopback,
        http_port=int(os.environ["PEER_PORT_2"]),
        metrics_port=int(os.environ["PEER_PORT_3"]),
        metrics_address=loopback,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="label",
            infer_func=infer,
            inputs=[Tensor(name="image", dtype=np.uint8, shape=shape)],
            outputs=[Tensor(name="label", dtype=bytes, shape=(1,))],
            config=ModelConfig(
                max_batch_size=MOST, batcher=DynamicBatcher(max_queue_delay_microseconds=1000 * DELAY_MS)
            ),
        )
        triton.serve()
