import re

from export.evaluate import Bin
from export.plots import bars, reliability_diagram


def rectangles(svg: str) -> list[tuple[float, float, str]]:
    """Return (width, height, colour) of each rectangle of a plot."""
    found = re.findall(r'width="([\d.]+)" height="([\d.]+)" fill="var\(--(\w+)\)"', svg)
    return [(float(width), float(height), colour) for width, height, colour in found]


def test_a_bin_that_is_too_sure() -> None:
    """A bin that is right in 0.5 and sure of 0.8 is drawn up to 0.5, and the gap of 0.3 of the 300 pixels as bad."""
    drawn = rectangles(reliability_diagram([Bin(0.5, 1.0, 4, confidence=0.8, accuracy=0.5)]))
    assert drawn == [(149, 150, "accent"), (149, 90, "bad"), (149, 50, "soft")]


def test_a_bin_that_is_not_sure_enough() -> None:
    """A bin that is right more often than it says has a gap that is not bad."""
    drawn = rectangles(reliability_diagram([Bin(0.5, 1.0, 4, confidence=0.5, accuracy=0.8)]))
    assert [colour for _, _, colour in drawn] == ["accent", "accent", "soft"]


def test_an_empty_bin() -> None:
    """A bin without pictures has no bar, and its count no height."""
    drawn = rectangles(reliability_diagram([Bin(0.0, 0.5, 0, 0.0, 0.0), Bin(0.5, 1.0, 1, 1.0, 1.0)]))
    assert [(height, colour) for _, height, colour in drawn] == [(0, "soft"), (300, "accent"), (0, "bad"), (50, "soft")]


def test_bars_of_two_models() -> None:
    """Each row has a bar for each model, as long as its share of the whole width, and both figures."""
    svg = bars([("cat", [0.5, 1.0])])
    assert [(width, colour) for width, _, colour in rectangles(svg)] == [(165, "accent"), (330, "second")]
    assert "50.0 % / 100.0 %" in svg


def test_bars_that_begin_above_zero() -> None:
    """Bars that begin at 0.9 show 0.95 as half."""
    assert rectangles(bars([("cat", [0.95])], low=0.9))[0][0] == 165


def test_names_in_a_plot() -> None:
    """A name is escaped, and cut where it is too long."""
    assert "&lt;cat&gt;" in bars([("<cat>", [1.0])])
    assert "a" * 19 + "…" in bars([("a" * 30, [1.0])])
