"""A tokenizer that needs no vocabulary file and no download."""

import re
import zlib

import torch
from torch import Tensor

_WORD = re.compile(r"[a-z0-9]+|[^\sa-z0-9]")


class HashTokenizer:
    """Maps each lower-cased word to a bucket of a fixed table by its CRC-32 (the hashing trick).

    No word is ever unknown and nothing has to be stored beside a policy. Two words may share a bucket; with 8,192
    buckets and instruction-sized vocabularies that is rare. Token 0 is padding, token 1 begins every text, so that an
    empty instruction still has one token.

    Args:
        vocab_size: number of token ids, the two special ones included.
        max_length: tokens kept from the start of a text.
    """

    pad_id, bos_id = 0, 1

    def __init__(self, vocab_size: int = 8192, max_length: int = 48):
        self.vocab_size, self.max_length = vocab_size, max_length

    def encode(self, text: str) -> list[int]:
        """Token ids of one text, the leading `bos_id` included."""
        words = _WORD.findall(text.lower())[: self.max_length - 1]
        return [self.bos_id] + [2 + zlib.crc32(word.encode()) % (self.vocab_size - 2) for word in words]

    def __call__(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids (B, L) long and mask (B, L) bool, padded on the right to the longest text of the batch."""
        rows = [self.encode(text) for text in texts]
        length = max(len(row) for row in rows)
        ids = torch.tensor([row + [self.pad_id] * (length - len(row)) for row in rows])
        mask = torch.tensor([[True] * len(row) + [False] * (length - len(row)) for row in rows])
        return ids, mask
