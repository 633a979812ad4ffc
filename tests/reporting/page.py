"""A report as a browser takes it: its tags, balanced, and its text."""

from html.parser import HTMLParser
from typing import Self

_VOID = ("meta", "img", "input", "br")


class Page(HTMLParser):
    """Raises AssertionError for a tag that is closed in the wrong place or not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self._open: list[str] = []

    @classmethod
    def of(cls, html: str) -> Self:
        page = cls()
        page.feed(html)
        page.close()
        assert page._open == []
        return page

    @property
    def sources(self) -> list[str]:
        """Whatever a browser would load or lead to."""
        return [value or "" for name, value in self.attributes if name in ("src", "srcset", "href", "data", "action")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text += data
