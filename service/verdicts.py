"""Whether a version may be served as it computes: a reduced precision needs a verdict for its kind of provider."""

from service.errors import ModelRejected
from service.manifest import Manifest, Verdict

REDUCED = frozenset({"fp16", "bf16", "int8"})
"""TF32 is none of them: it keeps the range, and the golden samples' tolerance of fp32 decides."""
NO_SAMPLES = "the file carries no golden samples"


def find(manifest: Manifest, provider: str, computed: str) -> Verdict | None:
    """Return the verdict on what is computed by a kind of provider; None where it was not measured."""
    said = [verdict for verdict in manifest.verdicts if (verdict.provider, verdict.precision) == (provider, computed)]
    return said[-1] if said else None


def check(
    manifest: Manifest,
    provider: str,
    computed: str,
    *,
    foreign: bool,
    tested: bool,
    allow_unverified: bool = False,
    require_verified: bool = False,
) -> str:
    """Return why a version is served unverified; empty where it is verified.

    Args:
        manifest: of the file.
        provider: the kind that runs it.
        computed: what it computes in; hints to the provider included.
        foreign: whether the file says nothing of its precision, so that nobody reduced it for us.
        tested: whether its golden samples came true here.
        allow_unverified: whether a reduced precision is served without a verdict, or beyond its limit.
        require_verified: whether a file without golden samples is refused.

    Raises:
        ModelRejected: it may not be served; the text says why and what to do.
    """
    if require_verified and not tested:
        raise ModelRejected(
            f"{NO_SAMPLES} and --require-verified asks for them; `saccade export FILE.onnx` writes some into it"
        )
    hinted = computed != manifest.precision
    doubt = _doubt(manifest, provider, computed) if computed in REDUCED and (hinted or not foreign) else ""
    if doubt and not allow_unverified:
        raise ModelRejected(f"{doubt}; --allow-unverified serves it all the same")
    return doubt or ("" if tested else NO_SAMPLES)


def _doubt(manifest: Manifest, provider: str, computed: str) -> str:
    """Return what speaks against a reduced precision; empty where its measured cost is within the limit."""
    verdict = find(manifest, provider, computed)
    if verdict is None:
        known = ", ".join(f"{each.precision} on {each.provider}" for each in manifest.verdicts) or "nothing"
        return (
            f"what {computed} costs in accuracy was not measured on {provider} (measured is {known}); "
            f"`saccade export FP32-FILE --precision {computed} --provider {provider} --data DATA` measures it"
        )
    if verdict.passed:
        return ""
    return (
        f"{computed} costs {verdict.drop:.2f} points of accuracy on {provider} ({verdict.accuracy:.2%} instead of "
        f"{verdict.reference_accuracy:.2%}); the limit is {verdict.max_drop:.2f}"
    )
