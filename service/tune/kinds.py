"""Finds the kinds: each provider at hand, and each hint with a verdict, where the version passes its self-test."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from service import logs, verdicts
from service.errors import ModelRejected
from service.graph import read_graph
from service.loading import Passed, try_provider
from service.manifest import Manifest, read_fields
from service.model import Options
from service.providers import OPTIONS, Provider, ProviderChoice, ProviderOptions, options_text, parse_options
from service.session import candidates, explain_failure
from service.tune.settings import Kind

HINTS: dict[Provider, Sequence[str]] = {"openvino": ("bf16", "fp16"), "tensorrt": ("fp16", "bf16")}
"""What a provider can compute a float32 file in beside its default, as its option `precision` says it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which kinds are wanted.

    Attributes:
        provider: the only one, or `auto`: all at hand.
        provider_options: given to it; with `auto` their names begin with the provider's and a dot.
        allow_unverified: whether a precision without a passing verdict is measured too.
        onnxruntime: a fake of the module; None: the real one.
    """

    provider: ProviderChoice = "auto"
    provider_options: str = ""
    allow_unverified: bool = False
    onnxruntime: Any = None


class Found(NamedTuple):
    """The kinds that may serve a version, the server's default first, and why others may not."""

    kinds: list[Kind]
    left_out: list[str]


def find(path: Path, version: int, wanted: Wanted) -> Found:
    """Return the kinds of a version.

    Raises:
        ModelRejected: the file cannot be read.
    """
    return _Finder(path, version, wanted).find()


class _Finder:
    """Tries one version on provider after provider."""

    def __init__(self, path: Path, version: int, wanted: Wanted) -> None:
        self._path, self._version, self._wanted = path, version, wanted
        self._fields, self._graph = read_fields(path), read_graph(path)
        self._found = Found([], [])

    def find(self) -> Found:
        wanted = self._wanted
        available = wanted.onnxruntime.get_available_providers() if wanted.onnxruntime else None
        given = parse_options(wanted.provider, wanted.provider_options)
        for provider in candidates(wanted.provider, available):
            said = given.get(provider, OPTIONS[provider]())
            plain = self._try(provider, said)
            if plain is not None and plain.manifest.precision == "fp32" and "precision" not in said.model_fields_set:
                self._hints(provider, said, plain.manifest)
        return self._found

    def _hints(self, provider: Provider, said: ProviderOptions, manifest: Manifest) -> None:
        """Try what else the provider can compute a float32 file in, as far as that has a verdict."""
        allow = self._wanted.allow_unverified
        for hint in HINTS.get(provider, ()):
            hinted = said.model_copy(update={"precision": hint})
            try:
                verdicts.check(manifest, provider, hint, foreign=False, tested=True, allow_unverified=allow)
            except ModelRejected as error:
                self._found.left_out.append(f"{provider} {options_text(hinted)}: {error}")
            else:
                self._try(provider, hinted)

    def _try(self, provider: Provider, options: ProviderOptions) -> Passed | None:
        """Open the version as one kind and test it; put down the kind, or why it is none."""
        given = Options(
            provider,
            {provider: options},
            max_batch_size=1,
            allow_unverified=self._wanted.allow_unverified,
            onnxruntime=self._wanted.onnxruntime,
        )
        text = options_text(options)
        name = f"{provider} {text}".strip()
        try:
            passed = try_provider(self._path, provider, given, self._fields, self._graph)
        except ModelRejected as error:
            self._found.left_out.append(f"{name}: {error}")
            return None
        except Exception as error:  # noqa: BLE001 - a provider that loads and cannot run: no memory, kernel or cuDNN
            logs.failure("provider failed", error, provider=provider)
            self._found.left_out.append(f"{name}: it cannot run the model; {explain_failure(provider, error)}")
            return None
        doubted = passed.precision in verdicts.REDUCED and passed.unverified not in {"", verdicts.NO_SAMPLES}
        kind = Kind(self._path, self._version, provider, text, passed.precision, doubted, passed.threads)
        self._found.kinds.append(kind)
        return passed
