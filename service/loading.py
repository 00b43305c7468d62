"""Loading a version: a session on the best provider that passes, warmed up and tested against its golden samples."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast, get_args

from service import cores, foreign, logs, tuned, verdicts
from service.errors import ModelRejected
from service.graph import Graph, external_files, read_graph
from service.manifest import Manifest, Precision, read_fields, sha256
from service.metrics import Metrics
from service.model import Facts, Model, Options
from service.providers import (
    OPTIONS,
    Computed,
    OpenVinoOptions,
    Provider,
    ProviderOptions,
    TensorRtOptions,
    parse_options,
)
from service.selftest import check_against_manifest, on_pixels, self_test
from service.session import About, Session, candidates, computed, explain_failure
from service.tensors import Expected
from service.tuned import Tuned

Fields = Mapping[str, object]

HINTED = (OpenVinoOptions, TensorRtOptions)
"""Options of the providers that compute float32 graphs in bf16 where they are asked to."""


_FAST_SECONDS = 0.005
"""A model that takes at most this for one picture keeps gRPC's thread as busy as its own, so that it gets a core less:
in each layer its threads wait for each other. With callers on the same two cores ResNet-20 answered 783 of 1,500 calls
a second in time by one thread, and 475 by two."""


class Passed(NamedTuple):
    """What passed its self-test on a provider: sessions, whole manifest, what was inferred, and what was found.

    `unverified` says why it is not verified; empty where it is. `threads` are those of each session.
    """

    sessions: Sequence[Session]
    manifest: Manifest
    inferred: tuple[str, ...]
    costs: dict[int, float]
    precision: Computed
    unverified: str
    threads: int


def check_files(path: Path) -> None:
    """Refuse a model file that is cut off, or lacks files, as far as that can be told without a session.

    Raises:
        ModelRejected: it cannot be loaded.
    """
    read_fields(path)
    external_files(path, read_graph(path))


def load_model(path: Path, name: str, version: int, options: Options, metrics: Metrics) -> Model:
    """Load, warm up and self-test a model file on the best provider that passes; as it was tuned here, if it was.

    Raises:
        ModelRejected: no provider that was asked for can run it right; the text says why for each.
    """
    digest = sha256(path, *external_files(path, read_graph(path)).values())
    try:
        settings = _tuned(path, options, digest)
    except ValueError as error:
        logs.info("tuned settings not used", model=name, version=version, reason=str(error))
        settings = None
    if settings is None:
        return _load(path, name, version, options, metrics, digest=digest)
    told = settings.model_dump(
        include={"goal", "provider", "provider_options", "instances", "intra_op_threads", "max_batch_size"}
    )
    try:
        model = _load(path, name, version, _with(options, settings, name, version), metrics, digest=digest)
    except ModelRejected as error:
        logs.warning("tuned settings not used", model=name, version=version, reason=str(error), **told)
        note = f"its tuned settings do not run: {error}"
        return _load(path, name, version, options, metrics, digest=digest, notes=(note,))
    logs.info("tuned settings", model=name, version=version, host=options.host, **told)
    return model


def _tuned(path: Path, options: Options, digest: str) -> Tuned | None:
    """Return the tuned settings of a file for this kind of machine; None where there are none.

    Raises:
        ValueError: they may not be used; says why.
    """
    if not options.host:
        return None
    stored = tuned.read(path.parent).hosts
    # what is best of all providers is that of its own one too
    settings = stored.get(tuned.place(options.host, options.provider)) or stored.get(options.host)
    if settings is None:
        return None
    if options.by_hand:
        raise ValueError(f"{options.by_hand} was given by hand")
    if options.provider not in {"auto", settings.provider}:
        raise ValueError(f"--provider is {options.provider}, they are for {settings.provider}")
    if settings.sha256 != digest:
        raise ValueError("they were measured with another model file; run `saccade tune --write` again")
    return settings


def _with(options: Options, settings: Tuned, name: str, version: int) -> Options:
    """Return options with tuned settings in them, but for folders.

    Whoever may write to the repository would choose where the server writes, and what compiled code it loads.
    """
    given = parse_options(settings.provider, settings.provider_options)
    for provider, said in given.items():
        folders = {option for option in said.model_fields_set if isinstance(getattr(said, option), Path)}
        if folders:
            given[provider] = said.model_validate(said.model_dump(exclude=folders, exclude_unset=True))
            logs.warning("tuned folders ignored", model=name, version=version, options=", ".join(sorted(folders)))
    return replace(
        options,
        provider=settings.provider,
        provider_options=given,
        instances=settings.instances,
        intra_op_threads=settings.intra_op_threads,
        max_batch_size=settings.max_batch_size,
    )


def _load(
    path: Path,
    name: str,
    version: int,
    options: Options,
    metrics: Metrics,
    *,
    digest: str,
    notes: tuple[str, ...] = (),
) -> Model:
    """Load a model file whose SHA-256 is `digest` with options as they are.

    Raises:
        ModelRejected: no provider that was asked for can run it right; the text says why for each.
    """
    fields, graph = read_fields(path), read_graph(path)
    reasons: list[str] = []
    available = options.available
    if available is None and options.onnxruntime is not None:
        available = options.onnxruntime.get_available_providers()
    for provider in candidates(options.provider, available):
        try:
            passed = try_provider(path, provider, options, fields, graph)
            about = passed.sessions[0].about
            facts = Facts(
                name,
                version,
                provider,
                passed.precision,
                not passed.unverified,
                digest,
                passed.inferred,
                device=", ".join(dict.fromkeys(session.about.device for session in passed.sessions)),
                notes=(*notes, *_notes(about), *(f"passed over {reason}" for reason in reasons)),
                unverified=passed.unverified,
            )
            model = Model(facts, passed.manifest, passed.sessions, costs=passed.costs, options=options, metrics=metrics)
        except ModelRejected as error:
            reasons.append(f"{provider}: {error}")
            continue
        except Exception as error:  # noqa: BLE001 - a provider that loads and cannot run: no memory, no kernel, no cuDNN
            logs.failure("provider failed", error, model=name, version=version, provider=provider)
            reasons.append(f"{provider}: it cannot run the model; {explain_failure(provider, error)}")
            continue
        if reasons:
            logs.warning("provider passed over", model=name, version=version, reasons="; ".join(reasons))
        if passed.inferred:
            logs.warning("manifest inferred", model=name, version=version, inferred=", ".join(passed.inferred))
        return model
    raise ModelRejected("; ".join(reasons) or f"no provider for --provider {options.provider}")


def try_provider(path: Path, provider: Provider, options: Options, fields: Fields, graph: Graph) -> Passed:
    """Open, warm up and self-test a file on one provider.

    Args:
        path: the model file.
        provider: which one.
        options: what it is loaded with.
        fields: what its manifest and the files beside it say.
        graph: what the file says.

    Raises:
        ModelRejected: see `Session`, `check_against_manifest`, `self_test` and `verdicts.check`.
    """
    expected = foreign.expected(fields, graph)

    def opened(options: Options) -> list[Session]:
        return [
            open_session(
                path,
                provider,
                options,
                expected,
                precision=said_precision(fields),
                instance=instance,
                external=external_files(path, graph),
            )
            for instance in range(options.instances)
        ]

    sessions = opened(options)
    manifest, inferred = foreign.complete(fields, sessions[0].input, sessions[0].classes, graph)
    check_against_manifest(sessions[0], manifest)
    precision_now = computed(manifest.precision, sessions[0].about.floats)
    costs, *_ = [session.warm_up() for session in sessions]
    threads = _threads(options)
    if provider == "cpu" and not options.intra_op_threads and threads > 1 and min(costs.values()) <= _FAST_SECONDS:
        threads -= 1
        sessions = opened(replace(options, intra_op_threads=threads))
        costs, *_ = [session.warm_up() for session in sessions]
    tested, *_ = [self_test(on_pixels(session, manifest), manifest, options, precision_now) for session in sessions]
    unverified = verdicts.check(
        manifest,
        provider,
        precision_now,
        foreign=fields.get("precision") is None,
        tested=tested,
        allow_unverified=options.allow_unverified,
        require_verified=options.require_verified,
    )
    return Passed(sessions, manifest, (*sessions[0].assumed, *inferred), costs, precision_now, unverified, threads)


def _threads(options: Options) -> int:
    """Return how many threads share a batch: those that were asked for, or as many as each instance has cores."""
    return options.intra_op_threads or max(1, (options.cores or cores.count()) // options.instances)


def said_precision(fields: Fields) -> Precision:
    """Return the precision of a file's numbers as far as it says; fp32 where it does not."""
    said = fields.get("precision")
    return cast("Precision", said) if said in get_args(Precision) else "fp32"


def open_session(
    path: Path,
    provider: Provider,
    options: Options,
    expected: Expected,
    *,
    precision: Precision = "fp32",
    instance: int = 0,
    external: Mapping[str, Path] | None = None,
) -> Session:
    """Return one session of a model file; the cores are shared by the instances.

    Raises:
        ModelRejected: see `Session`.
    """
    return Session(
        path,
        provider,
        intra_op_threads=_threads(options),
        max_batch_size=options.max_batch_size,
        expected=expected,
        options=_hinted(provider, options.provider_options.get(provider), precision),
        precision=precision,
        instance=instance,
        external=external,
        create=options.create_session,
        onnxruntime=options.onnxruntime,
    )


def _hinted(provider: Provider, given: ProviderOptions | None, precision: Precision) -> ProviderOptions | None:
    """Return the provider's options, asking for bf16 where the file does and the operator says nothing else.

    A file of another reduced precision is computed as it was measured, whatever the operator says of float32.
    """
    options = given or OPTIONS[provider]()
    if precision in {"int8", "fp16"} and isinstance(options, HINTED):
        usual = type(options)().precision
        return given if options.precision == usual else options.model_copy(update={"precision": usual})
    if precision != "bf16" or not isinstance(options, HINTED) or "precision" in options.model_fields_set:
        return given
    return options.model_copy(update={"precision": "bf16"})


def _notes(about: About) -> tuple[str, ...]:
    """Return what an operator should know of how a session runs."""
    left = [f"{about.on_cpu} nodes left to the CPU by {about.provider}"] if about.on_cpu else []
    return (*about.notes, *left)
