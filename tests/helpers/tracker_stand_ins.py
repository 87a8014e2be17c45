"""Small modules with the interface of each tracker's library that the package uses.

They have all parameters that are passed to the libraries, and refuse what the libraries refuse.
`received` reads back what a library or its stand-in has: {id of the run: {step: {name: value}}}.
"""

import json
import struct
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

NAMES = ("wandb", "mlflow", "trackio")


class Store:
    """The runs of a tracker: lines of metrics by step, settings and states."""

    def __init__(self):
        self.lines, self.settings, self.ends = {}, {}, {}
        self.fail_at = None  # a step at which writing fails; 0 for opening

    def open(self, id, settings=None):
        if self.fail_at == 0:
            raise ConnectionError("no route to host")
        self.lines.setdefault(id, {})
        self.settings.setdefault(id, settings)
        self.ends[id] = None

    def log(self, id, values, step):
        if step == self.fail_at:
            raise ConnectionError("no route to host")
        # Weights & Biases drops earlier steps, and the others would draw them twice.
        assert step > max(self.lines[id], default=0)
        assert self.ends[id] is None
        self.lines[id][step] = values


def add_stand_in(name, monkeypatch):
    """Make `import NAME` give the stand-in, and return its store."""
    store = Store()
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None, origin="stand-in")
    FILL[name](module, store)
    monkeypatch.setitem(sys.modules, name, module)
    if name == "mlflow":
        monkeypatch.setitem(sys.modules, "mlflow.entities", module.entities)
    return store


def _fill_wandb(module, store):
    def init(project, name, dir, id, resume, config, reinit):
        assert (resume == "allow") == (id is not None)
        assert reinit == "create_new"
        assert Path(dir).is_dir()
        run = SimpleNamespace(id=id or f"id{len(store.lines)}")
        store.open(run.id, config)
        run.log = lambda values, step: store.log(run.id, values, step)
        run.finish = lambda exit_code: store.ends.update({run.id: exit_code})
        return run

    module.init = init


def _fill_mlflow(module, store):
    experiments = {}

    class MlflowClient:
        def get_experiment_by_name(self, name):
            return experiments.get(name)

        def create_experiment(self, name):
            assert name not in experiments
            experiments[name] = SimpleNamespace(experiment_id="1")
            return "1"

        def create_run(self, experiment_id, run_name):
            assert experiment_id == "1"
            id = f"id{len(store.lines)}"
            store.open(id, {})
            return SimpleNamespace(info=SimpleNamespace(run_id=id))

        def update_run(self, run_id, status):
            assert run_id in store.lines
            assert status == "RUNNING"
            store.open(run_id)

        def log_batch(self, run_id, metrics=(), params=()):
            store.settings[run_id].update({each.key: each.value for each in params})
            if metrics:
                (step,) = {each.step for each in metrics}
                store.log(run_id, {each.key: each.value for each in metrics}, step)

        def set_terminated(self, run_id, status):
            store.ends[run_id] = status

    module.MlflowClient = MlflowClient
    module.entities = ModuleType("mlflow.entities")
    module.entities.Metric = lambda key, value, timestamp, step: SimpleNamespace(
        key=key, value=value, step=step
    )
    module.entities.Param = lambda key, value: SimpleNamespace(key=key, value=value)


def _fill_trackio(module, store):
    def init(project, name, resume, config, embed):
        assert resume == ("allow" if name in store.lines else "never")
        store.open(name, config)
        return SimpleNamespace(
            log=lambda values, step: store.log(name, values, step),
            finish=lambda: store.ends.update({name: "finished"}),
        )

    module.init = init


FILL = {"wandb": _fill_wandb, "mlflow": _fill_mlflow, "trackio": _fill_trackio}


def prepare_real(name, folder, monkeypatch):
    """Let an installed library write below a folder, without a network; return its reader."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(folder))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", folder.as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(folder))
    return {"wandb": _read_wandb, "mlflow": _read_mlflow, "trackio": _read_trackio}[name]


def _read_wandb(folder):
    from wandb.proto.wandb_internal_pb2 import Record

    runs = {}
    for file in sorted(folder.rglob("*.wandb"), key=lambda file: file.stat().st_mtime):
        lines = runs.setdefault(file.stem.removeprefix("run-"), {})
        for data in _records_of(file.read_bytes()):
            record = Record.FromString(data)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                values = {i.key or i.nested_key[0]: json.loads(i.value_json) for i in items}
                step = values["_step"]
                assert step not in lines
                lines[step] = {k: v for k, v in values.items() if k[0] != "_"}
    return runs


def _records_of(content):
    """The records in a file of Weights & Biases, which is a log of LevelDB behind seven bytes."""
    records, place, parts = [], 7, b""
    while place + 7 <= len(content):
        left = 32_768 - place % 32_768
        if left < 7:  # the end of a block holds no header
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            records.append(parts)
            parts = b""
    return records


def _read_mlflow(folder):
    from mlflow import MlflowClient

    client, runs = MlflowClient(), {}
    (experiment,) = (e for e in client.search_experiments() if e.name == "sogclr")
    for run in client.search_runs([experiment.experiment_id]):
        lines = runs.setdefault(run.info.run_id, {})
        for name in run.data.metrics:
            for point in client.get_metric_history(run.info.run_id, name):
                assert name not in lines.setdefault(point.step, {})
                lines[point.step][name] = point.value
    return runs


def _read_trackio(folder):
    from trackio.sqlite_storage import SQLiteStorage

    runs = {}
    for name in SQLiteStorage.get_runs("sogclr"):
        lines = runs.setdefault(name, {})
        for entry in SQLiteStorage.get_logs("sogclr", name):
            assert entry["step"] not in lines
            hidden = ("step", "timestamp")
            lines[entry["step"]] = {k: v for k, v in entry.items() if k not in hidden}
    return runs
