"""Loading a version: a session on the best provider that passes, warmed up and tested against its golden samples."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast, get_args

import numpy as np

from service import cores, foreign, image, logs, verdicts
from service.errors import InvalidInput, ModelRejected
from service.graph import Graph, external_files, read_graph
from service.manifest import Manifest, Precision, read_fields, sha256
from service.metrics import Metrics
from service.model import Facts, Model, Options, Pixels, Probabilities
from service.normalise import Normalise
from service.providers import OPTIONS, Computed, OpenVinoOptions, Provider, ProviderOptions, TensorRtOptions
from service.scores import check_probabilities
from service.session import About, Session, candidates, computed, explain_failure
from service.tensors import Expected

Fields = Mapping[str, object]

TOLERANCE: dict[Computed, float] = {"fp32": 1e-4, "tf32": 5e-3, "fp16": 5e-3, "bf16": 3e-2, "int8": 3e-2}
"""Largest difference from a golden sample's probabilities. fp32 differs by 2e-8 between batch sizes and by up to 1e-5
between providers; a broken kernel, a wrong channel order or a wrong file differ by tenths."""

HINTED = (OpenVinoOptions, TensorRtOptions)
"""Options of the providers that compute float32 graphs in bf16 where they are asked to."""


class Passed(NamedTuple):
    """What passed its self-test on a provider: sessions, whole manifest, what was inferred, and what was found.

    `unverified` says why it is not verified; empty where it is.
    """

    sessions: Sequence[Session]
    manifest: Manifest
    inferred: tuple[str, ...]
    costs: dict[int, float]
    precision: Computed
    unverified: str


def check_files(path: Path) -> None:
    """Refuse a model file that is cut off, or lacks files, as far as that can be told without a session.

    Raises:
        ModelRejected: it cannot be loaded.
    """
    read_fields(path)
    external_files(path, read_graph(path))


def load_model(path: Path, name: str, version: int, options: Options, metrics: Metrics) -> Model:
    """Load, warm up and self-test a model file on the best provider that passes.

    Raises:
        ModelRejected: no provider that was asked for can run it right; the text says why for each.
    """
    fields, graph = read_fields(path), read_graph(path)
    files = [path, *external_files(path, graph).values()]
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
                sha256(*files),
                passed.inferred,
                device=", ".join(dict.fromkeys(session.about.device for session in passed.sessions)),
                notes=(*_notes(about), *(f"passed over {reason}" for reason in reasons)),
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
    said = fields.get("precision")
    precision = cast("Precision", said) if said in get_args(Precision) else "fp32"
    sessions = [
        open_session(
            path,
            provider,
            options,
            expected,
            precision=precision,
            instance=instance,
            external=external_files(path, graph),
        )
        for instance in range(options.instances)
    ]
    manifest, inferred = foreign.complete(fields, sessions[0].input, sessions[0].classes, graph)
    check_against_manifest(sessions[0], manifest)
    precision_now = computed(manifest.precision, sessions[0].about.floats)
    costs, *_ = [session.warm_up() for session in sessions]
    tested, *_ = [self_test(on_pixels(session, manifest), manifest, options, precision_now) for session in sessions]
    unverified = verdicts.check(
        manifest,
        provider,
        precision_now,
        foreign=said is None,
        tested=tested,
        allow_unverified=options.allow_unverified,
        require_verified=options.require_verified,
    )
    return Passed(sessions, manifest, (*sessions[0].assumed, *inferred), costs, precision_now, unverified)


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
        intra_op_threads=options.intra_op_threads or max(1, cores.count() // options.instances),
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
    """Return the provider's options, asking for bf16 where the file does and the operator says nothing else."""
    options = given or OPTIONS[provider]()
    if precision != "bf16" or not isinstance(options, HINTED) or "precision" in options.model_fields_set:
        return given
    return options.model_copy(update={"precision": "bf16"})


def _notes(about: About) -> tuple[str, ...]:
    """Return what an operator should know of how a session runs."""
    left = [f"{about.on_cpu} nodes left to the CPU by {about.provider}"] if about.on_cpu else []
    return (*about.notes, *left)


def on_pixels(session: Session, manifest: Manifest) -> Callable[[Pixels], Probabilities]:
    """Return what gives the probabilities of pictures uint8 [N, height, width, channels], whatever the graph takes."""
    normalise = Normalise(manifest.preprocessing, session.input)
    return lambda pixels: session.run(normalise.batch(pixels))


def check_against_manifest(session: Session, manifest: Manifest) -> None:
    """Refuse a file whose graph is not what its manifest says.

    Raises:
        ModelRejected: sizes or classes differ.
    """
    spec = manifest.preprocessing
    said = (spec.height, spec.width, spec.channels)
    if session.input_shape != said:
        raise ModelRejected(
            f"the graph takes {session.input_shape} (height, width, channels), the manifest says {said}"
        )
    if session.classes != len(manifest.labels):
        raise ModelRejected(
            f"the graph gives {session.classes} classes, the manifest has {len(manifest.labels)} labels"
        )


def self_test(
    run: Callable[[Pixels], Probabilities], manifest: Manifest, options: Options, precision: Computed | None = None
) -> bool:
    """Return whether golden samples gave the expected probabilities here; False where the file carries none.

    Args:
        run: gives the probabilities of pictures.
        manifest: holds the samples.
        options: what the file is loaded with.
        precision: what the numbers are computed in, where that is not the file's own.

    Raises:
        ModelRejected: a sample gave something else; names the sample, the difference and the limit.
    """
    precision = precision or manifest.precision
    samples, spec = manifest.golden_samples, manifest.preprocessing
    limits = [TOLERANCE[precision] if each.tolerance is None else each.tolerance for each in samples]
    for first in range(0, len(samples), options.max_batch_size):
        chunk = samples[first : first + options.max_batch_size]
        try:
            pixels = np.stack([image.decode(sample.picture, spec, max_pixels=options.max_pixels) for sample in chunk])
        except InvalidInput as error:
            raise ModelRejected(f"self-test: a golden sample cannot be decoded: {error.reason}") from None
        probabilities = run(pixels)
        check_probabilities(probabilities, len(chunk), len(manifest.labels))
        apart = np.abs(probabilities - np.array([sample.probabilities for sample in chunk], np.float32)).max(axis=1)
        over = apart - limits[first : first + len(chunk)]
        if over.max() > 0:
            worst = int(over.argmax())
            raise ModelRejected(
                f"self-test: golden sample {first + worst} is {apart[worst]:.2g} from its expected probabilities; "
                f"the limit for {precision} is {limits[first + worst]:.2g}"
            )
    return bool(samples)
