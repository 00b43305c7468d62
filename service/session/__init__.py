"""ONNX Runtime: providers, warm-up, buckets and `run(batch)`; nobody else imports it.

ONNX Runtime falls back to the CPU without a word when a provider does not load, so a session here is made with one
provider and is refused unless that one comes first in what was made. Each provider has its room (`cpu`, `openvino`,
`cuda`, `tensorrt`), which says how ONNX Runtime is asked for it.
"""

from service.session.classifier import Session, buckets
from service.session.graph import open_graph
from service.session.opening import Create, explain_failure
from service.session.plan import About, computed
from service.session.runtime import candidates, check_runtime
from service.session.runtime import load as load_runtime

__all__ = [
    "About",
    "Create",
    "Session",
    "buckets",
    "candidates",
    "check_runtime",
    "computed",
    "explain_failure",
    "load_runtime",
    "open_graph",
]
