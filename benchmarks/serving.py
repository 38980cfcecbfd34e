"""Serves a SavedModel over HTTP and asks it many times at once.

    python benchmarks/serving.py

Exports the trained EfficientCapsNet with preprocessing and the names of its
classes. Uvicorn serves it on loopback, in an environment that does not have
this package (`make formats` makes it). Clients in a process of their own send
uint8 test images of MNIST, one a request, and compare every answer with Keras's
scores. The resident memory of the server is read while they do. Writes
`serving.json`; docs/formats.md tells how to read it.
"""

import concurrent.futures
import json
import os
import pathlib
import statistics
import tempfile
import threading
import time
import urllib.error
import urllib.request

import harness
import numpy as np

# The first requests reserve memory for what comes.
WARM = 0.1


def main():
    parser = harness.parser(__doc__, clients=8, requests=10_000, images=1000)
    add = parser.add_argument
    add("--runtimes", type=pathlib.Path, default=harness.ROOT / ".venv-formats")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        harness.call(export, str(folder), options.images)
        pixels = np.load(folder / "pixels.npy")
        scores = np.load(folder / "scores.npy")
        with serving(options.runtimes, folder / "model") as (port, process):
            found = ask(
                port, process, pixels, scores, options.clients, options.requests
            )
    print(json.dumps(found, indent=1))
    harness.write("serving", found, options.output)


def export(folder, number):
    """Writes a SavedModel, images, and what Keras makes of them."""
    from keras_capsules import datasets
    from keras_capsules import export_saved_model
    from keras_capsules import models

    folder = pathlib.Path(folder)
    model = models.EfficientCapsNet(weights="mnist", decoder_units=None)
    names = [str(digit) for digit in range(10)]
    export_saved_model(
        model, folder / "model", preprocess=True, class_names=names
    )
    images, _ = datasets.load_arrays("mnist", "test")
    pixels = np.rint(255 * images[:number]).astype("uint8")
    scores = model.predict(pixels / np.float32(255), verbose=0)
    np.save(folder / "pixels.npy", pixels)
    np.save(folder / "scores.npy", scores)


def serving(runtimes, model):
    """The port and the process of a server, as a context."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "PYTHONPATH"
    }
    command = [runtimes / "bin" / "uvicorn", "serve_http:app"]
    command += ["--app-dir", harness.ROOT / "examples", "--log-level=warning"]
    environment["SAVED_MODEL"] = str(model)
    return harness.served(command, environment, "/health")


def ask(port, process, pixels, scores, clients, requests):
    """Sends requests from several threads, and compares the answers."""
    memory, done = [resident_mib(process)], threading.Event()
    counter, lock = iter(range(requests)), threading.Lock()
    answered = 0

    def watch():
        while not done.wait(0.5):
            memory.append((answered, resident_mib(process)))

    def client():
        nonlocal answered
        times, largest, wrong = [], 0.0, 0
        while True:
            with lock:
                number = next(counter, None)
            if number is None:
                return times, largest, wrong
            index = number % len(pixels)
            begun = time.perf_counter()
            answer = send(port, pixels[index])
            times.append(1000 * (time.perf_counter() - begun))
            difference = np.abs(answer["scores"] - scores[index]).max()
            if not np.isfinite(difference):
                raise ValueError(
                    "Expected scores that are numbers. Received: for image "
                    f"{index} the answer {answer}"
                )
            largest = max(largest, float(difference))
            wrong += answer["label"] != str(scores[index].argmax())
            with lock:
                answered += 1

    watcher = threading.Thread(target=watch)
    watcher.start()
    begun = time.perf_counter()
    try:
        with concurrent.futures.ThreadPoolExecutor(clients) as pool:
            futures = [pool.submit(client) for _ in range(clients)]
            results = [each.result() for each in futures]
        seconds = time.perf_counter() - begun
    finally:
        done.set()
        watcher.join()
    times = sorted(each for result in results for each in result[0])
    after = [mib for count, mib in memory[1:] if count >= WARM * requests]
    after.append(resident_mib(process))
    return {
        "clients": clients,
        "requests": len(times),
        "largest_difference": max(result[1] for result in results),
        "other_labels": sum(result[2] for result in results),
        "requests_per_second": round(len(times) / seconds, 1),
        "latency_ms": {
            "median": round(statistics.median(times), 2),
            "99 %": round(times[int(0.99 * (len(times) - 1))], 2),
        },
        "resident_mib": {
            "before": memory[0],
            "after_a_tenth": after[0],
            "at_the_end": after[-1],
            "most": max(after),
        },
    }


def send(port, pixels):
    """What the server answers to one image."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/predict",
        data=pixels.tobytes(),
        headers={"Image-Shape": ",".join(map(str, pixels.shape))},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def resident_mib(process):
    """The resident memory of a process, in MiB."""
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    line = next(x for x in status.splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) // 1024


if __name__ == "__main__":
    main()
