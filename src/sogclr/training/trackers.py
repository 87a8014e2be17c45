"""Write metrics where people look at curves: TensorBoard, Weights & Biases, MLflow, Trackio.

Each library is imported when its tracker is opened. Where it sends the metrics, and with which
account, is decided by its own environment variables and login.
"""

import os
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal

from ..runs.folder import Run

__all__ = ["TRACKERS", "End", "Tracker"]

End = Literal["finished", "stopped", "failed"]
Settings = Mapping[str, Any]

PROJECT = "sogclr"  # unless the environment names another one
LONGEST = 6_000  # characters of a parameter in MLflow


class Tracker(ABC):
    """A run as a tracker has it.

    Args:
        run: the run's folder.
        settings: the settings of the run, by name.
        id: the id of the run in the tracker, if it is continued; None if it is new.

    Attributes:
        id: the id of the run in the tracker; None if it keeps none.
    """

    id: str | None = None

    @abstractmethod
    def __init__(self, run: Run, settings: Settings, id: str | None) -> None: ...

    @abstractmethod
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values of a step."""

    @abstractmethod
    def close(self, end: End) -> None:
        """Write what is left, and how the run has ended."""


class TensorBoard(Tracker):
    """Curves in the folder `tb` of the run, which are drawn anew whenever the run is resumed."""

    def __init__(self, run: Run, settings: Settings, id: str | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        with suppress(FileNotFoundError):
            for file in run.curves.glob("events.out.tfevents.*"):
                file.unlink()
        self.writer = SummaryWriter(str(run.curves))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self, end: End) -> None:
        self.writer.close()


class Wandb(Tracker):
    """A run of Weights & Biases. Its files are in the folder `wandb` of the run."""

    # Exit codes of the command line: Weights & Biases derives the state of the run from it.
    CODES: Mapping[End, int] = {"finished": 0, "stopped": 75, "failed": 1}

    def __init__(self, run: Run, settings: Settings, id: str | None) -> None:
        import wandb

        self.tracked = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", run.folder.resolve().name),
            dir=os.environ.get("WANDB_DIR", str(run.folder)),
            id=id,
            resume=None if id is None else "allow",
            config=dict(settings),
            reinit="create_new",  # leaves a run of the user's own alone
        )
        self.id = self.tracked.id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.tracked.log(dict(values), step=step)

    def close(self, end: End) -> None:
        self.tracked.finish(exit_code=self.CODES[end])


class MLflow(Tracker):
    """A run of MLflow, in the store that MLFLOW_TRACKING_URI names."""

    STATES: Mapping[End, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}

    def __init__(self, run: Run, settings: Settings, id: str | None) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self.client, self.metric = MlflowClient(), Metric
        if id is not None:
            self.client.update_run(id, status="RUNNING")
            self.id = id
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self.client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self.client.create_experiment(name)
        created = self.client.create_run(experiment, run_name=run.folder.resolve().name)
        self.id = created.info.run_id
        params = [Param(key, str(value)[:LONGEST]) for key, value in settings.items()]
        self.client.log_batch(self.id, params=params)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        metrics = [self.metric(name, value, now, step) for name, value in values.items()]
        self.client.log_batch(self.id, metrics=metrics)

    def close(self, end: End) -> None:
        self.client.set_terminated(self.id, status=self.STATES[end])


class Trackio(Tracker):
    """A run of Trackio, which finds a run again by its name."""

    def __init__(self, run: Run, settings: Settings, id: str | None) -> None:
        import trackio

        self.id = id or f"{run.folder.resolve().name}-{secrets.token_hex(3)}"
        self.tracked = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=self.id,
            resume="never" if id is None else "allow",
            config=dict(settings),
            embed=False,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.tracked.log(dict(values), step=step)

    def close(self, end: End) -> None:
        self.tracked.finish()


TRACKERS: dict[str, type[Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": MLflow,
    "trackio": Trackio,
}
