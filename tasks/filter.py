"""filter: shards of the documents that pass every rule."""

from pathlib import Path
from typing import Any

from homegrown.config.filter import FilterSettings
from homegrown.reporting import charts
from homegrown.reporting.numbers import share, shown
from homegrown.store.digests import Digests
from homegrown.store.manifest import Artifact
from homegrown.util.progress import Outcome
from tasks.stage import Handle, Work, stage, store
from tasks.ui.markdown import code, picture, quoted, table
from tasks.ui.panels import Panel, rows_of, unsegmented

_RULES_DRAWN = 15
_RULES_WITH_EXAMPLES = 8
_EXCERPT = 400  # characters
_LANGUAGES = 30
_PAIRS = 10


def _content(settings: FilterSettings) -> dict[str, str]:
    """Return the digests of lists and good documents, which the engine reports if missing, and the segmenter."""
    from homegrown.corpus import segmenter
    from homegrown.corpus.quality import example

    read = {} if settings.word_list is None else {"word_list": Path(settings.word_list.path)}
    for name, lists in (("blocked_urls", settings.blocked_urls), ("allowed_urls", settings.allowed_urls)):
        read |= {f"{name} {number}": Path(path) for number, path in enumerate(lists.paths if lists else [])}
    if settings.example is not None:
        folder = Path(settings.example.good)
        read |= {f"example {path.relative_to(folder).as_posix()}": path for path in example.files(str(folder))}
    with Digests(store().root / ".state" / "raw.sqlite") as digests:
        return segmenter.key() | {name: digests.file(path) for name, path in read.items() if path.is_file()}


def _report(artifact: Artifact) -> str:
    """Show what each rule dropped, with examples."""
    rules, documents = _rules(artifact), artifact.manifest.rows_in
    failing = [rule for rule in rules if rule["failed"]]
    parts = [
        "### Rules",
        "A dropped document counts for the first rule that it fails.",
        table(
            ["rule", "threshold", "dropped", "of all", "failing", "no other"],
            [
                [
                    _name(rule),
                    shown(rule["threshold"]),
                    shown(rule["dropped"]),
                    share(rule["dropped"], documents),
                    shown(rule["failed"]),
                    shown(rule["alone"]),
                ]
                for rule in failing
            ],
        )
        if failing
        else "No document fails a rule.",
    ]
    if failing:
        parts.append(_picture(failing))
    quiet = ", ".join(f"`{rule['rule']}`" for rule in rules if not rule["failed"])
    parts += [f"No document fails {quiet}."] if quiet else []
    parts += [*_without_url(artifact), *_overlap(artifact), *_example(artifact), *_by_source(artifact)]
    parts += unsegmented(artifact.manifest.metrics)
    parts += _by_language(artifact)
    return "\n\n".join([*parts, *_examples(artifact, failing)])


def _without_url(artifact: Artifact) -> list[str]:
    """Return how many documents no list of URLs judges, if there are lists."""
    metric = artifact.manifest.metrics.get("without_url")
    documents = artifact.manifest.rows_in
    return (
        [] if metric is None else [f"Documents without a URL, which lists of URLs pass: {metric:,} of {documents:,}."]
    )


def _overlap(artifact: Artifact) -> list[str]:
    """Return the pairs of rules that most documents fail together."""
    pairs = list(rows_of(artifact.path / "overlap"))[:_PAIRS]
    lines = [[_name(row), _name({"rule": row["other"]}), shown(row["both"])] for row in pairs]
    return ["### Documents that fail two rules", table(["rule", "other rule", "documents"], lines)] if lines else []


def _example(artifact: Artifact) -> list[str]:
    """Return how well the classifier separates good documents from the corpus, if it is a rule."""
    auc = artifact.manifest.metrics.get("example_auc")
    return [] if auc is None else [f"The classifier of `example` has an AUC of {shown(auc)} on held-out documents."]


def _by_source(artifact: Artifact) -> list[str]:
    """Return a table of the documents kept of each source, if there are several."""
    rows = list(rows_of(artifact.path / "by_source"))
    lines = [
        [row["source"], shown(row["documents"]), shown(row["kept"]), share(row["kept"], row["documents"])]
        for row in rows
    ]
    return ["### Sources", table(["source", "documents", "kept", "of these"], lines)] if len(rows) > 1 else []


def _by_language(artifact: Artifact) -> list[str]:
    """Return the documents by language, if all were identified."""
    rows = list(rows_of(artifact.path / "by_language"))
    if sum(row["documents"] for row in rows) < artifact.manifest.rows_in or not rows:
        return []
    lines = [
        [
            row["language"],
            shown(row["documents"]),
            shown(row["kept"]),
            share(row["kept"], row["documents"]),
            f"{row['rule']} ({row['dropped']:,})" if row["rule"] else "",
        ]
        for row in rows[:_LANGUAGES]
    ]
    return ["### Languages", table(["language", "documents", "kept", "of these", "most dropped by"], lines)]


def _excerpt(artifact: Artifact) -> str:
    failing = [rule for rule in _rules(artifact) if rule["failed"]]
    return f"### Documents dropped by rules\n\n{_picture(failing)}" if failing else ""


def _rules(artifact: Artifact) -> list[dict[str, Any]]:
    return sorted(rows_of(artifact.path / "rules"), key=lambda rule: (-rule["dropped"], -rule["failed"]))


def _name(rule: dict[str, Any]) -> str:
    return str(rule["rule"]).replace(".", ": ").replace("_", " ")


def _picture(rules: list[dict[str, Any]]) -> str:
    drawn = rules[:_RULES_DRAWN]
    notes = [f"{rule['dropped']:,} dropped, {rule['failed']:,} failing" for rule in drawn]
    title = "Documents dropped by a rule, and (gray) failing it"
    png = charts.bars(
        [_name(rule) for rule in drawn],
        [rule["dropped"] for rule in drawn],
        notes,
        title,
        behind=[rule["failed"] for rule in drawn],
    )
    return picture(png, title)


def _examples(artifact: Artifact, rules: list[dict[str, Any]]) -> list[str]:
    """Return one dropped document for each of the rules that dropped the most."""
    wanted = [rule["rule"] for rule in rules if rule["dropped"]][:_RULES_WITH_EXAMPLES]
    found: dict[str, dict[str, Any]] = {}
    for row in rows_of(artifact.path / "dropped"):
        if row["rule"] in wanted:
            found.setdefault(row["rule"], row)
    parts = ["### Examples"] if found else []
    for rule in (rule for rule in wanted if rule in found):
        row = found[rule]
        measured = f"measured {shown(row['value'])}, threshold {shown(row['threshold'])}"
        where = f", {code(row['url'])}" if "_urls." in rule else ""
        parts += [f"`{rule}`: {measured}, document {row['id']}{where}", quoted(row["text_start"][:_EXCERPT])]
    return parts


@stage("filter", engine=["homegrown.corpus.filter"], raw=_content, panel=Panel(_report, _excerpt), in_shards=True)
def filter_documents(work: Work, settings: FilterSettings, dedup: Handle) -> Outcome:
    """Drop documents that fail a rule; list each with the rule and the measured value."""
    from homegrown.corpus import filter as engine

    with work.executor() as executor:
        return engine.filter_documents(work.out, dedup.path, settings, executor=executor, progress=work.progress)
