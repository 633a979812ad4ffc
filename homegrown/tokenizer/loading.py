"""Loading a tokenizer from disk, and the sizes of its tokens."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from homegrown.tokenizer.chat_files import FILES
from homegrown.tokenizer.encoding import to_bytes
from homegrown.util.errors import UserError
from homegrown.util.files import replacing

TOKENIZER_FILE = "tokenizer.json"


def load(folder: Path) -> Tokenizer:
    """Load the tokenizer of a folder; the text of a special token is encoded as ordinary text.

    Raises:
        UserError: the file is missing or is not a tokenizer.
    """
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise UserError(f"{path} is missing; run the stage `tokenizer` again.")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises no narrower class
        raise UserError(f"{path} is damaged ({error}); run the stage `tokenizer` again.") from error
    tokenizer.encode_special_tokens = True
    return tokenizer


def token_bytes(tokenizer: Tokenizer) -> npt.NDArray[np.int32]:
    """Return the number of bytes of UTF-8 text of each token, int32 [vocabulary]; 0 for special tokens."""
    sizes = np.zeros(tokenizer.get_vocab_size(), dtype=np.int32)
    added = tokenizer.get_added_tokens_decoder()
    for token, number in tokenizer.get_vocab().items():
        if number not in added:
            sizes[number] = len(to_bytes(token))
        elif not added[number].special:
            sizes[number] = len(token.encode())
    return sizes


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy a tokenizer with its chat format from one model's folder to another's; each file atomically."""
    for name in (TOKENIZER_FILE, *FILES):
        if (source / name).exists():
            with replacing(target / name) as temporary:
                temporary.write_bytes((source / name).read_bytes())
