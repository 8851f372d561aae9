"""Small models in the hub's format, made on this machine: for LeRobot's policies without access to the hub.

They hold an architecture, a tokenizer and an empty file of weights: transformers initialises missing weights at random,
from torch's seed.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub.constants import HF_HOME
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    CLIPConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from tinyvla.errors import UserError

HOME = Path(HF_HOME) / "tinyvla"  # beside the models of the hub
PREFIX = "offline/"  # of the names of these models

# Each of these words is one token; other words are several.
_WORDS = (
    "a an and as at away back bottom by down for from in inside into left near of off on onto open out over right "
    "side the then through to top towards under until up with assemble close disassemble drop grasp hammer hit insert "
    "lift lock move pick place press pull push put reach release rotate slide stack sweep take turn unlock unplug "
    "ball basket basketball bin block bolt box button coffee cup cube dial disc door drawer faucet goal gripper handle "
    "hole lever lid machine mug nail nut object peg pillar plate plug position puck robot shelf soccer stick table "
    "target tray wall window wrench black blue green red white yellow"
)


def offline_model(name: str) -> Path:
    """Folder of `offline/smolvlm` or `offline/clip`, made if needed; its name follows from its content.

    Raises UserError for another name.
    """
    makers = {"smolvlm": _smolvlm, "clip": _clip}
    kind = name.removeprefix(PREFIX)
    if kind not in makers:
        raise UserError(f"there is no model '{name}'; use {' or '.join(PREFIX + k for k in makers)}, or a hub id")
    config, processor = makers[kind]()
    digest = hashlib.sha256((config.to_json_string() + _WORDS).encode()).hexdigest()[:8]
    folder = HOME / f"{kind}-{digest}"
    if not folder.is_dir():
        HOME.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=HOME) as temporary:
            write_model(Path(temporary) / kind, config, processor)
            with contextlib.suppress(OSError):  # another process has made it
                os.rename(Path(temporary) / kind, folder)
    return folder


def write_model(folder: Path, config: PreTrainedConfig, processor: Any = None) -> None:
    """Write a model's architecture and its processor or tokenizer, without weights, for `from_pretrained`."""
    config.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    save_file({}, folder / "model.safetensors", metadata={"format": "pt"})


def _smolvlm() -> tuple[PreTrainedConfig, Any]:
    """SmolVLM2's architecture (arXiv 2504.05299): SigLIP, pixel shuffle, SmolLM2."""
    image_tokens = {
        "image_token": "<image>",
        "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    }
    words = _train_tokenizer(["<|im_start|>", "<|im_end|>", *image_tokens.values()])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        extra_special_tokens=image_tokens,
    )
    config = SmolVLMConfig(
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        vision_config={
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": 96,
            "patch_size": 16,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": words.get_vocab_size(),
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 48,
            "rms_norm_eps": 1e-5,
            "rope_theta": 100_000,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
    )
    size = {"longest_edge": config.vision_config.image_size}
    processor = SmolVLMProcessor(
        SmolVLMImageProcessor(size=size, max_image_size=size),
        tokenizer,
        SmolVLMVideoProcessor(size=size, max_image_size=size),
        image_seq_len=9,
    )
    return config, processor


def _clip() -> tuple[PreTrainedConfig, Any]:
    """CLIP's architecture (arXiv 2103.00020): two transformers, that of images for 84 pixels."""
    words = _train_tokenizer(["<|startoftext|>", "<|endoftext|>"], lower_case=True)
    begin, end = (words.token_to_id(token) for token in ("<|startoftext|>", "<|endoftext|>"))
    words.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>",
        special_tokens=[("<|startoftext|>", begin), ("<|endoftext|>", end)],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<|startoftext|>", eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    config = CLIPConfig(
        text_config={
            "vocab_size": words.get_vocab_size(),
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 77,
            "bos_token_id": begin,
            "eos_token_id": end,
            "pad_token_id": end,
            # LeRobot does not train this transformer: with larger weights its output depends more on the words.
            "initializer_factor": 4.0,
        },
        vision_config={
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": 84,
            "patch_size": 12,
        },
        projection_dim=128,
    )
    return config, tokenizer


def _train_tokenizer(special_tokens: Iterable[str], lower_case: bool = False) -> Tokenizer:
    """A byte-level BPE tokenizer, as in both models, with a vocabulary of manipulation."""
    tokenizer = Tokenizer(models.BPE())
    if lower_case:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2048,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_WORDS], trainer)
    return tokenizer
