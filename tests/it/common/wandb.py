"""A stand-in for the package wandb, which records its calls as lines of JSON in the file FAKE_CALLS."""

import json
import os
import time


def record(*call):
    with open(os.environ["FAKE_CALLS"], "a") as file:
        file.write(json.dumps(call) + "\n")


class Settings:
    def __init__(self, **settings):
        self.settings = settings


class Media:
    def __init__(self, *args, **options):
        self.json = [type(self).__name__, *args, options]


class Image(Media):
    pass


class Html(Media):
    pass


class Table(Media):
    pass


class Artifact:
    def __init__(self, name, type, metadata):
        self.files = {}

    def add_file(self, path, name):
        with open(path, "rb") as file:
            self.files[name] = len(file.read())


class Values:
    def __init__(self, name):
        self.name = name

    def update(self, values, allow_val_change=False):
        record(self.name, values)


class Run:
    url = None
    config, summary = Values("config"), Values("summary")

    def __init__(self, id):
        self.id, self.dir, self.logged = id, "/offline/files", 0

    def define_metric(self, name, step_metric):
        record("define", name, step_metric)

    def log(self, values, step):
        fault, _, at = os.environ.get("FAKE_FAULT", "").partition(":")
        if fault == "log" and self.logged == int(at):
            raise ConnectionError("the server is\n\nnot there")
        if fault == "exit" and self.logged == int(at):
            os._exit(3)
        self.logged += 1
        record("log", step, {name: getattr(value, "json", value) for name, value in values.items()})

    def log_artifact(self, artifact):
        record("artifact", artifact.files)

    def finish(self, exit_code):
        record("finish", exit_code)


def init(project, name, id, resume, config, settings):
    if os.environ.get("FAKE_FAULT") == "login":
        raise ValueError("api_key not configured (no-tty). call wandb.login(key=[your_api_key])")
    print("a client prints")
    record("init", project, name, id, resume, config)
    return Run(id)
