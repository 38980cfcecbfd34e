"""`examples/distributed.py` and `examples/sharded_data.py`."""

import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from tests.helpers.scaling import EXAMPLES
from tests.helpers.scaling import numbered
from tests.helpers.testing import on_one_backend

SMALL = [
    *("--classes=6", "--steps=3", "--batch-size=4", "--filters=4"),
    *("--capsules=2", "--epochs=3", "--timeout=20"),
]
pytestmark = on_one_backend
# All begin processes of their own, with JAX.
LIMIT = 500


@pytest.fixture
def records(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    from scaling import records

    return records


def command(folder, *options):
    script = str(EXAMPLES / "distributed.py")
    return [sys.executable, script, *SMALL, f"--output={folder}", *options]


def environment(backend="jax"):
    return {
        **os.environ,
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "PYTHONPATH": str(EXAMPLES.parent),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }


def run(folder, *options, backend="jax"):
    return subprocess.run(
        command(folder, *options),
        env=environment(backend),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


def curve(folder):
    progress = json.loads((folder / "progress.json").read_text())
    assert progress["epoch"] == 3
    return [each["loss"] for each in progress["curve"]]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The losses of one process with one device."""
    folder = tmp_path_factory.mktemp("alone")
    finished = run(folder, "--devices=1")
    assert finished.returncode == 0, finished.stderr
    assert "1 processes, 1 devices" in finished.stdout
    return curve(folder)


# examples/distributed.py


@pytest.mark.slow
def test_two_processes_share_the_classes(tmp_path, alone):
    finished = run(
        tmp_path, "--processes=2", "--devices=1", "--model-parallel=2"
    )
    assert finished.returncode == 0, finished.stderr
    assert curve(tmp_path) == pytest.approx(alone, rel=1e-5)
    found = re.search(r"([\d,]+) bytes, ([\d,]+) of them", finished.stdout)
    whole, share = (int(each.replace(",", "")) for each in found.groups())
    assert 0.5 * whole < share < 0.7 * whole


@pytest.mark.slow
def test_two_processes_with_two_devices_each(tmp_path, alone):
    finished = run(
        tmp_path, "--processes=2", "--devices=2", "--model-parallel=2"
    )
    assert finished.returncode == 0, finished.stderr
    assert "2 processes, 4 devices: 2 groups share a batch" in finished.stdout
    assert curve(tmp_path) == pytest.approx(alone, rel=1e-5)


@pytest.mark.slow
def test_two_processes_train_on_files(tmp_path, records):
    """Each on files of its own, unless they share one copy of the network."""

    def examples():
        for number in range(46):
            image = np.zeros((16, 16, 1), "uint8")
            label = number % 6
            image[2 * label : 2 * label + 5, 3 : 9 + label] = 255
            yield image, label

    images = tmp_path / "images"
    records.write(images, examples(), 4, 6)
    losses = {}
    for name, options in (
        ("alone", ["--devices=1"]),
        ("files", ["--processes=2", "--devices=1"]),
        ("classes", ["--processes=2", "--devices=1", "--model-parallel=2"]),
    ):
        finished = run(tmp_path / name, f"--data={images}", *options)
        assert finished.returncode == 0, finished.stderr
        # 46 images in batches of 4; or 23 for each of two, which takes 2.
        assert finished.stdout.count("11/11") == 3
        losses[name] = curve(tmp_path / name)
        assert losses[name][2] < losses[name][0]
    # The same examples in the same order; others.
    assert losses["classes"] == pytest.approx(losses["alone"], rel=1e-5)
    assert losses["files"] != pytest.approx(losses["alone"], rel=1e-3)


def children(process):
    """The numbers of processes that a process began."""
    path = pathlib.Path(f"/proc/{process}/task/{process}/children")
    return [int(each) for each in path.read_text().split()]


def kill_the_second(launcher, folder):
    """Kills process 1 once an epoch is saved."""
    deadline = time.monotonic() + LIMIT
    while not (folder / "progress.json").exists():
        assert launcher.poll() is None, launcher.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for each in children(launcher.pid):
        line = pathlib.Path(f"/proc/{each}/cmdline").read_bytes()
        if b"--process=1" in line.split(b"\0"):
            os.kill(each, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
def test_processes_end_with_the_one_that_began_them(tmp_path):
    (tmp_path / "waits.py").write_text("import time\ntime.sleep(500)\n")
    (tmp_path / "begins.py").write_text(
        "import argparse\n"
        "from scaling import cluster\n"
        "options = argparse.Namespace(processes=3, coordinator='here:1')\n"
        f"cluster.launch({str(tmp_path / 'waits.py')!r}, [], options)\n"
    )
    launcher = subprocess.Popen(
        [sys.executable, tmp_path / "begins.py"],
        env={**environment(), "PYTHONPATH": str(EXAMPLES)},
    )
    deadline = time.monotonic() + LIMIT
    while len(begun := children(launcher.pid)) < 3:
        assert launcher.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    launcher.terminate()
    assert launcher.wait(LIMIT) == 128 + signal.SIGTERM
    assert not any(pathlib.Path(f"/proc/{each}").exists() for each in begun)


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
def test_a_process_is_lost_and_training_goes_on(tmp_path, alone):
    options = ["--processes=2", "--devices=1", "--model-parallel=2"]
    # So long that it is not over before the second process is killed.
    long = ["--steps=3", "--epochs=3000"]
    launcher = subprocess.Popen(
        [*command(tmp_path, *options), *long],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    kill_the_second(launcher, tmp_path)
    _, errors = launcher.communicate(timeout=LIMIT)
    assert launcher.returncode == 1
    assert "Process 1 of 2 was killed by signal 9. Run the same" in errors
    # A connection broke, or JAX noticed the silence first and ended it.
    assert "Process 0 cannot go on" in errors or "task died" in errors, errors

    # As few epochs are asked for as are quickly done.
    path = tmp_path / "progress.json"
    progress = json.loads(path.read_text())
    assert progress["epoch"] >= 1
    assert [x["loss"] for x in progress["curve"]][:3] == pytest.approx(
        alone[: progress["epoch"]], rel=1e-5
    )
    last = progress["epoch"] + 1
    finished = run(tmp_path, "--devices=1", f"--epochs={last}")
    assert finished.returncode == 0, finished.stderr
    assert f"Going on after epoch {last - 1}." in finished.stdout
    after = json.loads(path.read_text())
    assert after["epoch"] == last
    if last <= 3:
        losses = [each["loss"] for each in after["curve"]]
        assert losses == pytest.approx(alone[:last], rel=1e-5)


@pytest.mark.parametrize(
    ("options", "backend", "message"),
    [
        (
            ["--processes=2", "--process=2"],
            "jax",
            "Expected a number of a process from 0 to 1.*process=2",
        ),
        (
            ["--processes=2", "--process=1"],
            "jax",
            "Expected --coordinator host:port",
        ),
        (
            ["--cluster", "--processes=2"],
            "jax",
            "Expected neither --processes nor --process",
        ),
    ],
)
def test_options_that_contradict(options, backend, message, tmp_path, records):
    """Without a process of its own: they are checked first."""
    import argparse

    from scaling import cluster

    parser = argparse.ArgumentParser()
    cluster.add_options(parser)
    with pytest.raises(ValueError, match=message):
        cluster.check(parser.parse_args(options))


@pytest.mark.parametrize(
    ("processes", "devices", "model_parallel", "expected"),
    [
        (2, 2, 1, [(0, 2), (1, 2)]),
        (2, 2, 2, [(0, 2), (1, 2)]),
        (2, 1, 2, [(0, 1), (0, 1)]),
        (4, 1, 2, [(0, 2), (0, 2), (1, 2), (1, 2)]),
        (2, 3, 6, [(0, 1), (0, 1)]),
        (3, 2, 3, None),
        (2, 3, 2, None),
    ],
)
def test_which_part_of_a_batch(
    processes, devices, model_parallel, expected, records, monkeypatch
):
    """A copy of the model needs one part, whoever has its devices."""
    import jax
    from scaling import cluster

    shape = (processes * devices // model_parallel, model_parallel)
    mesh = types.SimpleNamespace(shape=shape)
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    monkeypatch.setattr(jax, "local_device_count", lambda: devices)
    found = []
    for number in range(processes):
        monkeypatch.setattr(jax, "process_index", lambda number=number: number)
        if expected is None:
            message = (
                f"divisor or a multiple of {devices}, .* Received: "
                f"model_parallel={model_parallel}"
            )
            with pytest.raises(ValueError, match=message):
                cluster.share(mesh)
        else:
            found.append(cluster.share(mesh))
    assert found == (expected or [])


def test_slurm_shows_each_task_all_gpus_of_its_node():
    """JAX takes the one with the number of the task on its node."""
    page = EXAMPLES.parent / "docs" / "many_devices.md"
    command = re.search(r"    (srun(?:.*\\\n)*.*)", page.read_text())[1]
    options = dict(re.findall(r"--([\w-]+)=(\w+)", command))
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert "gpus-per-task" not in options


def of_old_jax(address, number, process, initialization_timeout=300):
    """The arguments of `jax.distributed.initialize` in JAX 0.4.34."""


def of_new_jax(
    address,
    number,
    process,
    initialization_timeout=300,
    heartbeat_timeout_seconds=100,
    shutdown_timeout_seconds=300,
):
    """The arguments of `jax.distributed.initialize` in JAX 0.10.2."""


@pytest.mark.parametrize("initialize", [of_old_jax, of_new_jax])
def test_every_jax_that_is_supported(initialize, records, monkeypatch):
    """`jax_num_cpu_devices` is an option since JAX 0.5."""
    import argparse

    import jax
    import keras
    from scaling import cluster

    found, options = {}, {"jax_cpu_collectives_implementation": None}

    def update(name, value):
        assert name in options
        options[name] = value

    def initialize_and_keep(*arguments, **timeouts):
        initialize(*arguments, **timeouts)
        found.update(timeouts)

    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(jax.config, "update", update)
    initialize_and_keep.__wrapped__ = initialize  # has its signature
    monkeypatch.setattr(jax.distributed, "initialize", initialize_and_keep)
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    parser = argparse.ArgumentParser()
    cluster.add_options(parser)
    given = ["--processes=2", "--process=1", "--coordinator=here:1"]
    cluster.join(parser.parse_args([*given, "--devices=3", "--timeout=7"]))
    assert options == {"jax_cpu_collectives_implementation": "gloo"}
    assert set(found.values()) == {7}
    assert len(found) == (1 if initialize is of_old_jax else 3)
    assert os.environ["XLA_FLAGS"] == (
        "--xla_backend_optimization_level=0 "
        "--xla_force_host_platform_device_count=3"
    )


def test_a_run_goes_on_with_its_data_only(records, tmp_path, monkeypatch):
    import distributed

    for name in ("join", "check_same"):
        monkeypatch.setattr(distributed.cluster, name, lambda *_: None)
    # Trains an epoch.
    monkeypatch.setattr(
        distributed,
        "train",
        lambda _, progress, folder: progress.write(folder),
    )
    for folder, seed in (("images", 3), ("others", 4)):
        records.write(tmp_path / folder, numbered(9, seed), 2, 9)
    for first, second in (
        ([], ["--data", str(tmp_path / "images")]),
        (
            ["--data", str(tmp_path / "images")],
            ["--data", str(tmp_path / "others")],
        ),
    ):
        output = ["--output", str(tmp_path / f"run-{len(first)}")]
        distributed.main([*first, *output])
        # More epochs and other places change nothing of the epochs before.
        distributed.main([*first, *output, "--epochs=9", "--timeout=7"])
        with pytest.raises(ValueError, match="other settings.* Expected data="):
            distributed.main([*second, *output])
    shutil.move(tmp_path / "images", tmp_path / "moved")
    distributed.main(["--data", str(tmp_path / "moved"), *output])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "backend", "message"),
    [
        ([], "tensorflow", "Expected the environment variable KERAS_BACKEND"),
        (["--devices=2", "--model-parallel=3"], "jax", "a divisor of 2"),
        (["--devices=3"], "jax", "Expected a multiple of 3, the number of dev"),
        (["--data=nowhere"], "jax", "There are no images.*'nowhere'"),
    ],
)
def test_runs_that_cannot_be(options, backend, message, tmp_path):
    finished = run(tmp_path, *options, backend=backend)
    assert finished.returncode == 1
    assert re.search(message, finished.stderr), finished.stderr
    assert not list(tmp_path.glob("*.npz"))


# examples/sharded_data.py


@pytest.fixture
def sharded_data(records):
    import sharded_data

    return sharded_data


def test_training_on_files(sharded_data, tmp_path, capsys):
    images = ["--folder", str(tmp_path / "images")]
    written = sharded_data.main([*images, "--write=50", "--shards=4"])
    assert len(written["files"]) == 4
    options = [
        *images,
        *("--batch-size=8", "--epochs=2", "--processes=2", "--process=1"),
        f"--output={tmp_path / 'run'}",
    ]
    progress = sharded_data.main(options)
    printed = capsys.readouterr().out
    assert progress.epoch == 2
    for logs in progress.curve:
        assert 0 < logs["waiting"] < 1
        assert logs["seconds"] > 0
        assert f"{logs['waiting']:.1%} of {logs['seconds']:.1f} s" in printed
    assert "Epoch 2: 3 steps" in printed
    # Networks of other processes are kept elsewhere.
    path = tmp_path / "run" / "process-1-of-2" / "progress.json"
    state = json.loads(path.read_text())
    assert [x.name for x in path.parent.glob("*.npz")] == ["state-0002.npz"]
    with pytest.raises(ValueError, match="There is a run of other settings"):
        sharded_data.main([*options, "--seed=1"])
    # As many images, but others.
    sharded_data.main([*images, "--write=50", "--shards=4", "--seed=1"])
    with pytest.raises(ValueError, match="of other settings.*Expected data="):
        sharded_data.main(options)
    assert json.loads(path.read_text()) == state


def test_training_on_files_goes_on(sharded_data, tmp_path, monkeypatch, capsys):
    images = ["--folder", str(tmp_path / "images")]
    sharded_data.main([*images, "--write=40", "--shards=2"])
    options = [*images, "--batch-size=8", "--epochs=2"]
    expected = sharded_data.main([*options, f"--output={tmp_path / 'whole'}"])
    fit, calls = sharded_data.fit_and_measure, []

    def once(*arguments):
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fit(*arguments)

    monkeypatch.setattr(sharded_data, "fit_and_measure", once)
    options.append(f"--output={tmp_path / 'cut'}")
    with pytest.raises(KeyboardInterrupt):
        sharded_data.main(options)
    progress = sharded_data.main(options)
    assert "Going on after epoch 1." in capsys.readouterr().out
    losses = [each["loss"] for each in progress.curve]
    assert losses == pytest.approx([x["loss"] for x in expected.curve], 1e-5)


def test_epochs_that_are_kept(sharded_data, tmp_path, monkeypatch, capsys):
    """A finished training goes on, unless it diverged."""
    images = ["--folder", str(tmp_path / "images")]
    sharded_data.main([*images, "--write=40", "--shards=2"])
    options = [*images, "--batch-size=8"]
    expected = sharded_data.main(
        [*options, "--epochs=2", f"--output={tmp_path / 'whole'}"]
    )
    run = tmp_path / "run"
    options.append(f"--output={run}")
    sharded_data.main([*options, "--epochs=1"])
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert before.keys() == {"progress.json", "state-0001.npz"}
    fit = sharded_data.fit_and_measure
    monkeypatch.setattr(
        sharded_data,
        "fit_and_measure",
        lambda *arguments: {**fit(*arguments), "loss": float("nan")},
    )
    message = "diverged in epoch 2, which is not kept.* Received: loss=nan"
    with pytest.raises(ValueError, match=message):
        sharded_data.main([*options, "--epochs=2"])
    assert before == {path.name: path.read_bytes() for path in run.iterdir()}
    monkeypatch.undo()
    progress = sharded_data.main([*options, "--epochs=2"])
    losses = [each["loss"] for each in progress.curve]
    assert losses == pytest.approx([x["loss"] for x in expected.curve], 1e-5)
    # Fewer epochs than there are change nothing.
    assert sharded_data.main([*options, "--epochs=1"]) == progress
    assert f"2 epochs are done, saved in {run}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("script", "option"),
    [
        *itertools.product(
            ("distributed", "sharded_data"),
            [
                *("--epochs=0", "--epochs=many", "--batch-size=0"),
                *("--batch-size=-4", "--processes=0", "--seed=-1"),
            ],
        ),
        *itertools.product(
            ("distributed",),
            [
                *("--steps=0", "--classes=0", "--filters=0", "--devices=0"),
                *("--model-parallel=0", "--timeout=0"),
            ],
        ),
        *itertools.product(("sharded_data",), ["--write=0", "--shards=0"]),
    ],
)
def test_options_that_are_no_numbers(script, option, records, capsys):
    name, value = option.split("=")
    module = __import__(script)
    with pytest.raises(SystemExit) as ended:
        module.main([option])
    assert ended.value.code == 2
    least = 0 if name == "--seed" else 1
    message = (
        f"argument {name}: Expected an integer of at least {least}. "
        f"Received: '{value}'"
    )
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--process=1"], "Expected a number of a process from 0 to 0"),
        ([], "There are no images"),
    ],
)
def test_options_of_files(options, message, sharded_data, tmp_path):
    with pytest.raises(ValueError, match=message):
        sharded_data.main([f"--folder={tmp_path / 'images'}", *options])
    assert list(tmp_path.iterdir()) == []


def test_figures_of_an_epoch_are_those_of_all_batches(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    from sharded_data import fit_and_measure

    class Model:
        def train_on_batch(self, x, y, return_dict):
            return {"loss": float(x.sum())}

    batches = [(np.full(2, each), np.zeros(2)) for each in (1.0, 2.0, 6.0)]
    assert fit_and_measure(Model(), batches)["loss"] == 6.0
