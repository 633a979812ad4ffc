"""The main text of a web page, without menus, ads and footers."""

import logging

from homegrown.config.recipe import Extractor


def main_text(page: str, extractor: Extractor) -> str:
    """Return the main text of an HTML page, empty without one.

    trafilatura (Barbaresi 2021; fast mode, without its two fall-backs) is the default: on 181 pages labelled by hand
    it found the text with an F1 of .963 against resiliparse's .927, and what is wrong in a corpus stays in it, while
    ingest runs once. resiliparse (Bevendorff et al. 2018) is 9 to 12 times as fast (613 pages per CPU second against
    69; 33 MB of markup against 2.8 on software manuals), at the price of some menus: for crawls of millions of pages.
    `benchmarks/corpus_ingest.py` measures both. trafilatura 2 is a fifth faster than the 1.11 that is pinned, but
    datatrove, which the benchmarks compare with, does not install beside it.
    """
    return _resiliparse(page) if extractor == "resiliparse" else _trafilatura(page)


def _trafilatura(page: str) -> str:
    import trafilatura

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # its messages about pages are in quarantine
    return trafilatura.extract(page, no_fallback=True, include_comments=False) or ""


def _resiliparse(page: str) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    text: str = extract_plain_text(page, main_content=True, preserve_formatting=True, alt_texts=False, comments=False)
    return text
