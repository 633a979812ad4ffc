"""A Modelfile, from which `ollama create` takes a GGUF file with its chat template and what ends an answer."""

import os
from pathlib import Path

from homegrown.export.gguf_reader import Description, describe
from homegrown.util.files import replacing

_MESSAGE_START = "<|im_start|>"
"""The one name that this token has in every tokenizer (`homegrown.tokenizer.special`)."""

_TEMPERATURE = 0.8
"""That of `homegrown generate`."""


def write_modelfile(gguf_file: Path, target: Path, system: str | None = None) -> None:
    """Write the Modelfile of a GGUF file that was exported here; it names the file by its place beside `target`.

    `system` is what the model is told where a conversation does not say it; it must not hold three quotes in a row.

    Its template is ChatML as Go's `text/template`, Ollama's language for them. The mark that starts a document is not
    in it: the GGUF file tells llama.cpp to put it before every prompt.

    Raises:
        UserError: the GGUF file is missing or damaged, or is of another architecture.
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
