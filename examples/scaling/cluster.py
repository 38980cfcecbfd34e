"""Processes that train one model together, on this machine or on several."""

import contextlib
import inspect
import math
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import keras
import numpy as np
from jax.experimental import multihost_utils

from scaling import options


def add_options(parser):
    """Adds the options of a process and of those that it works with."""
    add, positive = parser.add_argument, options.at_least(1)
    add("--processes", type=positive, default=1, help="how many train together")
    add("--process", type=int, help="number of this one; else all start here")
    add("--coordinator", help="address of process 0, host:port")
    add("--cluster", action="store_true", help="ask Slurm, Open MPI or a TPU")
    add("--devices", type=positive, help="of a CPU, for each process")
    add(
        "--timeout",
        type=positive,
        default=100,
        help="seconds until one counts as lost",
    )


def check(arguments):
    """Raises if the options of the processes contradict each other."""
    number, process = arguments.processes, arguments.process
    if arguments.cluster and (number > 1 or process is not None):
        raise ValueError(
            "With --cluster, the scheduler knows the processes. Expected "
            "neither --processes nor --process. Received: "
            f"processes={number}, process={process}"
        )
    if process is None:
        return
    if not 0 <= process < number:
        raise ValueError(
            f"Expected a number of a process from 0 to {number - 1}, one less "
            f"than --processes. Received: process={process}"
        )
    if arguments.coordinator is None:
        raise ValueError(
            "Processes find each other at the address of process 0. Expected "
            "--coordinator host:port. Received: coordinator=None"
        )


def is_launcher(arguments):
    """Whether this process only starts others."""
    return arguments.processes > 1 and arguments.process is None


def launch(script, options, arguments):
    """Runs all processes on this machine, until they end.

    Args:
        script: Path of the Python script.
        options: List of strings, which each process gets.
        arguments: What `add_options` parsed.

    Raises:
        RuntimeError: If one of them fails. Then the others are ended, too, as
            they are if this process is.
    """
    # Without this, the signal would end this process alone. Until all processes
    # are known, it waits.
    ended = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    coordinator = arguments.coordinator or f"127.0.0.1:{_free_port()}"
    started = []
    try:
        for number in range(arguments.processes):
            command = [sys.executable, script, *options, f"--process={number}"]
            command += [f"--coordinator={coordinator}"]
            started.append(subprocess.Popen(command))
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        if ended:
            sys.exit(128 + ended[0])
        codes = _wait(started)
        if any(codes):
            # The others notice by themselves, and say so.
            with contextlib.suppress(subprocess.TimeoutExpired):
                for each in started:
                    each.wait(timeout=2 * arguments.timeout + 10)
    finally:
        for each in started:
            if each.poll() is None:
                each.kill()
                each.wait()
    for number, code in enumerate(codes):
        if code:
            how = f"was killed by signal {-code}" if code < 0 else "failed"
            raise RuntimeError(f"Process {number} of {len(codes)} {how}")


def _wait(started):
    """Exit codes, once all have ended or one has failed."""
    while True:
        codes = [each.poll() for each in started]
        if any(codes) or None not in codes:
            return codes
        time.sleep(0.1)


def _free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def join(arguments):
    """Makes the devices of all processes one machine to JAX.

    Call it before anything is computed. A process that is lost is noticed by
    the others after `timeout` seconds at most, which then end with an error.
    JAX before 0.7 has 100 seconds of its own instead.
    """
    if keras.backend.backend() != "jax":
        raise ValueError(
            "Keras spreads a model over devices on JAX. Expected the "
            "environment variable KERAS_BACKEND=jax. Received: backend="
            f"{keras.backend.backend()!r}"
        )
    if arguments.devices:
        # JAX reads it when it first looks for devices. Its own option for that
        # came with JAX 0.5.
        flag = f"--xla_force_host_platform_device_count={arguments.devices}"
        flags = [os.environ.get("XLA_FLAGS", ""), flag]
        os.environ["XLA_FLAGS"] = " ".join(flags).strip()
    if arguments.processes == 1 and not arguments.cluster:
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    initialize = jax.distributed.initialize
    known = inspect.signature(initialize).parameters
    timeouts = (
        "initialization_timeout",
        "heartbeat_timeout_seconds",
        "shutdown_timeout_seconds",
    )
    initialize(
        arguments.coordinator,
        None if arguments.cluster else arguments.processes,
        arguments.process,
        **{name: arguments.timeout for name in timeouts if name in known},
    )


def mesh(model_parallel):
    """All devices, so many of them along the axis `"model"`.

    The devices of a process are beside each other.
    """
    devices = keras.distribution.list_devices()
    if model_parallel < 1 or len(devices) % model_parallel:
        raise ValueError(
            f"Expected a divisor of {len(devices)}, the number of devices. "
            f"Received: model_parallel={model_parallel}"
        )
    shape = (len(devices) // model_parallel, model_parallel)
    return keras.distribution.DeviceMesh(shape, ["batch", "model"], devices)


def share(mesh):
    """Which part of each batch this process needs.

    Processes that hold parts of the same copy of the model need the same
    examples.

    Returns:
        The number of the part, and how many there are.

    Raises:
        ValueError: If a process has devices of several copies, but not all
            devices of each. It would need other examples for each of them.
    """
    local, model_parallel = jax.local_device_count(), mesh.shape[1]
    if local % model_parallel and model_parallel % local:
        raise ValueError(
            "Processes would hold parts of several copies of the model. "
            f"Expected a divisor or a multiple of {local}, the number of "
            "devices of a process. Received: "
            f"model_parallel={model_parallel}"
        )
    number = jax.process_count()
    parts = min(number, mesh.shape[0])
    return jax.process_index() * parts // number, parts


def check_same(value, message):
    """Raises a `ValueError` if the processes have different integers."""
    found = multihost_utils.process_allgather(np.array(value))
    if np.any(found != value):
        raise ValueError(f"{message} Received: {np.ravel(found).tolist()}")


def gathered(variable):
    """The whole value of a variable. All processes must ask for it."""
    value = variable.value
    if value.is_fully_addressable or value.is_fully_replicated:
        return np.asarray(value)
    return multihost_utils.process_allgather(value, tiled=True)


def share_of_a_device(variables):
    """The bytes of variables that each device holds."""
    return sum(
        math.prod(each.value.sharding.shard_shape(each.value.shape))
        * each.value.dtype.itemsize
        for each in variables
    )
