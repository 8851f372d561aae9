"""Folders in the model hub's format that come with a checkpoint, checked before transformers reads them.

transformers runs code that such a folder names: modules of its own (`auto_map`), kernels of the hub
(`attn_implementation`), adapters around another model. Here every name of a class is on a list, and none of these
options is accepted.
"""

import re
from pathlib import Path
from typing import Any

from .errors import UserError
from .untrusted import check_links, check_regular, check_values, read_json_object

# Files that transformers reads the options of a model, tokenizer or processor from.
_OPTION_FILES = (
    *("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"),
    *("video_preprocessor_config.json", "generation_config.json"),
)
_MAX_BYTES = 4 << 20  # of one of these
_TOKEN_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_MAX_TOKENS = 1 << 20
_LONGEST_TOKEN = 4096  # letters
_HUB_ID = re.compile(r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}")
_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".pkl", ".pickle")
_REFUSED = {
    *("auto_map", "trust_remote_code", "custom_pipelines", "quantization_config", "base_model_name_or_path"),
    *("tokenizer_file", "vocab_file", "merges_file", "tokenizer_object", "_experts_implementation"),
}
_CLASSES = {
    "model_type": {
        *("smolvlm", "smolvlm_vision", "idefics3", "idefics3_vision", "llama", "siglip_vision_model"),
        *("clip", "clip_text_model", "clip_vision_model", "llava_pythia", "gpt_neox", "sam", "sam_vision_model"),
        *("sam_mask_decoder", "sam_prompt_encoder", "sam_prompt_encoder_config", "sam_mask_decoder_config"),
        # Of sections of released checkpoints; transformers knows no such models.
        *("", "llava_pythia_clip_vision_model", "llava_pythia_siglip_vision_model", "llava_pythia_projector"),
    },
    "tokenizer_class": {
        *("TokenizersBackend", "PreTrainedTokenizerFast", "CLIPTokenizer", "CLIPTokenizerFast"),
        *("GPT2Tokenizer", "GPT2TokenizerFast", "GPTNeoXTokenizer", "GPTNeoXTokenizerFast"),
    },
    "processor_class": {"SmolVLMProcessor", "Idefics3Processor", "CLIPProcessor", "SamProcessor"},
    "image_processor_type": {
        f"{model}ImageProcessor{speed}" for model in ("SmolVLM", "Idefics3", "CLIP", "Sam") for speed in ("", "Fast")
    },
    "feature_extractor_type": {"CLIPFeatureExtractor"},
    "video_processor_type": {"SmolVLMVideoProcessor"},
    "attn_implementation": {"eager", "sdpa"},
    "_attn_implementation": {"eager", "sdpa"},
}

# Of an error about a folder of the TinyVLA authors, who save other files.
AUTHORS_HINT = (
    "a policy of the TinyVLA authors becomes a checkpoint by `python -m policies.tinyvla.released`, see docs/usage.md"
)


def is_hub_id(name: Any) -> bool:
    """True for the id of a model on the hub, `owner/name`, that is not a path of this machine as well."""
    return isinstance(name, str) and _HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def check_model_folder(folder: Path, model_types: set[str] | None = None) -> None:
    """Raise UserError for a folder of a model, tokenizer or processor that would run code or leave the folder.

    Args:
        folder: in the hub's format. Nothing of it is made.
        model_types: the accepted `model_type` at the top of config.json; None: any known one.
    """
    check_links(folder)
    for path in folder.iterdir():
        if path.name == "adapter_config.json" or path.suffix == ".py":
            raise UserError(f"{path} would load another model or code; get a copy without it")
        if path.suffix in _WEIGHTS and not (folder / "model.safetensors").is_file():
            raise UserError(f"{path} holds pickled weights; get a copy with model.safetensors")
        if not path.is_dir():
            check_regular(path)
    check_model_options(folder)
    check_tokens(folder / "tokenizer.json")
    if model_types is not None and (folder / "config.json").is_file():
        model_type = read_json_object(folder / "config.json", _MAX_BYTES).get("model_type")
        if model_type not in model_types:
            raise UserError(
                f"{folder} holds the model {str(model_type)[:50]!r}, not {' or '.join(sorted(model_types))}"
            )


def check_model_options(folder: Path) -> None:
    """Raise UserError for options of a model, tokenizer or processor that would run code; see `check_model_folder`."""
    for name in _OPTION_FILES:
        if (file := folder / name).exists():
            content = read_json_object(file, _MAX_BYTES)
            if name != "tokenizer_config.json":  # whose `model_max_length` may be 1e30
                check_values(content, str(file))
            _check_options(content, str(file))
    for name in _TOKEN_FILES:
        if (file := folder / name).exists():
            content = read_json_object(file, _MAX_BYTES)
            _check_token_texts({key: value for key, value in content.items() if key != "chat_template"}, file)


def _check_token_texts(value: Any, file: Path) -> None:
    """Raise UserError for a token of many letters, of which the tokenizers library makes a large table."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        for entry in value:
            _check_token_texts(entry, file)
    elif isinstance(value, str) and len(value) > _LONGEST_TOKEN:
        raise UserError(f"{file} has a token of {len(value)} letters; get the original file")


def check_tokens(file: Path) -> None:
    """Raise UserError for ids and texts that no tokenizer has: the tokenizers library makes tables of their size."""
    if not file.exists():
        return
    content = read_json_object(file)
    added, model = content.get("added_tokens"), content.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    ids += [token.get("id") for token in added or [] if isinstance(token, dict)] if isinstance(added, list) else []
    if any(isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < _MAX_TOKENS for token in ids):
        raise UserError(f"{file} has token ids that are not from 0 to {_MAX_TOKENS}; get the original file")
    _check_token_texts(added, file)


def _check_options(value: Any, place: str) -> None:
    """Look through nested options; `check_values` or the JSON reader has bounded their depth."""
    if isinstance(value, list):
        for entry in value:
            _check_options(entry, place)
    if not isinstance(value, dict):
        return
    for key, entry in value.items():
        if key in _REFUSED and entry not in (None, False):
            raise UserError(f"{place} has the option {key}, which loads code or files from elsewhere; get a plain copy")
        if key in _CLASSES and entry is not None and (not isinstance(entry, str) or entry not in _CLASSES[key]):
            known = ", ".join(sorted(_CLASSES[key] - {""}))
            raise UserError(f"{place} has {key} {str(entry)[:80]!r}; use a model with one of {known}")
        _check_options(entry, place)
