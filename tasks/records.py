"""Prefect's records of results: each says itself by what code it is to be read, so only one as ours is let be read."""

import json
from pathlib import Path
from typing import Any

from prefect.serializers import JSONSerializer
from prefect.utilities.importtools import to_qualified_name
from pydantic import BaseModel

_OURS = JSONSerializer().model_dump(mode="json")


def forget_foreign(record: Path, result: BaseModel) -> None:
    """Remove a record unless it is, but for times and versions, what Prefect writes of `result`.

    An artifact's folder may come from elsewhere, and with it a record that names pickle, or some function, to be read
    by. Without a record the stage is asked again, and the store knows whether its artifact is whole.
    """
    try:
        content = json.loads(record.read_bytes(), object_pairs_hook=_distinct)
        metadata = content["metadata"]
        known = (
            content.keys() == {"metadata", "result"}
            and metadata["serializer"] == _OURS
            and metadata["storage_block_id"] is None
            and json.loads(content["result"], object_pairs_hook=_distinct)
            == {"__class__": to_qualified_name(type(result)), "data": result.model_dump(mode="json")}
        )
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError, AttributeError):
        known = False
    if not known:
        record.unlink()


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a name that is there twice: another reader might take the other one."""
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name is there twice")
    return dict(pairs)
