"""`homegrown generate` and `homegrown chat` from the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tokenizers import Tokenizer

from homegrown.cli.main import cli
from homegrown.inference import conversation
from homegrown.inference.beams import beam_search
from homegrown.inference.conversation import Conversation
from homegrown.inference.generation import generate
from homegrown.model.transformer import Transformer
from homegrown.store.artifacts import Store
from homegrown.tokenizer.chat_files import save_system
from tests.serving.conftest import CONTEXT


def call(store: Store, *arguments: str, typed: str | bytes = "") -> Result:
    return CliRunner().invoke(cli, ["--artifacts", str(store.root), *arguments], input=typed)


def prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    return [0, *tokenizer.encode(text, add_special_tokens=False).ids]


def as_shown(text: str) -> str:
    return text.replace("\r\n", "\n")  # as click's runner does


GREEDY = ["--temperature", "0", "--max-length", "20"]


def test_it_prints_the_prompt_and_the_completion(trained: Store, model: Transformer, tokenizer: Tokenizer) -> None:
    (tokens,) = generate(model, [prompt(tokenizer, "Return")], max_tokens=20, stop_ids={2})
    expected = as_shown("Return" + tokenizer.decode(tokens) + "\n")
    assert call(trained, "generate", "--prompt", "Return", *GREEDY).stdout == expected
    assert call(trained, "generate", "--prompt", "-", *GREEDY, typed="Return").stdout == expected


def test_a_quantized_variant_generates_too(trained: Store) -> None:
    named = call(trained, "generate", "quantize@1:int8", *GREEDY)
    assert named.exit_code == 0
    assert named.stdout == call(trained, "generate", "quantize:int8", *GREEDY).stdout
    assert named.stdout != call(trained, "generate", *GREEDY).stdout
    assert "has the variants int8" in call(trained, "generate", "quantize").stderr
    assert "has the variants int8" in call(trained, "generate", "quantize:nf4").stderr
    assert "pretrain has no quantized variants" in call(trained, "generate", "pretrain:int8").stderr


def test_a_seed_repeats_the_output(trained: Store) -> None:
    first, again, other = (call(trained, "generate", "--seed", seed).stdout for seed in ("1", "1", "2"))
    assert first == again != other


def test_beams_and_logprobs(trained: Store, model: Transformer, tokenizer: Tokenizer) -> None:
    best = beam_search(model, prompt(tokenizer, "Return"), beams=3, max_tokens=5, stop_ids={2})[0]
    searched = call(trained, "generate", "--prompt", "Return", "--beams", "3", "--max-length", "5")
    assert searched.stdout == as_shown("Return" + tokenizer.decode(best.tokens) + "\n")
    lines = call(trained, "generate", "--logprobs", "2", *GREEDY).stdout.splitlines()
    assert [len(line.split("   ")) for line in lines] == [3] * len(lines)
    most = call(trained, "generate", "--logprobs", "99999", "--max-length", "1").stdout
    assert len(most.split("   ")) == 1 + model.config.vocabulary_size
    ignored = call(trained, "generate", "--beams", "2", "--stop", "x", "--temperature", "0.7", "--seed", "0").stderr
    assert ignored == "Error: --beams does not support --temperature, --seed, --stop; remove them.\n"


def test_output_fits_a_schema(trained: Store, tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    color = {"type": "object", "properties": {"color": {"enum": ["red", "blue"]}}, "required": ["color"]}
    file.write_text(json.dumps(color))
    result = call(trained, "generate", "--schema", str(file), "--prompt", "A color: ")
    assert json.loads(result.stdout)["color"] in ("red", "blue") and result.stderr == ""
    cut = call(trained, "generate", "--schema", str(file), "--max-length", "3")
    assert cut.stderr == "(The output is incomplete after 3 tokens; raise --max-length.)\n"
    for text, message in (
        ('{"properties": {"a": {"enum": 3}}}', f"{file}: The schema is malformed at $.properties.a.enum: 3 is not of"),
        ("{", f"{file} is not JSON (Expecting property name"),
        ('{"items":' * 100_000, f"{file} is nested too deeply; write a flatter schema."),
    ):
        file.write_text(text)
        assert call(trained, "generate", "--schema", str(file)).stderr.startswith(f"Error: {message}")
    missing = call(trained, "generate", "--schema", str(tmp_path / "none.json")).stderr
    assert missing.startswith("Error: --schema cannot be read") and missing.count("\n") == 1


def test_a_full_context_is_reported(trained: Store, tokenizer: Tokenizer) -> None:
    most = 128 - len(prompt(tokenizer, "Return"))
    message = f"(The context of 128 tokens is full: only {most} of 1000 tokens fit.)\n"
    arguments = ("generate", "--prompt", "Return", "--max-length")
    for options in (("--temperature", "0"), ("--logprobs", "1", "--temperature", "0"), ("--beams", "1")):
        result = call(trained, *arguments, "1000", *options)
        assert (result.exit_code, result.stderr) == (0, message)
        assert call(trained, *arguments, str(most), *options).stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top-p", "0"], "top_p is 0.0; give a number that is more than 0 and at most 1."),
        ([""], "There is no artifact of stage ''"),
        (["quantize:"], "quantize has the variants int8; name one, such as quantize:int8."),
        (["--prompt", "\udcff"], "The text is not UTF-8;"),
        (["--beams", "500"], "beams is 500; give a number between 1 and 137."),
    ],
)
def test_a_mistake_is_one_error_message(trained: Store, arguments: list[str], message: str) -> None:
    result = call(trained, "generate", *arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {message}")
    assert result.stderr.count("\n") == 1


def test_a_prompt_that_is_refused_is_not_printed(trained: Store) -> None:
    result = call(trained, "generate", "--prompt", "-", typed="never " * 500)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "exceeds the model's context" in result.stderr


@pytest.mark.parametrize("command", [["generate", "--prompt", "-"], ["chat"]])
def test_input_that_is_not_utf8_is_refused(trained: Store, command: list[str]) -> None:
    result = call(trained, *command, typed=b"\xff\xfe\n")
    assert result.exit_code == 1
    assert result.stderr == "Error: The text is not UTF-8; save it, or set the terminal, as UTF-8.\n"


def test_a_conversation_in_the_terminal(trained: Store) -> None:
    talk = call(trained, "chat", *GREEDY, "--system", "Be brief.", typed="Why?\n/reset\nWhy?\n/what\n/quit\nnever\n")
    assert talk.exit_code == 0
    lines = talk.stdout.split("\n")
    assert talk.stdout == talk.stdout[: len(talk.stdout) // 2] * 2
    assert len(lines) > 2
    assert "/reset starts a new conversation" in talk.stderr
    assert "<|im" not in talk.stdout


def test_a_conversation_that_fills_the_context_says_so(trained: Store) -> None:
    for length, reason in (("1000", f"The context of {CONTEXT} tokens is full: "), ("5", "Maximum length reached: 5 ")):
        talk = call(trained, "chat", "--temperature", "0", "--max-length", length, typed="Why?\n")
        assert reason in talk.stderr


def test_the_system_option_replaces_the_models_system_message(trained: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    systems = []

    class Recorded(Conversation):
        def __init__(self, *arguments: Any, system: str | None, **options: Any):
            systems.append(system)
            super().__init__(*arguments, system=system, **options)

    monkeypatch.setattr(conversation, "Conversation", Recorded)
    for options in ([], ["--system", "Be brief."]):
        assert call(trained, "chat", *options).exit_code == 0
    save_system(trained.resolve("pretrain").path / "model", "Answer in verse.")
    for options in ([], ["--system", "Be brief."]):
        assert call(trained, "chat", *options).exit_code == 0
    assert systems == [None, "Be brief.", "Answer in verse.", "Be brief."]


@pytest.mark.parametrize("typed", ["", "Why?"])
def test_the_end_of_the_input_exits(trained: Store, typed: str) -> None:
    assert call(trained, "chat", *GREEDY, typed=typed).exit_code == 0
