"""Feedback on answers: kept whatever is killed, paired, and split by question for good."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from homegrown.cli.main import cli
from homegrown.data.conversations import pair
from homegrown.rating.feedback import FILE, Answer, Feedback, RatedPair, lines
from homegrown.rating.items import items_of, with_completions
from homegrown.rating.ratings import CRITERIA, Answers
from homegrown.store.artifacts import RATINGS, Store
from homegrown.util.errors import UserError


def ask(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def answer(text: str, seed: int = 1) -> Answer:
    return Answer(text, "finetune@2", seed, {"temperature": 0.7})


def texts(pairs: list[RatedPair]) -> list[tuple[str, str, str, str]]:
    return [(one.kind, one.prompt[-1]["content"], one.chosen.text, one.rejected.text) for one in pairs]


@pytest.fixture
def feedback(store: Store) -> Feedback:
    return Feedback(store)


def test_choices_edits_and_opposite_thumbs_are_pairs(feedback: Feedback) -> None:
    feedback.choose(ask("Why?"), answer("So.", 1), answer("Why?", 2), "talk")
    feedback.edit(ask("When?"), "Now, at noon.", answer("Then."))
    feedback.edit(ask("When?"), " Then. ", answer("Then."))  # only white space: no preference
    feedback.thumb(ask("Who?"), answer("Me."), 1)
    assert feedback.pairs().single_thumbs == 1
    feedback.thumb(ask("Who?"), answer("You.", 9), -1)
    feedback.thumb(ask("Where?"), answer("Here."), 1)
    feedback.thumb(ask("Where?"), answer("There."), -1)
    feedback.thumb(ask("Where?"), answer("There."), 0)
    found = feedback.pairs()
    assert texts(found.pairs) == [
        ("choice", "Why?", "So.", "Why?"),
        ("edit", "When?", "Now, at noon.", "Then."),
        ("thumb", "Who?", "Me.", "You."),
    ]
    assert found.single_thumbs == 1
    rejected = found.pairs[-1].rejected
    assert (rejected.model, rejected.seed, rejected.settings) == ("finetune@2", 9, {"temperature": 0.7})
    # A changed mind replaces the earlier choice.
    feedback.choose(ask("Why?"), answer("Why?", 2), answer("So.", 1))
    assert texts(feedback.pairs().pairs)[-1] == ("choice", "Why?", "Why?", "So.")
    assert len(feedback.pairs().pairs) == 3


def test_ratings_of_answers_are_pairs_and_those_of_continuations_are_counted(rated_store: Store) -> None:
    items = items_of([with_completions(rated_store, "answers"), with_completions(rated_store, "evaluate")], 2)
    rater = Answers(rated_store.root / RATINGS, "ann")
    for item in items:
        rater.add(item, dict.fromkeys(CRITERIA, 5 if item.text in ("So.", "Now.") else 2))
    found = Feedback(rated_store).pairs()
    assert sorted(texts(found.pairs)) == [
        ("rating", "When?", "Now.", "Then."),
        ("rating", "Why?", "So.", "Why? Why?"),
    ]
    assert found.pairs[0].rejected.model.startswith("answers@1/")
    assert found.unused_ratings == sum(item.prompt in ("The cat", "A dog") or not item.text for item in items) > 1


def test_held_out_questions_stay_held_out_in_all_their_turns(feedback: Feedback) -> None:
    def split() -> dict[str, bool]:
        found: dict[str, set[bool]] = {}
        for one in feedback.pairs().pairs:
            found.setdefault(one.question, set()).add(one.held_out)
        assert all(len(values) == 1 for values in found.values())
        return {question: values.pop() for question, values in found.items()}

    before: dict[str, bool] = {}
    for number in range(12):
        feedback.choose(ask(f"Question {number}?"), answer("Good."), answer("Bad."))
        # A later turn of the same conversation, whose first question is written otherwise.
        turn = [{"role": "assistant", "content": "Good."}, {"role": "user", "content": "More?"}]
        feedback.choose([*ask(f" question  {number}?"), *turn], answer("Much."), answer("No."))
        now = split()
        assert before.items() <= now.items()
        before = now
    assert sum(before.values()) == 3
    # The file of a training has both splits, by questions, and the reader of DPO agrees.
    path = feedback.training_file(feedback.pairs())
    read = [pair(json.loads(line)) for line in path.read_text().splitlines()]
    assert len(read) == 24 and sum(bool(one.held_out) for one in read) == 6
    assert read[1].prompt[1].content == "Good." and read[1].chosen.content == "Much."
    assert feedback.training_file(feedback.pairs()) == path


def test_too_little_feedback_is_an_error_message(feedback: Feedback) -> None:
    with pytest.raises(UserError, match="no feedback to train on"):
        feedback.training_file(feedback.pairs())
    feedback.choose(ask("Why?"), answer("So."), answer("No."))
    with pytest.raises(UserError, match="1 pair of one question"):
        feedback.training_file(feedback.pairs())


def test_the_command_lists_and_exports(store: Store, tmp_path: Path) -> None:
    def call(*words: str) -> str:
        done = CliRunner().invoke(cli, ["--artifacts", str(store.root), "feedback", *words])
        assert done.exit_code == 0, done.output
        return done.output

    how = "compare, rate or edit answers on the page of `homegrown serve`."
    assert call() == f"0 pairs of 0 questions: 0 train, 0 held out. To give some, {how}\n"
    refused = CliRunner().invoke(cli, ["--artifacts", str(store.root), "feedback", "--export", str(tmp_path / "x")])
    assert refused.output == f"Error: There is no feedback to export; {how}\n" and not (tmp_path / "x").exists()
    feedback = Feedback(store)
    for question in ("Why?", "When?"):
        feedback.choose(ask(question), answer("So."), answer("a" * 100))
    listed = call()
    assert "finetune@2" in listed and "held out" in listed and "aaa…" in listed
    assert "2 pairs of 2 questions: 1 train, 1 held out." in listed
    call("--export", str(tmp_path / "pairs.jsonl"))
    assert (tmp_path / "pairs.jsonl").read_text() == "".join(lines(feedback.pairs().pairs))


def test_a_damaged_file_is_an_error_message(store: Store) -> None:
    store.root.mkdir(parents=True, exist_ok=True)
    (store.root / FILE).write_bytes(b"no database at all, but long enough to be read as one" * 20)
    with pytest.raises(UserError, match="cannot be read or written"):
        Feedback(store).pairs()


def _writes(root: Path, name: str, count: int) -> None:
    for number in range(count):
        Feedback(Store(root)).choose(ask(f"{name} {number}"), answer("a"), answer("b"))


def _started(work: Callable[..., None], *arguments: object) -> "multiprocessing.context.SpawnProcess":
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    process.start()
    return process


def test_a_kill_loses_at_most_the_pair_being_written_and_processes_write_at_once(store: Store) -> None:
    killed = _started(_writes, store.root, "killed", 10_000)
    others = [_started(_writes, store.root, name, 20) for name in ("one", "two")]
    end = time.monotonic() + 60
    while not (store.root / FILE).exists() or len(Feedback(store).pairs().pairs) < 10:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert killed.pid
    os.kill(killed.pid, signal.SIGKILL)
    for process in (killed, *others):
        process.join()
    asked = [one.prompt[0]["content"].split() for one in Feedback(store).pairs().pairs]
    by_name = {name: [int(number) for who, number in asked if who == name] for name in ("killed", "one", "two")}
    assert by_name["one"] == by_name["two"] == list(range(20))
    assert by_name["killed"] == list(range(len(by_name["killed"])))
    Feedback(store).choose(ask("after"), answer("a"), answer("b"))
    assert Feedback(store).pairs().pairs[-1].prompt == ask("after")


def test_pairs_are_a_table_of_sql(feedback: Feedback, store: Store) -> None:
    def query(statement: str) -> str:
        done = CliRunner().invoke(cli, ["--artifacts", str(store.root), "sql", "--csv", statement])
        assert done.exit_code == 0, done.output
        return done.output

    assert "feedback" in query("SHOW ALL TABLES")
    assert query("SELECT count(*) FROM feedback").split() == ["count_star()", "0"]
    feedback.choose(ask("Why?"), answer("So."), answer("No.", 7))
    feedback.edit(ask("When?"), "Now.", answer("Then."))
    shown = query("SELECT kind, question, chosen, chosen_model, rejected, rejected_seed, held_out FROM Feedback")
    assert shown.splitlines()[1:] == ["choice,Why?,So.,finetune@2,No.,7,False", "edit,When?,Now.,edited,Then.,1,True"]
