"""Conversations have the same tokens here, in transformers and in llama.cpp."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from homegrown.export.gguf import write_gguf
from homegrown.export.huggingface import write_huggingface
from homegrown.quantization.variants import save_variant
from homegrown.tokenizer import chat
from homegrown.tokenizer.chat import Message
from homegrown.tokenizer.loading import load
from homegrown.tokenizer.system import load_system, save_system
from tests.export.exportable import trained_tokenizer, write_model
from tests.export.llama_server import LlamaServer, serving

SYSTEM = """ You're "brief": \\n is no line, {{ no }} {% field %} and # no note.
\t naïve 日本 🙂 \r
'last' """

CODE = "def f(x):\n    return {'a': x}  # {{ x }} {% if x %}\n\n\n"

CONVERSATIONS = {
    "one question": [Message("user", "Why?")],
    "answers": [Message("user", "Why?"), Message("assistant", "So."), Message("user", "  And?")],
    "system": [Message("system", "Answer in verse.\n"), Message("user", "Why?")],
    "spaces": [Message("user", "  Why?  "), Message("assistant", "   So.   "), Message("user", "\t? ")],
    "line breaks": [Message("user", "\n\nWhy?\r\n\n"), Message("assistant", "\n So.\n\n"), Message("user", "a\n\n\nb")],
    "code": [Message("user", CODE), Message("assistant", f"```python\n{CODE}```"), Message("user", "\\n '\\'")],
    "unicode": [
        Message("user", "naïve cafe\u0301 日本語 жизнь 👩‍👩‍👧 \u2028 \ufeff"),
        Message("assistant", "🙂"),
        Message("user", "٣"),
    ],
    "empty": [Message("user", "Why?"), Message("assistant", ""), Message("user", "Why?")],
}


@pytest.fixture(scope="module", params=[None, SYSTEM], ids=["plain", "with a system message"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder, without and with a default system prompt."""
    folder = write_model(tmp_path_factory.mktemp("model"), trained_tokenizer(), layers=1, context=256)
    save_system(folder, request.param)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return load(folder)


@pytest.fixture(scope="module")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hf")
    write_huggingface(folder, out, "float32")
    return out


@pytest.fixture(scope="module")
def transformers(exported: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(exported, local_files_only=True)


@pytest.fixture(scope="module")
def llama(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    file = tmp_path_factory.mktemp("gguf") / "f32.gguf"
    write_gguf(folder, file, "f32")
    with serving(file, context=256) as server:
        yield server


@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_a_conversation_has_the_same_tokens(
    folder: Path,
    tokenizer: Tokenizer,
    transformers: PreTrainedTokenizerBase,
    llama: LlamaServer,
    messages: list[Message],
) -> None:
    ours = chat.encode(tokenizer, chat.with_system(messages, load_system(folder)), reply=True)
    plain = [{"role": message.role, "content": message.content} for message in messages]
    assert transformers.apply_chat_template(plain, add_generation_prompt=True, return_dict=False) == ours
    assert llama.prompt(llama.chat_text(messages), parse_special=True) == ours
    assert llama.chat_tokens(messages) == len(ours)


def test_the_default_system_prompt_applies_without_another() -> None:
    question, system = Message("user", "Why?"), Message("system", "Answer in verse.")
    assert chat.with_system([question], None) == [question]
    assert chat.with_system([question], "Be brief.") == [Message("system", "Be brief."), question]
    assert chat.with_system([system, question], "Be brief.") == [system, question]


def test_variants_keep_the_default_system_prompt(folder: Path, tmp_path: Path) -> None:
    for variant in ("int8-dynamic", "q8_0"):
        save_variant(folder, variant, tmp_path / variant)
        assert load_system(tmp_path / variant) == load_system(folder)
