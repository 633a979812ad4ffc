"""The tokenizer files of a Hugging Face export: tokenizer, chat template, begin and end tokens."""

import json
from pathlib import Path
from typing import Any

from tokenizers.processors import ByteLevel, TemplateProcessing

from homegrown.tokenizer import loading
from homegrown.tokenizer.chat import Chat, load_chat
from homegrown.tokenizer.special import special_ids
from homegrown.util.files import replacing


def write_tokenizer(model_folder: Path, out: Path, context: int) -> None:
    """Write the tokenizer files of a model's folder, each atomically.

    The files are `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json`, `chat_template.jinja` with the
    model's system message, and `generation_config.json`.

    Raises:
        UserError: a file of the model is missing or damaged.
    """
    chat = load_chat(model_folder)
    text, marks = chat.tokenizer, special_ids(chat.tokenizer)
    # Training has the start token before every document; runtimes add it if they add special tokens.
    text.post_processor = ByteLevel(trim_offsets=False)
    if marks.bos is not None:
        bos = text.id_to_token(marks.bos)
        text.post_processor = TemplateProcessing(
            single=[bos, "$A"], pair=[bos, "$A", f"{bos}:1", "$B:1"], special_tokens=[(bos, marks.bos)]
        )
    with replacing(out / loading.TOKENIZER_FILE) as temporary:
        text.save(str(temporary))
    added = text.get_added_tokens_decoder()
    names = _names(chat)
    others = [token.content for token in added.values() if token.special and token.content not in names.values()]
    names["additional_special_tokens"] = others
    template = {"chat_template": chat.export_template} if chat.supported else {}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # transformers 4 knows it too
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",  # a decoder continues the last token of each row
        "model_input_names": ["input_ids", "attention_mask"],  # transformers 4 would add token_type_ids
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
        **template,
    }
    write_json(out / "tokenizer_config.json", settings)
    write_json(out / "special_tokens_map.json", names)
    for text_of in template.values():
        write_text(out / "chat_template.jinja", text_of)
    write_json(out / "generation_config.json", boundaries(chat))


def boundaries(chat: Chat) -> dict[str, Any]:
    """Return the tokens that begin, end and pad text; all end tokens, so that generation stops."""
    marks, text = special_ids(chat.tokenizer), chat.tokenizer
    ends = [marks.eos, *sorted(chat.stop_ids - {marks.eos})]
    begin = {} if marks.bos is None else {"bos_token_id": marks.bos}
    return begin | {"eos_token_id": ends, "pad_token_id": text.token_to_id(_names(chat)["pad_token"])}


def _names(chat: Chat) -> dict[str, Any]:
    """Return the named special tokens: those of the base, or else those of the tokenizer."""
    if chat.files.tokens:
        eos = chat.tokenizer.id_to_token(special_ids(chat.tokenizer).eos)
        return {"eos_token": eos, "pad_token": eos} | chat.files.tokens
    text, marks = chat.tokenizer, special_ids(chat.tokenizer)
    begin = {} if marks.bos is None else {"bos_token": text.id_to_token(marks.bos)}
    end = text.id_to_token(marks.eos)
    found = next((name for name in ("<pad>", "<PAD>") if text.token_to_id(name) is not None), end)
    unknown = next((name for name in ("<unk>", "<UNK>") if text.token_to_id(name) is not None), None)
    return begin | {"eos_token": end, "pad_token": found} | ({} if unknown is None else {"unk_token": unknown})


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
