"""A float32 graph becomes a float16 one by onnxruntime.transformers: what goes in and comes out stays as it was.

The converter is the one of onnxconverter-common as ONNX Runtime keeps it on: its list of operators without float16
kernels belongs to this runtime, and nothing more has to be installed.
"""

from collections.abc import Sequence

import onnx

from export import int8


def convert(model: onnx.ModelProto, in_float: Sequence[str] = ()) -> onnx.ModelProto:
    """Return a copy of a graph in float16.

    The preparation of the pixels and the softmax stay in float32, as do operators that have no float16 kernel.

    Args:
        model: made ready, see int8.prepare.
        in_float: layers that stay as they are.
    """
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.metadata_props[:]
    done: onnx.ModelProto = convert_float_to_float16(
        copy,
        keep_io_types=True,
        op_block_list=DEFAULT_OP_BLOCK_LIST,
        node_block_list=[*int8.ends(model), *in_float],
    )
    return done
