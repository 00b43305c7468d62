"""Self-contained HTML pages: their style, escaped text, tables and pictures; nothing is loaded from elsewhere."""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape

from export.data import Images
from service import image

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1c2430; --soft: #5d6b7e; --line: #d9dfe7; --card: #f5f7fa;
  --accent: #2563eb; --second: #d97706; --bad: #c2410c; }
@media (prefers-color-scheme: dark) { :root { --paper: #12161c; --ink: #e6eaf0; --soft: #97a3b4; --line: #2c3542;
  --card: #1a2029; --accent: #6ea8fe; --second: #fbbf24; --bad: #fb923c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 32px 24px 64px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 26px; margin: 0 0 4px; overflow-wrap: anywhere; } h2 { font-size: 19px; margin: 40px 0 8px; }
p { margin: 6px 0 12px; max-width: 75ch; } .soft, figcaption, th { color: var(--soft); }
code { font-size: 0.9em; overflow-wrap: anywhere; }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 16px;
  min-width: 130px; }
.card b { display: block; font-size: 24px; font-variant-numeric: tabular-nums; } .card span { color: var(--soft); }
.warning { border-left: 4px solid var(--bad); background: var(--card); padding: 8px 14px; margin: 12px 0; }
.beside { display: flex; flex-wrap: wrap; gap: 28px; align-items: flex-start; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 12px; text-align: right; border-bottom: 1px solid var(--line); font-weight: normal; }
th:first-child, td:first-child, .text { text-align: left; overflow-wrap: anywhere; }
table.matrix td, table.matrix th { padding: 3px 4px; min-width: 28px; text-align: center; border: 0;
  white-space: nowrap; }
table.matrix th:first-child { text-align: right; padding-right: 8px; }
table.matrix .tall { vertical-align: bottom; }
.tall span { display: inline-block; writing-mode: vertical-rl; transform: rotate(180deg); }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); gap: 16px; }
figure { margin: 0; } figcaption { font-size: 13px; line-height: 1.35; overflow-wrap: anywhere; }
figcaption b { color: var(--ink); }
img { max-width: 100%; image-rendering: pixelated; background: var(--card); }
.sheet img { width: 112px; height: 112px; object-fit: contain; }
svg { max-width: 100%; height: auto; display: block; } svg text { fill: var(--soft); font-size: 12px; }
svg .ink { fill: var(--ink); } details { margin: 12px 0; } summary { cursor: pointer; color: var(--accent); }
"""


def page(title: str, body: Iterable[str]) -> str:
    """Return a whole page; `body` is HTML, `title` is text."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Nothing of the page may ask another machine for anything, whatever a label says.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def png(array: Images, alt: str, *, width: int | None = None) -> str:
    """Return the element of a picture, uint8 [height, width] or [height, width, 1 or 3], `width` CSS pixels wide."""
    data = b64encode(image.encode_png(array)).decode()
    size = f' width="{width}"' if width else ""
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}"{size}>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of text; the first column reads from the left, numbers in the others from the right."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = ("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{top}</tr>\n' + "\n".join(lines) + "\n</table></div>"


def cards(values: Iterable[tuple[str, str, str]]) -> str:
    """Return cards of (what, value, note)."""
    return (
        '<div class="cards">'
        + "".join(
            f'<div class="card"><span>{escape(what)}</span><b>{escape(value)}</b><span>{escape(note)}</span></div>'
            for what, value, note in values
        )
        + "</div>"
    )


def percent(share: float, digits: int = 2) -> str:
    """Return a share from 0 to 1 as text."""
    return f"{share:.{digits}%}".replace("%", "\N{NO-BREAK SPACE}%")
