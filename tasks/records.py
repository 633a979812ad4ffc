"""Prefect's records of results: each names the code that reads it, so only records of our form are used."""

import json
from pathlib import Path
from typing import Any

from prefect.serializers import JSONSerializer
from prefect.utilities.importtools import to_qualified_name
from pydantic import BaseModel

_OURS = JSONSerializer().model_dump(mode="json")


def forget_foreign(record: Path, result: BaseModel) -> None:
    """Delete a record unless it equals what Prefect writes for `result`, apart from times and versions.

    An artifact's folder may be untrusted, with a record that selects pickle or another function as its reader. Without
    a record the stage runs again, and the store decides whether its artifact is complete.
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
    """Refuse a repeated name: another reader might use the other value."""
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a repeated name")
    return dict(pairs)
