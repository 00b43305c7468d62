"""Plots as inline SVG, in the colours of the page that they stand on; text in them is escaped."""

from collections.abc import Sequence
from html import escape

from export.evaluate import Bin

_SIDE = 300
_MARGIN = 44
_ROW = 22
_NAME = 150
_LONGEST = 20


def reliability_diagram(bins: Sequence[Bin]) -> str:
    """Return accuracy against confidence: on the diagonal a probability means what it says.

    Below it stands how many pictures each bin has, since a bin of few pictures says little.
    """
    most = max(1, *(part.pictures for part in bins))
    parts = [_frame()]
    for part in bins:
        left, width = _MARGIN + part.low * _SIDE, (part.high - part.low) * _SIDE - 1
        parts.append(_bin(part, left, width))
        height = 50 * part.pictures / most
        parts.append(_box(left, _SIDE + 100 - height, width, height, colour="var(--soft)", opacity=0.6))
    top, right = _y(1), _MARGIN + _SIDE
    parts.append(
        f'<line x1="{_MARGIN}" y1="{_y(0)}" x2="{right}" y2="{top}" stroke="var(--ink)" stroke-dasharray="4 4"/>'
    )
    parts.append(f'<text transform="translate(12 {_SIDE + 72}) rotate(-90)" text-anchor="middle">pictures</text>')
    return _svg(right + 12, _SIDE + 140, "reliability diagram", parts)


def _bin(part: Bin, left: float, width: float) -> str:
    """Return one bar: solid up to where accuracy and confidence agree, then the gap in the colour of its sign."""
    if not part.pictures:
        return ""
    agreed, reached = sorted((part.accuracy, part.confidence))
    colour, opacity = ("var(--accent)", 0.35) if part.accuracy > part.confidence else ("var(--bad)", 0.6)
    title = f"{part.pictures:,} pictures, confidence {part.confidence:.1%}, accuracy {part.accuracy:.1%}"
    return (
        f"<g><title>{title}</title>"
        + _box(left, _y(agreed), width, agreed * _SIDE, colour="var(--accent)", opacity=0.85)
        + _box(left, _y(reached), width, (reached - agreed) * _SIDE, colour=colour, opacity=opacity)
        + "</g>"
    )


def _frame() -> str:
    """Return axes from 0 to 1 with their names."""
    marks = []
    for tick in range(6):
        share = tick / 5
        x, y = _MARGIN + share * _SIDE, _y(share)
        marks.append(f'<line x1="{_MARGIN}" y1="{y}" x2="{_MARGIN + _SIDE}" y2="{y}" stroke="var(--line)"/>')
        marks.append(f'<text x="{_MARGIN - 6}" y="{y + 4}" text-anchor="end">{share:.1f}</text>')
        marks.append(f'<text x="{x}" y="{_SIDE + 116}" text-anchor="middle">{share:.1f}</text>')
    middle = _MARGIN + _SIDE / 2
    marks.append(f'<text x="{middle}" y="{_SIDE + 134}" text-anchor="middle">confidence</text>')
    marks.append(f'<text transform="translate(12 {_y(0.5)}) rotate(-90)" text-anchor="middle">accuracy</text>')
    return "".join(marks)


def _y(share: float) -> float:
    return 10 + (1 - share) * _SIDE


def bars(rows: Sequence[tuple[str, Sequence[float]]], *, low: float = 0.0) -> str:
    """Return horizontal bars of shares from `low` to 1: for each row a name and one value a model, at most two."""
    width, parts = 330, []
    for number, (name, values) in enumerate(rows):
        top = number * _ROW
        parts.append(f'<text class="ink" x="{_NAME - 8}" y="{top + 15}" text-anchor="end">{escape(short(name))}</text>')
        height = (_ROW - 6) / len(values)
        for place, (value, colour) in enumerate(zip(values, ("var(--accent)", "var(--second)"), strict=False)):
            share = max(0.0, (value - low) / (1 - low))
            parts.append(
                _box(_NAME, top + 3 + place * height, share * width, height - 0.5, colour=colour, opacity=0.85)
            )
        said = " / ".join(f"{value:.1%}".replace("%", " %") for value in values)
        parts.append(f'<text x="{_NAME + width + 8}" y="{top + 15}">{said}</text>')
    return _svg(_NAME + width + 110, len(rows) * _ROW + 4, "bars", parts)


def short(name: str) -> str:
    """Return a name, cut where it is too long to be drawn."""
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def _box(x: float, y: float, width: float, height: float, *, colour: str, opacity: float) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'fill="{colour}" fill-opacity="{opacity}"/>'
    )


def _svg(width: float, height: float, name: str, parts: Sequence[str]) -> str:
    return (
        f'<svg role="img" aria-label="{name}" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}">' + "".join(parts) + "</svg>"
    )
