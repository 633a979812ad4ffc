"""The Modelfile, parsed and rendered as Ollama's documentation describes; the tests need no Ollama."""

import re
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from homegrown.export.gguf import write_gguf
from homegrown.export.ollama import write_modelfile
from homegrown.model import weights
from homegrown.tokenizer.chat import Chat, Message, load_chat
from homegrown.tokenizer.chat_files import ChatFiles
from homegrown.tokenizer.loading import load
from homegrown.util.errors import UserError
from tests.export.exportable import trained_tokenizer, write_model


def parse(text: str) -> list[tuple[str, str | None, str]]:
    """Return every instruction's name, parameter and value, in order.

    An instruction is a word, for PARAMETER another, and a value: up to the end of the line, or between quotes, three of
    which hold several lines. `#` starts a comment.
    """
    instructions, rest = [], text
    while rest := rest.lstrip("\n"):
        if rest.startswith("#"):
            rest = rest.partition("\n")[2]
            continue
        name, rest = rest.split(maxsplit=1)
        parameter, rest = rest.split(maxsplit=1) if name.upper() == "PARAMETER" else (None, rest)
        quotes = next((mark for mark in ('"""', '"') if rest.startswith(mark)), "")
        value, end, rest = rest.removeprefix(quotes).partition(f"{quotes}\n")
        assert end, f"{name} does not end"
        instructions.append((name.upper(), parameter, value))
    return instructions


def render(template: str, messages: list[Message]) -> str:
    """Execute a Go template that ranges over messages and has nothing else."""
    before, inside, after = re.fullmatch(
        r"(.*)\{\{ range \.Messages \}\}(.*)\{\{ end \}\}(.*)", template, re.DOTALL
    ).groups()  # type: ignore[union-attr]
    assert "{{" not in before + after
    fields = ({"Role": message.role, "Content": message.content} for message in messages)
    turns = [re.sub(r"\{\{ \.(\w+) \}\}", lambda field, turn=turn: turn[field[1]], inside) for turn in fields]
    return before + "".join(turns) + after


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), trained_tokenizer(), context=96)


@pytest.fixture(scope="module")
def gguf_file(folder: Path) -> Path:
    file = folder / "weights" / "my model-q8_0.gguf"
    write_gguf(folder, file, "q8_0")
    return file


def test_it_has_the_expected_instructions(folder: Path, gguf_file: Path) -> None:
    target = folder / "Modelfile"
    write_modelfile(gguf_file, target, load_chat(folder))
    instructions = parse(target.read_text())
    assert instructions[0] == ("FROM", None, "./weights/my model-q8_0.gguf")
    parameters = [(parameter, value) for name, parameter, value in instructions if name == "PARAMETER"]
    stops = {value for parameter, value in parameters if parameter == "stop"}
    assert stops == {load(folder).id_to_token(stop) for stop in load_chat(folder).stop_ids}
    assert ("num_ctx", str(weights.load_config(folder / "config.json").context)) in parameters
    assert ("temperature", "0.8") in parameters
    assert {name for name, *_ in instructions} == {"FROM", "TEMPLATE", "PARAMETER"}


@pytest.mark.parametrize("system", ["Be brief.", ' You\'re "brief",\n\n# {{ 日本 }} \\n "'])
def test_it_holds_the_system_prompt(folder: Path, gguf_file: Path, system: str) -> None:
    write_modelfile(gguf_file, folder / "Modelfile", Chat(load(folder), ChatFiles(system=system)))
    told = [value for name, _, value in parse((folder / "Modelfile").read_text()) if name == "SYSTEM"]
    assert told == [system]


def test_the_template_makes_the_ids_of_a_chat(folder: Path, gguf_file: Path) -> None:
    write_modelfile(gguf_file, folder / "Modelfile", load_chat(folder))
    [template] = [value for name, _, value in parse((folder / "Modelfile").read_text()) if name == "TEMPLATE"]
    talk = [Message("system", "Be brief.\n"), Message("user", "naïve 日本?"), Message("assistant", "\n\n no")]
    with_marks = Tokenizer.from_file(str(folder / "tokenizer.json"))
    found = [with_marks.token_to_id("<s>"), *with_marks.encode(render(template, talk)).ids]
    assert found == load_chat(folder).encode(talk, reply=True)


def test_a_file_in_the_same_folder_is_named_without_a_folder(folder: Path, gguf_file: Path) -> None:
    write_modelfile(gguf_file, gguf_file.parent / "Modelfile", load_chat(folder))
    assert "\nFROM ./my model-q8_0.gguf\n" in (gguf_file.parent / "Modelfile").read_text()


def test_a_missing_file_is_one_message(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing"):
        write_modelfile(tmp_path / "none.gguf", tmp_path / "Modelfile", load_chat(folder))
    assert not list(tmp_path.iterdir())
