"""What `saccade export --precision` does: the fp32 file, the data, the reduction, and what is said of it."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from export import measure, model_file, publish
from export.cli_evaluate import progress
from export.extra import need_extra
from export.precision import REPORT, Named, reduce
from export.tries import Wanted
from service.manifest import Verdict, read_manifest

if TYPE_CHECKING:
    from export.precision import Made


def run(
    source: str,
    wanted: Wanted,
    *,
    repository: Path,
    name: str = "",
    data_name: str = "",
    data_folder: Path | None = None,
) -> tuple[Path, "Made"]:
    """Make a file of reduced precision and publish it with its report; return the version's folder and the file.

    Args:
        source: a training run, or a fp32 file as `saccade evaluate` finds it.
        wanted: precision and limit.
        repository: where it is published, and where a model's name is looked for.
        name: of the model; empty: that of the source.
        data_name: see export.data; empty: the recipe's.
        data_folder: of the data, where they are files.

    Raises:
        ModelRejected: it costs more than the limit; nothing is published.
        SetupError: the source or the data cannot be used.
    """
    with tempfile.TemporaryDirectory() as folder:
        path, title = _float_file(source, Path(folder), repository, data_folder)
        loaded = Named(*measure.load(read_manifest(path), path, data_name, data_folder))
        target = Path(folder) / "reduced"
        target.mkdir()
        made = reduce(path, target, loaded, wanted, progress=progress)
        report = target / REPORT
        report.write_text(json.dumps(made.report, indent=2) + "\n", encoding="utf-8")
        return publish.publish(made.path, repository, name or title, {REPORT: report}), made


def _float_file(source: str, folder: Path, repository: Path, data_folder: Path | None) -> tuple[Path, str]:
    """Return the fp32 file and its model's name, of a model its newest; of a run it is exported and verified first."""
    if (Path(source) / model_file.CHECKPOINT).is_file():
        need_extra()
        from export.release import release

        version, _ = release(Path(source), folder / "float", data_folder=data_folder)
        return version / publish.FILE, version.parent.name
    here = not Path(source).exists() and (repository / source).is_dir()
    found = model_file.find(source, repository if here else None)
    asked = repository / source if here else Path(source)
    is_version = asked.is_file() or (asked / model_file.FILE).is_file()
    if found.version and not is_version:  # a model
        files = [version / model_file.FILE for version in model_file.versions(found.path.resolve().parents[1])]
        return next((file for file in files if read_manifest(file).precision == "fp32"), found.path), found.name
    return found.path, found.name


def summary(made: "Made") -> str:
    """Return what a file costs and gains, a line for each provider."""
    return "\n".join(_line(verdict) for verdict in made.verdicts)


def _line(verdict: Verdict) -> str:
    return (
        f"{verdict.provider}{'' if verdict.passed else ' (over the limit: refused there)'}: "
        f"accuracy {verdict.accuracy:.2%} instead of {verdict.reference_accuracy:.2%} "
        f"({verdict.drop:+.2f} points of at most {verdict.max_drop:.2f}), top-1 agrees on {verdict.agreement:.2%}, "
        f"probabilities differ by {verdict.largest_difference:.2g} at most and {verdict.mean_difference:.2g} on "
        f"average, calibration error {verdict.calibration_error:.2%} instead of "
        f"{verdict.reference_calibration_error:.2%}, {verdict.images_per_second:,.0f} images/s instead of "
        f"{verdict.reference_images_per_second:,.0f}"
    )
