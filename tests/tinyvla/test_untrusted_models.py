"""Backbones' checkpoints and exported policies from strangers: read as data, and refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from released import save_smolvlm

from tinyvla.backbones.smolvlm import SmolVLMConfig
from tinyvla.errors import UserError
from tinyvla.inference.exported import ExportedPolicy
from tinyvla.inference.onnx_check import check_onnx


def refusal(load: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        load()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("file", "entries", "message"),
    [
        ("config.json", {"auto_map": {"AutoModel": "evil.Model"}}, "option auto_map"),
        ("config.json", {"text_config": {"model_type": "llama", "_attn_implementation": "a/b"}}, "attn_implementation"),
        ("config.json", {"text_config": {"model_type": "bert"}}, "model_type 'bert'"),
        ("config.json", {"text_config": {"model_type": "llama", "num_hidden_layers": 4000}}, "far larger|no network"),
        ("config.json", {"text_config": {"model_type": "llama", "hidden_size": "x"}}, "describes no network"),
        ("config.json", {"vision_config": 3}, "describes no network"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}, "option auto_map"),
        ("tokenizer_config.json", {"eos_token": "x" * 5000}, "a token of 5000 letters"),
        ("special_tokens_map.json", {"pad_token": {"content": "x" * 5000}}, "a token of 5000 letters"),
        ("tokenizer.json", {"added_tokens": [{"id": 0, "content": "x" * 5000}]}, "a token of 5000 letters"),
        ("preprocessor_config.json", {"image_mean": "half", "image_std": [1, 1, 1]}, "three numbers each"),
        ("preprocessor_config.json", {"image_mean": [0, 0, 0], "image_std": [0, 1, 1]}, "out of range"),
    ],
)
def test_a_pretrained_folder_is_data(tmp_path: Path, file: str, entries: dict[str, Any], message: str) -> None:
    save_smolvlm(tmp_path)
    content = json.loads((tmp_path / file).read_text()) if (tmp_path / file).exists() else {}
    (tmp_path / file).write_text(json.dumps(content | entries))
    refusal(lambda: SmolVLMConfig(pretrained=str(tmp_path)).build(), message)


def test_a_link_out_of_a_pretrained_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save_smolvlm(tmp_path / "model")
    (tmp_path / "model/tokenizer.json").rename(tmp_path / "tokenizer.json")
    (tmp_path / "model/tokenizer.json").symlink_to("../tokenizer.json")
    refusal(lambda: SmolVLMConfig(pretrained=str(tmp_path / "model")).build(), "outside of it")


def save_onnx(folder: Path, domain: str = "", external: str | None = None, nested: bool = False) -> Path:
    """A model that adds a constant, perhaps of another file or inside a branch, with an operator of a domain."""
    weight = numpy_helper.from_array(np.zeros(4, np.float32), "weight")
    if external:
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=external)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    node = helper.make_node("Add", ["x", "weight"], ["y"], domain=domain)
    if nested:
        constant = helper.make_node("Constant", [], ["weight"], value=weight)
        branch = helper.make_graph([constant, node], "branch", [], [y])
        node = helper.make_node("If", ["condition"], ["y"], then_branch=branch, else_branch=branch)
    graph = helper.make_graph([node], "graph", [x], [y], [] if nested else [weight])
    (folder / "model.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    return folder / "model.onnx"


def test_an_onnx_file_refers_to_nothing_else(tmp_path: Path) -> None:
    check_onnx(save_onnx(tmp_path))
    check_onnx(save_onnx(tmp_path, nested=True))
    for nested in (False, True):
        for location in ("../secret", "/etc/passwd", "beside.bin"):
            refusal(lambda: check_onnx(save_onnx(tmp_path, external=location, nested=nested)), "in other files")  # noqa: B023
        refusal(lambda: check_onnx(save_onnx(tmp_path, "evil.ops", nested=nested)), "operators of 'evil.ops'")  # noqa: B023


def field(number: int, content: bytes) -> bytes:
    """A message as a field of another one in protobuf's wire format."""
    size, length = len(content), b""
    while size > 127:
        length, size = length + bytes([128 | size & 127]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def test_damaged_onnx_files_are_one_line(tmp_path: Path) -> None:
    content = save_onnx(tmp_path).read_bytes()
    (tmp_path / "model.onnx").write_bytes(content[:-7])
    refusal(lambda: check_onnx(tmp_path / "model.onnx"), "not a complete ONNX file")
    graph = b""
    for _ in range(40):  # a graph in an attribute of a node of a graph
        graph = field(1, field(5, field(6, graph)))
    (tmp_path / "model.onnx").write_bytes(field(7, graph))
    refusal(lambda: check_onnx(tmp_path / "model.onnx"), "nested too deeply")


def test_an_onnx_file_of_many_fields_ends_soon(tmp_path: Path) -> None:
    with (tmp_path / "model.onnx").open("wb") as file:
        file.truncate(200 << 20)  # a disk that was full leaves zeros
    refusal(lambda: check_onnx(tmp_path / "model.onnx"), "not a complete ONNX file")
    (tmp_path / "model.onnx").write_bytes(field(7, field(1, b"")) * 600_000)
    refusal(lambda: check_onnx(tmp_path / "model.onnx"), "more than 1000000 fields")


AFFINE = {"scale": [1.0] * 4, "offset": [0.0] * 4}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer": {"vocab_size": 10**12, "max_length": 8}}, "unsuitable"),
        ({"cameras": "front"}, "unsuitable"),
        ({"normalisation": {"state": {}, "action": {}}}, "lacks"),
        ({"normalisation": {"state": {"scale": [1.0] * 3, "offset": [0.0] * 4}, "action": AFFINE}}, "unsuitable"),
        ({"normalisation": {"state": AFFINE, "action": {"scale": [1.0] * 4, "offset": [0.0] * 5}}}, "unsuitable"),
        ({"inputs": {"noise": {"shape": [1, 8, 4, 5]}, "state": {"shape": [1, 4]}}}, "unsuitable"),
        ({"inputs": {"noise": {"shape": [1, 8, 4]}, "state": {"shape": []}}}, "lacks"),
        ({"inputs": None}, "lacks"),
        ({}, "cannot be opened"),
    ],
)
def test_the_description_of_an_exported_policy_is_checked(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    description = {
        "cameras": ["observation.images.front"],
        "tokenizer": {"vocab_size": 100, "max_length": 8},
        "inputs": {"noise": {"shape": [1, 8, 4]}, "state": {"shape": [1, 4]}},
        "normalisation": {"state": AFFINE, "action": AFFINE},
    }
    (tmp_path / "policy.json").write_text(json.dumps(description | changes))
    (tmp_path / "model.onnx").write_bytes(b"")
    refusal(lambda: ExportedPolicy(tmp_path), message)
