"""An explanation as a page or as one picture."""

from html import escape
from pathlib import Path

from export.data import Images
from export.explain import Evidence, Explanation, FeatureMaps
from export.page import page, percent, png
from export.tiles import MOST, beside, coloured, enlarged, filters_grid, heat, maps_grid, stacked
from service import image
from service.errors import SetupError

SIDE = 224
"""Pixels of the longer side of the picture and its heat maps, about."""

_METHODS = {
    "cam": "Class activation maps (Zhou et al., Learning Deep Features for Discriminative Localization, 2016): each of "
    "the last feature maps, weighed by what it counts for the class. Bright is evidence for the class. The mean of a "
    "map is the class's logit, less its bias.",
    "occlusion": "Occlusion (Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, 2014): a square of "
    "the picture's median colour is moved over it. Bright is where hiding it lowers the class's probability most.",
}


def render(explanation: Explanation, model: str, picture: str) -> str:
    """Return the page; `model` and `picture` say what was explained."""
    parts = [
        f"<h1>{escape(model)} looks at {escape(picture)}</h1>",
        f'<p class="soft">{_METHODS[explanation.evidence[0].method]}</p>',
        '<div class="beside">',
        _figure(enlarged(coloured(explanation.picture), SIDE), "as the model sees it"),
        *(_figure(_overlay(explanation, one), _caption(one)) for one in explanation.evidence),
        "</div>",
    ]
    if explanation.filters is not None:
        maps, channels, height, width = explanation.filters.shape
        parts += [
            "<h2>Filters of the first convolution</h2>",
            f'<p class="soft">{maps} filters of {height} x {width} over {channels} '
            f"channel{'s' * (channels > 1)}{_first(maps)}. Grey is 0; each is scaled by itself.</p>",
            png(filters_grid(explanation.filters), "filters"),
        ]
    if explanation.stages:
        parts += [
            "<h2>Feature maps</h2>",
            '<p class="soft">The output of each stage, a stage being all layers of one resolution. White is the '
            "strongest place of a map, each scaled by itself.</p>",
        ]
    for number, stage in enumerate(explanation.stages, start=1):
        parts += [
            f"<h3>Stage {number}: {_sizes(stage)}</h3>",
            f'<p class="soft">{escape(", ".join(stage.operators))}</p>',
        ]
        parts.append(png(maps_grid(stage.values), f"feature maps of stage {number}"))
    return page(f"{model}: {picture}", parts)


def write(explanation: Explanation, path: Path, *, model: str, picture: str) -> None:
    """Write a page, or one picture where the path ends in .png; `model` and `picture` say what was explained.

    Raises:
        SetupError: it cannot be written.
    """
    try:
        if path.suffix == ".png":
            path.write_bytes(image.encode_png(drawn(explanation)))
        else:
            path.write_text(render(explanation, model, picture), encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise SetupError(f"{path} cannot be written: {error.strerror}; name another file by --output") from None


def drawn(explanation: Explanation) -> Images:
    """Return all of it as one picture, uint8 [height, width, 3]: the picture and heat, the filters, the stages."""
    shown = [
        enlarged(coloured(explanation.picture), SIDE),
        *(_overlay(explanation, one) for one in explanation.evidence),
    ]
    parts = [beside(shown)]
    if explanation.filters is not None:
        parts.append(filters_grid(explanation.filters))
    parts += [maps_grid(stage.values) for stage in explanation.stages]
    return stacked(parts)


def _overlay(explanation: Explanation, one: Evidence) -> Images:
    return heat(enlarged(explanation.picture, SIDE), one.values, signed=one.method == "occlusion")


def _figure(picture: Images, caption: str) -> str:
    """Return a picture with its caption, which is HTML."""
    return f"<figure>{png(picture, 'picture')}<figcaption>{caption}</figcaption></figure>"


def _caption(one: Evidence) -> str:
    """Return the class, its probability and what the brightest place stands for: each map is scaled by itself."""
    most = float(one.values.max())
    bright = f"brightest: {most:.2f}" if one.method == "cam" else f"brightest: {100 * max(0.0, most):.1f} points less"
    return f"<b>{escape(one.label)}</b> {percent(one.probability, 1)}<br>{bright}"


def _sizes(stage: FeatureMaps) -> str:
    maps, height, width = stage.values.shape
    return f"{maps} maps of {height} x {width}{_first(maps)}"


def _first(count: int) -> str:
    return f", the first {MOST} shown" if count > MOST else ""
