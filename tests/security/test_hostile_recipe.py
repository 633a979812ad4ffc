"""What a recipe from a stranger can name: no credential, nothing that runs code, no place to write."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import jsonschema
import pytest
import yaml
from pydantic import AfterValidator, BaseModel, ValidationError

from homegrown.config import addresses
from homegrown.config.corpus import FilesSource, HubSource
from homegrown.config.finetune_recipe import InstructionSettings
from homegrown.config.pipelines import PIPELINES, load_finetuning, load_recipe
from homegrown.config.recipe import Recipe
from homegrown.corpus import sources
from homegrown.corpus.contamination import runs_of_files
from homegrown.corpus.quality import word_list
from homegrown.store.remote import VARIABLE, Remote
from homegrown.tokenizer.existing import take
from homegrown.util.errors import UserError

SECRET = "pa55word"
CREDENTIALS = (
    f"https://user:{SECRET}@example.com/a.txt",
    f"HTTPS://{SECRET}@example.com/a.txt",
    f"s3://AKIAKEY:{SECRET}@bucket/a.txt",
    f"sftp://user:{SECRET}@example.com/a.txt",
    f"https://example.com/a.txt?X-Amz-Signature={SECRET}",
    f"https://account.blob.core.windows.net/c/a.txt?sv=1&sig={SECRET}",
    f"https://example.com/a.txt?v=1&access_token={SECRET}",
)
HOSTILE = (
    "dask://example.com:8786/a.txt",  # connects to a scheduler, which could send any code
    "reference://a.txt::https://example.com/a.json",  # fills in templates
    "simplecache::https://example.com/a.txt",  # writes what it reads
    "https://example.com/a.txt::dask://example.com:8786",
    "zip://a.txt::https://example.com/a.zip",
    "github://org:repo@main/a.txt",
    "git://a.txt",
    "a\0b",
    "https://user:pass/word@example.com/a.txt",
    "",  # would be the working directory, with all that lies there
)
NAMES = ("../../x", "a/b", "/x", "..", ".x", "A", "a b", "a\n", "a\0", "", "x" * 65, "{{ $HOME }}")


def changed(*changes: str) -> Recipe:
    return load_recipe("tiny", changes)


@pytest.mark.parametrize("address", CREDENTIALS)
def test_a_credential_in_an_address_is_refused_and_not_repeated(address: str) -> None:
    for setting in (
        f"ingest.sources=[{{kind: files, name: x, path: '{address}'}}]",
        f"ingest.sources=[{{kind: hub, name: x, dataset: '{address}'}}]",
        f"tokenizer.path='{address}'",
        f"shard.decontaminate=['{address}']",
        f"filter.word_list={{path: '{address}'}}",
    ):
        with pytest.raises(UserError, match="contains a password, key or token") as caught:
            changed(setting)
        assert SECRET not in str(caught.value)
    with pytest.raises(UserError, match="contains a password, key or token") as caught:
        load_finetuning("tiny", [f"instructions.files=['{address}']"])
    assert SECRET not in str(caught.value)
    with pytest.raises(ValidationError) as wrong:
        FilesSource(name="x", path=address)
    assert SECRET not in str(wrong.value)


@pytest.mark.parametrize("address", CREDENTIALS)
def test_prefects_server_refuses_a_credential_by_the_schema(address: str) -> None:
    from flows.pretrain import pretrain

    schema: dict[str, Any] = pretrain.parameters.model_dump()
    validator = jsonschema.Draft202012Validator(schema)
    recipe = changed().model_dump(mode="json")
    assert not list(validator.iter_errors({"recipe": recipe}))
    recipe["ingest"]["sources"] = [{"kind": "files", "name": "x", "path": address}]
    assert list(validator.iter_errors({"recipe": recipe}))
    change = f"ingest.sources=[{{kind: files, name: x, path: '{address}'}}]"
    assert list(validator.iter_errors({"recipe": changed().model_dump(mode="json"), "changes": [change]}))


def test_the_environments_remote_holds_no_credential_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, f"s3://key:{SECRET}@bucket/x")
    with pytest.raises(UserError, match=VARIABLE) as caught:
        Remote.of_environment()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("address", HOSTILE)
def test_an_address_that_does_more_than_give_bytes_is_refused(address: str) -> None:
    with pytest.raises(ValidationError):
        FilesSource(name="x", path=address)
    with pytest.raises(ValidationError):
        InstructionSettings(files=[address])


@pytest.mark.parametrize(
    "address",
    [
        "data/notes",
        "~/x/*.txt",
        "s3://bucket/a@b/*.parquet",
        "http://[::1]:8000/a.txt",
        "https://example.com/a.txt?version=3",
        "hf://datasets/a/b@main/x.parquet",
        "abfs://container@account.dfs.core.windows.net/x",
        "sftp://me@example.com/x",
    ],
)
def test_honest_addresses_are_taken_as_they_are(address: str) -> None:
    assert FilesSource(name="x", path=address).path == address


@pytest.mark.parametrize("name", NAMES)
def test_a_name_leads_nowhere(name: str) -> None:
    with pytest.raises(ValidationError):
        FilesSource(name=name, path="x")
    with pytest.raises(ValidationError):
        Recipe.model_validate(changed().model_dump() | {"name": name})


@pytest.mark.parametrize("part", ["revision", "config", "split"])
def test_a_part_of_a_hub_address_leads_nowhere(part: str) -> None:
    for value in ("../../x", "a/../../x", "/x", "a\\..\\x", "a\0"):
        with pytest.raises(ValidationError):
            HubSource.model_validate({"name": "x", "dataset": "a/b", part: value})
    for value in ("main", "v1.0-rc_1", "20231101.en", "abc123"):
        HubSource.model_validate({"name": "x", "dataset": "a/b", part: value})


def fields(model: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield every setting of a model and of those in it, with its type and what bounds it."""
    for name, field in model.model_fields.items():
        yield f"{model.__name__}.{name}", field.annotation, field
        waiting = [field.annotation]
        while waiting:
            kind = waiting.pop()
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from fields(kind)
            waiting += [inner for inner in get_args(kind) if get_origin(kind) is not type]


def test_every_free_text_of_a_recipe_is_known() -> None:
    """A new setting that takes any text has to be thought about: is it a path, an address, a part of a path?"""
    free = {
        name
        for name, kind, field in fields(Recipe)
        if (kind is str or str in get_args(kind))
        and not any(hasattr(rule, "pattern") or isinstance(rule, AfterValidator) for rule in field.metadata)
    }
    assert free == {
        "FilesSource.text_column",  # looked up in what is read
        "FilesSource.separator",  # searched for as it stands
        "FilesSource.delimiter",  # split at as it stands
        "FilesSource.encoding",  # looked up in WHATWG's table and Python's
        "FilesSource.url_column",
        "HubSource.text_column",
        "HubSource.url_column",
        "FilterSettings.languages",  # of a fixed list
        "TrainingSettings.sample_prompts",  # text for the model
    }


def test_numbers_are_numbers() -> None:
    for value in (".inf", ".nan"):
        with pytest.raises(UserError, match="finite number"):
            changed(f"ingest.shard_mb={value}")


@pytest.mark.parametrize(
    "address", ["tcp://evil.example@127.0.0.1:1", "inproc://x", "tcp://a:b@127.0.0.1:1", "tcp://127.0.0.1:1/x#y", "x"]
)
def test_a_schedulers_address_is_plain(address: str) -> None:
    with pytest.raises(UserError, match=r"compute\.address"):
        changed("compute.executor=dask", f"compute.address='{address}'")


def test_checking_takes_linear_time() -> None:
    for text in ("://" + ":" * 200_000, "://a" * 50_000, "?token" * 30_000, "https://" * 30_000 + "@"):
        began = time.process_time()
        addresses.has_credential(text)
        assert time.process_time() - began < 5  # quadratic would be minutes


def test_a_pipeline_file_fills_in_no_secret(tmp_path: Path) -> None:
    from flows.local.deployment_file import check

    whole = yaml.safe_load(PIPELINES.read_text())
    deployment = whole["deployments"][0]
    for template in ("{{ $AWS_SECRET_ACCESS_KEY }}", "{{ prefect.blocks.secret.key }}"):
        recipe = changed(f"training.sample_prompts=['{template}']").model_dump(mode="json")
        file = tmp_path / "pipelines.yaml"
        file.write_text(
            yaml.safe_dump({"deployments": [deployment | {"parameters": {"recipe": recipe, "until": "ingest"}}]})
        )
        with pytest.raises(UserError, match="Prefect would expand"):
            check(file)


def test_a_loading_script_of_a_dataset_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "stories"
    folder.mkdir()
    mark = tmp_path / "ran"
    (folder / "stories.py").write_text(f"open({str(mark)!r}, 'w')\n")
    (folder / "train.jsonl").write_text('{"text": "one"}\n')
    with pytest.raises(UserError, match="scripts are no longer supported"):
        sources.find(HubSource(name="x", dataset=str(folder)))
    script = HubSource(name="x", dataset=str(folder / "stories.py"))
    with pytest.raises(UserError, match="cannot be opened"):
        sources.find(script)
    assert not mark.exists()


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="word_list"):
        word_list.check("/dev/zero")
    with pytest.raises(UserError, match="decontaminate"):
        runs_of_files(["/dev/zero"])
    with pytest.raises(UserError, match=r"tokenizer\.path"):
        take(Path("/dev/zero"))
    with pytest.raises(UserError, match="no file or folder"):
        sources.find_files(FilesSource(name="x", path="/dev/zero"))


def test_the_patterns_of_names_end_where_the_name_ends() -> None:
    """`$` of Python's `re` would let a newline through; pydantic's does not."""
    assert re.match(r"^[a-z]+$", "a\n")
    with pytest.raises(ValidationError):
        FilesSource(name="a\n", path="x")
