"""Runs an exported model in its own runtime, which is all that is imported.

    python runtimes.py FORMAT MODEL IMAGES SCORES < options

`benchmarks/formats.py` calls it in an environment without this package. IMAGES
and SCORES are raw float32. The options are JSON: `shape` of an image, `batches`
(how many images each call takes), `timed` (batches to measure), `repeats`,
`most_ms` (fewer repeats will do if they take longer), and `threads` (`null` for
the runtime's default). It prints the milliseconds of each timed batch as JSON.
"""

import json
import sys
import time

import numpy as np

FEWEST = 3  # repeats


def saved_model(path, threads):
    import tensorflow as tf

    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    served = tf.saved_model.load(path)
    return lambda x: served.serve(x).numpy()


def litert(path, threads):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=threads)
    (place,) = interpreter.get_input_details()
    (result,) = interpreter.get_output_details()
    size = None

    def run(x):
        nonlocal size
        if len(x) != size:
            interpreter.resize_tensor_input(place["index"], x.shape)
            interpreter.allocate_tensors()
            size = len(x)
        interpreter.set_tensor(place["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(result["index"])

    return run


def onnx(path, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if threads:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"]
    )
    (place,) = session.get_inputs()
    return lambda x: session.run(None, {place.name: x})[0]


def openvino(path, threads):
    import openvino

    # Otherwise it computes in 16 bits where a processor has them.
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino.Core().compile_model(path, "CPU", config)
    return lambda x: compiled(x)[0]


RUNTIMES = {
    "saved_model": saved_model,
    "litert": litert,
    "onnx": onnx,
    "openvino": openvino,
}


def main():
    form, path, images, scores = sys.argv[1:]
    options = json.load(sys.stdin)
    images = np.fromfile(images, "float32").reshape(-1, *options["shape"])
    run = RUNTIMES[form](path, options["threads"])
    parts, start = [], 0
    for size in options["batches"]:
        parts.append(np.array(run(images[start : start + size])))
        start += size
    np.concatenate(parts or [np.zeros(0)]).astype("float32").tofile(scores)
    found = {}
    for size in options["timed"]:
        batch = np.resize(images, (size, *options["shape"]))
        run(batch)
        times = []
        while len(times) < options["repeats"]:
            begun = time.perf_counter()
            run(batch)
            times.append(1000 * (time.perf_counter() - begun))
            if len(times) >= FEWEST and sum(times) > options["most_ms"]:
                break
        found[size] = times
    print(json.dumps(found))


if __name__ == "__main__":
    main()
