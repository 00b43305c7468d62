"""One tuning of a real file, with sessions of known speed and, once, with its real ones."""

import itertools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import typer

from service import cores, hosts, tuned
from service.errors import ModelRejected, SetupError
from service.manifest import KEY, read_manifest
from service.session import check_runtime
from service.tune import command, kinds, show
from service.tune.cli import tune as tune_command
from service.tune.command import Task
from service.tune.running import Open, Running, opener
from service.tune.settings import Kind, Setting
from tests.fake_ort import CPU, OPENVINO, TENSORRT, FakeRuntime, Port
from tests.onnx_models import LABELS, probabilities, weights, write_model

HOST = hosts.host_type(cores.count(), check_runtime())


def runtime(*built: str) -> FakeRuntime:
    """Return a fake of ONNX Runtime with these providers, which answers as the linear model does."""
    return FakeRuntime(
        lambda batch: probabilities(batch, weights()),
        inputs=[Port("image", "tensor(uint8)", ["N", 8, 8, 1])],
        outputs=[Port("probabilities", "tensor(float)", ["N", len(LABELS)])],
        built=built,
        loads=built,
    )


class _Steady:
    buckets = (1, 2, 4, 8)

    def __init__(self, rate: float, tick: Any) -> None:  # noqa: ANN401 - a counter
        self._rate, self._tick = rate, tick

    def rate(self, batch: int, seconds: float) -> float:
        next(self._tick)
        return self._rate

    def latency(self, seconds: float) -> float:
        next(self._tick)
        return 1 / self._rate


def known(tick: Any, **rates: float) -> Open:  # noqa: ANN401 - a counter
    """Return what opens settings whose rates are known by provider, three tenths less for all but one instance."""

    @contextmanager
    def opened(setting: Setting) -> Iterator[Running]:
        plain = setting.instances == 1 and setting.threads == cores.count()
        yield _Steady(rates[setting.kind.provider] * (1 if plain else 0.7), tick)

    return opened


def tune(
    repository: Path, *, version: int = 0, limit: float = 1000, fake: FakeRuntime | None = None, **rates: float
) -> list[command.Result]:
    """Tune the linear model with known speeds on a clock of whole seconds."""
    clock = itertools.count()
    wanted = kinds.Wanted(onnxruntime=fake)
    task = Task(repository, "linear", version, wanted, limit=limit)
    return command.run(task, open_setting=known(clock, **rates), clock=lambda: float(next(clock)))


def with_verdict(path: Path, precision: str, drop: float = 0.0) -> None:
    """Write a verdict on a precision on TensorRT into a file's manifest."""
    model, manifest = onnx.load(path), read_manifest(path)
    verdict = {
        "provider": "tensorrt", "precision": precision, "data": "random", "split": "test", "pictures": 10,
        "accuracy": 0.9 - drop, "reference_accuracy": 0.9, "max_drop": 0.5, "agreement": 1, "largest_difference": 0,
        "mean_difference": 0, "calibration_error": 0, "reference_calibration_error": 0, "images_per_second": 1,
        "reference_images_per_second": 1,
    }  # fmt: skip
    fields = manifest.model_dump(mode="json") | {"verdicts": [verdict]}
    onnx.helper.set_model_props(model, {KEY: json.dumps(fields)})
    onnx.save(model, path)


def test_the_faster_provider_is_stored(repository: Path) -> None:
    """What is best of a version is stored beside its file, with the file's hash, for this kind of machine."""
    [result] = tune(repository, fake=runtime(OPENVINO, CPU), openvino=100, cpu=150)
    assert "stored in" in command.write(result, "throughput")
    entry = tuned.read(repository / "linear/1").hosts[HOST]
    assert (entry.provider, entry.instances, entry.intra_op_threads) == ("cpu", 1, cores.count())
    assert entry.gain == pytest.approx(1.5)
    assert len(entry.sha256) == 64


def test_the_default_is_not_stored(repository: Path) -> None:
    """Where nothing is better than the default an older entry goes: it would be wrong by now."""
    [result] = tune(repository, fake=runtime(OPENVINO, CPU), openvino=100, cpu=150)
    command.write(result, "throughput")
    [result] = tune(repository, fake=runtime(OPENVINO, CPU), openvino=100, cpu=90)
    assert "the default is best" in command.write(result, "throughput")
    assert not (repository / "linear/1/tuned.json").exists()


def test_what_was_tuned_for_a_provider_is_for_its_servers(repository: Path) -> None:
    """What is best of the CPU is an entry apart: it says nothing of what is best of all, whose entry stays."""
    [result] = tune(repository, fake=runtime(OPENVINO, CPU), openvino=100, cpu=150)
    command.write(result, "throughput")
    command.write(result, "latency", "cpu")
    stored = tuned.read(repository / "linear/1").hosts
    assert {name: entry.goal for name, entry in stored.items()} == {
        HOST: "throughput",
        f"{HOST}, --provider cpu": "latency",
    }


def test_options_are_not_stored(repository: Path) -> None:
    """With options the default that is compared with is no server's own: --write refuses them before it measures."""
    with pytest.raises(typer.BadParameter, match="servers without options"):
        tune_command(str(repository / "linear"), provider="cpu", provider_options="spinning=true", write=True)


def test_a_smaller_default_is_not_compared_with(repository: Path) -> None:
    """With batches smaller than the server's own default --write is refused before anything is measured."""
    with pytest.raises(
        typer.BadParameter, match=r"31 is too small: .*whose largest batch is 32; try as many"
    ) as caught:
        tune_command(str(repository / "linear"), max_batch_size=31, write=True)
    assert caught.value.param_hint == "--max-batch-size"


def test_an_older_entry_stays_while_nothing_is_decided(repository: Path) -> None:
    """Where too little was measured to say that the default is best the older entry stays."""
    [result] = tune(repository, fake=runtime(OPENVINO, CPU), openvino=100, cpu=150)
    command.write(result, "throughput")
    [result] = tune(repository, limit=8, fake=runtime(OPENVINO, CPU), openvino=100, cpu=90)
    assert "too little was measured" in command.write(result, "throughput")
    assert HOST in tuned.read(repository / "linear/1").hosts


def test_no_time_beside_the_default(repository: Path) -> None:
    """What was faster in the looks and had no round is no reason to call the default the fastest."""
    [result] = tune(repository, fake=runtime(OPENVINO, CPU), openvino=100, cpu=150)
    assert result.outcome is not None
    result.outcome.tried["throughput"] = replace(result.outcome.tried["throughput"], gains=())
    [_, why, *_] = show.lines(Task(repository, "linear"), [result])
    assert why.startswith("  the default is kept: no time to run it in turns with cpu")


def test_a_default_that_fails_leaves_the_others(repository: Path) -> None:
    """A version whose default does not run is left out with the reason; what was measured of others stays."""
    write_model(repository / "linear/2")
    ticks = itertools.count()

    @contextmanager
    def opened(setting: Setting) -> Iterator[Running]:
        if setting.kind.version == 1:
            raise ModelRejected("too little memory")
        yield _Steady(100, ticks)

    task = Task(repository, "linear", 0, kinds.Wanted(onnxruntime=runtime(CPU)), limit=1000)
    results = command.run(task, open_setting=opened, clock=lambda: float(next(ticks)))
    assert [(result.version, result.outcome is None) for result in results] == [(2, False), (1, True)]
    assert "too little memory" in results[1].left_out[-1]


def test_weights_beside_the_graph_count(repository: Path) -> None:
    """The size of a model is that of its graph and of the files that hold its weights."""
    path = repository / "linear/1/model.onnx"
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    weights_size = (path.parent / "weights").stat().st_size
    assert weights_size
    assert command.files_size(path) == path.stat().st_size + weights_size


def tried(repository: Path, *, allow: bool = False) -> tuple[list[tuple[str, bool]], str]:
    """Return what a version is computed in on TensorRT, and whether unverified; and why not in other ways."""
    fake = runtime(TENSORRT, CPU)
    found = kinds.find(
        repository / "linear/1/model.onnx", 1, kinds.Wanted("tensorrt", allow_unverified=allow, onnxruntime=fake)
    )
    return [(each.precision, each.unverified) for each in found.kinds], "; ".join(found.left_out)


def test_a_hint_needs_a_verdict(repository: Path) -> None:
    """TensorRT's fp16 is left out with the reason while its accuracy was not measured, or is over the limit."""
    computed, why = tried(repository)
    assert computed == [("tf32", False)]
    assert "tensorrt precision=fp16: what fp16 costs in accuracy was not measured" in why
    with_verdict(repository / "linear/1/model.onnx", "fp16", drop=0.1)
    computed, why = tried(repository)
    assert computed == [("tf32", False)]
    assert "tensorrt precision=fp16: fp16 costs 10.00 points of accuracy" in why


def test_a_hint_with_a_verdict(repository: Path) -> None:
    """With a passing verdict the hint is tried; the others still are not."""
    with_verdict(repository / "linear/1/model.onnx", "fp16")
    computed, why = tried(repository)
    assert computed == [("tf32", False), ("fp16", False)]
    assert "precision=bf16" in why


def test_asked_for_unverified(repository: Path) -> None:
    """--allow-unverified tries hints without a verdict, and marks them."""
    assert tried(repository, allow=True) == ([("tf32", False), ("fp16", True), ("bf16", True)], "")


def test_an_unverified_setting_is_not_stored(repository: Path) -> None:
    """A setting that only --allow-unverified serves stays out of tuned.json."""
    [result] = tune(repository, fake=runtime(OPENVINO, CPU), openvino=100, cpu=150)
    assert result.outcome is not None
    setting = result.outcome.choice("throughput").best.setting
    doubted = Kind(setting.kind.path, 1, "cpu", "", "bf16", unverified=True)
    result.outcome.choice("throughput").best.setting = Setting(doubted, 1, 1)
    assert "only --allow-unverified serves it" in command.write(result, "throughput")
    assert not (repository / "linear/1/tuned.json").exists()


def test_versions_at_hand(repository: Path) -> None:
    """The three highest versions are tuned; of two as fast the higher is best, a lower one only where it is faster."""
    for number in (2, 3, 4):
        write_model(repository / f"linear/{number}")
    results = tune(repository, fake=runtime(CPU), cpu=100)
    assert [result.version for result in results] == [4, 3, 2]
    assert command.best(results, "throughput")[0].version == 4
    assert [result.version for result in tune(repository, version=1, fake=runtime(CPU), cpu=100)] == [1]


def test_what_fails_its_self_test_is_not_measured(repository: Path) -> None:
    """A version that answers wrongly here is left out with the reason; alone it is the error."""
    write_model(repository / "linear/2", wrong_by=0.5)
    results = tune(repository, fake=runtime(CPU), cpu=100)
    assert [(result.version, result.outcome is None) for result in results] == [(2, True), (1, False)]
    assert "self-test" in results[0].left_out[0]
    with pytest.raises(ModelRejected, match="nothing can be measured: version 2: cpu: self-test"):
        tune(repository, version=2, fake=runtime(CPU), cpu=100)


def test_no_such_model(repository: Path) -> None:
    """A name or a version that is not there is an error that says what is."""
    with pytest.raises(SetupError, match=r"no model 'squares' in .*; there are: linear"):
        command.find_model("squares", repository)
    with pytest.raises(SetupError, match="no version 7 of 'linear'; there are: 1"):
        tune(repository, version=7, cpu=1)
    with pytest.raises(
        SetupError, match=r"models holds no version of a model; name one of its models: .*models/linear"
    ):
        command.find_model(str(repository), None)
    assert command.find_model(str(repository / "linear"), None) == (repository, "linear")


def test_what_is_said(repository: Path) -> None:
    """The command line for each goal, how sure it is, and what was left out."""
    [result] = tune(repository, fake=runtime(OPENVINO, CPU), openvino=100, cpu=150)
    task = Task(repository, "linear")
    said = show.lines(task, [result])
    assert said[0].startswith(f"throughput: saccade serve --repository {repository} --provider cpu --instances 1")
    assert said[1] == "  1.50 times as good as the default (1.50 to 1.50 times as good in 7 rounds in turns)"
    assert any("left out: openvino precision=bf16" in line for line in said)
    told = show.to_json(task, [result])
    assert told["best"]["throughput"]["command"] == said[0].removeprefix("throughput: ")
    assert json.dumps(told)


def test_the_default_is_said_as_it_was_measured(repository: Path) -> None:
    """Where the default is best its command has what the tuning was asked for: else another would be served."""
    [result] = tune(repository, fake=runtime(OPENVINO, CPU), openvino=100, cpu=90)
    plain = f"throughput: saccade serve --repository {repository}"
    assert show.lines(Task(repository, "linear"), [result])[0] == plain
    asked = kinds.Wanted(provider="openvino", provider_options="precision=fp32 threads=2")
    task = Task(repository, "linear", wanted=asked, max_batch_size=8)
    assert show.lines(task, [result])[0].startswith(
        f"{plain} --provider openvino --provider-options 'precision=fp32 threads=2' --max-batch-size "
    )


def test_a_file_that_changed_is_not_stored(repository: Path) -> None:
    """What was measured of a file that is another one by now is not stored as that one's."""
    [result] = tune(repository, fake=runtime(OPENVINO, CPU), openvino=100, cpu=150)
    with_verdict(result.path, "fp16")
    assert "its files changed" in command.write(result, "throughput")
    assert not (repository / "linear/1/tuned.json").exists()


def test_real_sessions(repository: Path) -> None:
    """With real sessions every setting gives rates, and nothing that was measured failed."""
    task = Task(repository, "linear", limit=2, max_batch_size=4)
    [result] = command.run(task, clock=time.monotonic)
    assert result.outcome is not None
    assert all(each.rates and not each.failed for each in result.outcome.measured)


def test_every_instance_is_busy(repository: Path) -> None:
    """Of two instances both run, each on a thread of its own, and what one does counts as well as the other."""
    kind = Kind(repository / "linear/1/model.onnx", 1, "cpu", "", "fp32")
    fake = runtime(CPU)
    with opener(4, fake)(Setting(kind, 2, 1)) as running:
        assert running.buckets == [1, 2, 4]
        assert running.rate(4, 0) > 0
    threads = [{run.thread for run in session.runs if run.size == 4} for session in fake.sessions]
    assert len(threads) == 2
    assert threads[0].isdisjoint(threads[1])


def test_what_fails_while_it_runs_is_rejected(repository: Path) -> None:
    """ONNX Runtime's own error while a setting is measured becomes a reason not to take it."""
    kind = Kind(repository / "linear/1/model.onnx", 1, "cpu", "", "fp32")
    with (
        pytest.raises(ModelRejected, match="it cannot run the model"),
        opener(4, runtime(CPU))(Setting(kind, 1, 1)),
    ):
        raise RuntimeError("Failed to allocate memory for requested buffer")
