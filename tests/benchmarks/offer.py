"""How many unary calls a second one process of the load generator can offer to a bare gRPC server.

Client and server are pinned to a core each where there are two.

python -m tests.benchmarks.offer [--seconds 3] [--rates 1000 2000 3000 4000]
"""

import argparse

from rich.console import Console
from rich.table import Table

from service.load.plan import Load
from service.load.processes import Loaders
from tests.benchmarks import echo
from tests.benchmarks.machine import echo_server, pin, two_cores


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rates", type=float, nargs="+", default=[1000, 2000, 3000, 4000])
    given = parser.parse_args()
    server_core, load_core = two_cores()
    table = Table("offered a second", "answered a second", "p50 ms", "p99 ms", "sent late, p99 ms", "CPU us a call")
    with echo_server() as (pid, address), Loaders() as loaders:
        pin(pid, server_core)
        for rate in given.rates:
            load = Load(address, echo.UNARY, bytes(800), 1, given.seconds, rate=rate, core=load_core)
            outcome = loaders.run(load)
            table.add_row(
                f"{rate:,.0f}",
                f"{outcome.rate:,.0f}",
                f"{outcome.milliseconds(50):.2f}",
                f"{outcome.milliseconds(99):.2f}",
                f"{outcome.late_milliseconds:.2f}",
                f"{outcome.cpu_seconds / max(outcome.arrived, 1) * 1e6:.0f}",
            )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
