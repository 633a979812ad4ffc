"""Rating texts, on the page and in the terminal."""

import html
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from fastapi.testclient import TestClient

from homegrown.cli.main import cli
from homegrown.rating.items import AUTHOR, HUMAN, Item, items_of, shuffled, with_completions
from homegrown.rating.page import application
from homegrown.rating.ratings import CRITERIA, Answers, all_answers
from homegrown.store.artifacts import RATINGS, Store
from homegrown.util.errors import UserError


@pytest.fixture
def items(rated_store: Store) -> list[Item]:
    return items_of([rated_store.resolve("evaluate")], documents=2)


def _homegrown(store: Store, *arguments: str, typed: str = "") -> Result:
    return CliRunner().invoke(cli, ["--artifacts", str(store.root), *arguments], input=typed)


def test_equal_texts_are_one_item_of_all_that_wrote_them(items: list[Item]) -> None:
    assert {(item.prompt, item.text): item.systems for item in items} == {
        ("The cat", " <b>slept</b>."): ("evaluate@1/int8", "evaluate@1/original"),
        ("The cat", " sat."): (HUMAN,),
        ("A dog", " flew."): ("evaluate@1/original",),
        ("A dog", " ran."): ("evaluate@1/int8", HUMAN),
    }


@pytest.mark.parametrize("name", ["finetune", "finetune@1", "answers@1"])
def test_answers_of_a_fine_tuning_are_rated_beside_those_of_its_base(rated_store: Store, name: str) -> None:
    items = items_of([with_completions(rated_store, name)], documents=2)
    assert {(item.prompt.strip(), item.text): item.systems for item in items} == {
        ("Why?", "Why? Why?"): ("answers@1/base",),
        ("Why?", "So."): ("answers@1/fine-tuned", AUTHOR),
        ("When?", ""): ("answers@1/base",),
        ("When?", "Then."): ("answers@1/fine-tuned",),
        ("When?", "Now."): (AUTHOR,),
    }
    silent = next(item for item in items if not item.text)
    page = TestClient(application([silent], Answers(rated_store.root / RATINGS, "ann"), ["testserver"]))
    assert "(nothing)" in page.get("/").text


def test_each_rater_has_an_order_of_their_own(items: list[Item]) -> None:
    orders = {tuple(item.id for item in shuffled(items, rater)) for rater in map(str, range(20))}
    assert len(orders) > 1
    assert shuffled(items, "ann") == shuffled(items[::-1], "ann")


def test_the_page_asks_blindly_until_all_is_rated(rated_store: Store, items: list[Item]) -> None:
    answers = Answers(rated_store.root / RATINGS, "ann")
    client = TestClient(application(items, answers, ["testserver"]))
    for _ in items:
        page = client.get("/").text
        assert not any(word in page for word in ("original", "int8", "evaluate@", html.escape(HUMAN), "<b>slept"))
        form = dict(re.findall(r'name="(token|item)" value="([^"]+)"', page))
        assert "Choose at least one" in client.post("/", data=form).text
        assert client.post("/", data=form | {"coherence": "6"}).status_code == 422
        assert client.post("/", data=form | {"coherence": "4", "factuality": "2"}).status_code == 200
    assert "Thank you" in client.get("/").text
    other = client.get("/", headers={"Host": "evil.example"})
    assert (other.status_code, other.text) == (
        400,
        "The host name evil.example is refused; open the address that the command prints.",
    )
    table = all_answers(rated_store.root / RATINGS)
    assert table["item"].to_pylist() == [item.id for item in items]
    assert set(table["coherence"].to_pylist()) == {4}
    assert set(table["relevance"].to_pylist()) == {None}
    assert Answers(rated_store.root / RATINGS, "ann").rated == {item.id for item in items}


def test_a_page_from_elsewhere_cannot_answer(rated_store: Store, items: list[Item]) -> None:
    client = TestClient(application(items, Answers(rated_store.root / RATINGS, "ann"), ["127.0.0.1"]))
    assert client.get("/").status_code == 400  # another name for this machine
    local = TestClient(client.app, base_url="http://127.0.0.1:8800")
    assert local.get("/").status_code == 200
    forged = {"token": "guess", "item": items[0].id, "coherence": "1"}
    assert local.post("/", data=forged).status_code == 403
    assert not (rated_store.root / RATINGS).exists()


def test_the_terminal_keeps_each_answer_and_continues_later(rated_store: Store) -> None:
    # Invalid input is asked again; Enter skips a criterion, and q exits.
    first = _homegrown(rated_store, "rate", "--terminal", "--rater", "ben", typed="9\n3\n4\n\n2\n1\nq\n")
    assert first.exit_code == 0, first.output
    assert "Ratings saved: 1." in first.output
    (row,) = all_answers(rated_store.root / RATINGS).to_pylist()
    assert [row[name] for name in CRITERIA] == [3, 4, None, 2, 1]
    shown = _homegrown(rated_store, "report", "ratings")
    assert (shown.exit_code, "1 rater; 1 completion" in shown.output) == (0, True), shown.output
    counted = _homegrown(rated_store, "sql", "--csv", "select rater, count(*) from ratings group by all")
    assert "ben,1" in counted.output, counted.output
    ended = _homegrown(rated_store, "rate", "--terminal", "--rater", "ben", typed="4\n")  # as Ctrl-D does
    assert (ended.exit_code, "Ratings saved: 0." in ended.output) == (0, True), ended.output


def test_a_fine_tuning_has_no_evaluation_but_a_page_of_its_answers(rated_store: Store) -> None:
    for name, has_page in (("finetune@1", True), ("answers@1", True), ("pretrain@1", False)):
        refused = _homegrown(rated_store, "report", "evaluation", name)
        assert (refused.exit_code, refused.output.count("\n")) == (1, 1), refused.output
        assert (str(rated_store.resolve("answers").path / "report.html") in refused.output) is has_page


def test_mistakes_are_errors_of_one_line(rated_store: Store, tmp_path: Path) -> None:
    # The model that was fine-tuned has answers only as the base of another, and no evaluation.
    wrong = (("rate", "--rater", "../x"), ("report", "ratings"), ("rate", "pretrain@1"), ("rate", "finetune@2"))
    for arguments in wrong:
        refused = _homegrown(rated_store, *arguments)
        assert (refused.exit_code, refused.output.count("\n")) == (1, 1), refused.output
    folder = rated_store.root / RATINGS
    folder.mkdir()
    (folder / "ann.parquet").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"ann\.parquet is not a table of ratings"):
        Answers(folder, "ann")
    pq.write_table(pa.table({"a": [1]}), folder / "ann.parquet")
    with pytest.raises(UserError, match=r"ann\.parquet is not a table of ratings"):
        Answers(folder, "ann")
