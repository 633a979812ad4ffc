"""Text from tokens as they come: whole characters only, and nothing that could be part of a stop string."""

import codecs
from collections.abc import Sequence

from tokenizers import Tokenizer

from homegrown.tokenizer.encoding import to_bytes


def vocabulary_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """Return the bytes that each token of a byte-level vocabulary stands for; special tokens stand for none."""
    added = tokenizer.get_added_tokens_decoder()
    table = [b""] * tokenizer.get_vocab_size()
    for token, number in tokenizer.get_vocab().items():
        if number not in added:
            table[number] = to_bytes(token)
        elif not added[number].special:
            table[number] = token.encode()
    return table


class TextStream:
    """The text of one sequence, fed token by token.

    A token may end inside a character, and several tokens may be one stop string. So a piece of text is given out when
    its last character is whole and no stop string can begin in it; all pieces together are what `Tokenizer.decode`
    gives, up to the first stop string. Bytes that are no UTF-8 become U+FFFD, as there.
    """

    def __init__(self, table: Sequence[bytes], stop: Sequence[str] = ()):
        """Take what `vocabulary_bytes` returned, and the strings that end the text and are no part of it."""
        self._table, self._stop = table, [string for string in stop if string]
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False
        """Whether a stop string has come; what is fed afterwards is dropped."""

    def feed(self, token: int) -> str:
        """Add a token; return the text that is certain now and was not before."""
        # A model's vocabulary may be padded beyond the tokenizer's.
        return self._release(self._decoder.decode(self._table[token] if token < len(self._table) else b""))

    def end(self) -> str:
        """Return what is left when no more tokens come."""
        text = self._release(self._decoder.decode(b"", final=True)) + self._held
        self._held = ""
        return text

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        self._held += text
        found = [place for place in map(self._held.find, self._stop) if place >= 0]
        if found:
            self.stopped = True
            text, self._held = self._held[: min(found)], ""
            return text
        certain = len(self._held) - max(map(self._overlap, self._stop), default=0)
        text, self._held = self._held[:certain], self._held[certain:]
        return text

    def _overlap(self, stop: str) -> int:
        """Return how many characters at the end of the held text are the start of a stop string."""
        longest = min(len(stop) - 1, len(self._held))
        return next((size for size in range(longest, 0, -1) if self._held.endswith(stop[:size])), 0)
