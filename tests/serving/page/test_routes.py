"""The page's own routes: who may keep conversations and feedback, and what they accept."""

import socket
from collections.abc import Iterator

import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient

from homegrown.cli.main import cli
from homegrown.rating.feedback import Feedback
from homegrown.serving import server
from homegrown.serving.api import application
from homegrown.serving.service import Model, Service
from homegrown.store.artifacts import Store

TALK = "0123456789abcdef0123456789abcdef"
THUMB = {
    "kind": "thumb",
    "prompt": [{"role": "user", "content": "Why?"}],
    "answer": {"text": "So.", "model": "short", "seed": 3, "settings": {"temperature": 0.7, "stop": ["x"]}},
    "value": 1,
}


def client(store: Store | None, key: str | None = None) -> TestClient:
    service = Service([Model("finetune@2", 0), Model("pretrain@1", 0, False)], queue=0, aliases={"short": "finetune@2"})
    return TestClient(application(service, key=key, hosts=["testserver"], store=store))


@pytest.fixture
def browser(store: Store) -> Iterator[TestClient]:
    with client(store) as made:
        yield made


def test_a_conversation_is_kept_listed_and_deleted(browser: TestClient, store: Store) -> None:
    address = f"/page/conversations/{TALK}"
    assert browser.get(address).status_code == 404
    for title in ("First", "Second"):
        assert browser.put(address, json={"title": title, "content": {"turns": ["ü🌱"]}}).status_code == 200
    assert browser.get(address).json() == {"content": {"turns": ["ü🌱"]}}
    (listed,) = client(store).get("/page/conversations").json()["conversations"]
    assert (listed["id"], listed["title"]) == (TALK, "Second")
    assert browser.delete(address).status_code == 200
    assert browser.get("/page/conversations").json() == {"conversations": []}
    assert browser.put("/page/conversations/../x", json={}).status_code in (404, 405)
    assert browser.put("/page/conversations/x", json={"title": "", "content": {}}).status_code == 400


def test_feedback_names_the_version_of_the_model(browser: TestClient, store: Store) -> None:
    down = {**THUMB, "answer": {**THUMB["answer"], "text": "No.", "seed": 4}, "value": -1}  # type: ignore[dict-item]
    for body in (THUMB, down):
        assert browser.post("/page/feedback", json=body).status_code == 200
    (pair,) = Feedback(store).pairs().pairs
    assert (pair.chosen.text, pair.chosen.model, pair.chosen.seed) == ("So.", "finetune@2", 3)
    assert pair.chosen.settings == {"temperature": 0.7, "stop": ["x"]} and pair.rejected.seed == 4
    unknown = {**THUMB, "answer": {**THUMB["answer"], "model": "other"}}  # type: ignore[dict-item]
    assert browser.post("/page/feedback", json=unknown).status_code == 404
    for wrong in ({"kind": "smile"}, {"value": 2}, {"prompt": []}, {"extra": 1}):
        assert browser.post("/page/feedback", json={**THUMB, **wrong}).status_code == 400
    assert len(Feedback(store).pairs().pairs) == 1


def test_a_page_says_which_models_only_continue_text(browser: TestClient) -> None:
    found = browser.get("/page/models").json()
    assert [(one["name"], one["answers"], one["state"]) for one in found["models"]] == [
        ("finetune@2", True, "loading"),
        ("pretrain@1", False, "loading"),
    ]
    assert found["kept"] is True


def test_without_the_key_nothing_is_written_or_read(store: Store) -> None:
    stranger = client(store, key="secret")
    requests = [
        stranger.post("/page/feedback", json=THUMB),
        stranger.put(f"/page/conversations/{TALK}", json={"title": "", "content": {}}),
        stranger.get("/page/conversations"),
        stranger.get("/"),
    ]
    assert [one.status_code for one in requests] == [401] * 4
    assert requests[-1].headers["www-authenticate"].startswith("Basic")
    assert not list(store.root.glob("*.sqlite"))
    assert stranger.post("/page/feedback", json=THUMB, auth=("me", "secret")).status_code == 200
    # Another page in the browser of somebody who has the key.
    elsewhere = {"Origin": "https://evil.example"}
    assert stranger.post("/page/feedback", json=THUMB, auth=("me", "secret"), headers=elsewhere).status_code == 403


def test_an_open_server_keeps_nothing() -> None:
    open_to_all = client(None)
    assert open_to_all.get("/page/models").json()["kept"] is False
    for answer in (open_to_all.post("/page/feedback", json=THUMB), open_to_all.get("/page/conversations")):
        assert answer.status_code == 403 and "set a key" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("options", "keeps"),
    [
        ([], True),
        (["--host", "0.0.0.0"], False),
        (["--allow-host", "llm.example.org"], False),
        (["--allow-origin", "https://llm.example.org"], False),
        (["--host", "0.0.0.0", "--api-key", "secret"], True),
    ],
)
def test_the_command_keeps_nothing_where_strangers_reach_it(
    trained: Store, monkeypatch: pytest.MonkeyPatch, options: list[str], keeps: bool
) -> None:
    found: list[tuple[bool, bool]] = []

    def look(self: server.Server, *_: object) -> None:
        key = {"Authorization": "Bearer secret"}
        answer = TestClient(self.config.app, base_url="http://127.0.0.1", headers=key).get("/page/models").json()
        found.append((answer["kept"], answer["models"][0]["answers"]))

    monkeypatch.setattr(server.Server, "serve_while", look)
    done = CliRunner().invoke(cli, ["--artifacts", str(trained.root), "serve", "--port", _free(), *options])
    assert done.exit_code == 0, done.output
    assert found == [(keeps, False)]


def _free() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return str(taken.getsockname()[1])


def test_the_page_has_only_its_own_files(browser: TestClient) -> None:
    page = browser.get("/")
    assert (
        "unsafe" not in page.headers["content-security-policy"]
        and "http" not in page.headers["content-security-policy"]
    )
    for name in ("page.css", "page.js", "markdown.js"):
        assert f'"page/{name}"' in page.text or f'"./{name}"' in browser.get("/page/page.js").text
        assert browser.get(f"/page/{name}").status_code == browser.head(f"/page/{name}").status_code == 200
    for path in ("/page/routes.py", "/page/../api.py", "/page/%2e%2e%2fapi.py", "/elsewhere"):
        assert browser.get(path).status_code == 404
