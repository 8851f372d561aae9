"""CLIP's tokenizer with a vocabulary learnt from captions, for models that begin without a download."""

import json
from collections.abc import Iterable

from tokenizers import pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

BEGIN, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"


def train_tokenizer(captions: Iterable[str], vocab_size: int = 1024, max_length: int = 77) -> CLIPTokenizer:
    """A byte-level BPE in the layout of CLIP's: bytes, bytes that end a word, merges, the two marks.

    Args:
        captions: what the merges are learnt from; texts of other words are spelt out in smaller pieces.
        vocab_size: at most this many token ids, 514 of them for bytes and marks.
        max_length: tokens a text may have, the two marks included.
    """
    backend = CLIPTokenizer().backend_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = BpeTrainer(
        vocab_size=vocab_size - len(alphabet),  # room for the bytes that end a word, of which it makes those it saw
        special_tokens=[BEGIN, END],
        initial_alphabet=alphabet,
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    backend.train_from_iterator(captions, trainer)
    merges = [tuple(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]
    # Every byte can end a word, also where no caption had it there: an unknown token would be read as the text's end.
    pieces = [*alphabet, *(byte + WORD_END for byte in alphabet), *("".join(pair) for pair in merges), BEGIN, END]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=max_length)
