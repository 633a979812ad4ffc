"""A folder of artifacts that came from elsewhere: no pickle in it is loaded, no link followed, no name believed."""

import json
from pathlib import Path

import cloudpickle
import pytest
from prefect.results import ResultRecord, ResultRecordMetadata
from prefect.serializers import JSONSerializer, PickleSerializer
from pydantic import ValidationError

from homegrown.store.artifacts import Store, partial_of
from homegrown.store.manifest import MANIFEST, Manifest, Order
from homegrown.util.progress import Outcome
from tasks.records import forget_foreign
from tasks.stage import RECORD, Handle
from tests.security.test_hostile_data import Runs
from tests.tasks.test_stage import run_chain

HANDLE = Handle(stage="first", folder="1-0123456789abcdef", key="0123456789abcdef" * 4)
ORDER = Order("first", "code", {}, {})


def written(result: object, serializer: JSONSerializer | PickleSerializer) -> bytes:
    return ResultRecord(
        result=result, metadata=ResultRecordMetadata(storage_key="x", serializer=serializer)
    ).serialize()


def test_our_own_record_stays_and_any_other_goes(tmp_path: Path) -> None:
    record, mark = tmp_path / RECORD, tmp_path / "ran"
    forget_foreign(record, HANDLE)  # none there
    ours = written(HANDLE, JSONSerializer())
    record.write_bytes(ours)
    forget_foreign(record, HANDLE)
    assert ResultRecord.deserialize(record.read_bytes()).result == HANDLE

    text = json.loads(ours)
    serializer = text["metadata"]["serializer"]
    metadata = text["metadata"]
    hostile = [
        written(Runs(mark), PickleSerializer()),
        json.dumps(text | {"metadata": metadata | {"serializer": serializer | {"object_decoder": "os.system"}}}),
        json.dumps(text | {"metadata": metadata | {"serializer": serializer | {"jsonlib": "evil"}}}),
        json.dumps(text | {"serializer": {"type": "pickle"}, "data": "x"}),
        json.dumps(text | {"result": '{"__class__": "pathlib.Path", "data": "/etc/passwd"}'}),
        json.dumps(
            text | {"result": json.dumps(json.loads(text["result"]) | {"data": {"stage": "../..", "folder": "x"}})}
        ),
        ours.replace(b'"type":"json"', b'"type":"pickle","type":"json"'),
        ours.replace(b'{"metadata"', b'{"result":"x","metadata"'),
        b"[]",
        b"no json",
    ]
    for content in hostile:
        record.write_bytes(content if isinstance(content, bytes) else content.encode())
        forget_foreign(record, HANDLE)
        assert not record.exists(), content
    assert not mark.exists()


@pytest.mark.slow
def test_a_pickle_in_place_of_a_record_is_not_loaded_by_a_run(in_prefect: Store) -> None:
    assert run_chain(value=3, factor=2) == {"first": "Completed", "second": "Completed"}
    (record,) = in_prefect.root.glob(f"first/*/{RECORD}")
    mark = in_prefect.root / "ran"
    record.write_bytes(written(Runs(mark), PickleSerializer()))
    assert cloudpickle.dumps(Runs(mark))
    run_chain(value=3, factor=2)
    assert not mark.exists()
    assert ResultRecord.deserialize(record.read_bytes()).result.stage == "first"
    assert run_chain(value=3, factor=2) == {"first": "Cached", "second": "Cached"}


def build(out: Path) -> Outcome:
    (out / "table").mkdir(exist_ok=True)
    (out / "table" / "part.txt").write_text("made")
    return Outcome(1, 1)


def test_what_is_made_goes_through_no_link(store: Store, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    slot = store.slot("first", ORDER.key)
    (partial_of(slot) / "table").symlink_to(elsewhere)
    artifact, made = store.make(ORDER, slot, build)
    assert made
    assert not list(elsewhere.iterdir())
    assert (artifact.path / "table" / "part.txt").read_text() == "made"


def test_a_link_in_a_published_artifact_is_damage(store: Store, tmp_path: Path) -> None:
    artifact, _ = store.make(ORDER, store.slot("first", ORDER.key), build)
    file = artifact.path / "table" / "part.txt"
    file.rename(tmp_path / "part.txt")
    file.symlink_to(tmp_path / "part.txt")
    assert store.damage(artifact) == "table/part.txt is a link"


@pytest.mark.parametrize("stage", ["../x", "x' AS stage; COPY (SELECT 1) TO '/tmp/x'; --", "a/b", ".x", ""])
def test_a_manifest_names_a_stage_and_nothing_else(store: Store, stage: str) -> None:
    artifact, _ = store.make(ORDER, store.slot("first", ORDER.key), build)
    values = json.loads((artifact.path / MANIFEST).read_text())
    for changed in (
        {"stage": stage},
        {"inputs": {stage: "0" * 64}},
        {"files": {f"../{stage}": {"bytes": 0, "sha256": ""}}},
    ):
        with pytest.raises(ValidationError):
            Manifest.model_validate(values | changed)
