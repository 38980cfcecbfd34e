"""`examples/distributed.py` and `examples/sharded_data.py`."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.helpers.testing import on_one_backend

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
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

    # As if the command had had as few epochs.
    path = tmp_path / "progress.json"
    progress = json.loads(path.read_text())
    assert progress["epoch"] >= 1
    assert [x["loss"] for x in progress["curve"]][:3] == pytest.approx(
        alone[: progress["epoch"]], rel=1e-5
    )
    last = progress["epoch"] + 1
    progress["settings"]["epochs"] = last
    path.write_text(json.dumps(progress))
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
        (["--devices=0"], "jax", "positive integer. Received: devices=0"),
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


# examples/scaling/records.py


def numbered(number):
    """Images that tell their numbers."""
    for each in range(number):
        image = np.full((3, 2, 1), each, "uint8")
        image[0, 0] = each // 2
        yield image, each % 5


@pytest.fixture
def folder(records, tmp_path):
    contents = records.write(tmp_path / "images", numbered(47), 6, 5)
    assert sum(contents["files"].values()) == 47
    assert contents == records.contents_of(tmp_path / "images")
    return tmp_path / "images"


def read(records, folder, *arguments, **options):
    """The numbers of the images, in order."""
    numbers = []
    for images, labels in records.read(folder, 4, *arguments, **options):
        images = np.round(255 * images.numpy()).astype(int)
        found = images[:, 1, 1, 0]
        np.testing.assert_array_equal(images[:, 0, 0, 0], found // 2)
        np.testing.assert_array_equal(labels, found % 5)
        numbers += found.tolist()
    return numbers


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_every_image_once_in_each_epoch(parts, records, folder):
    orders = []
    for epoch in range(2):
        shares = [
            read(records, folder, part, parts, epoch) for part in range(parts)
        ]
        assert min(map(len, shares)) > 0
        assert sorted(sum(shares, [])) == list(range(47))
        orders.append(shares)
    # Processes keep their files, in another order.
    assert orders[0] != orders[1]
    assert [set(x) for x in orders[0]] == [set(x) for x in orders[1]]


def test_orders(records, folder):
    first = read(records, folder, epoch=1)
    assert first == read(records, folder, epoch=1)
    assert first != read(records, folder, epoch=1, seed=1)
    assert first != list(range(47))
    assert sorted(read(records, folder, shuffle=1)) == list(range(47))


def test_steps(records, folder):
    contents = records.contents_of(folder)
    assert records.steps(contents, 4, 1) == 11
    assert records.steps(contents, 4, 2) == 5  # 24 and 23 images
    with pytest.raises(ValueError, match="at most 23. Received: batch_size=24"):
        records.steps(contents, 24, 2)
    with pytest.raises(ValueError, match="at least 7 files.*Received: 6 files"):
        records.steps(contents, 1, 7)


def test_wrong_folders(records, folder, tmp_path):
    with pytest.raises(ValueError, match="There are no images. Expected a fol"):
        records.contents_of(tmp_path)
    with pytest.raises(ValueError, match="Expected at least 7 files"):
        records.read(folder, 4, 0, 7)
    (folder / "images-00002-of-00006.tfrecord").unlink()
    with pytest.raises(ValueError, match="without images-00002-of-00006"):
        records.read(folder, 4)


def test_too_few_images_leave_no_folder(records, tmp_path):
    with pytest.raises(ValueError, match="of 6 files. Received: 5 images"):
        records.write(tmp_path / "images", numbered(5), 6, 5)
    assert list(tmp_path.iterdir()) == []


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
    # As if it had been killed in the second epoch.
    path = tmp_path / "run" / "progress.json"
    state = json.loads(path.read_text())
    assert [x.name for x in path.parent.glob("*.npz")] == ["state-0002.npz"]
    with pytest.raises(ValueError, match="There is a run of other settings"):
        sharded_data.main([*options, "--seed=1"])
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--write=0"], "Expected positive integers. Received: write=0"),
        (["--write=3", "--shards=0"], "Received: write=3, shards=0"),
        (["--process=1"], "Expected a number of a process from 0 to 0"),
        ([], "There are no images"),
    ],
)
def test_options_of_files(options, message, sharded_data, tmp_path):
    with pytest.raises(ValueError, match=message):
        sharded_data.main([f"--folder={tmp_path / 'images'}", *options])
    assert list(tmp_path.iterdir()) == []
