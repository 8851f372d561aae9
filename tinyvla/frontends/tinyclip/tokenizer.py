"""CLIP's tokenizer with a vocabulary learnt from captions, for models without a download."""

import json
from collections.abc import Iterable

from tokenizers import pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

BEGIN, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"


def train_tokenizer(captions: Iterable[str], vocab_size: int = 1024, max_length: int = 77) -> CLIPTokenizer:
    """Byte-level BPE in CLIP's layout: bytes, bytes that end a word, merges, and the two marks.

    Args:
        captions: texts from which the merges are learnt; other words are split into smaller pieces.
        vocab_size: largest number of token ids, 514 of them for bytes and marks.
        max_length: largest number of tokens per text, including the two marks.
    """
    backend = CLIPTokenizer().backend_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = BpeTrainer(
        vocab_size=vocab_size - len(alphabet),  # leaves room for the bytes that end a word
        special_tokens=[BEGIN, END],
        initial_alphabet=alphabet,
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    backend.train_from_iterator(captions, trainer)
    merges = [tuple(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]
    # Every byte may end a word, also a byte that no caption ends with: an unknown token is read as the text's end.
    pieces = [*alphabet, *(byte + WORD_END for byte in alphabet), *("".join(pair) for pair in merges), BEGIN, END]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=max_length)
