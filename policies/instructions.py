"""Length of the instructions that a policy reads: that of the longest one in its dataset, up to a bound."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tinyvla.backbones.tokenizer import MAX_WORDS, HashTokenizer

if TYPE_CHECKING:
    from lerobot.policies import PreTrainedPolicy

    from .factory import Pipeline

_WITHOUT = ("act", "diffusion", "vqbet")  # policies of LeRobot that read no instruction
_SHOWN = 60  # letters of an instruction in a message


def fit_instructions(policy: "PreTrainedPolicy", preprocessor: "Pipeline", instructions: Iterable[str]) -> str | None:
    """Let a policy read the longest instruction of its dataset; return a warning about those that are one to it.

    The policy's options and its pre-processor, which a checkpoint stores, hold the length. It never falls below that of
    the options, so that policies with shorter instructions are as they were. None: all instructions differ.
    """
    texts = list(dict.fromkeys(instructions))
    if policy.config.type in _WITHOUT and len(texts) > 1:
        return f"policy={policy.config.type} reads no instructions, so the {len(texts)} of this dataset are one to it"
    tokens = _read_words(policy, texts) or _read_tokens(policy, preprocessor, texts)
    groups: dict[tuple[int, ...], list[str]] = {}
    for text, ids in tokens.items():
        groups.setdefault(tuple(ids), []).append(text)
    same = next((group for group in groups.values() if len(group) > 1), None)
    if same is None:
        return None
    start = next((i for i, letters in enumerate(zip(*same, strict=False)) if len(set(letters)) > 1), 0)
    shown = " and ".join(repr(_around(text, start)) for text in same[:3])
    return (
        f"{len(same)} instructions are one to the policy, which reads {len(tokens[same[0]])} tokens of them: {shown}; "
        "shorten them, or begin with what differs"
    )


def _read_words(policy: Any, texts: Sequence[str]) -> dict[str, list[int]]:
    """Tokens of each text that a TinyVLA with hashed words reads; none of other policies."""
    backbone: Any = getattr(getattr(policy, "model", None), "backbone", None)
    tokenizer = getattr(backbone, "tokenizer", None)
    if not isinstance(tokenizer, HashTokenizer):
        return {}
    prompts = {text: backbone.prompt(text) for text in texts}
    if hasattr(policy.config.backbone, "max_words"):
        longest = max(map(tokenizer.count, prompts.values()), default=0)
        policy.config.backbone.max_words = tokenizer.max_length = _bounded(longest, tokenizer.max_length)
    return {text: tokenizer.encode(prompt) for text, prompt in prompts.items()}


def _read_tokens(policy: Any, preprocessor: "Pipeline", texts: Sequence[str]) -> dict[str, list[int]]:
    """Tokens of each text that a policy with LeRobot's tokenizer step reads; none of policies without it."""
    from lerobot.processor import TokenizerProcessorStep

    step = next((step for step in preprocessor.steps if isinstance(step, TokenizerProcessorStep)), None)
    if step is None:
        return {}
    tokenizer, end = step.input_tokenizer, "\n" if policy.config.type == "smolvla" else ""
    rows = {text: tokenizer(text.rstrip("\n") + end)["input_ids"] for text in texts}
    longest, most = max(map(len, rows.values()), default=0), min(MAX_WORDS, tokenizer.model_max_length)
    if policy.config.type == "multi_task_dit":
        most = min(most, policy.observation_encoder.text_encoder.text_encoder.config.max_position_embeddings)
    policy.config.tokenizer_max_length = step.max_length = _bounded(longest, step.max_length, most)
    # Marks such as the end of a text stay when it is cut.
    cut = step.max_length - tokenizer.num_special_tokens_to_add()
    return {text: ids if len(ids) <= step.max_length else ids[:cut] for text, ids in rows.items()}


def _bounded(longest: int, least: int, most: int = MAX_WORDS) -> int:
    return max(least, min(longest, most))


def _around(text: str, place: int) -> str:
    """Part of a text around the place where it differs from another."""
    first = max(0, place - _SHOWN // 2)
    return ("..." if first else "") + text[first : first + _SHOWN] + ("..." if len(text) > first + _SHOWN else "")
