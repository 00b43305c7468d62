"""One tuning: the versions of a model, what is best for each, and what is stored of that."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from service import cores, hosts, looks, tuned
from service.config import Settings
from service.errors import ModelRejected, SetupError
from service.graph import external_files, read_graph
from service.looks import FILE
from service.manifest import sha256
from service.providers import ProviderChoice
from service.session import check_runtime
from service.tune import kinds
from service.tune.running import Open, opener
from service.tune.search import Choice, Outcome, Search
from service.tune.settings import Goal, settings

BUNDLED = Path(__file__).parents[1] / "bundled/models"
DEFAULT_BATCH: int = Settings.model_fields["max_batch_size"].default
VERSIONS = 3
"""The highest ones are tuned: as many as a server keeps."""
AS_FAST = 0.9
"""A lower version is named best only where the higher one has less than this share of its speed: the two were not
measured in turns."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be tuned.

    Attributes:
        repository: the model repository.
        model: its name there.
        version: the only one, or 0: the highest ones.
        wanted: which kinds.
        limit: seconds in all.
        max_batch_size: the largest batch that is tried.
        default_batch: the largest batch that a server runs by default.
    """

    repository: Path
    model: str
    version: int = 0
    wanted: kinds.Wanted = field(default_factory=kinds.Wanted)
    limit: float = 120.0
    max_batch_size: int = 64
    default_batch: int = DEFAULT_BATCH


@dataclass(frozen=True, slots=True)
class Result:
    """What was found of one version.

    Attributes:
        version: its number.
        path: its file.
        outcome: what was measured; None where no kind may serve it.
        left_out: which kinds were not measured, and why.
        sha256: of its files as they were measured.
    """

    version: int
    path: Path
    outcome: Outcome | None
    left_out: Sequence[str]
    sha256: str = ""


def find_model(given: str, repository: Path | None) -> tuple[Path, str]:
    """Return the repository and the name that MODEL means: the folder of a model, or a name in the repository.

    Raises:
        SetupError: there is no such model; says what there is.
    """
    folder = Path(given)
    if repository is None and folder.is_dir():
        root = folder.resolve()
        if not looks.look_at(root.parent, root.name):
            inside = ", ".join(str(folder / name) for name, found in looks.look(root).models.items() if found)
            hint = f"name one of its models: {inside}" if inside else f"a model's folder holds {Path('1', FILE)}"
            raise SetupError(f"{folder} holds no version of a model; {hint}")
        return folder.resolve().parent, folder.resolve().name
    root = repository or BUNDLED
    try:
        there = looks.look(root.resolve(strict=True))
    except OSError as error:
        raise SetupError(f"--repository {root} cannot be read: {error.strerror}") from None
    if not there.models.get(given):
        names = ", ".join(name for name, found in there.models.items() if found) or "none"
        raise SetupError(f"no model {given!r} in {root}; there are: {names}. Name another by --repository")
    return root, given


def run(
    given: Task,
    *,
    open_setting: Open | None = None,
    clock: Callable[[], float] = time.perf_counter,
    told: Callable[[str], None] = lambda _: None,
) -> list[Result]:
    """Tune the versions of a model, the highest first, each for its share of the time.

    Args:
        given: what.
        open_setting: makes a setting run; None: in this process.
        clock: seconds.
        told: what is being done.

    Raises:
        SetupError: there is no such version, or not one ONNX Runtime.
        ModelRejected: no version can be served here; says why.
    """
    started = clock()
    check_runtime()
    found = looks.look_at(given.repository.resolve(), given.model)
    numbers = [given.version] if given.version else sorted(found, reverse=True)[:VERSIONS]
    if not set(numbers) <= set(found):
        there = ", ".join(map(str, sorted(found)))
        raise SetupError(f"no version {given.version} of {given.model!r}; there are: {there}")
    results = []
    for place, number in enumerate(numbers):
        path = given.repository / given.model / str(number) / FILE
        end = clock() + (started + given.limit - clock()) / (len(numbers) - place)
        told(f"testing version {number}")
        try:
            size, digest = files_size(path), _digest(path)
            kept, left_out = kinds.find(path, number, given.wanted)
        except ModelRejected as error:
            results.append(Result(number, path, None, [str(error)]))
            continue
        outcome = None
        if kept:
            maker = open_setting or opener(given.max_batch_size, given.wanted.onnxruntime)
            search = Search(maker, clock, end - clock(), default_batch=given.default_batch, told=told)
            try:
                outcome = search.run(settings(kept, cores.count(), size))
            except ModelRejected as error:
                left_out.append(f"{error}; try a smaller --max-batch-size")
        results.append(Result(number, path, outcome, left_out, digest))
    if not any(result.outcome for result in results):
        why = "; ".join(f"version {each.version}: {reason}" for each in results for reason in each.left_out)
        raise ModelRejected(f"nothing can be measured: {why}")
    return results


def files_size(path: Path) -> int:
    """Return the bytes of a model's files, those with its weights too: each instance holds them all.

    Raises:
        ModelRejected: a file cannot be read.
    """
    return sum(file.stat().st_size for file in (path, *external_files(path, read_graph(path)).values()))


def _digest(path: Path) -> str:
    return sha256(path, *external_files(path, read_graph(path)).values())


def best(results: Sequence[Result], goal: Goal) -> tuple[Result, Choice]:
    """Return the version and its choice that are best for a goal; of two about as fast the higher one."""
    choices = [(each, each.outcome.choice(goal)) for each in results if each.outcome]
    most = max(choice.best.score(goal) for _, choice in choices)
    return next((result, choice) for result, choice in choices if choice.best.score(goal) >= AS_FAST * most)


def write(result: Result, goal: Goal, provider: ProviderChoice = "auto") -> str:
    """Store what is best of a version for a goal as its default on this kind of machine; return what was done.

    Args:
        result: of the version.
        goal: which.
        provider: what was asked for; servers with that `--provider` take it, since its default is what was compared.

    Raises:
        SetupError: it cannot be written.
    """
    assert result.outcome is not None  # noqa: S101 - only what was measured is stored
    if _digest(result.path) != result.sha256:
        return f"version {result.version}: not stored, since its files changed while they were measured; tune it again"
    choice, runtime = result.outcome.choice(goal), check_runtime()
    host = tuned.place(hosts.host_type(cores.count(), runtime), provider)
    folder, setting = result.path.parent, choice.best.setting
    if setting.kind.unverified:
        return f"version {result.version}: not stored, since only --allow-unverified serves it"
    if not choice.better:
        if not result.outcome.decided(goal):
            # what an older entry says was measured, and nothing now says otherwise
            return (
                f"version {result.version}: too little was measured to tell, and nothing is changed; raise --time-limit"
            )
        tuned.write(folder, host, None)
        return f"version {result.version}: the default is best, and nothing is stored"
    entry = tuned.Tuned(
        goal=goal,
        provider=setting.kind.provider,
        provider_options=setting.kind.options,
        instances=setting.instances,
        intra_op_threads=setting.threads,
        max_batch_size=choice.batch,
        gain=choice.gain,
        images_per_second=max(choice.best.rates.values()),
        runtime=runtime,
        measured=datetime.now(UTC).date().isoformat(),
        sha256=result.sha256,
    )
    tuned.write(folder, host, entry)
    return f"version {result.version}: stored in {folder / tuned.FILE} for {host}"
