"""The tokenizer files of a Hugging Face export: tokenizer, chat template, begin and end tokens."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from homegrown.tokenizer import chat, loading
from homegrown.tokenizer.special import special_ids
from homegrown.tokenizer.system import load_system
from homegrown.util.files import replacing


def write_tokenizer(model_folder: Path, out: Path, context: int) -> None:
    """Write the tokenizer files of a model's folder, each atomically.

    The files are `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json`, `chat_template.jinja` with the
    model's system message, and `generation_config.json`.

    Raises:
        UserError: a file of the model is missing or damaged.
    """
    text = loading.load(model_folder)
    marks = special_ids(text)
    bos, eos = text.id_to_token(marks.bos), text.id_to_token(marks.eos)
    # Training has this token before every document; runtimes add it if they add special tokens.
    text.post_processor = TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, marks.bos)]
    )
    with replacing(out / loading.TOKENIZER_FILE) as temporary:
        text.save(str(temporary))
    added = text.get_added_tokens_decoder()
    names: dict[str, Any] = {"bos_token": bos, "eos_token": eos, "pad_token": text.id_to_token(_padding(text))}
    if text.token_to_id("<unk>") is not None:
        names["unk_token"] = "<unk>"
    others = [token.content for token in added.values() if token.content not in names.values()]
    names["additional_special_tokens"] = others
    template = chat.template(text, load_system(model_folder))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # transformers 4 knows it too
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        **names,
        "added_tokens_decoder": {
            str(number): {
                "content": token.content,
                "lstrip": token.lstrip,
                "normalized": token.normalized,
                "rstrip": token.rstrip,
                "single_word": token.single_word,
                "special": token.special,
            }
            for number, token in sorted(added.items())
        },
        "chat_template": template,
    }
    write_json(out / "tokenizer_config.json", settings)
    write_json(out / "special_tokens_map.json", names)
    write_text(out / "chat_template.jinja", template)
    write_json(out / "generation_config.json", boundaries(text))


def boundaries(text: Tokenizer) -> dict[str, Any]:
    """Return the tokens that begin, end and pad text; all end tokens, so that generation stops."""
    marks = special_ids(text)
    ends = [marks.eos, *sorted(chat.stop_ids(text) - {marks.eos})]
    return {"bos_token_id": marks.bos, "eos_token_id": ends, "pad_token_id": _padding(text)}


def _padding(text: Tokenizer) -> int:
    """Return the padding token, or else the end of a document."""
    own: int | None = text.token_to_id("<pad>")
    return special_ids(text).eos if own is None else own


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
