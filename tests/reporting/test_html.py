"""The base template: colors with enough contrast, nothing unescaped, and charts that anyone can read."""

import io
import itertools
import re

import numpy as np
import pytest
from PIL import Image

from homegrown.reporting import charts
from homegrown.reporting.blocks import (
    Cell,
    Details,
    Group,
    Lines,
    Paragraph,
    Passage,
    Picture,
    Section,
    SideBySide,
    Table,
    as_markdown,
)
from homegrown.reporting.html import DARK, LIGHT, as_html, environment
from tests.reporting.page import Page

HOSTILE = "</pre></style><script>alert('x')</script> & \"><img src=x onerror=y>"


def linear(color: str) -> np.ndarray:
    """sRGB to linear light, as WCAG 2.2 defines it."""
    channels = np.array([int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    dark, light = sorted(float(linear(color) @ [0.2126, 0.7152, 0.0722]) for color in (one, other))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)  # the well-known gray that just fails


@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_graphics_have_contrast_aa(colors: dict[str, str]) -> None:
    for text, behind in itertools.product(("ink", "soft", "better", "worse"), ("paper", "panel")):
        assert contrast(colors[text], colors[behind]) >= 4.5, (text, behind)
    assert contrast(colors["on-accent"], colors["accent"]) >= 4.5
    for shape, behind in itertools.product(("edge", "kept", "read", "accent"), ("paper", "panel")):
        assert contrast(colors[shape], colors[behind]) >= 3, (shape, behind)


def test_charts_have_contrast_aa_on_their_paper() -> None:
    assert contrast(charts.INK, charts.PAPER) >= 4.5
    for color in (*charts.SERIES, charts.GREY):
        assert contrast(color, charts.PAPER) >= 3, color


# Machado, Oliveira and Fernandes (2009), table 1, severity 1.0: linear RGB as a person without these cones sees it.
_VISION = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def cielab(light: np.ndarray) -> np.ndarray:
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    ratios = np.array(to_xyz) @ np.clip(light, 0, 1) / [0.95047, 1, 1.08883]
    x, y, z = np.where(ratios > 0.008856, np.cbrt(ratios), 7.787 * ratios + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", _VISION)
def test_series_are_told_apart_with_any_color_vision(vision: str) -> None:
    """A difference of 2.3 is just noticed (Mahy et al. 1994); the palette keeps seven times as much."""
    seen = [cielab(np.array(_VISION[vision]) @ linear(color)) for color in charts.SERIES]
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2)) > 16
    for colors in (LIGHT, DARK):
        better, worse = (cielab(np.array(_VISION[vision]) @ linear(colors[name])) for name in ("better", "worse"))
        assert np.linalg.norm(better - worse) > 16


def test_the_first_series_differ_in_more_than_color() -> None:
    drawn = [charts.series(number) for number in range(15)]
    assert len(set(drawn)) == 15
    assert len({marker for _, marker, _ in drawn[:5]}) == 5


def everything() -> list[Section]:
    picture = Picture(charts.bars(["a"], [1.0], [HOSTILE], "A chart"), HOSTILE)
    cell = Cell(HOSTILE, HOSTILE, "better", 0.5, HOSTILE)
    return [
        Section(
            HOSTILE,
            [
                Table([HOSTILE, "b"], [[HOSTILE, cell]], title=HOSTILE, notes=[HOSTILE]),
                Table.grouped(HOSTILE, [HOSTILE], [Group(HOSTILE, [HOSTILE], [[cell]])]),
                picture,
                Paragraph(HOSTILE),
                Lines([HOSTILE]),
                Passage(f"\n{HOSTILE}", HOSTILE),
                SideBySide(HOSTILE, [(HOSTILE, HOSTILE, HOSTILE)]),
                Details([HOSTILE, cell], [Passage(HOSTILE)]),
            ],
        )
    ]


def test_every_block_escapes_every_text_and_loads_nothing() -> None:
    html = as_html(HOSTILE, everything())
    page = Page.of(html)
    assert page.text.count("<script>alert('x')</script>") == 30  # each text of each block, and the title twice
    assert not {"script", "link", "iframe", "object", "form"} & set(page.tags)
    assert not {"onerror"} & {name for name, _ in page.attributes}
    assert [source[:22] for source in page.sources] == ["data:image/png;base64,"]
    assert not re.search(r"https?://|url\(|@import", html)
    assert any("default-src 'none'" in (value or "") for _, value in page.attributes)
    assert as_html(HOSTILE, everything()) == html


def test_a_quotation_keeps_its_first_line_even_if_it_is_empty() -> None:
    assert "<pre>\n\nx</pre>" in as_html("", [Section("", [Passage("\nx")])])  # HTML drops one newline after <pre>


def test_markdown_shows_what_it_can() -> None:
    text = as_markdown(everything(), picture=lambda one: "(picture)")
    assert "(picture)" in text
    assert f"\n{HOSTILE}\n" in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 3


def test_other_pages_extend_the_same_template() -> None:
    template = environment({"other.html": '{% extends "page.html" %}{% block body %}<p>{{ text }}</p>{% endblock %}'})
    page = Page.of(template.get_template("other.html").render(title="T", text=HOSTILE))
    assert HOSTILE in page.text and "script" not in page.tags


def test_fewer_colors_leave_those_of_the_palette() -> None:
    made = charts.figure(6, 3)
    axes = made.add_subplot()
    for number, color in enumerate(charts.SERIES):
        axes.plot([0, 1], [number, number + 1], color=color, linewidth=0.8 if number else 3)
    with Image.open(io.BytesIO(charts.png(made))) as image:
        pixels = np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)
    for color in charts.SERIES:
        expected = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
        assert np.abs(pixels.astype(int) - expected).max(axis=1).min() <= 6, color
