"""What is known of a training that may go on later."""

import dataclasses
import json
import pathlib

from keras_capsules.training.failures import broken
from keras_capsules.utils import files

PROGRESS = "progress.json"


@dataclasses.dataclass
class Progress:
    """What is known of a run after an epoch.

    Args:
        settings: Dictionary of plain values.
        epoch: Integer, how many epochs are done.
        seconds: Number, how long they took.
        best_epoch: Integer, the number of the best one, from 1 on.
        commits: The commits of the code that trained.
        environment: What the last epochs were trained with: the backend, the
            device, the processor and the versions.
        curve: A dictionary of figures for each epoch.
    """

    settings: dict
    epoch: int = 0
    seconds: float = 0.0
    best_epoch: int = 0
    commits: list[str] = dataclasses.field(default_factory=list)
    environment: dict = dataclasses.field(default_factory=dict)
    curve: list[dict] = dataclasses.field(default_factory=list)

    @classmethod
    def of_folder(cls, folder: files.Path, settings: dict) -> "Progress":
        """Reads the progress of a run with these settings, or begins one.

        Args:
            folder: The folder of the run.
            settings: Dictionary of plain values.

        Raises:
            ValueError: If there is a run of other settings, or the file is
                broken.
        """
        path = pathlib.Path(folder, PROGRESS)
        if not path.exists():
            return cls(settings)
        try:
            progress = cls(**json.loads(path.read_text()))
        except (TypeError, ValueError) as error:
            raise broken(path, error) from error
        there, here = progress.settings, json.loads(json.dumps(settings))
        other = [x for x in {**there, **here} if there.get(x) != here.get(x)]
        if other:
            raise ValueError(
                f"There is a run of other settings in {folder}: remove it, or "
                "choose another folder. Expected "
                + ", ".join(f"{name}={there.get(name)!r}" for name in other)
                + ". Received: "
                + ", ".join(f"{name}={here.get(name)!r}" for name in other)
            )
        return progress

    def begin(self, commit: str, environment: dict) -> None:
        """Notes what trains from now on.

        Args:
            commit: The commit of the code.
            environment: See `Progress`.

        Raises:
            ValueError: If another backend trained before, because its random
                numbers are others.
        """
        before = self.environment.get("backend", environment["backend"])
        if self.epoch and before != environment["backend"]:
            raise ValueError(
                "A run goes on with the backend that it began with. Expected "
                f"KERAS_BACKEND={before}. Received: {environment['backend']!r}"
            )
        # Of an epoch that did not end, nothing is left.
        earlier = self.commits if self.epoch else []
        self.commits = list(dict.fromkeys([*earlier, commit]))
        self.environment = environment

    def write(self, folder: files.Path) -> None:
        """Writes it into the folder of the run.

        Args:
            folder: The folder of the run.
        """
        with files.replacing(pathlib.Path(folder, PROGRESS)) as path:
            path.write_text(json.dumps(dataclasses.asdict(self), indent=1))
