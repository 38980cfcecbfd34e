"""The commands. Each imports what it needs, because Keras takes seconds."""

import argparse
import json
import os
import pathlib
import shlex
import sys

from keras_capsules_cli import libraries
from keras_capsules_cli.options import PROGRAM
from keras_capsules_cli.training import TASKS


def train(arguments: argparse.Namespace) -> None:
    """Trains a network.

    Args:
        arguments: Of the command.
    """
    libraries.load()
    from keras_capsules.training import running
    from keras_capsules.training.settings import Settings

    arguments.task = _normalized(arguments.task)
    settings = Settings.from_record(vars(arguments))
    task = pathlib.Path(settings.task).name
    name = settings.name or f"{settings.network}-{task}"
    folder = pathlib.Path(arguments.output, name)
    record = running.train(
        settings,
        folder,
        data_dir=arguments.data_dir,
        test=arguments.test,
        tensorboard=arguments.tensorboard,
        command=recorded(arguments.argv),
    )
    errors = [
        f"{key.replace('_', ' ')} {record[key]:.2f} %"
        for key in ("validation_error", "test_error")
        if key in record
    ]
    print(f"{name}: " + ", ".join([f"epoch {record['chosen_epoch']}", *errors]))
    print(folder / running.RECORD)


def _normalized(task):
    """A task, as the path of its folder is usually written."""
    path = os.path.normpath(task)
    is_hidden = path in TASKS and path != task  # a folder with such a name
    return os.path.join(os.curdir, path) if is_hidden else path


def recorded(argv: list[str]) -> str:
    """The command without the folders of this machine, for the record.

    Args:
        argv: The arguments, the name of the command first.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--output", "--data-dir"):
        parser.add_argument(name)
    _, others = parser.parse_known_args(argv)
    return shlex.join([PROGRAM, *others])


def evaluate(arguments: argparse.Namespace) -> None:
    """Measures the error of a network.

    Args:
        arguments: Of the command.
    """
    libraries.load()
    from keras_capsules.training import results
    from keras_capsules.training import trained
    from keras_capsules_cli import tables

    if arguments.plot:
        results.check_picture(arguments.plot)
    network = trained.load(arguments.source)
    found = network.evaluate(arguments.data, arguments.data_dir, verbose="auto")
    print(f"{found.error:.2f} % of {len(found.scores):,} {found.images} wrong")
    if found.labels.ndim == 1:
        counts = results.confusion(found.labels, found.scores)
        print("\n" + tables.confusion_table(counts, network.class_names))
    if arguments.plot:
        results.plot_confusion(
            found.labels, found.scores, network.class_names, arguments.plot
        )
        print(f"\n{arguments.plot}")


def predict(arguments: argparse.Namespace) -> None:
    """Names what is in images.

    Args:
        arguments: Of the command.
    """
    libraries.load()
    from keras_capsules.training import trained

    network = trained.load(arguments.source)
    found = []
    for path, scores in zip(
        arguments.images, network.predict(arguments.images), strict=True
    ):
        named = dict(zip(network.class_names, map(float, scores), strict=True))
        best = sorted(named, key=named.__getitem__, reverse=True)
        ordered = {name: round(named[name], 6) for name in best}
        found.append({"image": path, "class": best[0], "scores": ordered})
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    width = max(map(len, network.class_names))
    for each in found:
        print(f"{each['image']}: {each['class']}")
        for name, score in each["scores"].items():
            print(f"  {name:<{width}}  {score:.3f}")


def export(arguments: argparse.Namespace) -> None:
    """Writes a network for a runtime.

    Args:
        arguments: Of the command.
    """
    libraries.load()
    from keras_capsules.training import results
    from keras_capsules.training import trained

    results.export(
        trained.load(arguments.source),
        arguments.path,
        arguments.format,
        arguments.preprocess,
        arguments.class_names,
        arguments.quantization,
        arguments.overwrite,
    )
    print(arguments.path)


def explore(arguments: argparse.Namespace) -> None:
    """Serves the page of the explorer.

    Args:
        arguments: Of the command.
    """
    print("Loading the networks ...", file=sys.stderr, flush=True)
    libraries.load()
    from keras_capsules.explorer import serving

    serving.serve(
        arguments.model, arguments.two_digits, arguments.host, arguments.port
    )


def datasets(arguments: argparse.Namespace) -> None:
    """Lists the data sets, or prepares one.

    Args:
        arguments: Of the command.
    """
    libraries.load()
    from keras_capsules_cli import data_sets

    if arguments.name is None:
        print(data_sets.as_table())
        return
    print(data_sets.prepare(arguments.name, arguments.data_dir))
