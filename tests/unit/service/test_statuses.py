from service.rpc.statuses import to_status
from tests.conftest import Lines


def test_internal_failures_do_not_fill_the_log(lines: Lines) -> None:
    """Of thousands of INTERNAL failures at once few are logged, each with the id that its caller gets."""
    statuses = [to_status(ZeroDivisionError()) for _ in range(3000)]
    logged = lines()
    assert 0 < len(logged) < len(statuses)
    told = {status.details for status in statuses}
    assert {f"internal error {line['incident']}" for line in logged} <= told
