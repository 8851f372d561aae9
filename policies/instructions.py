"""Length of the instructions that a policy reads: that of the longest one in its dataset, up to a bound."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from tinyvla.backbones.tokenizer import MAX_WORDS, HashTokenizer

if TYPE_CHECKING:
    from lerobot.policies import PreTrainedPolicy

    from .factory import Pipeline

MAX_TOKENS = MAX_WORDS
_SHOWN = 60  # letters of an instruction in a message


def fit_instructions(policy: "PreTrainedPolicy", preprocessor: "Pipeline", instructions: Iterable[str]) -> str | None:
    """Let a policy read the longest instruction of its dataset, and return a warning about those that it cannot tell apart.

    The policy's options and its pre-processor, which a checkpoint stores, hold the length. It never falls below that of
    the options, so that policies with shorter instructions are as they were. None: all instructions differ, or the
    policy reads none.
    """
    texts = list(dict.fromkeys(instructions))
    tokens, length = _fitted(policy, preprocessor, texts)
    groups: dict[tuple[int, ...], list[str]] = {}
    for text in texts:
        groups.setdefault(tuple(tokens(text)), []).append(text)
    same = next((group for group in groups.values() if len(group) > 1), None)
    if same is None or not length:
        return None
    start = next((i for i, letters in enumerate(zip(*same, strict=False)) if len(set(letters)) > 1), 0)
    shown = " and ".join(repr(_from(text, start)) for text in same[:3])
    return (
        f"{len(same)} instructions are one to the policy, which reads {length} tokens: {shown}; shorten them, or say "
        "first what differs"
    )


def _fitted(policy: Any, preprocessor: "Pipeline", texts: list[str]) -> tuple[Callable[[str], list[int]], int]:
    """Function from an instruction to the tokens that the policy reads, and their greatest number; 0: it reads none."""
    from lerobot.processor import TokenizerProcessorStep

    backbone = getattr(getattr(policy, "model", None), "backbone", None)
    if isinstance(tokenizer := getattr(backbone, "tokenizer", None), HashTokenizer):
        tokenizer.max_length = _longest(
            [tokenizer.count(backbone.prompt(text)) for text in texts], tokenizer.max_length
        )
        if hasattr(policy.config.backbone, "max_words"):
            policy.config.backbone.max_words = tokenizer.max_length
        return lambda text: tokenizer.encode(backbone.prompt(text)), tokenizer.max_length
    step = next((step for step in preprocessor.steps if isinstance(step, TokenizerProcessorStep)), None)
    if step is None:
        return lambda text: [hash(text)], 0
    end = "\n" if policy.config.type == "smolvla" else ""
    rows = {text: step.input_tokenizer(text.rstrip("\n") + end)["input_ids"] for text in texts}
    bound = min(MAX_TOKENS, int(min(step.input_tokenizer.model_max_length, MAX_TOKENS)))
    step.max_length = _longest(map(len, rows.values()), step.max_length, bound)
    policy.config.tokenizer_max_length = step.max_length
    marks = step.input_tokenizer.num_special_tokens_to_add()  # at the end they stay where a text is cut
    return (
        lambda text: rows[text] if len(rows[text]) <= step.max_length else rows[text][: step.max_length - marks],
        step.max_length,
    )


def _longest(lengths: Iterable[int], least: int, most: int = MAX_TOKENS) -> int:
    return max(least, min(max(lengths, default=0), most))


def _from(text: str, start: int) -> str:
    """Part of a text around the place where it differs from another."""
    first = max(0, start - _SHOWN // 2)
    return ("..." if first else "") + text[first : first + _SHOWN] + ("..." if len(text) > first + _SHOWN else "")
