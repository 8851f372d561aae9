"""The hashing trick: words to token ids without a vocabulary."""

import re
import zlib

_WORD = re.compile(r"[a-z0-9]+|[^\sa-z0-9]")

PAD_ID, BOS_ID = 0, 1  # padding, and what begins every text


def hash_words(text: str, vocab_size: int, max_length: int) -> list[int]:
    """Token ids of a text's lower-cased words, `BOS_ID` first, cut to `max_length`.

    A word's id is its CRC-32 in the ids from 2 to `vocab_size` - 1, the same in every process and version.
    """
    words = _WORD.findall(text.lower())[: max_length - 1]
    return [BOS_ID] + [2 + zlib.crc32(word.encode()) % (vocab_size - 2) for word in words]
