"""Ways to compute chunks that stay within PyTorch: compiled, in bfloat16, in int8. Each changes a model in place."""

import shutil
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones import Features, Words
from ..errors import UserError
from ..extras import needs_extra
from ..model import TinyVLA


def compile_chunks(model: TinyVLA) -> None:
    """Compile the encoder and the denoising step; on a GPU the step becomes a CUDA graph.

    Shapes are static except for the instruction's length, so that nothing is compiled again between chunks. The sampler
    is not compiled: unrolling it would compile the step once per denoising step.

    Raises UserError if there is no C++ compiler, which PyTorch's compiler needs on a CPU.
    """
    device = next(model.parameters()).device
    if device.type == "cpu" and not any(shutil.which(name) for name in ("g++", "clang++", "c++", "cl")):
        raise UserError("runner.runtime=compile needs a C++ compiler; install one (sudo apt install g++) or use onnx")
    network = model.decoder.network
    if device.type == "cuda":
        step = torch.compile(network.denoise, dynamic=False, fullgraph=True, mode="reduce-overhead")

        def denoise(actions: Tensor, modulation: Sequence[Tensor]) -> Tensor:
            torch.compiler.cudagraph_mark_step_begin()
            return step(actions, modulation).clone()  # the next replay overwrites the graph's output

        network.denoise = denoise  # type: ignore[method-assign]
    else:
        network.denoise = torch.compile(network.denoise, dynamic=False, fullgraph=True)  # type: ignore[method-assign]
    if model.backbone.exportable:
        encode = torch.compile(model.backbone.encode, fullgraph=True)

        def encode_any_length(images: Tensor, words: Words) -> Features:
            if words.mask.shape[1] < 2:  # a length of one would be compiled separately
                words = Words(F.pad(words.embedded, (0, 0, 0, 1)), F.pad(words.mask, (0, 1)))
            for tensor in words:
                torch._dynamo.mark_dynamic(tensor, 1, min=2, max=1024)
            return encode(images, words)

        model.backbone.encode = encode_any_length  # type: ignore[method-assign]


def to_bfloat16(model: TinyVLA) -> None:
    """Weights in bfloat16; of the buffers, only those of batch norms.

    Images and state are cast too, the noisy chunk stays in float32.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.bfloat16()  # on a CPU its statistics must have the weights' type


def quantise(model: TinyVLA) -> list[str]:
    """Linear layers in int8 through torchao, with activations quantised dynamically; returns the layers' names.

    All layers of the backbone and the denoiser, except those that read proprioception or return actions: they are
    small, and their errors are errors of the arm.
    """
    with needs_extra("export", "runner.runtime=int8"):
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    excluded = {"decoder.condition.combine", "decoder.network.embed", "decoder.network.head"}
    chosen = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and name not in excluded]
    quantize_(model, Int8DynamicActivationInt8WeightConfig(), filter_fn=lambda _, name: name in chosen)
    return chosen
