"""Computation of an action chunk as one graph of tensor operations, and this graph as an ONNX file."""

import contextlib
import io
import logging
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.passes.dialect.common.cse_pass import CSEPass

from ..backbones import Words
from ..decoders import ActionDecoder
from ..errors import UserError
from ..extras import needs_extra
from ..model import TinyVLA

OPSET = 18
INPUTS = ("images", "ids", "mask", "state", "noise")
OUTPUT = "actions"


class ChunkGraph(nn.Module):
    """TinyVLA as a function of tensors, for one observation; the denoising loop is unrolled.

    images (1, C, 3, H, W) in [0, 1], token ids (1, L) of the prompt and their mask (1, L) bool, normalised state (1, S)
    and noise (1, H, A) to normalised actions (1, H, A). L is 2 or more.

    Raises UserError if the backbone cannot be traced.
    """

    def __init__(self, model: TinyVLA):
        super().__init__()
        if not model.backbone.exportable:
            raise UserError("this backbone cannot be exported, only nano and film can; use runtime torch")
        self.backbone, self.condition = model.backbone, model.decoder.condition
        self.denoise = unroll(model.decoder, model.backbone.hidden_size, model.chunk_shape)

    def forward(self, images: Tensor, ids: Tensor, mask: Tensor, state: Tensor, noise: Tensor) -> Tensor:
        words = Words(self.backbone.get_input_embeddings()(ids), mask)
        return self.denoise(self.condition(self.backbone.encode(images, words), state), noise)


def unroll(decoder: ActionDecoder, hidden_size: int, chunk_shape: tuple[int, int]) -> torch.fx.GraphModule:
    """The denoising loop of a decoder for one observation as a flat graph, with the sampler's tables as constants.

    Raises UserError if the sampler draws noise.
    """
    device = next(decoder.parameters()).device
    example = torch.zeros(1, hidden_size, device=device), torch.zeros(1, *chunk_shape, device=device)
    with torch.no_grad():
        # The sampler's tables do not depend on the chunk, so they become constants.
        graph = make_fx(lambda *inputs: decoder.denoise(*inputs), _error_on_data_dependent_ops=False)(*example)
    if any(torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) for node in graph.graph.nodes):
        raise UserError("the noise scheduler draws noise at every step, which a graph cannot do; use DDIMScheduler")
    for node in graph.graph.nodes:
        if node.target is torch.ops.aten._local_scalar_dense.default:
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    merged = CSEPass()(graph)  # common subexpressions: every step transposes the same weights
    assert merged is not None
    unrolled = merged.graph_module
    unrolled.recompile()
    return unrolled


def onnx_bytes(model: TinyVLA, cameras: int, image_size: tuple[int, int], state_dim: int) -> bytes:
    """ONNX file content of a TinyVLA's chunk computation, for images (height, width) of `cameras` cameras.

    Raises UserError as `ChunkGraph` does.
    """
    with needs_extra("export", "an ONNX file"):
        import onnxscript  # noqa: F401, imported by torch.onnx.export
    model = model.eval()
    graph = ChunkGraph(model).eval()
    generator = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device
    ids, mask = model.backbone.tokenizer([model.backbone.prompt("press the red button")])
    example = (
        torch.rand(1, cameras, 3, *image_size, generator=generator),
        ids,
        mask,
        torch.randn(1, state_dim, generator=generator),
        torch.randn(1, *model.chunk_shape, generator=generator),
    )
    length = Dim("length", min=2, max=1024)
    shapes = {"images": None, "ids": {1: length}, "mask": {1: length}, "state": None, "noise": None}
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            graph,
            tuple(tensor.to(device) for tensor in example),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=shapes,
            input_names=INPUTS,
            output_names=[OUTPUT],
            external_data=False,
        )
    assert program is not None
    return program.model_proto.SerializeToString()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's output and log."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
