"""Front-ends, classifiers and segmenters from strangers: read as data, and refused in one line."""

import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tinyvla.errors import UserError
from tinyvla.frontends import load_frontend, read_image
from tinyvla.frontends.classifier import Classifier
from tinyvla.frontends.tinysam.released import load_segmenter
from tinyvla.frontends.wake.frontend import Wake
from tinyvla.tensor_files import read_tensors


class Canary:
    """An object whose pickle runs a command that leaves a file."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.file}",)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """File that must not appear."""
    yield tmp_path / "canary"
    assert not (tmp_path / "canary").exists()


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    """Folder of a small front-end."""
    Wake(width=0.25, image_size=48).save(tmp_path / "wake")
    return tmp_path / "wake"


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """Folder of a small classifier."""
    Classifier("cct_2_3x2", ["a", "b"], 16).save(tmp_path / "classifier")
    return tmp_path / "classifier"


def change(folder: Path, **entries: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def refusal(load: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        load()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"auto_map": {"AutoModel": "evil.Model"}}, "option auto_map, which loads code"),
        ({"front_end": "os.system"}, "unknown front-end"),
        ({"front_end": ["wake"]}, "not of a front-end"),
        ({"options": {"network": "mcunet", "attn_implementation": "user/kernel"}}, "attn_implementation"),
        ({"options": {"on": "often"}}, "stored on of a detector"),
        ({"options": {"width": float("nan")}}, "not a finite number"),
        ({"options": ["mcunet"]}, "not of a front-end"),
        ({"front_end": "tinysam", "options": {"model": {}, "picker": "/tmp"}}, "stored picker"),
        ({"front_end": "tinysam", "options": {"model": {}, "objects": 10**9}}, "stored objects"),
        (
            {"front_end": "tinysam", "options": {"model": {"hidden_size": 1 << 14, "depths": [99] * 4}}},
            "far larger than the stored weights",
        ),
    ],
)
def test_options_that_no_frontend_stores_are_refused(
    detector: Path, entries: dict[str, Any], message: str, canary: Path
) -> None:
    change(detector, **entries)
    refusal(lambda: load_frontend(detector), message)


def test_code_pickles_and_links_beside_a_frontend_are_refused(detector: Path, canary: Path) -> None:
    load_frontend(detector)
    (detector / "modeling.py").write_text(f"open({str(canary)!r}, 'w')")
    refusal(lambda: load_frontend(detector), "load another model or code")
    (detector / "modeling.py").unlink()
    (detector / "notes").symlink_to("/etc/passwd")
    refusal(lambda: load_frontend(detector), "outside of it")
    (detector / "notes").unlink()
    (detector / "model.safetensors").unlink()
    torch.save(Canary(canary), detector / "pytorch_model.bin")
    refusal(lambda: load_frontend(detector), "pickled weights")


def test_a_run_cannot_lead_to_a_frontend_elsewhere(detector: Path, tmp_path: Path) -> None:
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/checkpoints/best").symlink_to(detector.parent)
    detector.rename(detector.with_name("pretrained_model"))
    refusal(lambda: load_frontend(tmp_path / "run"), "outside of it")


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"checkpoint_path": "evil.pt"}, "cannot have the option 'checkpoint_path'"),
        ({"pretrained": True}, "cannot have the option 'pretrained'"),
        ({"pretrained_cfg_overlay": {"file": "evil.pt"}}, "cannot have the option 'pretrained_cfg_overlay'"),
        ({"global_pool": "../../x"}, "cannot have the option 'global_pool'"),
        ({"global_pool": {"_target_": "os.system"}}, "cannot have the option 'global_pool'"),
        ([1], "cannot have the option"),
        ({"in_chans": 10**6}, "far larger than the stored weights"),
    ],
)
def test_a_classifiers_network_names_no_files(classifier: Path, network: Any, message: str, canary: Path) -> None:
    torch.save(Canary(canary), classifier.parent / "evil.pt")
    change(classifier, network=network)
    refusal(lambda: Classifier.load(classifier), message)


@pytest.mark.parametrize("model", ["hf-hub:user/model", "local-dir:/tmp", ["cct_2_3x2"], "os.system"])
def test_a_classifiers_model_is_a_name(classifier: Path, model: Any) -> None:
    change(classifier, model=model)
    refusal(lambda: Classifier.load(classifier), "timm has no model|unsuitable model")


def test_a_pickled_segmenter_runs_nothing(tmp_path: Path, canary: Path) -> None:
    for name, content in (("code", Canary(canary)), ("list", [1, 2]), ("nested", {"a": {"b": torch.zeros(1)}})):
        torch.save(content, tmp_path / f"{name}.pth")
        refusal(lambda file=tmp_path / f"{name}.pth": load_segmenter(file), "names code|tensors by name")


def test_tensors_are_not_larger_than_their_file(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1).expand(1 << 33)}, tmp_path / "views.pth")
    refusal(lambda: read_tensors(tmp_path / "views.pth"), "larger than itself")
    torch.save({"weight": torch.zeros(1 << 20)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for record in plain.infolist():
            bomb.writestr(record.filename, plain.read(record))
    refusal(lambda: read_tensors(tmp_path / "bomb.pth"), "compressed records")
    save_file({"weight": torch.zeros(2)}, tmp_path / "good.safetensors")
    assert read_tensors(tmp_path / "good.safetensors")["weight"].shape == (2,)


def test_an_image_is_of_a_format_that_pillow_reads_itself(tmp_path: Path) -> None:
    """Pillow starts Ghostscript for PostScript, whatever the file's name."""
    Image.new("RGB", (16, 16)).save(tmp_path / "image.eps")
    (tmp_path / "image.eps").rename(tmp_path / "image.png")
    refusal(lambda: read_image(tmp_path / "image.png"), "cannot be read")
    Image.new("RGB", (16, 16)).save(tmp_path / "image.webp")
    assert read_image(tmp_path / "image.webp").shape == (16, 16, 3)
