"""A tokenizer that needs no vocabulary file and no download."""

import torch
from torch import Tensor

from ..hashing import BOS_ID, PAD_ID, hash_words

WORDS, MAX_WORDS = 48, 256  # of an instruction: by default, and at most


class HashTokenizer:
    """Maps each lower-cased word to a bucket of a fixed table by its CRC-32 (the hashing trick).

    No word is unknown, and nothing is stored beside a policy. Two words may share a bucket; with 8,192 buckets and the
    vocabulary of instructions that is rare. Token 0 is padding and token 1 begins every text, so that an empty
    instruction has one token.

    Args:
        vocab_size: number of token ids, with the two special ones.
        max_length: tokens of a text; later ones are dropped.
    """

    pad_id, bos_id = PAD_ID, BOS_ID

    def __init__(self, vocab_size: int = 8192, max_length: int = WORDS):
        self.vocab_size, self.max_length = vocab_size, max_length

    def encode(self, text: str) -> list[int]:
        """Token ids of one text, beginning with `bos_id`."""
        return hash_words(text, self.vocab_size, self.max_length)

    def count(self, text: str) -> int:
        """Number of tokens of one text, if none are dropped."""
        return len(hash_words(text, self.vocab_size, len(text) + 2))

    def __call__(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids (B, L) long and mask (B, L) bool, padded on the right to the longest text of the batch."""
        rows = [self.encode(text) for text in texts]
        length = max(len(row) for row in rows)
        ids = torch.tensor([row + [self.pad_id] * (length - len(row)) for row in rows])
        mask = torch.tensor([[True] * len(row) + [False] * (length - len(row)) for row in rows])
        return ids, mask
