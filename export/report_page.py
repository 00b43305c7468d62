"""The report as a page for people: figures, reliability diagram, confusion matrix, contact sheet of mistakes."""

from collections.abc import Iterator, Sequence
from html import escape

import numpy as np

from export.data import Images
from export.page import cards, page, percent, png, table
from export.plots import bars, reliability_diagram, short
from export.report import ClassRow, Comparison, Mistake, Report, confused_pairs

MATRIX_CLASSES = 30
"""Classes up to which the confusion matrix is a table; beyond, the most confused pairs are listed."""
PAIRS = 30
BARS = 40
"""Classes up to which all are drawn; beyond, the BARS // 2 worst."""

_METHOD = """<h2>How it was measured</h2><p class="soft">Every picture went through the path that serving takes:
encoded, decoded, resized and run by ONNX Runtime from the file itself. The interval of the accuracy is Wilson's (1927),
at 95 %. Macro figures are means over the classes that have pictures. Expected calibration error: Guo et al., On
Calibration of Modern Neural Networks (2017), 15 bins of equal width. Two models: McNemar (1947), exact below 25
pictures on which they differ, else with continuity correction. All figures are in report.json.</p>"""


def render(report: Report, mistakes: Sequence[Images], comparison: Comparison | None = None) -> str:
    """Return the page.

    Args:
        report: of the first model.
        mistakes: the picture of each of report.mistakes, uint8 [height, width, 1 or 3].
        comparison: a second model on the same pictures.
    """
    title = f"{report.model.title} on {report.data.name}"
    parts = [f"<h1>{escape(title)}</h1>", _facts(report)]
    warnings = [*report.warnings, *(comparison.report.warnings if comparison else ())]
    parts += [f'<p class="warning">{escape(text)}</p>' for text in dict.fromkeys(warnings)]
    parts.append(_figures(report))
    if comparison:
        parts += _compared(report, comparison)
    parts += _calibration(report, comparison)
    parts += _classes(report, comparison)
    parts += _confusion(report)
    parts += _mistakes(report, mistakes)
    parts.append(_METHOD)
    return page(title, parts)


def _facts(report: Report) -> str:
    model, data = report.model, report.data
    verified = "golden samples came true" if model.verified else "unverified: it carries no golden samples"
    what = [model.architecture, model.precision, f"on {model.provider}", verified]
    return (
        f'<p class="soft">{data.pictures:,} pictures, {data.split} part of {escape(data.name)} (seed {data.seed}), '
        f"{len(report.classes):,} classes. {escape(', '.join(part for part in what if part))}.<br>"
        f"<code>sha256 {model.sha256}</code></p>"
    )


def _figures(report: Report) -> str:
    low, high = report.accuracy_interval
    found = [("accuracy", percent(report.accuracy), f"{percent(low)} to {percent(high)}")]
    if report.top5_accuracy is not None:
        found.append(("top-5 accuracy", percent(report.top5_accuracy), "true class among 5"))
    found += [
        ("cross-entropy", f"{report.cross_entropy:.4f}", "nats a picture"),
        (
            "macro F1",
            percent(report.macro.f1),
            f"P {percent(report.macro.precision)}, R {percent(report.macro.recall)}",
        ),
        ("calibration error", percent(report.calibration.error), "expected, 15 bins"),
    ]
    return cards(found)


def _compared(report: Report, comparison: Comparison) -> list[str]:
    """Return both models' figures side by side, and what McNemar's test says of their difference."""
    other, test = comparison.report, comparison.mcnemar
    rows = [
        _row("accuracy", report.accuracy, other.accuracy),
        _row("macro precision", report.macro.precision, other.macro.precision),
        _row("macro recall", report.macro.recall, other.macro.recall),
        _row("macro F1", report.macro.f1, other.macro.f1),
        _row("calibration error", report.calibration.error, other.calibration.error),
    ]
    if report.top5_accuracy is not None and other.top5_accuracy is not None:
        rows.insert(1, _row("top-5 accuracy", report.top5_accuracy, other.top5_accuracy))
    entropy, others = report.cross_entropy, other.cross_entropy
    rows.append(("cross-entropy", f"{entropy:.4f}", f"{others:.4f}", f"{others - entropy:+.4f}"))
    how = (
        "exact binomial test" if test.statistic is None else f"chi-squared {test.statistic:.2f}, one degree of freedom"
    )
    verdict = "by more than chance would" if test.p_value < 0.05 else "by no more than chance may"
    return [
        f"<h2>Beside {escape(other.model.title)}</h2>",
        table(["", report.model.title, other.model.title, "difference"], rows),
        f"<p>Both are right on {test.both_right:,} pictures and wrong on {test.both_wrong:,}; only the first is right "
        f"on {test.only_first_right:,}, only the second on {test.only_second_right:,}. McNemar's test: "
        f"p = {test.p_value:.3g} ({how}): they differ {verdict} (at 5 %).</p>",
    ]


def _row(what: str, first: float, second: float) -> tuple[str, str, str, str]:
    return what, percent(first), percent(second), f"{100 * (second - first):+.2f} points"


def _calibration(report: Report, comparison: Comparison | None) -> list[str]:
    shown = [report, comparison.report] if comparison else [report]
    diagrams = [
        f"<figure>{reliability_diagram(one.calibration.bins)}<figcaption>{escape(one.model.title)}: expected "
        f"calibration error {percent(one.calibration.error)}</figcaption></figure>"
        for one in shown
    ]
    return [
        "<h2>Calibration</h2>",
        "<p>How often the model was right, by how sure it was: on the dashed line a probability means what it says. "
        "Pale blue: right more often than it said; orange: less often. Grey: how many pictures are that sure.</p>",
        f'<div class="beside">{"".join(diagrams)}</div>',
    ]


def _same_class(row: ClassRow, other: Report) -> list[float]:
    """Return the F1 of a class by another model, if that has it: by name, else by number, as `true_indices` matches."""
    there = [each.f1 for each in other.classes if each.label == row.label]
    alike = [each.f1 for each in other.classes[row.index : row.index + 1] if each.label == row.label or not there]
    return alike or there[:1]


def _classes(report: Report, comparison: Comparison | None) -> list[str]:
    """Return F1 by class, the worst first, and all figures of all classes in a table that opens."""
    shown = sorted((row for row in report.classes if row.pictures), key=lambda row: row.f1)
    part, what = shown, "each class"
    if len(shown) > BARS:
        part, what = shown[: BARS // 2], f"the {BARS // 2} worst of {len(shown):,} classes"
    low = 0.0 if not part or part[0].f1 < 0.9 else 0.9
    drawn = [(row.label, [row.f1, *(_same_class(row, comparison.report) if comparison else ())]) for row in part]
    note = f" The bars begin at {percent(low, 0)}." if low else ""
    beside = f" Blue {escape(report.model.title)}, amber {escape(comparison.report.model.title)}." if comparison else ""
    rows = (
        (
            row.label,
            f"{row.pictures:,}",
            f"{row.predicted:,}",
            percent(row.precision),
            percent(row.recall),
            percent(row.f1),
        )
        for row in report.classes
    )
    return [
        "<h2>Classes</h2>",
        f"<p>F1 of {what}, the worst first.{note}{beside}</p>",
        bars(drawn, low=low),
        "<details><summary>Precision, recall and F1 of all classes</summary>"
        + table(["class", "pictures", "taken for it", "precision", "recall", "F1"], rows)
        + "</details>",
    ]


def _confusion(report: Report) -> list[str]:
    if len(report.classes) <= MATRIX_CLASSES:
        return [
            "<h2>Confusion</h2>",
            "<p>Rows are true classes, columns what they were taken for. Blue is right, orange wrong; the darker, the "
            "larger the share of the row.</p>",
            _matrix(report),
        ]
    pairs = [
        (report.labels[true], report.labels[predicted], f"{count:,}", percent(count / sum(report.confusion[true]), 1))
        for true, predicted, count in confused_pairs(report, PAIRS)
    ]
    return [
        "<h2>Confusion</h2>",
        "<p>The pairs that are confused most often. In the picture each row is a true class and each column what it "
        "was taken for, the darker the more often.</p>",
        '<div class="beside">',
        table(["true class", "taken for", "pictures", "of the class"], pairs),
        png(_matrix_picture(report), "confusion matrix", width=360),
        "</div>",
    ]


def _matrix(report: Report) -> str:
    """Return the confusion matrix as a coloured table; the colours are shares of the row."""
    tall = ' class="tall"' if max(map(len, report.labels)) > 3 else ""
    names = [escape(short(label)) for label in report.labels]
    lines = ["<tr><th></th>" + "".join(f"<th{tall}><span>{name}</span></th>" for name in names) + "</tr>"]
    for true, row in enumerate(report.confusion):
        cells = []
        for predicted, count in enumerate(row):
            share = count / max(1, sum(row))
            colour = "37, 99, 235" if true == predicted else "234, 88, 12"
            # A single mistake among thousands must still be seen.
            alpha = (0.15 + 0.75 * share if true == predicted else 0.2 + 0.7 * min(1.0, 5 * share)) if count else 0
            white = " color: #fff;" if alpha > 0.55 else ""
            cells.append(f'<td style="background: rgba({colour}, {alpha:.2f});{white}">{count or ""}</td>')
        lines.append(f"<tr><th>{names[true]}</th>{''.join(cells)}</tr>")
    return '<div class="scroll"><table class="matrix">' + "\n".join(lines) + "</table></div>"


def _matrix_picture(report: Report) -> Images:
    """Return the confusion matrix as a picture, uint8 [classes, classes], a row's share by its square root."""
    matrix = np.array(report.confusion, np.float64)
    shares = matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
    return np.asarray(255 - 255 * np.sqrt(shares), np.uint8)


def _mistakes(report: Report, pictures: Sequence[Images]) -> Iterator[str]:
    yield "<h2>Most confident mistakes</h2>"
    if not report.mistakes:
        yield "<p>None: every picture was classified right.</p>"
        return
    yield (
        "<p>As the model sees them, the surest first. Some may be wrong labels of the data. The "
        "number is that of the picture in its part.</p>"
    )
    yield '<div class="sheet">'
    for mistake, picture in zip(report.mistakes, pictures, strict=True):
        drawn, caption = png(picture, f"picture {mistake.picture}"), _caption(report, mistake)
        yield f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>"
    yield "</div>"


def _caption(report: Report, mistake: Mistake) -> str:
    true, predicted = report.labels[mistake.label], report.labels[mistake.predicted]
    return (
        f"<b>{escape(predicted)}</b> {percent(mistake.confidence, 1)}<br>"
        f"is {escape(true)} ({percent(mistake.probability, 1)})<br>no. {mistake.picture}"
    )
