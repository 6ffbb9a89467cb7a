"""Hands a run to the official client of an experiment tracker, for `nepa sync`.

Reads one JSON message a line from stdin, and answers each with one on stdout: {} or what was asked for, or an error
with a hint. Whatever a client prints goes to stderr.
"""

import os
import sys

# Modules come from the Python environment alone: the folder that nepa was started in may be a stranger's.
sys.path[:] = [path for path in sys.path if path and os.path.abspath(path) != os.getcwd()]

import importlib.util
import json
import re
import signal
import time
from datetime import datetime

# How long the end of a run may take for which nobody waits.
MOST_SECONDS = 20


class Fault(Exception):
    """An error with advice."""

    def __init__(self, error, hint):
        super().__init__(error)
        self.hint = hint


def seconds(moment):
    """Seconds since 1970 of a time as run.json has it, or None."""
    try:
        return datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp()
    except (AttributeError, ValueError):
        return None


def flat(values, above=""):
    """Maps in maps as one map, whose names are joined by dots."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def with_floats(row):
    """A row of metrics; JSON has no numbers that are not finite, so these come as text."""
    values = {name: float(value) if isinstance(value, str) else value for name, value in row["values"].items()}
    return {**row, "values": values}


def stem(name):
    return os.path.splitext(name)[0]


class Wandb:
    def start(self, m):
        import wandb

        self.wandb = wandb
        # What it would find out about a process is about this one, which is not the run.
        settings = wandb.Settings(console="off", disable_git=True, save_code=False)
        for name, value in {"x_disable_stats": True, "x_disable_meta": True, "x_save_requirements": False}.items():
            if hasattr(settings, name):
                setattr(settings, name, value)
        project = m["project"] or os.environ.get("WANDB_PROJECT") or "nepa"
        id = m["id"] or os.urandom(4).hex()
        self.run = wandb.init(
            project=project, name=m["name"], id=id, resume="allow", config=m["config"], settings=settings
        )
        self.known = set()
        return {"id": self.run.id, "project": project, "where": self.run.url or f"offline, {os.path.dirname(self.run.dir)}"}

    def config(self, m):
        self.run.config.update(m["config"], allow_val_change=True)

    def metrics(self, m):
        for row in m["rows"]:
            for name in row["values"]:
                # An asterisk would stand for other names.
                if name not in self.known and "*" not in name:
                    self.known.add(name)
                    self.run.define_metric(name, step_metric=row["axis"])
            values = {row["axis"]: row["step"], **row["values"]}
            if row["time"] is not None:
                values["_timestamp"] = row["time"]
            self.run.log(values, step=row["row"])

    def picture(self, m):
        if m["name"].endswith(".svg"):
            with open(m["path"], encoding="utf-8") as file:
                picture = self.wandb.Html(file.read(), inject=False)
        else:
            picture = self.wandb.Image(m["path"])
        self.run.log({f"pictures/{stem(m['name'])}": picture}, step=m["row"])

    def table(self, m):
        table = self.wandb.Table(columns=m["columns"], data=m["rows"], allow_mixed_types=True)
        self.run.log({f"tables/{m['name']}": table}, step=m["row"])

    def summary(self, m):
        self.run.summary.update(m["values"])

    def model(self, m):
        artifact = self.wandb.Artifact(f"model-{self.run.id}", type="model", metadata={"folder": m["name"]})
        for name, path in m["files"]:
            artifact.add_file(path, name=name)
        self.run.log_artifact(artifact)

    def finish(self, m):
        self.run.finish(exit_code=1 if m["state"] in ("failed", "killed") else 0)


class Mlflow:
    # As many as a server takes at once.
    MOST_METRICS = 1000
    MOST_PARAMS = 100

    def start(self, m):
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param, RunTag

        self.Metric, self.Param, self.RunTag = Metric, Param, RunTag
        self.client = MlflowClient()
        if m["id"]:
            self.id = m["id"]
            self.client.update_run(self.id, status="RUNNING")
            run = self.client.get_run(self.id)
            project = self.client.get_experiment(run.info.experiment_id).name
        else:
            project = m["project"] or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "nepa"
            experiment = self.client.get_experiment_by_name(project)
            experiment = experiment.experiment_id if experiment else self.client.create_experiment(project)
            started = seconds(m["started"]) or time.time()
            run = self.client.create_run(experiment, run_name=m["name"], start_time=int(started * 1000))
            self.id = run.info.run_id
        self.params = set(run.data.params)
        return {"id": self.id, "project": project, "where": run.info.artifact_uri}

    @staticmethod
    def name(text):
        """A name that the server accepts."""
        text = re.sub(r"[^\w\-. /]", "_", text)
        parts = [part for part in text.split("/") if part not in ("", ".", "..")]
        return "/".join(parts)[:250] or "_"

    def config(self, m):
        # A parameter has its first value for ever.
        found = {self.name(name): str(value)[:6000] for name, value in flat(m["config"])}
        new = [self.Param(name, value) for name, value in found.items() if name not in self.params]
        for first in range(0, len(new), self.MOST_PARAMS):
            self.client.log_batch(self.id, params=new[first : first + self.MOST_PARAMS])
        self.params.update(found)

    def metrics(self, m):
        found = []
        for row in m["rows"]:
            moment = int((row["time"] if row["time"] is not None else time.time()) * 1000)
            found += [self.Metric(self.name(name), x, moment, row["step"]) for name, x in row["values"].items()]
        for first in range(0, len(found), self.MOST_METRICS):
            self.client.log_batch(self.id, metrics=found[first : first + self.MOST_METRICS])

    def picture(self, m):
        self.client.log_artifact(self.id, m["path"], os.path.join("pictures", os.path.dirname(m["name"])).rstrip("/"))

    def table(self, m):
        # As mlflow.log_table writes it, which needs pandas.
        table = {"columns": m["columns"], "data": m["rows"]}
        self.client.log_dict(self.id, table, f"tables/{self.name(m['name'])}.json")

    def summary(self, m):
        now = int(time.time() * 1000)
        numbers, texts = {}, {}
        for name, value in m["values"].items():
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            (numbers if is_number else texts)[self.name(name)] = value
        self.client.log_batch(
            self.id,
            metrics=[self.Metric(name, value, now, 0) for name, value in numbers.items()],
            tags=[self.RunTag(name, str(value)[:5000]) for name, value in texts.items()],
        )

    def model(self, m):
        for name, path in m["files"]:
            self.client.log_artifact(self.id, path, os.path.join("model", os.path.dirname(name)).rstrip("/"))

    def finish(self, m):
        status = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "killed": "KILLED"}
        ended = seconds(m["ended"])
        if m["state"] in status:
            self.client.set_terminated(self.id, status[m["state"]], end_time=int(ended * 1000) if ended else None)


class Trackio:
    def start(self, m):
        import trackio

        self.trackio = trackio
        project = m["project"] or os.environ.get("TRACKIO_PROJECT") or "nepa"
        name = m["id"] or m["name"]
        if not m["id"]:
            # It knows runs by their names.
            try:
                taken = {run.name for run in trackio.Api().runs(project)}
            except ValueError:  # There is no such project yet.
                taken = set()
            name = next(n for n in [name] + [f"{name}-{k}" for k in range(2, 10**6)] if n not in taken)
        self.run = trackio.init(
            project=project, name=name, config=m["config"], resume="must" if m["id"] else "never", embed=False,
            auto_log_gpu=False, auto_log_cpu=False,
        )
        return {"id": name, "project": project, "where": f"project {project}, run {name}"}

    def config(self, m):
        # It is sent with the first line of metrics.
        self.run.config.update(m["config"])

    def metrics(self, m):
        for row in m["rows"]:
            self.trackio.log(row["values"], step=row["step"])

    def picture(self, m):
        name = f"pictures/{stem(m['name'])}"
        if m["name"].endswith(".svg"):
            with open(m["path"], encoding="utf-8") as file:
                self.trackio.log({name: self.trackio.Html(file.read())}, step=m["row"])
        else:
            self.trackio.log({name: self.trackio.Image(m["path"])}, step=m["row"])

    def table(self, m):
        table = self.trackio.Table(columns=m["columns"], data=m["rows"])
        self.trackio.log({f"tables/{m['name']}": table}, step=m["row"])

    def summary(self, m):
        self.trackio.log(m["values"], step=m["row"])

    def model(self, m):
        artifact = self.trackio.Artifact(f"model-{self.run.id}", type="model")
        for name, path in m["files"]:
            artifact.add_file(path, name=name)
        self.trackio.log_artifact(artifact)

    def finish(self, m):
        self.trackio.finish()


class Tensorboard:
    # Rows of a table that are shown as text.
    MOST_ROWS = 100

    def start(self, m):
        from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.event, self.summary_pb2 = event_pb2, summary_pb2
        self.tensor = lambda text: tensor_pb2.TensorProto(
            dtype=types_pb2.DT_STRING, string_val=[text.encode()], tensor_shape=tensor_shape_pb2.TensorShapeProto()
        )
        folder = m["id"]
        self.writer = EventFileWriter(folder, filename_suffix=".sync")
        return {"id": folder, "project": m["project"], "where": folder}

    def add(self, values, step, moment=None):
        moment = moment if moment is not None else time.time()
        summary = self.summary_pb2.Summary(value=values)
        self.writer.add_event(self.event.Event(wall_time=moment, step=step, summary=summary))

    def text(self, tag, text, step):
        Value, Metadata = self.summary_pb2.Summary.Value, self.summary_pb2.SummaryMetadata
        metadata = Metadata(plugin_data=Metadata.PluginData(plugin_name="text"), data_class="DATA_CLASS_TENSOR")
        self.add([Value(tag=tag, metadata=metadata, tensor=self.tensor(text))], step)

    def rows(self, columns, rows):
        cell = lambda value: str(value).replace("|", "\\|").replace("\n", " ")
        lines = [columns, ["---"] * len(columns), *rows]
        return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines)

    def config(self, m):
        self.text("config", self.rows(["name", "value"], list(flat(m["config"]))), 0)

    def metrics(self, m):
        Value = self.summary_pb2.Summary.Value
        for row in m["rows"]:
            values = [Value(tag=name, simple_value=value) for name, value in row["values"].items()]
            self.add(values, row["step"], row["time"])

    def picture(self, m):
        if m["name"].endswith(".svg"):
            return {"left_out": "TensorBoard shows no SVG"}
        with open(m["path"], "rb") as file:
            png = file.read()
        width, height = int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
        Value = self.summary_pb2.Summary.Value
        image = self.summary_pb2.Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=png)
        self.add([Value(tag=f"pictures/{stem(m['name'])}", image=image)], m["row"])

    def table(self, m):
        self.text(f"tables/{m['name']}", self.rows(m["columns"], m["rows"][: self.MOST_ROWS]), m["row"])

    def summary(self, m):
        self.text("summary", self.rows(["name", "value"], list(m["values"].items())), m["row"])

    def finish(self, m):
        self.writer.close()


BACKENDS = {"wandb": Wandb, "mlflow": Mlflow, "trackio": Trackio, "tensorboard": Tensorboard}


def need(client):
    spec = importlib.util.find_spec(client)
    # A folder of that name is no package.
    if spec is None or spec.origin is None:
        raise Fault(
            f"the Python environment of {sys.executable} has no {client}",
            f"{sys.executable} -m pip install {client}, or name another Python with --python or NEPA_PYTHON",
        )


def explain(client, error):
    """An error as a message, with what helps against it."""
    if isinstance(error, Fault):
        return {"error": str(error), "hint": error.hint}
    text = str(error).strip().split("\n\n")[0] or "no message"
    answer = {"error": f"{client}: {type(error).__name__}: {text}"}
    if isinstance(error, ImportError):
        package = getattr(error, "name", None) or client
        answer["hint"] = f"{sys.executable} -m pip install {package.split('.')[0]}"
    elif client == "wandb" and re.search(r"api[_ ]?key|log(ged)? ?in|401|unauthorized", text, re.IGNORECASE):
        answer["hint"] = "run `wandb login` first, or set WANDB_MODE=offline and send it later with `wandb sync`"
    elif client == "mlflow" and re.search(r"API request|connection|refused", text, re.IGNORECASE):
        answer["hint"] = "MLFLOW_TRACKING_URI names the server; is it running?"
    return answer


def main():
    # Clients may print, and start processes: neither reaches the messages.
    messages, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    # nepa ends this process, by the end of its messages.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    backend, client = None, None
    for line in messages:
        message = json.loads(line)
        what = message.pop("do")
        if what == "metrics":
            message["rows"] = [with_floats(row) for row in message["rows"]]
        try:
            answer = {}
            if what == "need":
                client = message["to"]
                need(client)
            elif what == "start":
                started = BACKENDS[client]()
                answer = started.start(message)
                backend = started
            else:
                answer = getattr(backend, what)(message) or {}
            if what == "finish":
                backend = None
        except Exception as error:
            answer = explain(client, error)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    # nepa has been killed: what it has sent is kept, if that does not take long.
    if backend is not None:
        signal.signal(signal.SIGALRM, lambda *_: os._exit(1))
        signal.alarm(MOST_SECONDS)
        backend.finish({"state": "running", "ended": None})
        os._exit(1)


main()
