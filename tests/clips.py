"""Small CLIPs and images with captions for tests."""

import json
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from transformers import CLIPModel

from tinyvla.frontends.tinyclip import TinyCLIP

COLOURS = {"red": (220, 40, 40), "green": (40, 190, 60), "blue": (50, 70, 230), "yellow": (230, 220, 50)}
SHAPES = ("disc", "square", "bar")
PLACES = {"left": 8, "right": 24}
VISION = {"layers": 2, "width": 32, "heads": 4, "units": 48}
TEXT = {"layers": 3, "width": 24, "heads": 3, "units": 40}


def fake_scenes(count: int, seed: int = 0, size: int = 32) -> SimpleNamespace:
    """Stand-in for `open_labelled_images` with captions: a coloured shape on either side of a grey image."""
    rng = np.random.default_rng(seed)
    images = np.full((count, size, size, 3), 110, np.uint8)
    images += rng.integers(0, 20, images.shape, dtype=np.uint8)
    labels = []
    for image in images:
        things = []
        for place, x in PLACES.items():
            colour, shape = str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))
            down, across = np.mgrid[:size, :size] - np.array([16, x])[:, None, None]
            inside = {
                "disc": down**2 + across**2 <= 30,
                "square": np.maximum(abs(down), abs(across)) <= 5,
                "bar": (abs(down) <= 9) & (abs(across) <= 2),
            }[shape]
            image[inside] = COLOURS[colour]
            things.append((f"{colour} {shape}", place))
        (first, _), (second, _) = things
        labels.append(
            {
                "caption": f"a {first} left of a {second}",
                "captions": [f"a {first} left of a {second}", f"a {second} right of a {first}"],
                "objects": [{"name": name} for name, _ in things],
            }
        )
    return SimpleNamespace(images=images, labels=labels)


def tiny_clip(seed: int = 0, **sizes) -> TinyCLIP:
    """A fresh model of a few thousand weights, none of which is small enough for a mistake to hide in."""
    torch.manual_seed(seed)
    captions = [text for label in fake_scenes(50).labels for text in label["captions"]]
    model = TinyCLIP.new(
        captions, **({"vision": VISION, "text": TEXT, "image_size": 32, "width": 20, "max_tokens": 24} | sizes)
    )
    _spread(model.clip)
    return model.eval()


def _spread(clip: nn.Module) -> None:
    for name, parameter in clip.named_parameters():
        if "logit_scale" not in name:
            nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=0.2)


def save_released(folder, clip: TinyCLIP) -> CLIPModel:
    """Write a checkpoint as `wkcn/TinyCLIP-ViT-8M-16-Text-3M-YFCC15M` is, older library's names and all."""
    reference = CLIPModel(clip.clip.config).eval()
    reference.load_state_dict(clip.clip.state_dict())
    reference.save_pretrained(folder)
    clip.tokenizer.save_pretrained(folder)
    clip.tokenizer.backend_tokenizer.model.save(str(folder))  # vocab.json and merges.txt
    size = clip.clip.config.vision_config.image_size
    described = {
        "crop_size": size,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "size": size,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(described))
    return reference
