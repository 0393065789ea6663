"""Checks studies and runs the first point of each, without Prefect: ``one_point.py STUDY...``."""

import importlib
import sys
from datetime import datetime
from pathlib import Path

from configs.loading import load_study
from flows.command_line import main
from tasks.steps.creation import create_study_directory

_MODULES = {"federated": "tasks.federated.simulate_job", "training": "tasks.zero.train_job"}

if code := main(["check", *sys.argv[1:]]):
    sys.exit(code)
for name in sys.argv[1:]:
    study = load_study(Path(name))
    directory = create_study_directory(study, Path("runs"), datetime.now().astimezone())
    module = importlib.import_module(_MODULES[study.experiment.kind])
    if code := module.main([str(directory.points()[0].job)]):
        sys.exit(code)
