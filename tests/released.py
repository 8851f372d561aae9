"""Small checkpoints in the layouts of released models, with random weights and tokenizers trained on the spot."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    GPTNeoXConfig,
    GPTNeoXModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

TEXTS = [
    "A chat between a curious user and an artificial intelligence assistant.",
    "Press the button from the top. Open the drawer. Close the window. USER: ASSISTANT: Assistant: User:",
]


def train_tokenizer(folder: Path, special_tokens: list[str]) -> Tokenizer:
    """A byte-level BPE tokenizer of 320 tokens, as GPT-NeoX's and SmolLM2's are, written as tokenizer.json."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}

COLOURS = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
OPENING = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. USER: "
)


class LlavaPythiaReference:
    """The parts of a LLaVA-Pythia checkpoint as transformers makes them, whole, to compare with."""

    def __init__(self, tower: str):
        if tower == "clip":
            self.vision = CLIPVisionModel(CLIPVisionConfig(**VISION))
        else:
            self.vision = SiglipVisionModel(SiglipVisionConfig(**VISION))
        self.projector = nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 48))
        self.language = GPTNeoXModel(
            GPTNeoXConfig(
                vocab_size=320, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96
            )
        )
        for part in (self.vision, self.projector, self.language):
            part.eval()
            for name, parameter in part.named_parameters():
                # The default initialisation is so small that a wrong order of anything would hardly show.
                nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=0.2)

    @torch.no_grad()
    def tokens(self, folder: Path, images: torch.Tensor, instruction: str) -> torch.Tensor:
        """Hidden states (N, 48) of one sample by the released recipe, for images (C, 3, 56, 56) in [0, 1].

        folder: with the tokenizer of the checkpoint.
        """
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (COLOURS["image_mean"], COLOURS["image_std"]))
        patches = self.vision((images - mean) / std, output_hidden_states=True).hidden_states[-2]
        if patches.shape[1] == 17:  # the class token of CLIP comes first
            patches = patches[:, 1:]
        embeddings = [self.projector(patches).flatten(0, 1)]
        for place, text in ((0, OPENING), (2, f"\n{instruction} ASSISTANT: <|endoftext|>")):
            ids = torch.tensor(tokenizer.encode(text).ids)
            embeddings.insert(place, self.language.embed_in(ids))
        return self.language(inputs_embeds=torch.cat(embeddings)[None]).last_hidden_state[0]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Tensors under the released names."""
        named = {f"gpt_neox.{key}": tensor for key, tensor in self.language.state_dict().items()}
        named["embed_out.weight"] = torch.randn(320, 48)
        tower = getattr(self.vision, "vision_model", self.vision)
        named |= {f"gpt_neox.vision_tower.vision_model.{key}": v for key, v in tower.state_dict().items()}
        named |= {f"gpt_neox.mm_projector.{key}": v for key, v in self.projector.state_dict().items()}
        # Older libraries stored buffers as well.
        named["gpt_neox.layers.0.attention.rotary_emb.inv_freq"] = torch.ones(2)
        named["gpt_neox.layers.0.attention.bias"] = torch.ones(1, 1, 4, 4)
        return {key: tensor.contiguous().clone() for key, tensor in named.items()}


def save_llava_pythia(
    folder: Path, tower: str = "clip", files: str = "safetensors", dtype: torch.dtype = torch.float32
) -> LlavaPythiaReference:
    """Write a checkpoint as `lesjie/Llava-Pythia-400M` is: `files` is safetensors, bin or sharded."""
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    reference = LlavaPythiaReference(tower)
    names = {"clip": "openai/clip-vit-large-patch14-336", "siglip": "google/siglip-so400m-patch14-384"}
    config = {
        "architectures": ["LlavaPythiaForCausalLM"],
        "model_type": "llava_pythia",
        "vocab_size": 320,
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "hidden_act": "gelu",
        "rotary_pct": 0.25,
        "rotary_emb_base": 10000,
        "use_parallel_residual": True,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.39.0",
        "image_aspect_ratio": "pad",
        "mm_use_im_start_end": False,
        "concat": "None",
        "vision_config": {
            "vision_tower": VISION
            | {
                "model_type": "llava_pythia_clip_vision_model",
                "vision_model_name_or_path": names[tower],
                "mm_vision_select_feature": "patch",
                "mm_vision_select_layer": -2,
                "hidden_act": reference.vision.config.hidden_act,
                "layer_norm_eps": reference.vision.config.layer_norm_eps,
                "projection_dim": 768,
            },
            "mm_projector": {
                "model_type": "llava_pythia_projector",
                "mm_projector_type": "mlp2x_gelu",
                "mm_hidden_size": 32,
                "hidden_size": 48,
            },
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(COLOURS | {"do_resize": True}))
    train_tokenizer(folder, ["<|endoftext|>", "<|padding|>"])
    state = {key: tensor.to(dtype) for key, tensor in reference.state_dict().items()}
    if files == "safetensors":
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    elif files == "bin":
        torch.save(state, folder / "pytorch_model.bin")
    else:
        keys = sorted(state)
        for shard in range(2):
            part = {key: state[key] for key in keys[shard::2]}
            save_file(part, folder / f"model-{shard + 1:05d}-of-00002.safetensors", metadata={"format": "pt"})
    return reference


def save_smolvlm(folder: Path) -> tuple[SmolVLMForConditionalGeneration, Tokenizer]:
    """Write a checkpoint as `HuggingFaceTB/SmolVLM2-256M-Video-Instruct` is."""
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    marks = ["<|im_start|>", "<fake_token_around_image>", "<global-img>", "<image>", "<end_of_utterance>"]
    tokenizer = train_tokenizer(folder, marks)
    config = SmolVLMConfig(
        image_token_id=tokenizer.token_to_id("<image>"),
        scale_factor=2,
        vision_config={
            "model_type": "smolvlm_vision",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 16,
            "size": {"longest_edge": 64},
        },
        text_config={
            "model_type": "llama",
            "vocab_size": 320,
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "rope_theta": 100_000,
            "rms_norm_eps": 1e-5,
            "is_llama_config": True,
            "torch_dtype": "bfloat16",
        },
    )
    model = SmolVLMForConditionalGeneration(config).float().eval()
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=0.2)
    model.save_pretrained(folder)
    return model, tokenizer
