"""Networks with weights that answer each picture differently, and weight files of them."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from export import drawn
from service import image
from service.manifest import Preprocessing

_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}


def lively(network: nn.Module, channels: Literal[1, 3], size: int) -> nn.Module:
    """Give a network random weights, statistics of its own activations, and logits around 0 that spread by about 2.

    As networks start, their logits are all but the same for every picture, which no comparison of probabilities sees.
    """
    torch.manual_seed(0)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # statistics of all batches alike, so of the only one
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            if name.startswith("layer") and not isinstance(
                network.get_submodule(name.rpartition(".")[0]), nn.Sequential
            ):
                # Residual branches weigh little in trained networks; at full weight fifty of them make chaos.
                module.weight.data *= 0.3
    spec = Preprocessing(height=size, width=size, channels=channels)
    drawings = np.stack(
        [image.from_array(picture, spec) for picture in drawn.pictures(16 if size < 64 else 4, channels, seed=1)]
    )
    pictures = torch.from_numpy(drawings).permute(0, 3, 1, 2) / 64 - 2
    with torch.no_grad():
        network.train()(pictures)
        logits = network.eval()(pictures)
        last = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)][-1]
        mean = logits.mean(dim=0)
        scale = 2 / (logits - mean).std()
        last.weight *= scale
        if last.bias is not None:
            last.bias.sub_(mean).mul_(scale)
    return network


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a file as the safetensors format has it: length of the header, header as JSON, bytes of the tensors."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    body = b""
    for key, tensor in tensors.items():
        content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        offsets = [len(body), len(body) + len(content)]
        header[key] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        body += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
