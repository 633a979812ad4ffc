"""Incremental detokenization: complete characters only, and no part of a possible stop string."""

import codecs
from collections.abc import Sequence

from tokenizers import Tokenizer

from homegrown.tokenizer.encoding import to_bytes


def vocabulary_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """Return the bytes of each token of a byte-level vocabulary; none for special tokens."""
    added = tokenizer.get_added_tokens_decoder()
    table = [b""] * tokenizer.get_vocab_size()
    for token, number in tokenizer.get_vocab().items():
        if number not in added:
            table[number] = to_bytes(token)
        elif not added[number].special:
            table[number] = token.encode()
    return table


class TextStream:
    """The text of a sequence, fed token by token.

    A token may end inside a character, and a stop string may span tokens. So text is released when its last character
    is complete and no stop string can start in it. All released text equals that of `Tokenizer.decode`, up to the first
    stop string. Invalid UTF-8 becomes U+FFFD, as there.
    """

    def __init__(self, table: Sequence[bytes], stop: Sequence[str] = ()):
        """Take the result of `vocabulary_bytes`, and the strings that end the text and are excluded from it."""
        self._table, self.stop = table, [string for string in stop if string]
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""
        self.stopped = False
        """Whether a stop string was found; later tokens are ignored."""

    def feed(self, token: int) -> str:
        """Add a token; return the newly released text."""
        return self.feed_bytes(self.token_bytes(token))

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of a token; special ones, and those that pad a model's vocabulary, have none."""
        return self._table[token] if token < len(self._table) else b""

    def feed_bytes(self, data: bytes) -> str:
        """Add bytes; return the newly released text."""
        return self._release(self._decoder.decode(data))

    def end(self) -> str:
        """Return the remaining text at the end of the sequence."""
        text = self._release(self._decoder.decode(b"", final=True)) + self._pending
        self._pending = ""
        return text

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        self._pending += text
        found = [place for place in map(self._pending.find, self.stop) if place >= 0]
        if found:
            self.stopped = True
            text, self._pending = self._pending[: min(found)], ""
            return text
        certain = len(self._pending) - max(map(self._overlap, self.stop), default=0)
        text, self._pending = self._pending[:certain], self._pending[certain:]
        return text

    def _overlap(self, stop: str) -> int:
        """Return how many characters at the end of the pending text may start a stop string."""
        longest = min(len(stop) - 1, len(self._pending))
        return next((size for size in range(longest, 0, -1) if self._pending.endswith(stop[:size])), 0)
