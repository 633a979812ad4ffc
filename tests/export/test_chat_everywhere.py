"""Conversations have the same tokens here, in transformers and in llama.cpp."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from tokenizers import Tokenizer

from homegrown.export.gguf import write_gguf
from homegrown.export.huggingface import write_huggingface
from homegrown.export.huggingface_reader import read_huggingface
from homegrown.quantization.variants import save_variant
from homegrown.tokenizer.chat import Message, load_chat, with_system
from homegrown.tokenizer.chat_files import load_system, save_system
from tests.export.exportable import trained_tokenizer, write_model
from tests.export.llama_server import LlamaServer, serving
from tests.tokenizer.test_chat import FORMATS

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


@pytest.fixture(scope="module", params=["plain", "with a system message", "a base", "a base with a system message"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder, of ours or of a base with its own template; without and with a default system prompt."""
    folder = write_model(tmp_path_factory.mktemp("model"), trained_tokenizer(), layers=1, context=320)
    if "base" in request.param:
        folder = base(tmp_path_factory.mktemp("base"))
    save_system(folder, SYSTEM if "system" in request.param else None)
    return folder


def base(folder: Path) -> Path:
    """A model in Qwen3's manner, as published and read: no start token, and tokens that are not special."""
    make, template, tokens = FORMATS["reasoning"]
    write_huggingface(write_model(folder / "model", make(), layers=1, context=320), folder / "published", "float32")
    make().save(str(folder / "published" / "tokenizer.json"))
    (folder / "published" / "chat_template.jinja").write_text(template)
    (folder / "published" / "tokenizer_config.json").write_text(json.dumps(tokens))
    read_huggingface(folder / "published", folder / "read")
    return folder / "read"


@pytest.fixture(scope="module")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hf")
    write_huggingface(folder, out, "float32")
    return out


@pytest.fixture(scope="module")
def transformers(exported: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(exported, local_files_only=True)


@pytest.fixture(scope="module")
def llama(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    file = tmp_path_factory.mktemp("gguf") / "f32.gguf"
    write_gguf(folder, file, "f32")
    with serving(file, context=320) as server:
        yield server


@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_a_conversation_has_the_same_tokens(
    folder: Path,
    transformers: Any,
    llama: LlamaServer,
    messages: list[Message],
) -> None:
    # llama.cpp does not bring text into the normal form of the base's tokenizer.
    messages = [replace(message, content=normalize("NFC", message.content)) for message in messages]
    ours = load_chat(folder).encode(with_system(messages, load_system(folder)), reply=True)
    plain = [{"role": message.role, "content": message.content} for message in messages]
    assert transformers.apply_chat_template(plain, add_generation_prompt=True, return_dict=False) == ours
    assert llama.prompt(llama.chat_text(messages), parse_special=True) == ours
    assert llama.chat_tokens(messages) == len(ours)


def test_an_export_of_a_base_keeps_its_tokens(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = base(tmp_path)
    write_huggingface(folder, tmp_path / "hf", "float32")
    theirs, ours = (Tokenizer.from_file(str(tmp_path / name / "tokenizer.json")) for name in ("published", "hf"))
    assert theirs.get_vocab() == ours.get_vocab()
    flags = [{n: repr(t) for n, t in one.get_added_tokens_decoder().items()} for one in (theirs, ours)]
    assert flags[0] == flags[1]
    assert ours.encode("<think>ka</think>").ids == theirs.encode("<think>ka</think>").ids
    exported = AutoTokenizer.from_pretrained(tmp_path / "hf", local_files_only=True)
    assert (exported.bos_token, exported.eos_token, exported.pad_token) == (None, "<|im_end|>", "<|endoftext|>")
    stops = json.loads((tmp_path / "hf" / "generation_config.json").read_text())["eos_token_id"]
    assert set(stops) == {theirs.token_to_id("<|im_end|>"), theirs.token_to_id("<|endoftext|>")}
    assert (tmp_path / "hf" / "chat_template.jinja").read_text() == FORMATS["reasoning"][1]


def test_the_default_system_prompt_applies_without_another() -> None:
    question, system = Message("user", "Why?"), Message("system", "Answer in verse.")
    assert with_system([question], None) == [question]
    assert with_system([question], "Be brief.") == [Message("system", "Be brief."), question]
    assert with_system([system, question], "Be brief.") == [system, question]


def test_variants_keep_the_default_system_prompt(folder: Path, tmp_path: Path) -> None:
    for variant in ("int8-dynamic", "q8_0"):
        save_variant(folder, variant, tmp_path / variant)
        assert load_system(tmp_path / variant) == load_system(folder)
