"""What the UI shows of a stage that works: one live picture, however often it changes."""

import pytest
from prefect import flow, get_client
from prefect.artifacts import Artifact
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from homegrown.store.artifacts import Store
from tasks.ui.reporting import LiveMarkdown

pytestmark = pytest.mark.slow


def test_a_live_picture_takes_the_place_of_the_one_before(in_prefect: Store) -> None:
    @flow(name="live")
    def watch() -> None:
        live = LiveMarkdown("watched-live")
        for step, markdown in enumerate(("first", "second", "second", "third")):
            live.post(markdown, f"step {step}")
            addresses.add(live._artifact)

    addresses = set()
    watch()
    assert len(addresses) == 1
    with get_client(sync_client=True) as client:
        key = ArtifactFilterKey(any_=["watched-live"])
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=key))
    assert [(one.data, one.description) for one in found] == [("third", "step 3")]
    latest = Artifact.get("watched-live")
    assert latest is not None
    assert latest.data == "third"
