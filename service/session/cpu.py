"""The provider `cpu`: ONNX Runtime's own kernels."""

from service.providers import CpuOptions
from service.session.plan import Plan, Wanted
from service.session.runtime import NAMES


def plan(options: CpuOptions, wanted: Wanted) -> Plan:
    """Return how a session is asked for."""
    return Plan(
        providers=[(NAMES["cpu"], {})],
        threads=wanted.threads,
        device="CPU",
        # Spinning threads take the cores from everybody else: with one busy neighbour 29 ms became 107, without 66.
        config={"session.intra_op.allow_spinning": "1" if options.spinning else "0"},
    )
