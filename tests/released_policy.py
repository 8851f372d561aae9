"""A small policy as the TinyVLA authors save it, in each of their layouts, and its actions in plain torch."""

import json
import math
import pickle
import shutil
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from released import LlavaPythiaReference, save_llava_pythia
from safetensors.torch import save_file
from torch import Tensor, nn

STATE, ACTION, CHUNK, WIDTH = 3, 2, 8, 48
WIDTHS, KERNEL, GROUPS, STEP = (16, 32), 5, 8, 16  # of the U-Net
RANK, ALPHA = 4, 8
LAYOUTS = ("peft 0.4", "peft 0.17", "collected", "with base", "merged")


def head_tensors() -> dict[str, Tensor]:
    """Random tensors of the action head under the authors' names, without `embed_out.`."""
    shapes: dict[str, tuple[int, ...]] = {"norm_after_pool": (WIDTH,), "combine": (WIDTH, WIDTH + STATE)}
    shapes |= {"diffusion_step_encoder.1": (4 * STEP, STEP), "diffusion_step_encoder.3": (STEP, 4 * STEP)}

    def block(name: str, c_in: int, c_out: int) -> None:
        for i, c in enumerate((c_in, c_out)):
            shapes[f"{name}.blocks.{i}.block.0"] = (c_out, c, KERNEL)
            shapes[f"{name}.blocks.{i}.block.1"] = (c_out,)
        shapes[f"{name}.cond_encoder.1"] = (2 * c_out, WIDTH + STEP)
        if c_in != c_out:
            shapes[f"{name}.residual_conv"] = (c_out, c_in, 1)

    low, high = WIDTHS
    pairs = {"down_modules.0": (ACTION, low), "down_modules.1": (low, high), "mid_modules": (high, high)}
    for name, (c_in, c_out) in (pairs | {"up_modules.0": (2 * high, low)}).items():
        block(f"{name}.0", c_in, c_out)
        block(f"{name}.1", c_out, c_out)
    shapes |= {"down_modules.0.2.conv": (low, low, 3), "up_modules.0.2.conv": (low, low, 4)}
    shapes |= {"final_conv.0.block.0": (low, low, KERNEL), "final_conv.0.block.1": (low,)}
    shapes["final_conv.1"] = (ACTION, low, 1)
    tensors = {}
    for name, shape in shapes.items():
        tensors[f"{name}.weight"] = torch.randn(shape) * 0.2 + (len(shape) == 1)
        tensors[f"{name}.bias"] = torch.randn(shape[0]) * 0.2
    return tensors


def predict_noise(head: dict[str, Tensor], actions: Tensor, step: int, hidden: Tensor, state: Tensor) -> Tensor:
    """The authors' head: noise (B, H, A) in actions (B, H, A), for hidden states (B, N, D) and state (B, S)."""

    def layer(function, name: str, x: Tensor, **options: int) -> Tensor:
        return function(x, head[f"{name}.weight"], head[f"{name}.bias"], **options)

    def convolve(name: str, x: Tensor) -> Tensor:
        x = layer(F.conv1d, f"{name}.block.0", x, padding=KERNEL // 2)
        return F.mish(F.group_norm(x, GROUPS, head[f"{name}.block.1.weight"], head[f"{name}.block.1.bias"]))

    def residual(name: str, x: Tensor) -> Tensor:
        scale, shift = layer(F.linear, f"{name}.cond_encoder.1", F.mish(condition)).unsqueeze(-1).chunk(2, dim=1)
        out = convolve(f"{name}.blocks.1", scale * convolve(f"{name}.blocks.0", x) + shift)
        return out + (layer(F.conv1d, f"{name}.residual_conv", x) if f"{name}.residual_conv.weight" in head else x)

    pooled = F.layer_norm(hidden.mean(1), (WIDTH,), head["norm_after_pool.weight"], head["norm_after_pool.bias"])
    pooled = layer(F.linear, "combine", torch.cat([pooled, state], dim=-1))
    # The step's embedding is in bfloat16 from its first operation on.
    frequencies = torch.exp(torch.arange(STEP // 2, dtype=torch.bfloat16) * -(math.log(10000) / (STEP // 2 - 1)))
    angles = torch.tensor([step])[:, None] * frequencies[None]
    embedded = torch.cat([angles.sin(), angles.cos()], dim=-1).float().expand(len(actions), -1)
    embedded = layer(F.linear, "diffusion_step_encoder.1", embedded)
    embedded = layer(F.linear, "diffusion_step_encoder.3", F.mish(embedded))
    condition = torch.cat([embedded, pooled], dim=-1)

    x = actions.transpose(1, 2)
    x = skip_high = residual("down_modules.0.1", residual("down_modules.0.0", x))
    x = layer(F.conv1d, "down_modules.0.2.conv", x, stride=2, padding=1)
    x = skip_low = residual("down_modules.1.1", residual("down_modules.1.0", x))
    x = residual("mid_modules.1", residual("mid_modules.0", x))
    x = residual("up_modules.0.1", residual("up_modules.0.0", torch.cat([x, skip_low], dim=1)))
    x = layer(F.conv_transpose1d, "up_modules.0.2.conv", x, stride=2, padding=1)
    assert skip_high.shape == x.shape  # the last level's features have no way up: the loop has one step less
    return layer(F.conv1d, "final_conv.1", convolve("final_conv.0", x)).transpose(1, 2)


def sample_actions(head: dict[str, Tensor], noise: Tensor, hidden: Tensor, state: Tensor) -> Tensor:
    """Normalised actions by DDIM (arXiv 2010.02502, eta = 0) in 10 of 100 steps on the squared cosine schedule."""

    def level(time: float) -> float:
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - level((i + 1) / 100) / level(i / 100), 0.999) for i in range(100)]
    levels = torch.cumprod(1 - torch.tensor(betas, dtype=torch.float32), dim=0)
    actions = noise
    for step in range(90, -1, -10):
        predicted = predict_noise(head, actions, step, hidden, state)
        clean = ((actions - (1 - levels[step]).sqrt() * predicted) / levels[step].sqrt()).clamp(-1, 1)
        before = levels[step - 10] if step else torch.tensor(1.0)
        actions = before.sqrt() * clean + (1 - before).sqrt() * predicted
    return actions


class ReleasedPolicy:
    """A policy of the authors in a folder, and what it computes."""

    def __init__(self, folder: Path, layout: str):
        self.vlm = folder / "vlm"
        self.reference: LlavaPythiaReference = save_llava_pythia(self.vlm)
        self.head = head_tensors()
        self.folder = folder / "llava_pythia_lora" / "checkpoint-10"
        self.folder.mkdir(parents=True)
        generator = np.random.default_rng(0)
        self.statistics = {
            "action_mean": generator.normal(size=ACTION).astype(np.float32),
            "action_std": np.ones(ACTION, np.float32),
            "action_min": -np.arange(1, ACTION + 1, dtype=np.float32),
            "action_max": np.arange(2, ACTION + 2, dtype=np.float32),
            "qpos_mean": generator.normal(size=STATE).astype(np.float32),
            "qpos_std": generator.uniform(0.5, 2, STATE).astype(np.float32),
            "example_qpos": generator.normal(size=(5, STATE)),
        }
        self._write(layout)

    @torch.no_grad()
    def act(self, images: Tensor, instruction: str, state: Tensor, noise: Tensor) -> Tensor:
        """Actions (1, H, A) in the robot's units, for images (C, 3, 56, 56) in [0, 1] and a raw state (S,)."""
        hidden = self.reference.tokens(self.vlm, images, instruction)[None]
        mean, std = (torch.from_numpy(self.statistics[f"qpos_{name}"]) for name in ("mean", "std"))
        actions = sample_actions(self.head, noise, hidden, ((state - mean) / std)[None])
        low, high = (torch.from_numpy(self.statistics[f"action_{name}"]) for name in ("min", "max"))
        return (actions + 1) / 2 * (high - low) + low

    def _write(self, layout: str) -> None:
        config = json.loads((self.vlm / "config.json").read_text())
        config |= {"action_head_type": "droid_diffusion", "action_dim": ACTION, "state_dim": STATE}
        config |= {"chunk_size": CHUNK, "concat": "token_cat"}
        above = self.folder if layout == "merged" else self.folder.parent
        (above / "config.json").write_text(json.dumps(config))
        (above / "dataset_stats.pkl").write_bytes(pickle.dumps(self.statistics, protocol=4))
        if layout != "with base":
            shutil.copy(self.vlm / "tokenizer.json", self.folder)
            shutil.copy(self.vlm / "preprocessor_config.json", self.folder)
        network = {name: tensor for name, tensor in self.reference.state_dict().items() if name != "embed_out.weight"}
        network |= {f"embed_out.{name}": tensor for name, tensor in self.head.items()}
        if layout == "merged":
            save_file(network, self.folder / "model.safetensors", metadata={"format": "pt"})
            return
        matrices = self._take_apart(network)
        base = ".base_layer" if layout == "peft 0.17" else ""
        non_lora = {}
        for name, tensor in network.items():
            layer, _, kind = name.rpartition(".")
            non_lora[f"{layer}{base if layer in matrices else ''}.{kind}"] = tensor
        if layout == "with base":
            save_file(self._plain(network), self.vlm / "model.safetensors", metadata={"format": "pt"})
            non_lora = {
                name: tensor for name, tensor in non_lora.items() if "embed_out" in name or "mm_projector" in name
            }
        adapter = {
            f"{layer}.lora_{half}.weight": tensor for layer, pair in matrices.items() for half, tensor in pair.items()
        }
        if layout == "collected":  # zero_to_fp32.py collects all that was in the training processes
            non_lora |= {name.replace(".weight", ".default.weight"): tensor for name, tensor in adapter.items()}
        torch.save(_prefixed(non_lora), self.folder / "non_lora_trainables.bin")
        if layout == "peft 0.4":
            torch.save(_prefixed(adapter), self.folder / "adapter_model.bin")
        else:
            save_file(_prefixed(adapter), self.folder / "adapter_model.safetensors")
        options = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none", "fan_in_fan_out": False}
        options |= {"base_model_name_or_path": "/their/disk/Llava-Pythia-400M", "lora_dropout": 0.05}
        (self.folder / "adapter_config.json").write_text(json.dumps(options | {"modules_to_save": None}))

    def _take_apart(self, network: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Take random LoRA matrices out of the network's linear layers, in place; returned by layer."""
        vision = getattr(self.reference.vision, "vision_model", self.reference.vision)
        towers = {"gpt_neox": self.reference.language, "gpt_neox.vision_tower.vision_model": vision}
        matrices = {}
        for prefix, tower in towers.items():
            for name, module in tower.named_modules():
                weight = f"{prefix}.{name}.weight"
                if isinstance(module, nn.Linear) and weight in network:
                    pair = {"A": torch.randn(RANK, module.in_features), "B": torch.randn(module.out_features, RANK)}
                    network[weight] = network[weight] - ALPHA / RANK * pair["B"] @ pair["A"]
                    matrices[f"{prefix}.{name}"] = pair
        assert len(matrices) > 8
        return matrices

    @staticmethod
    def _plain(network: dict[str, Tensor]) -> dict[str, Tensor]:
        """The network as a LLaVA-Pythia, with a language head and another projector."""
        plain = {name: tensor for name, tensor in network.items() if not name.startswith("embed_out.")}
        plain |= {name: tensor + 1 for name, tensor in plain.items() if "mm_projector" in name}
        return plain | {"embed_out.weight": torch.ones(320, WIDTH)}


def _prefixed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"base_model.model.{name}": tensor.contiguous() for name, tensor in tensors.items()}
