"""A Modelfile for `ollama create`: a GGUF file with its chat template and stop tokens."""

import os
from pathlib import Path

from homegrown.export.gguf_reader import Description, describe
from homegrown.util.files import replacing

_MESSAGE_START = "<|im_start|>"
"""This token's text in every tokenizer (`homegrown.tokenizer.special`)."""

_TEMPERATURE = 0.8
"""That of `homegrown generate`."""


def write_modelfile(gguf_file: Path, target: Path, system: str | None = None) -> None:
    """Write the Modelfile of an exported GGUF file, which it names by its path relative to `target`.

    `system` is the default system prompt; it must not contain three quotes in a row.

    The template is ChatML in Go's `text/template`, Ollama's template language. It has no document start token, because
    the GGUF file makes llama.cpp add that to every prompt.

    Raises:
        UserError: the GGUF file is missing, damaged, or of another architecture.
    """
    text = _modelfile(describe(gguf_file), Path(os.path.relpath(gguf_file, target.parent)).as_posix(), system)
    with replacing(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _modelfile(model: Description, place: str, system: str | None) -> str:
    template = (
        f"{{{{ range .Messages }}}}{_MESSAGE_START}{{{{ .Role }}}}\n"
        f"{{{{ .Content }}}}{model.message_end}\n"
        f"{{{{ end }}}}{_MESSAGE_START}assistant\n"
    )
    lines = [
        "# ollama create NAME -f Modelfile && ollama run NAME",
        f"FROM ./{place}",
        f'TEMPLATE """{template}"""',
        *([] if system is None else [f'SYSTEM """{system}"""']),
        *[f'PARAMETER stop "{stop}"' for stop in (model.document_end, model.message_end)],
        f"PARAMETER num_ctx {model.config.context}",
        f"PARAMETER temperature {_TEMPERATURE}",
    ]
    return "\n".join(lines) + "\n"
