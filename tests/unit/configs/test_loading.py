"""Reading a study from YAML, with overrides."""

from pathlib import Path

import pytest

from configs.data import Data
from configs.federated import FederatedExperiment
from configs.loading import ConfigError, load_study

SINGLE = "{kind: federated, workers: 20, data: digits, algorithm: {collect: 5}}"


def _write(directory: Path, text: str, name: str = "trial.yaml") -> Path:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


def _faults(path: Path, *settings: str) -> list[str]:
    with pytest.raises(ConfigError, match=path.name) as caught:
        load_study(path, settings)
    assert caught.value.source == str(path)
    return [str(fault) for fault in caught.value.faults]


def test_a_single_experiment_is_a_study_named_after_its_file(tmp_path: Path) -> None:
    """A file without ``experiment`` is one experiment; its study has the file's name."""
    study = load_study(_write(tmp_path, SINGLE))

    assert study.name == "trial"
    assert isinstance(study.experiment, FederatedExperiment)
    assert study.experiment.workers == 20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("- a\n- b\n", "holds no mapping of keys to values"),
        ("workers: [1, 2\nrounds: 3\n", "line 2, column 7: is no valid YAML: expected ',' or ']',"),
        ("workers: 1\n\trounds: 2\n", "line 2, column 1: is no valid YAML: found character"),
        ("workers: 3\nrounds: 2\nworkers: 4\n", "line 3, column 1: is no valid YAML: the key "),
        ("{workers: 1}\n---\n{workers: 2}\n", "line 2, column 1: is no valid YAML: but found"),
        ("a: !!python/object:os.system {}\n", "line 1, column 4: is no valid YAML: could not det"),
        ("[" * 5000, "is nested too deeply"),
        ("a: \x00\n", "is no valid YAML: unacceptable character"),
    ],
)
def test_a_file_that_is_no_yaml_mapping_is_explained(
    tmp_path: Path, text: str, expected: str
) -> None:
    """Faulty YAML is reported in one line, with the place."""
    (fault,) = _faults(_write(tmp_path, text))

    assert fault.startswith(expected)
    assert "\n" not in fault


def test_an_unreadable_file_is_explained(tmp_path: Path) -> None:
    """A missing file, a directory and bytes that are no text are reported as such."""
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")

    assert _faults(tmp_path / "absent.yaml") == ["cannot be read: No such file or directory"]
    assert _faults(tmp_path) == ["cannot be read: Is a directory"]
    assert _faults(binary) == ["is no text in UTF-8; save it as such"]


def test_paths_of_faults_are_those_of_the_experiment(tmp_path: Path) -> None:
    """Faults are reported as in ``--set``: without the word ``experiment`` in front."""
    path = _write(tmp_path, "experiment: {data: digits, algorithm: {collect: 120}}")

    assert _faults(path) == ["algorithm.collect: 120 is more than workers=100; use 1 to 100"]


def test_settings_override_the_base(tmp_path: Path) -> None:
    """A setting is YAML, may lead through a bare word, and ``name`` is the study's."""
    path = _write(tmp_path, "{workers: 20, data: digits, algorithm: afa_cs}")

    study = load_study(
        path, ["algorithm.collect=3", "name=other", "arrivals={kind: uniform, max_delay: 2}"]
    )

    assert study.name == "other"
    assert isinstance(study.experiment, FederatedExperiment)
    assert (study.experiment.algorithm.name, study.experiment.algorithm.collect) == ("afa_cs", 3)
    assert study.experiment.arrivals.model_dump()["max_delay"] == 2


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("workers", "workers: is no setting; write --set dotted.path=value"),
        ("workers.x=3", "workers.x: workers is 20, which has no fields to set"),
        ("=3", ": '' is no dotted path; write like algorithm.server_lr"),
        ("seed=[1", "seed: '[1' line 1, column 3: is no valid YAML: expected ',' or ']'"),
        ("workers=-1", "workers: -1 is not allowed; use a whole number from 1 to 10000000"),
        ("algorithm.colect=1", "algorithm.colect: unknown key (did you mean 'collect'?); known:"),
        (
            "worker.rounds=5",
            "worker.rounds: unknown key here; it stands beside 'worker', not below it; known: ",
        ),
        (
            "algorithm.server.seed=5",
            "algorithm.server.seed: unknown key here; it stands beside 'algorithm', not below it",
        ),
        (
            "rounds=7",
            "rounds: the grid axis 'rounds' sets rounds and would win; change it in the file",
        ),
        (
            "arrivals=uniform",
            "arrivals: the grid axis 'who' sets arrivals.max_delay and would win; change it",
        ),
    ],
)
def test_a_faulty_setting_is_explained(tmp_path: Path, setting: str, expected: str) -> None:
    """A setting that cannot be applied, or that the grid would undo, is refused."""
    path = _write(
        tmp_path,
        "{experiment: {workers: 20, data: digits}, "
        "grid: {rounds: [5, 6], who: {late: {arrivals.max_delay: 3}}}}",
    )

    (fault,) = _faults(path, setting)

    assert fault.lstrip().startswith(expected.lstrip(": "))


def test_a_setting_may_go_below_a_word_of_the_grid(tmp_path: Path) -> None:
    """An axis of words keeps what the base has, so that a setting of the base is no lost one."""
    path = _write(
        tmp_path,
        "{experiment: {data: digits, worker: {lr: 0.3}}, grid: {algorithm: [afa_cd, afa_cs]}}",
    )

    study = load_study(path, ["algorithm.collect=7", "worker=momentum", "experiment.rounds=5"])

    assert [point.label for point in study.points()] == ["afa_cd", "afa_cs"]
    for point in study.points():
        assert isinstance(point.experiment, FederatedExperiment)
        assert (point.experiment.algorithm.collect, point.experiment.rounds) == (7, 5)
        assert (point.experiment.worker.optimizer, point.experiment.worker.lr) == ("momentum", 0.3)
    assert _faults(path, "algorithm.name=fedavg") == [
        "algorithm.name: the grid axis 'algorithm' sets algorithm and would win; change it in the "
        "file"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "{workers: 20, data: digits, algorithm: {collect: 30}, grid: {seed: [1, 2]}}",
            [
                "grid: a file with a grid has its experiment below 'experiment:'; move workers, "
                "data, algorithm there",
                "algorithm.collect: 30 is more than workers=20; use 1 to 20",
            ],
        ),
        (
            "{exprimnt: {data: digits, rounds: 0}, grid: {seed: [1, 2]}}",
            [
                "exprimnt: unknown key (did you mean 'experiment'?)",
                "rounds: 0 is not allowed; use a whole number from 1 to 1000000000",
            ],
        ),
        (
            "{data: digits, luncher: slurm, lr: 3}",
            [
                "luncher: unknown key (did you mean 'launcher'?)",
                "lr: unknown key here (did you mean 'worker.lr'?); known: kind,",
            ],
        ),
        ("{grid: {seed: [1]}}", ["experiment: missing; it has no default, give one of federated"]),
        (
            "{experiment: {data: digits, grid: {seed: [1]}}}",
            ["grid: unknown key here; it stands beside 'experiment', not below it; known: kind,"],
        ),
        (
            "{kind: scaling, exprimnt: {kind: training}, sizes: [1]}",
            ["experiment: missing; it has", "exprimnt: unknown key (did you mean 'experiment'?)"],
        ),
    ],
)
def test_a_faulty_frame_is_explained(tmp_path: Path, text: str, expected: list[str]) -> None:
    """Where the experiment stands, and the grid, is told along with all other faults."""
    faults = _faults(_write(tmp_path, text))

    assert len(faults) == len(expected)
    assert all(fault.startswith(start) for fault, start in zip(faults, expected, strict=True))


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("grid.seed=[0, 1]", "grid.seed: a setting changes the base; change the grid in the file"),
        ("grid=3", "grid: a setting changes the base; change the grid in the file"),
        ("experiment={}", "experiment: is the whole experiment; set a field of it, such as seed=1"),
        ("experiment.roundss=3", "roundss: unknown key (did you mean 'rounds'?); known: kind,"),
    ],
)
def test_a_setting_of_the_frame_is_explained(tmp_path: Path, setting: str, expected: str) -> None:
    """Settings are of the base, with or without ``experiment`` before them."""
    path = _write(tmp_path, "{experiment: {data: digits}, grid: {seed: [1, 2]}}")

    (fault,) = _faults(path, setting)

    assert fault.startswith(expected)


def test_a_scaling_study_has_no_grid_to_set(tmp_path: Path) -> None:
    """What varies there is told instead."""
    path = _write(tmp_path, "{kind: scaling, experiment: {kind: training}, sizes: [1]}")

    assert _faults(path, "grid.seed=[1]") == [
        "grid.seed: a scaling study has none; it varies strategies, sizes and repeats"
    ]


def test_labels_need_no_quotes(tmp_path: Path) -> None:
    """Words that YAML takes for truth values, and numbers, are labels as they are written."""
    path = _write(
        tmp_path,
        """
        experiment: {data: digits}
        grid:
          momentum: {off: {worker: sgd}, on: {worker: momentum}}
          collect: {5: {algorithm.collect: 5}, 10: {algorithm.collect: 10}}
          2: {a: {seed: 2}}
        """,
    )

    labels = [point.coordinates for point in load_study(path).points()]

    assert labels[1] == {"momentum": "off", "collect": "10", "2": "a"}
    assert labels[2] == {"momentum": "on", "collect": "5", "2": "a"}


def test_a_variable_set_on_the_command_line_is_text(tmp_path: Path) -> None:
    """Shells take quotes away: a number is the text that was typed."""
    path = _write(tmp_path, "{data: digits, launcher: slurm}")

    launcher = load_study(
        path, ["launcher.environment.A=010", "launcher.environment.B=off", "launcher.qos=x"]
    ).launcher

    assert launcher.model_dump(exclude_unset=True) == {
        "kind": "slurm", "environment": {"A": "010", "B": "off"}, "qos": "x"
    }  # fmt: skip


def test_files_are_found_from_the_studys_directory(tmp_path: Path) -> None:
    """Paths in the file, also in its grid, are relative to it; a hub name stays."""
    (tmp_path / "images").mkdir()
    path = _write(
        tmp_path,
        """
        experiment: {model: mnist_cnn, data: {name: mnist, source: ./absent}}
        grid:
          data.source: [images, ylecun/mnist, ../up]
          arrivals:
            traced: {arrivals: {kind: trace, path: trace.csv}}
            dotted: {arrivals.kind: trace, arrivals.path: /abs/trace.csv}
        """,
    )

    study = load_study(path)

    sources = [
        p.experiment.data.source for p in study.points() if isinstance(p.experiment.data, Data)
    ]
    traces = {point.experiment.model_dump()["arrivals"]["path"] for point in study.points()}
    assert isinstance(study.experiment.data, Data)
    assert study.experiment.data.source == str(tmp_path / "absent")
    assert sources[::2] == [str(tmp_path / "images"), "ylecun/mnist", str(tmp_path.parent / "up")]
    assert traces == {str(tmp_path / "trace.csv"), "/abs/trace.csv"}


def test_files_in_settings_are_found_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path typed on the command line means what it means to the shell."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = _write(tmp_path, "{model: mnist_cnn, data: mnist}")

    study = load_study(path, ["data.source=./mine"])

    assert isinstance(study.experiment.data, Data)
    assert study.experiment.data.source == str(tmp_path / "here" / "mine")


def test_exponents_need_no_dot(tmp_path: Path) -> None:
    """``1e-3`` is a number, in the file and in a setting; YAML 1.1 would make it text."""
    path = _write(tmp_path, "{data: digits, worker: {lr: 1e-3}, algorithm: {server_lr: 2E2}}")

    experiment = load_study(path, ["model.l2=5e-4"]).experiment

    assert isinstance(experiment, FederatedExperiment)
    assert (experiment.worker.lr, experiment.algorithm.server_lr) == (0.001, 200)
    assert experiment.model.model_dump()["l2"] == 0.0005
