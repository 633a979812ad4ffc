"""The dial: budgets as people write them, the choice for a text and a machine, and the measured speed it uses."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from flows.auto import text_changes
from homegrown.cli.main import cli
from homegrown.config.pipelines import change_recipe, load_auto, load_recipe
from homegrown.config.tokens import TokenizerSettings
from homegrown.model.config import ModelConfig
from homegrown.planning import gpus
from homegrown.planning import scaling_rules as rules
from homegrown.planning import speed as module
from homegrown.planning.budget import Budget
from homegrown.planning.dial import dial, sample_share
from homegrown.planning.fit import STAGES, check_fit
from homegrown.planning.machine import LocalGpu, Machine, this_machine
from homegrown.planning.probe import work
from homegrown.planning.speed import Speed, speed_of
from homegrown.planning.text import bytes_per_token
from homegrown.planning.text_facts import TextFacts, estimated, facts
from homegrown.store.artifacts import Store
from homegrown.store.differences import Reason
from homegrown.tokenizer.train import train_tokenizer
from homegrown.util.errors import UserError
from tests.planning.test_plan import probed

LAPTOP = Machine("a processor", 4, ("AVX2",), 8 * 2**30, ())
SPEED = Speed(per_token=1e-5, per_flop=4e-12, per_logit=1e-10, seconds_to_first_step=5, busy=False)
BOOK = TextFacts(1e6, counted=True, bz2_bits=2.1)
LIBRARY = TextFacts(1e10, counted=True, bz2_bits=2.1)


@pytest.mark.parametrize(
    ("time", "size", "tokens", "expected"),
    [
        ("90s", None, None, Budget(seconds=90)),
        ("45m", None, None, Budget(seconds=2700)),
        ("1h30m", "30M", None, Budget(seconds=5400, parameters=30e6)),
        ("2 d", None, None, Budget(seconds=172800)),
        ("2 days 3 hours 5 minutes 1 sec", None, None, Budget(seconds=183901)),
        ("1.5h", "30m", None, Budget(seconds=5400, parameters=30e6)),
        (None, "1.5B", "2,000k", Budget(parameters=1.5e9, tokens=2e6)),
        (None, "1e6", "1,234,567", Budget(parameters=1e6, tokens=1_234_567)),
    ],
)
def test_budgets(time: str | None, size: str | None, tokens: str | None, expected: Budget) -> None:
    assert Budget.of(time, size, tokens) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, None, None), "needs a budget"),
        (("45m", None, "10M"), "contradict"),
        (("45", None, None), "--time 45 is not a duration"),
        (("0m", None, None), "--time 0m is not a duration"),
        (("", None, None), "--time '' is not a duration"),
        ((None, "large", None), "--size large is not a number"),
        ((None, "1,5M", None), "--size 1,5M is not a number"),
        ((None, None, "0.1"), "--tokens 0.1 is not a number"),
        ((None, "1e999", None), "--size 1e999 is not a number"),
    ],
)
def test_a_wrong_budget_is_refused(given: tuple[str | None, str | None, str | None], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Budget.of(*given)


@pytest.mark.parametrize("text", [BOOK, LIBRARY])
def test_more_time_is_used_and_never_promises_less(text: TextFacts) -> None:
    recipe = load_auto()
    found = [dial(recipe, Budget(seconds=minutes * 60), text, SPEED, LAPTOP) for minutes in (1, 4, 16, 64, 256)]
    for minutes, one in zip((1, 4, 16, 64, 256), found, strict=True):
        assert one.seconds <= minutes * 60
        assert one.seconds >= 0.85 * minutes * 60 or one.epochs > 0.9 * rules.MOST_EPOCHS
        assert one.epochs <= rules.MOST_EPOCHS * 1.05
    losses = [one.bits_per_byte for one in found]
    assert losses == sorted(losses, reverse=True)
    assert found[-1].parameters > found[0].parameters
    assert found[-1].tokens > found[0].tokens


def test_a_text_that_is_read_many_times_gets_dropout_and_its_best_step() -> None:
    once = dial(load_auto(), Budget(seconds=600), LIBRARY, SPEED, LAPTOP).recipe
    often = dial(load_auto(), Budget(seconds=600), BOOK, SPEED, LAPTOP).recipe
    assert (once.training.dropout, once.training.patience) == (0, None)
    assert often.training.dropout > 0
    assert often.training.patience is not None
    assert often.tokenizer.vocabulary_size < once.tokenizer.vocabulary_size
    assert often.training.batch_size < once.training.batch_size


@pytest.mark.parametrize(
    ("layers", "width", "vocabulary", "tokens", "bytes_per_token", "measured"),
    [
        (4, 128, 1024, 3.0e6, 2.614, 2.036),
        (4, 128, 2048, 3.0e6, 3.156, 2.063),
        (4, 256, 2048, 3.1e6, 3.158, 2.001),
        (4, 256, 2048, 4.7e6, 3.158, 1.987),
    ],
)
def test_the_loss_of_shakespeare_is_promised(
    layers: int, width: int, vocabulary: int, tokens: float, bytes_per_token: float, measured: float
) -> None:
    """Against rows of benchmarks/results/scaling.csv, and `benchmarks.shakespeare`, which judge the last tenth."""
    shape = rules.shape(width // 64).model_copy(update={"layers": layers})
    config = ModelConfig.from_settings(shape, vocabulary, 0)
    promised = rules.promised_loss(config, tokens * bytes_per_token, 1_003_786, 2.351)
    assert promised == pytest.approx(measured, rel=0.04)


@pytest.mark.parametrize(
    ("size", "bits", "layers", "epochs", "measured"),
    [
        (11_527, 2.606, 2, 15, 3.530),
        (12_046, 2.588, 2, 15, 3.197),
        (10_351, 2.749, 2, 15, 3.346),
        (31_816, 2.496, 2, 15, 2.673),
        (30_046, 2.575, 2, 15, 2.612),
        (31_042, 2.664, 2, 15, 2.822),
        (101_035, 2.343, 3, 15, 1.986),
        (103_377, 2.485, 3, 15, 2.207),
        (100_117, 2.640, 3, 15, 2.316),
        (300_485, 2.198, 3, 7.3, 1.788),
        (296_455, 2.404, 3, 7.4, 1.969),
    ],
)
def test_the_loss_of_little_text_is_promised(
    size: int, bits: float, layers: int, epochs: float, measured: float
) -> None:
    """Against trainings of `python -m benchmarks.dial --little`: parts of three books, by bytes and bits by bz2."""
    config = ModelConfig.from_settings(rules.shape(layers, epochs), 512, 0)
    assert rules.promised_loss(config, epochs * size, size, bits) == pytest.approx(measured, rel=0.05)


def test_the_same_measurements_give_the_same_recipe() -> None:
    first, second = (dial(load_auto(), Budget(seconds=600), BOOK, SPEED, LAPTOP).recipe for _ in range(2))
    assert first == second
    assert first.name == "auto"


def test_the_starter_is_advised_where_it_predicts_the_text_better() -> None:
    found = dial(load_auto(), Budget(seconds=600), BOOK, SPEED, LAPTOP)
    better, worse = (found.beside(found.bits_per_byte + more, "adapt it").reasons[-1] for more in (-0.1, 0.1))
    assert better.chosen == f"{found.bits_per_byte - 0.1:.2f} bits per byte"
    assert "`adapt it`" in better.why
    assert "`adapt it`" not in worse.why


def test_a_size_or_tokens_alone_follow_from_each_other() -> None:
    sized = dial(load_auto(), Budget(parameters=30e6), LIBRARY, SPEED, LAPTOP)
    assert 20e6 < sized.parameters < 45e6
    assert 19 < sized.tokens / 30e6 < 21
    counted = dial(load_auto(), Budget(tokens=600e6), LIBRARY, SPEED, LAPTOP)
    assert counted.parameters == sized.parameters
    both = dial(load_auto(), Budget(parameters=30e6, seconds=3600), LIBRARY, SPEED, LAPTOP)
    assert both.parameters == pytest.approx(sized.parameters, rel=0.5)
    assert both.seconds <= 3600


def test_what_does_not_fit_is_not_chosen() -> None:
    small = replace(LAPTOP, memory_bytes=6 * 2**27)
    there, here = (dial(load_auto(), Budget(seconds=86400), LIBRARY, SPEED, one) for one in (LAPTOP, small))
    assert here.parameters < there.parameters
    for budget, text, message in (
        (Budget(parameters=1e9), LIBRARY, r"^The memory does not suffice to train 1\..* B parameters on this machine"),
        (Budget(seconds=4), LIBRARY, r"^--time is too short for the smallest model, .* 60 steps take .* s here"),
        (Budget(seconds=30, parameters=300e6), LIBRARY, r"^--time is too short for 29\d M parameters: 60 steps take"),
        (Budget(seconds=600), replace(BOOK, train_bytes=4500), r"^The text is too little: 15 readings of its 4.5 kB"),
    ):
        with pytest.raises(UserError, match=message):
            dial(load_auto(), budget, text, SPEED, small)
    with pytest.raises(UserError, match="empty"):
        dial(load_auto(), Budget(seconds=60), TextFacts(0, counted=True, bz2_bits=None), SPEED, LAPTOP)


def test_the_table_says_what_was_not_followed_and_what_was_not_measured() -> None:
    def why(budget: Budget, text: TextFacts, *changes: str) -> dict[str, str]:
        found = dial(load_auto(), budget, text, SPEED, LAPTOP, change=lambda one: change_recipe(one, changes))
        return {row.what: f"{row.chosen}: {row.why}" for row in found.reasons}

    near, measured = why(Budget(parameters=3e6, seconds=300), LIBRARY), why(Budget(seconds=60), LIBRARY)
    assert near["size"].endswith("as given")
    assert why(Budget(parameters=1000, seconds=300), LIBRARY)["size"].endswith("the nearest to 1,000")
    assert "extrapolated" not in measured["expected loss"]
    little = why(Budget(seconds=60), replace(BOOK, train_bytes=2e5))["expected loss"]
    assert little.endswith("; three books of this length were within 5%, a third of each held out")
    for seconds, text in ((86400, LIBRARY), (60, replace(BOOK, train_bytes=9e3))):
        assert "extrapolated: measured for" in why(Budget(seconds=seconds), text)["expected loss"]
    often = why(Budget(tokens=1e10), BOOK)
    assert often["training"].endswith("more than 15 epochs gain nothing; 10 B were given")
    assert int(often["size"][0]) < 5, often["size"]  # not the half a billion of 10 B tokens
    assert why(Budget(tokens=1), LIBRARY)["training"].endswith("the fewest steps; 1 were given")
    own = why(Budget(seconds=60), LIBRARY, "training.max_steps=3", "training.learning_rate=0.5")
    assert "3 steps" in own["batch"]
    assert own["training"].endswith("changed: training.max_steps")
    assert "AdamW 0.5: changed: training.learning_rate" in own["rates"]
    assert "for the chosen rates" in own["expected loss"]
    assert own["expected time"].startswith("5")  # the start, and three steps
    busy = dial(load_auto(), Budget(seconds=60), LIBRARY, SPEED.model_copy(update={"busy": True}), LAPTOP).reasons[-1]
    assert busy.why == f"{own['expected time'].partition(': ')[2]}; it was busy when it was measured"


def test_completions_are_as_short_as_the_documents() -> None:
    short, long = (replace(BOOK, longest_test=size) for size in (90, 5000))
    lengths = []
    for text in (short, long):
        settings = dial(load_auto(), Budget(seconds=600), text, SPEED, LAPTOP).recipe.evaluation
        lengths.append((settings.prompt_tokens, settings.continuation_tokens))
    usual = load_auto().evaluation
    assert lengths[1] == (usual.prompt_tokens, usual.continuation_tokens)
    assert 3 <= sum(lengths[0]) < 90 / 3.25
    assert min(lengths[0]) >= 1


def test_a_dry_run_takes_what_a_run_takes_of_very_short_files(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Completions are as short as the longest file allows, before the text is read too."""
    for number in range(400):
        (tmp_path / f"{number}.txt").write_text(f"Note {number}: the red house walks to the green tree.\n")
    recipe = change_recipe(load_auto(), text_changes([str(tmp_path)]))
    text = estimated(store, recipe)
    assert text.longest_test == 49
    found = dial(recipe, Budget(seconds=600), text, SPEED, LAPTOP).recipe
    check_fit(found, store, STAGES)
    with pytest.raises(UserError, match=r"evaluation\.prompt_tokens"):
        check_fit(found.model_copy(update={"evaluation": recipe.evaluation}), store, STAGES)


def test_only_a_text_much_larger_than_the_training_reads_is_sampled() -> None:
    def share(budget: Budget, size: float) -> float:
        return sample_share(size, load_auto(), budget, SPEED, LAPTOP)

    assert share(Budget(seconds=600), 1e8) == 1
    sampled = share(Budget(seconds=600), 1e12)
    read = dial(load_auto(), Budget(seconds=600), LIBRARY, SPEED, LAPTOP).tokens
    assert 1 < sampled * 1e12 / (read * 3.95) < 20
    assert share(Budget(seconds=6000), 1e12) > 5 * sampled
    assert share(Budget(tokens=1e8), 1e12) == pytest.approx(2 * 1e8 * 4.2 / 1e12, rel=0.02)


def test_shapes_are_even_and_wide_ones_have_heads_of_128() -> None:
    counts = []
    for depth in rules.DEPTHS:
        shape = rules.shape(depth)
        assert shape.hidden // shape.heads == (128 if shape.hidden >= 768 else 64)
        counts.append(ModelConfig.from_settings(shape, 4096, 0).parameter_count())
    assert counts == sorted(counts)


def test_repeated_text_is_worth_less_than_new_text() -> None:
    assert rules.effective(5, 10) == 5
    assert 20 < rules.effective(40, 10) < 40
    assert rules.effective(1e9, 10) == pytest.approx(10 * 5)


def test_facts_of_a_text(tmp_path: Path) -> None:
    def written(name: str, texts: list[str]) -> TextFacts:
        folder = tmp_path / name / "train"
        folder.mkdir(parents=True)
        for part, text in enumerate(texts):
            pq.write_table(pa.table({"text": [text]}), folder / f"part-{part:05}.parquet")
        return facts(tmp_path / name, 123)

    random_text = random.Random(1).randbytes(100_000).hex()
    easy, hard = written("easy", ["the same again " * 20_000]), written("hard", [random_text])
    assert easy.train_bytes == 123
    assert easy.bz2_bits is not None
    assert hard.bz2_bits is not None
    assert easy.bz2_bits < 0.1 < 3 < hard.bz2_bits < 5
    # A thirtieth of a text promises about what all of it does; bz2 itself has half as many bits more.
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(3, 9))) for _ in range(5000)]
    text = " ".join(draw.choices(words, [1 / (place + 1) for place in range(5000)], k=90_000))
    complete, part = written("complete", [text]), written("part", [text[:20_000]])
    assert part.bz2_bits == pytest.approx(complete.bz2_bits, rel=0.2)
    assert (complete.foreign, complete.unlike) == (0, (1, 1))


def test_held_out_documents_unlike_the_rest_make_a_range(tmp_path: Path) -> None:
    draw = random.Random(1)

    def texts(first: str, number: int) -> list[str]:
        words = [first + "".join(draw.choices("abcdefghij", k=draw.randint(3, 9))) for _ in range(300)]
        return [" ".join(draw.choices(words, k=800)) for _ in range(number)]

    alike = texts("é", 44)
    found = []
    for name, test in (("alike", alike[42:]), ("unlike", [draw.randbytes(3000).hex()])):
        for split, documents in (("train", alike[:40]), ("validation", alike[40:42]), ("test", test)):
            (tmp_path / name / split).mkdir(parents=True)
            pq.write_table(pa.table({"text": documents}), tmp_path / name / split / "part-00000.parquet")
        found.append(facts(tmp_path / name, 300_000))
    same, other = found
    assert same.foreign == pytest.approx(2 / 8, rel=0.3)  # "é" has two bytes of a word of about ten with its space
    assert same.unlike == pytest.approx((1, 1), rel=0.1)
    assert other.unlike[0] == pytest.approx(1, rel=0.1) and other.unlike[1] > 1.3


@pytest.mark.parametrize(
    ("layers", "vocabulary", "size", "epochs", "text", "losses"),
    [
        (3, 2048, 915_695, 5.6, (2.09, 0.49, (0.82, 1.03)), (1.66, 1.20)),
        (4, 4096, 1_131_182, 2.8, (1.73, 0.50, (0.85, 1.21)), (1.06, 1.81)),
        (3, 2048, 913_575, 6.9, (1.45, 0.0, (0.75, 1.32)), (1.72, 1.43)),
        (2, 8192, 4_560_000, 1.6, (1.90, 0.002, (0.93, 1.11)), (1.47, 1.48)),
        (2, 8192, 19_500_000, 0.37, (2.46, 0.003, (0.98, 0.99)), (1.79, 1.90)),
    ],
)
def test_the_range_of_text_unlike_prose_has_its_losses(
    layers: int,
    vocabulary: int,
    size: int,
    epochs: float,
    text: tuple[float, float, tuple[float, float]],
    losses: tuple[float, float],
) -> None:
    """Chinese and Arabic documentation, 38 files of Python, a repository, articles; losses of validation and test."""
    config = ModelConfig.from_settings(rules.shape(layers, epochs), vocabulary, 0)
    promised = rules.promised_loss(config, epochs * size, size, text[0])
    least, most = rules.promised_range(promised, size, *text)
    assert all(least <= loss <= most for loss in losses), (least, promised, most)
    assert most / least < 2.6  # a range that says something


def test_what_was_dropped_is_counted_beside_the_text() -> None:
    found = dial(load_auto(), Budget(seconds=600), BOOK, SPEED, LAPTOP)
    assert found.without({"ingest": 0, "filter": 0}) == found
    row = found.without({"ingest": 0, "dedup": 1200, "filter": 3}).reasons[0]
    assert (row.what, row.why.partition("; ")[2].partition(" (")[0]) == (
        "text",
        "documents dropped: dedup 1,200, filter 3",
    )


def test_the_tokens_of_a_text_are_those_of_its_own_tokenizer(tmp_path: Path) -> None:
    """Against the stage `tokenizer`; these few words have more bytes in a token than English has."""
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(3, 9))) for _ in range(2000)]
    (tmp_path / "train").mkdir()
    text = " ".join(draw.choices(words, k=90_000))
    table = pa.table({"text": [text[:300_000], text[300_000:]], "source": ["own", "own"]})
    pq.write_table(table, tmp_path / "train" / "part-00000.parquet")
    settings = TokenizerSettings(vocabulary_size=2048, sample_mb=2)
    trained = train_tokenizer(tmp_path, tmp_path, settings).metrics["bytes_per_token"]
    assert facts(tmp_path, len(text)).bytes_per_token(2048) == pytest.approx(trained, rel=0.01)
    assert trained != pytest.approx(bytes_per_token(2048), rel=0.1)


def test_the_speed_is_measured_once_for_a_machine(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def measure(*_: Any) -> Speed:
        measured.append(1)
        return SPEED

    monkeypatch.setattr(module, "measure", measure)
    recipe = load_auto()
    assert speed_of(store, recipe, LAPTOP) == speed_of(store, recipe, LAPTOP) == SPEED
    assert len(measured) == 1
    assert speed_of(store, recipe, replace(LAPTOP, processors=8)) == SPEED
    assert len(measured) == 2
    (store.root / ".state" / module.SPEEDS).write_text("{}]")
    assert speed_of(store, recipe, LAPTOP) == SPEED
    assert len(measured) == 3


def test_the_speed_follows_from_three_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of known cost per token, operation and logit; on a busy machine, by processor time."""

    def measured(busy: float) -> Speed:
        def probe(recipe: Any, config: ModelConfig, *_: Any, **__: Any) -> Any:
            tokens = recipe.training.batch_size * config.context
            seconds = (2e-5 + 5e-10 * config.vocabulary_size) * tokens + 3e-12 * work(config, recipe.training, 1)
            return probed(recipe, step_seconds=busy * seconds, busy_seconds=seconds, training=recipe.training)

        monkeypatch.setattr(module, "probe", probe)
        return module.measure(load_recipe("tiny"), "cpu")

    for busy in (1.0, 3.0):
        speed = measured(busy)
        assert speed.per_token == pytest.approx(2e-5)
        assert speed.per_flop == pytest.approx(3e-12)
        assert speed.per_logit == pytest.approx(5e-10)
        assert speed.busy == (busy > 1)


def test_a_file_and_a_folder_of_few_are_split_into_chapters(tmp_path: Path) -> None:
    def separators(*paths: Path) -> list[str | None]:
        (change,) = text_changes([str(path) for path in paths])
        return [source["separator"] for source in json.loads(change.removeprefix("ingest.sources="))]

    book = tmp_path / "book.txt"
    book.write_text("A chapter.")
    assert text_changes([]) == []
    assert separators(tmp_path, book, tmp_path / "none") == ["\n\n\n", "\n\n\n", None]
    for end in ("\n\n\n", "\r\n\r\n\r\n", "\n\n", "\r\n"):
        book.write_bytes(f"A part.{end}".encode() * 15)
        (tmp_path / "other.md").write_bytes(book.read_bytes())
        assert separators(tmp_path) == [end]
        book.write_bytes(f"A part.{end}".encode() * 30)
        assert separators(book) == [end]
    for number in range(18):
        (tmp_path / f".{number}.txt").write_text("A hidden file.")
        (tmp_path / f"{number}.png").touch()
    assert separators(tmp_path) == ["\r\n"]
    (tmp_path / "rows.jsonl").write_text('{"text": "A document."}')
    assert separators(tmp_path, tmp_path / "rows.jsonl") == [None, None]
    assert str(Reason("setting", "separator", "\n\n", None)) == r"separator \n\n → null"  # why ingest runs again
    (tmp_path / "rows.jsonl").unlink()
    for number in range(18):
        (tmp_path / f"{number}.txt").write_text("A document.\n\n\n" * 30)
    assert separators(tmp_path) == [None]


def test_the_command_prints_the_recipe_and_refuses_what_is_wrong(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where Prefect's settings are already read, as by tests before this one, the command's variable comes too late.
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: store.root}):
        check_command(store, tmp_path, monkeypatch)


def check_command(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = this_machine()
    name = module._name(load_auto(), machine, machine.device("auto"))
    (store.root / ".state").mkdir(parents=True)
    (store.root / ".state" / module.SPEEDS).write_text(json.dumps({name: SPEED.model_dump()}))
    (tmp_path / "book.txt").write_text("A line of the book.\n\n\n" * 50_000)

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli, ["--artifacts", str(store.root), "run", *arguments])
        return done.exit_code, done.output

    data = ["--data", str(tmp_path / "book.txt")]
    code, printed = run("auto", "--time", "5m", *data, "--set", "training.dropout=0.3", "--dry-run")
    assert code == 0, printed
    assert "dropout: 0.3" in printed
    assert "expected loss" in printed
    assert "estimated; counted in a run" in printed
    assert "9 of 9 stages would run." in printed
    assert run("auto", "--time", "5m", *data, "--set", "training.dropout=0.3", "--dry-run") == (0, printed)
    # The recipe is alone on standard output, and runs.
    recipe = CliRunner().invoke(
        cli, ["--artifacts", str(store.root), "run", "auto", "--time", "5m", *data, "--dry-run"]
    )
    (tmp_path / "own.yaml").write_text(recipe.stdout)
    code, printed = run(str(tmp_path / "own.yaml"), "--set", "training.dropout=0.2", "--dry-run")
    assert (code, "9 of 9 stages would run." in printed) == (0, True), printed
    assert load_recipe(str(tmp_path / "own.yaml")).model.hidden == yaml.safe_load(recipe.stdout)["model"]["hidden"]
    # Two and three processes share the batch that is chosen, and heads follow the width.
    sets = [
        part for one in ("compute.processes=3", "model.hidden=320", "training.batch_size=9") for part in ("--set", one)
    ]
    code, printed = run("auto", "--time", "5m", *data, *sets, "--dry-run")
    assert (code, "model.heads=5" in printed, "layers of 320" in printed) == (0, True, True), printed
    assert "training.micro_batch_size=auto: to fit the changes" in printed
    # Fewer steps than chosen are a change like any other, and the warm-up follows.
    code, printed = run("auto", "--time", "5m", *data, "--set", "training.max_steps=3", "--dry-run")
    assert (code, "max_steps: 3" in printed, "training.warmup_steps is 0, not" in printed) == (0, True, True)
    code, printed = run("auto", "--time", "5m", *data, "--gpu", "h100", "--dry-run")
    assert code == 0, printed
    assert "of training on NVIDIA H100 SXM" in printed
    assert "assumed: 40% of 989 TFLOP/s each" in " ".join(printed.split())
    monkeypatch.setattr("homegrown.planning.machine._gpus", list)
    for arguments, message in (
        (("auto", "--dry-run"), "needs a budget"),
        (("auto", "--time", "5m", *data, "--set", "compute.processes=two"), "The change 'compute.processes=two' of"),
        ((str(tmp_path / "none.yaml"),), "The file of a recipe"),
        ((str(Path("pipelines.yaml").absolute()),), "is not a recipe: it has no name"),
        (("auto", "--time", "5m", *data, "--set", "model=null"), "The change 'model=null' of the recipe 'auto' cannot"),
        (("auto", "--time", "5m", "--data", str(tmp_path / "none")), "no file or folder"),  # before a server starts
        (("tiny", "--time", "5m"), "--time belongs to the pipeline auto"),
        (("tiny", "--gpu", "h100"), "--gpu belongs to the pipeline auto"),
        (("auto", "--time", "5m", "--gpu", "h900"), "--gpu h900: unknown GPU; choose one of"),
        (("auto", "--time", "5m", "--gpu", "h100"), "This machine has no GPU, not the NVIDIA H100 SXM of --gpu; print"),
    ):
        code, printed = run(*arguments)
        assert (code, message in printed) == (1, True), printed


def test_a_gpu_is_chosen_for_by_its_specification() -> None:
    t4, h100 = (gpus.GPUS[name] for name in ("t4", "h100"))
    budget, web, found = Budget(seconds=3600), replace(LIBRARY, train_bytes=1e12), []
    for gpu in (t4, h100):
        there = gpus.machine_with(gpu, 1, LAPTOP)
        found.append(dial(load_auto(), budget, web, module.specified(gpu), there, gpu))
        # 6 N D operations (Kaplan et al. 2020) without an embedding that multiplies nothing, and more for attention.
        recipe = found[-1].recipe
        alone = 0 if recipe.new_model.tied else recipe.tokenizer.vocabulary_size * recipe.new_model.hidden
        products = found[-1].parameters - alone
        assert 1 < found[-1].seconds / (6 * products * found[-1].tokens / (gpu.teraflops * 1e12 * 0.4)) < 1.7
        assert 0.8 * 3600 < found[-1].seconds <= 3600
    assert found[1].parameters > found[0].parameters
    assert found[1].bits_per_byte < found[0].bits_per_byte
    gpus.require(h100, replace(LAPTOP, gpus=(LocalGpu("NVIDIA H100 80GB HBM3", 80 * gpus.GIB, "", None),)))
    with pytest.raises(UserError, match="This machine has NVIDIA L4, not the NVIDIA H100 SXM of --gpu"):
        gpus.require(h100, replace(LAPTOP, gpus=(LocalGpu("NVIDIA L4", 24 * gpus.GIB, "", None),)))
