import json
from pathlib import Path
from typing import get_args

import pytest

from service.config import load_settings
from service.errors import SetupError
from service.providers import (
    OPTIONS,
    CpuOptions,
    CudaOptions,
    OpenVinoOptions,
    Provider,
    ProviderChoice,
    TensorRtOptions,
    options_table,
    parse_options,
)

MANUAL = Path(__file__).parents[3] / "service/session/README.md"


@pytest.mark.parametrize("provider", get_args(Provider))
def test_nothing_said(provider: Provider) -> None:
    """A provider has defaults, and an empty text says nothing."""
    assert OPTIONS[provider]() == OPTIONS[provider].model_validate({})
    assert parse_options(provider, "") == {}


@pytest.mark.parametrize(
    ("choice", "text", "expected"),
    [
        ("cpu", "spinning=true", CpuOptions(spinning=True)),
        ("openvino", "precision=bf16 threads=4", OpenVinoOptions(precision="bf16", threads=4)),
        ("openvino", '{"device": "GPU.1", "cache": "/tmp/c"}', OpenVinoOptions(device="GPU.1", cache=Path("/tmp/c"))),
        ("openvino", "openvino.streams=2", OpenVinoOptions(streams=2)),
        ("auto", "openvino.streams=2", OpenVinoOptions(streams=2)),
        ("auto", '{"openvino": {"streams": 2}}', OpenVinoOptions(streams=2)),
        ("cuda", "devices=0,1 graphs=off", CudaOptions(devices=(0, 1), graphs="off")),
        ("cuda", '{"devices": [2], "memory_limit_mb": 512}', CudaOptions(devices=(2,), memory_limit_mb=512)),
        ("cuda", '{"devices": 1}', CudaOptions(devices=(1,))),
        ("tensorrt", "precision=fp16", TensorRtOptions(precision="fp16")),
    ],
)
def test_said(choice: ProviderChoice, text: str, expected: object) -> None:
    """Pairs and JSON say the same; a provider's name before the dot says whose option it is."""
    assert list(parse_options(choice, text).values()) == [expected]


def test_several_providers() -> None:
    """With `auto` each provider has its own options."""
    said = parse_options("auto", "openvino.precision=bf16 cuda.tf32=1 cuda.devices=3")
    assert said == {"openvino": OpenVinoOptions(precision="bf16"), "cuda": CudaOptions(tf32=True, devices=(3,))}


@pytest.mark.parametrize(
    ("choice", "text", "reason"),
    [
        ("openvino", "precison=bf16", "'precison' is no option of openvino; it has device, precision, threads"),
        ("openvino", "precision=int4", "openvino.precision: Input should be 'fp32', 'bf16' or 'fp16'; it is 'int4'"),
        ("openvino", "device=QPU", "openvino.device: String should match"),
        ("openvino", "cuda.tf32=1", "'cuda.tf32' would be ignored: --provider is openvino"),
        ("openvino", '{"cuda": {"tf32": true}}', "'cuda.tf32' would be ignored"),
        ("auto", "precision=bf16", "whose option is 'precision'? With --provider auto write for example openvino."),
        ("cuda", "tf32", "'tf32' is no key=value pair"),
        ("cuda", "=1", "is no key=value pair"),
        ("cuda", "devices=", "cuda.devices"),
        ("cuda", "devices=-1", "cuda.devices: Input should be greater than or equal to 0"),
        ("cuda", '{"devices": []}', "should have at least 1 item"),
        ("cuda", "{tf32", "it is no JSON"),
        ("cuda", '{"tf32":' * 100_000, "it is no JSON"),
        ("cpu", "threads=2", "'threads' is no option of cpu; it has spinning"),
    ],
)
def test_refused(choice: ProviderChoice, text: str, reason: str) -> None:
    """What is no option, no value of it, or nobody's business is refused with what there is."""
    with pytest.raises(ValueError) as caught:
        parse_options(choice, text)
    assert reason in str(caught.value)


def test_settings_refuse_them() -> None:
    """A wrong option keeps the server from starting, in one sentence that names the flag."""
    with pytest.raises(SetupError) as caught:
        load_settings(provider="openvino", provider_options="precison=bf16")
    assert str(caught.value).startswith(
        "--provider-options (SACCADE_PROVIDER_OPTIONS): 'precison' is no option of openvino; it has device"
    )


def test_settings_take_them() -> None:
    """Right options stay the text that they were."""
    text = json.dumps({"tf32": True})
    assert load_settings(provider="cuda", provider_options=text).provider_options == text


def test_manual() -> None:
    """The manual's tables are what the code says."""
    assert options_table() in MANUAL.read_text(), "run `make readme`"
