"""Trains any network on any data set, and writes down how well it does.

    python examples/train.py efficient_capsnet digits
    python examples/train.py efficient_capsnet mnist --epochs 40 --shift 2 \
        --rotation 10 --options '{"decoder_units": null}' --test

Killed at any moment and started again with the same command, it goes on from
the last epoch, to the same result. The best epoch is chosen on a tenth of the
training images, which are not trained on; `--no-validation` trains on all of
them and keeps the last epoch. Choose settings without `--test`: it measures the
test error once, at the end.

The folder `outputs/train/<name>` holds the run: `record.json` (settings,
errors, curve, versions), the weights of the chosen epoch as `model.weights.h5`,
the state to go on from, and with `--tensorboard` its logs.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import platform
import shlex
import sys

import keras
import tensorflow as tf
from training import networks
from training import provenance
from training import resumable
from training import tasks
from training.augmentation import Augmentation

import keras_capsules
from keras_capsules.utils import files


def main(argv=None):
    arguments = parse(argv)
    settings = {
        key: value
        for key, value in vars(arguments).items()
        if key not in ("output", "data_dir", "tensorboard", "test")
    }
    name = arguments.name or f"{arguments.network}-{arguments.task}"
    folder = files.prepare_folder(pathlib.Path(arguments.output, name))
    progress = resumable.Progress.of_folder(folder, settings)
    progress.commits = list(
        dict.fromkeys([*progress.commits, provenance.commit()])
    )

    keras.utils.set_random_seed(arguments.seed)
    keras.config.set_dtype_policy(arguments.dtype)
    task = tasks.get(
        arguments.task,
        arguments.seed,
        not arguments.no_validation,
        arguments.data_dir,
        arguments.per_class,
    )
    model, loss = networks.make(arguments.network, task, arguments.options)
    examples = task.num_examples * arguments.passes
    steps = examples // arguments.batch_size
    if not steps:
        raise ValueError(
            "A batch is larger than the data set. Expected at most "
            f"{examples}. Received: batch_size={arguments.batch_size}"
        )
    check_average(arguments.average, steps * arguments.epochs)
    compile_model(model, loss, task, arguments, steps * arguments.epochs)
    resumable.fit(
        model,
        lambda first: batches(task, arguments, first, steps),
        evaluated(task.validation, arguments),
        progress,
        folder,
        epochs=arguments.epochs,
        steps=steps,
        patience=arguments.patience,
        average=bool(arguments.average),
        callbacks=further_callbacks(arguments, folder),
    )
    with files.replacing(folder / "model.weights.h5") as path:
        model.save_weights(path)
    record = describe(model, task, progress, arguments)
    with files.replacing(folder / "record.json") as path:
        path.write_text(json.dumps(record, indent=2) + "\n")
    print(
        f"{name}: epoch {record['chosen_epoch']}, "
        + ", ".join(
            f"{key.replace('_', ' ')} {record[key]:.2f} %"
            for key in ("validation_error", "test_error")
            if key in record
        )
        + f"\n{folder / 'record.json'}"
    )
    return record


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("network", choices=networks.NAMES)
    add("task", choices=tasks.NAMES)
    add("--options", type=json.loads, default={}, help="of the network, JSON")
    add("--epochs", type=positive, default=10)
    add("--passes", type=positive, default=1, help="over the data, an epoch")
    add("--per-class", type=positive, help="train on so many images of each")
    add("--batch-size", type=positive, default=64)
    add("--learning-rate", type=float, default=1e-3)
    add("--warmup", type=float, default=0.0, help="epochs of a rising rate")
    add("--weight-decay", type=float, default=0.0)
    add("--average", type=float, default=0.0, help="of weights, such as 0.999")
    add("--patience", type=positive, help="epochs without a better one")
    add("--no-validation", action="store_true", help="train on all images")
    add("--seed", type=int, default=0)
    add("--dtype", default="float32", help="Keras dtype policy")
    add("--test", action="store_true", help="measure the test error at the end")
    add("--name", help="of the folder; by default, of network and task")
    add("--output", default="outputs/train")
    add("--data-dir", help="where TensorFlow Datasets looks; COIL-20's file")
    add("--tensorboard", action="store_true")
    for field in dataclasses.fields(Augmentation):
        option = f"--{field.name}"
        if field.type is bool:
            add(option, action="store_true")
        else:
            add(option, type=field.type, default=field.default)
    return parser.parse_args(argv)


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def check_average(average, steps):
    """Refuses averages that would remember where they began."""
    if average**steps > 0.01:
        most = math.floor(1e4 * 0.01 ** (1 / steps)) / 1e4
        raise ValueError(
            "The average of so few steps would still be more than 1 % the "
            f"weights of the first one. Expected at most {most} for {steps} "
            f"steps. Received: average={average}"
        )


def compile_model(model, loss, task, arguments, steps):
    warmup = round(arguments.warmup * steps / arguments.epochs)
    rate = arguments.learning_rate
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else rate,
        steps - warmup,
        warmup_target=rate if warmup else None,
        warmup_steps=warmup,
    )
    optimizer = keras.optimizers.AdamW(
        schedule,
        weight_decay=arguments.weight_decay,
        use_ema=bool(arguments.average),
        ema_momentum=arguments.average or 0.99,
    )
    # Scales, offsets and biases are not pulled to zero.
    optimizer.exclude_from_weight_decay(
        [x for x in model.trainable_variables if len(x.shape) < 2]
    )
    model.compile(optimizer, loss, metrics=[task.metric()])


def batches(task, arguments, first, steps):
    """Batches from number `first` on to the end of the training."""
    size = arguments.batch_size
    examples = task.train(first * size, steps * arguments.epochs * size)
    data = examples.batch(size, drop_remainder=True).enumerate(first)
    changed = Augmentation(
        **{
            field.name: getattr(arguments, field.name)
            for field in dataclasses.fields(Augmentation)
        }
    )

    def change(step, example):
        images, labels = example
        if isinstance(labels, dict):  # has images of each object
            return images, labels
        return changed(images, arguments.seed, step), labels

    return data.map(change, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def evaluated(data, arguments):
    """Batches to evaluate on."""
    return data and data.batch(4 * arguments.batch_size).cache().prefetch(1)


def further_callbacks(arguments, folder):
    callbacks = [keras.callbacks.TerminateOnNaN()]
    if arguments.tensorboard:
        callbacks.append(keras.callbacks.TensorBoard(folder / "tensorboard"))
    return callbacks


def describe(model, task, progress, arguments):
    """The record of a run that is complete."""
    chosen = progress.curve[progress.best_epoch - 1]
    encoder = getattr(model, "encoder", model)
    record = {
        "command": command(sys.argv[1:]),
        "commits": progress.commits,  # more if it was continued
        "network": arguments.network,
        "task": arguments.task,
        "parameters": encoder.count_params(),
        "parameters_with_decoder": model.count_params(),
        "seed": arguments.seed,
        "settings": progress.settings,
        "epochs": progress.epoch,
        "chosen_epoch": progress.best_epoch,
        "seconds": round(progress.seconds, 1),
        "backend": keras.backend.backend(),
        "device": device_of(model),
        "processor": provenance.processor(),
        "versions": {
            "keras_capsules": keras_capsules.__version__,
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "python": platform.python_version(),
        },
        "curve": progress.curve,
    }
    if "val_accuracy" in chosen:
        record["validation_error"] = percent(chosen["val_accuracy"])
    if arguments.test:
        found = model.evaluate(
            evaluated(task.test(), arguments), verbose=0, return_dict=True
        )
        record["test_error"] = percent(found["accuracy"])
        record["test"] = {key: float(x) for key, x in found.items()}
    return record


def device_of(model):
    """Where a model computes."""
    if keras.backend.backend() == "torch":  # Keras lists no devices there
        return str(model.variables[0].value.device)
    return keras.distribution.list_devices()[0]


def command(argv):
    """The command without the folders of this machine."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--output", "--data-dir"):
        parser.add_argument(name)
    _, others = parser.parse_known_args(argv)
    return shlex.join(["python", "examples/train.py", *others])


def percent(accuracy):
    return round(100 * (1 - float(accuracy)), 4)


if __name__ == "__main__":
    main()
