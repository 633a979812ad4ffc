"""Prose in formats of other programs: notebooks, LaTeX, mail, subtitles, dumps of MediaWiki."""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from email import message_from_bytes
from email.errors import MessageError
from email.message import EmailMessage, Message
from email.policy import default
from functools import cache
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from homegrown.corpus.encodings import Undecodable
from homegrown.corpus.readers.file import File
from homegrown.corpus.readers.markup import text_of_page
from homegrown.corpus.records import MEGABYTE, Document, Fault
from homegrown.corpus.streams import first_line, read_all

if TYPE_CHECKING:
    from pylatexenc.latex2text import LatexNodes2Text
    from pylatexenc.macrospec import LatexContextDb

_BLANK = re.compile(r"\n\s*\n")


def _found(file: File, text: str, replaced: int = 0) -> Document | Fault:
    return file.document(text, replaced) if text else file.fault("no text")


def read_notebook(file: File) -> Iterator[Document | Fault]:
    """Yield a Jupyter notebook (nbformat 3 and 4): its Markdown, and its code in fences; outputs are left out."""
    text, replaced = file.decode(read_all(file.stream, file.longest))
    book = json.loads(text)
    file.next()
    if not isinstance(book, dict):
        yield file.fault("not a notebook: no object at the top")
        return
    cells = book.get("cells") or [cell for sheet in book.get("worksheets") or [] for cell in sheet.get("cells") or []]
    language = str((book.get("metadata") or {}).get("kernelspec", {}).get("language") or "python")
    yield _found(file, "\n\n".join(filter(None, (_cell(cell, language) for cell in cells))), replaced)


def _cell(cell: dict[str, Any], language: str) -> str:
    """Return the text of a cell; its source is a string or a list of lines."""
    source = cell.get("source", cell.get("input", ""))
    text = ("".join(source) if isinstance(source, list) else str(source)).strip()
    if cell.get("cell_type") == "heading":  # nbformat 3
        return f"{'#' * int(cell.get('level', 1))} {text}"
    return f"```{language}\n{text}\n```" if text and cell.get("cell_type") == "code" else text


def read_mail(file: File) -> Iterator[Document | Fault]:
    """Yield subject and text of an e-mail (RFC 5322): its plain part, else its HTML; attachments are left out."""
    yield _mail(file, read_all(file.stream, file.longest))


def read_mailbox(file: File) -> Iterator[Document | Fault]:
    """Yield each e-mail of a mailbox (mbox, RFC 4155: a line that starts with "From " begins an e-mail)."""
    lines: list[bytes] = []
    size, is_blank = 0, True
    while line := file.stream.readline(file.longest):
        if is_blank and line.startswith(b"From "):
            if lines:
                yield _mail(file, b"".join(lines))
            lines, size = [], 0
        elif size <= file.longest:
            lines.append(line[1:] if line.startswith(b">") and line.lstrip(b">").startswith(b"From ") else line)
            size += len(line)
        is_blank = not line.strip()
    if lines:
        yield _mail(file, b"".join(lines))


def _mail(file: File, data: bytes) -> Document | Fault:
    file.next()
    if len(data) > file.longest:
        return file.fault(f"longer than {file.longest / MEGABYTE:g} MB (max_document_mb)")
    try:
        message = message_from_bytes(data, policy=default)
        body = message.get_body(("plain", "html")) if isinstance(message, EmailMessage) else None
        text, replaced = ("", 0) if body is None else _part(file, body)
        subject = str(message["subject"] or "")
    except Undecodable as error:
        return file.fault(str(error))
    except (MessageError, LookupError, ValueError, AttributeError, TypeError, IndexError) as error:
        return file.fault(f"the e-mail cannot be read: {first_line(error)}")
    return _found(file, "\n\n".join(filter(None, (subject.strip(), text.strip()))), replaced)


def _part(file: File, part: Message) -> tuple[str, int]:
    payload = part.get_payload(decode=True)
    text, replaced = file.decode(payload, part.get_content_charset()) if isinstance(payload, bytes) else ("", 0)
    return text_of_page(text) if part.get_content_subtype() == "html" else text.replace("\r\n", "\n"), replaced


def read_subtitles(file: File) -> Iterator[Document | Fault]:
    """Yield the text of subtitles without times and markup; a line that repeats the last one is left out."""
    import pysubs2

    text, replaced = file.decode(read_all(file.stream, file.longest))
    text = text.replace("\r\n", "\n")
    file.next()
    try:
        cues = pysubs2.SSAFile.from_string(text, format_="vtt" if text.lstrip().startswith("WEBVTT") else "srt")
    except pysubs2.exceptions.Pysubs2Error as error:
        yield file.fault(f"the subtitles cannot be read: {first_line(error)}")
        return
    lines: list[str] = []
    for cue in cues:
        lines += [line.strip() for line in cue.plaintext.split("\n") if line.strip() and [line.strip()] != lines[-1:]]
    yield _found(file, "\n".join(lines), replaced)


_TITLE = re.compile(r"\\title\s*(?:\[[^\]]*\])?\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_LISTING = re.compile(r"\\(begin|end)\{(?:lstlisting|minted|Verbatim)\}(?:\[[^\]]*\])?(?:\{\w+\})?")


def read_tex(file: File) -> Iterator[Document | Fault]:
    """Yield the text of a LaTeX document without comments and commands; mathematics stays as it is written."""
    source, replaced = file.decode(read_all(file.stream, file.longest))
    file.next()
    preamble, begin, body = source.partition(r"\begin{document}")
    if begin:
        title = _TITLE.search(preamble)
        source = "\n\n".join((title[1] if title else "", body.partition(r"\end{document}")[0]))
    try:
        text = _latex_text(_LISTING.sub(r"\\\1{verbatim}", source))
    except RecursionError:
        yield file.fault("nested too deeply")
        return
    yield _found(file, _BLANK.sub("\n\n", text).strip(), replaced)


def _latex_text(source: str) -> str:
    from pylatexenc.latexwalker import LatexWalker

    parsed, converter = _latex()
    nodes, _, _ = LatexWalker(source, latex_context=parsed, tolerant_parsing=True).get_latex_nodes()
    text: str = converter.nodelist_to_text(nodes)
    return text


@cache
def _latex() -> "tuple[LatexContextDb, LatexNodes2Text]":
    """Return the syntax of LaTeX, and a converter whose sections, notes and verbatim text read as prose.

    Its defaults print the date of today, section signs and place holders for references.
    """
    from pylatexenc.latex2text import EnvironmentTextSpec, LatexNodes2Text, MacroTextSpec
    from pylatexenc.latex2text import get_default_latex_context_db as default_text
    from pylatexenc.latexwalker import get_default_latex_context_db as default_syntax
    from pylatexenc.macrospec import std_macro

    def section(node: Any, l2tobj: Any) -> str:
        return f"\n\n{l2tobj.node_arg_to_text(node, 2).strip()}\n\n"  # after a star and a short title

    def verbatim(node: Any) -> str:
        return f"\n\n{node.nodeargd.verbatim_text}\n\n"

    def verb(node: Any) -> str:
        return str(node.nodeargd.verbatim_text)

    sections = ("part", "chapter", "section", "subsection", "subsubsection", "paragraph", "subparagraph")
    cited = ("cite", "citep", "citet", "textcite", "parencite", "autocite")
    other = ("ref", "eqref", "pageref", "autoref", "cref", "label", "index", "bibliography", "bibliographystyle")
    syntax, text = default_syntax(), default_text()
    syntax.add_context_category(
        "prose",
        prepend=True,
        macros=[
            *(std_macro(name, "*[{") for name in sections),
            *(std_macro(name, "*[[{") for name in cited),
            *(std_macro(name, "{") for name in other),
            *(std_macro(name, "[{") for name in ("caption", "footnote")),
            std_macro("href", "{{"),
        ],
    )
    text.add_context_category(
        "prose",
        prepend=True,
        macros=[
            *(MacroTextSpec(name, simplify_repl=section) for name in sections),
            *(MacroTextSpec(name, discard=True) for name in (*cited, *other, "includegraphics", "maketitle", "today")),
            MacroTextSpec("caption", simplify_repl="\n\n%(2)s\n\n"),
            MacroTextSpec("footnote", simplify_repl=" (%(2)s)"),
            MacroTextSpec("href", simplify_repl="%(2)s"),
            MacroTextSpec("verb", simplify_repl=verb),
        ],
        environments=[EnvironmentTextSpec("verbatim", simplify_repl=verbatim)],
    )
    return syntax, LatexNodes2Text(latex_context=text, math_mode="verbatim", keep_comments=False)


def is_wiki(head: bytes) -> bool:
    """Return whether XML is a dump of MediaWiki, from its first bytes."""
    return re.search(rb"<mediawiki[\s>]", head) is not None


def read_wiki(file: File) -> Iterator[Document | Fault]:
    """Yield title and text of each article of a dump of MediaWiki, by its export schema.

    Redirects and pages of other name spaces than 0, such as talk and templates, are skipped and counted.
    """
    import mwparserfromhell  # noqa: F401  # before the first page: a missing library is an error of the source

    hidden = {"file", "image", "category"}
    events = ElementTree.iterparse(file.stream, events=("start", "end"))
    _, root = next(events)
    for event, element in events:
        name = element.tag.rpartition("}")[2]
        if event == "end" and name == "namespace" and element.get("key") in ("6", "14"):  # files and categories
            hidden.add((element.text or "").lower())
        elif event == "end" and name == "page":
            if element.findtext("{*}ns", "0") == "0" and element.find("{*}redirect") is None:
                yield _article(file, element, frozenset(hidden))
            else:
                file.tally.skip(file.piece.locator, "a redirect, or a page of another name space")
            root.clear()


def _article(file: File, page: ElementTree.Element, hidden: frozenset[str]) -> Document | Fault:
    source = page.findtext("{*}revision/{*}text") or ""
    file.next()
    if len(source) > file.longest:
        return file.fault(f"longer than {file.longest / MEGABYTE:g} MB (max_document_mb)")
    try:
        text = _wiki_prose(source, hidden)
    except (ValueError, RecursionError) as error:
        return file.fault(f"the page cannot be read: {first_line(error)}")
    return file.document(f"{page.findtext('{*}title') or ''}\n\n{text}".strip()) if text else file.fault("no text")


_NOT_PROSE = frozenset({"ref", "references", "gallery", "timeline", "templatestyles", "score", "imagemap"})
_MARKS = re.compile(r"^[ *#:;|]+(?=[^ |])|[ |]+$", re.MULTILINE)  # of list items; around rows of tables
_SPACES = re.compile(r" {2,}")
_OTHER_LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z]+)*:")


def _wiki_prose(source: str, hidden: frozenset[str]) -> str:
    """Return wikitext as prose, without templates, references, and links to `hidden` name spaces and languages."""
    import mwparserfromhell

    code = mwparserfromhell.parse(source)
    for tag in code.filter_tags():
        name = str(tag.tag).strip().lower()
        if name in _NOT_PROSE:
            _replace(code, tag, "")
        elif name == "math":
            _replace(code, tag, f"${tag.contents}$")
        elif name in ("td", "th") and tag.contents is not None:
            tag.contents.append(" | ")
    for link in code.filter_wikilinks():
        title = str(link.title).strip()
        if title.partition(":")[0].strip().lower() in hidden or (link.text is None and _OTHER_LANGUAGE.match(title)):
            _replace(code, link, "")
        elif title.startswith(":") and link.text is None:  # a visible link to a file or category
            _replace(code, link, title[1:])
    text = code.strip_code(normalize=True, collapse=True)
    return _BLANK.sub("\n\n", _MARKS.sub("", _SPACES.sub(" ", text))).strip()


def _replace(code: Any, node: Any, text: str) -> None:
    """Replace a node of wikitext, unless one that contains it is gone already."""
    with suppress(ValueError):
        code.replace(node, text)
