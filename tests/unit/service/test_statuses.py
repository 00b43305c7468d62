from service.errors import InvalidInput
from service.rpc.statuses import to_status
from tests.conftest import Lines


def test_internal_failures_do_not_fill_the_log(lines: Lines) -> None:
    """Of thousands of INTERNAL failures at once few are logged, each with the id that its caller gets."""
    statuses = [to_status(ZeroDivisionError()) for _ in range(3000)]
    logged = lines()
    assert 0 < len(logged) < len(statuses)
    told = {status.details for status in statuses}
    assert {f"internal error {line['incident']}" for line in logged} <= told


def test_text_that_is_no_utf_8() -> None:
    """What is no UTF-8 is escaped in all that a status says, its details too."""
    status = to_status(InvalidInput("inputs[\ud800]", "\udcff"))
    assert status.details == "inputs[\\ud800]: \\udcff"
    assert status.message.SerializeToString()
