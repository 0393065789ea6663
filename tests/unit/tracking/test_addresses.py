"""Addresses of MLflow, as everybody who sees a study may read them."""

import shlex

import pytest

from tasks.tracking.addresses import opening_command, server_address


@pytest.mark.parametrize(
    ("tracking_uri", "address"),
    [
        ("http://127.0.0.1:5000/", "http://127.0.0.1:5000"),
        ("https://me:secret@mlflow.site/base", "https://mlflow.site/base"),
        ("sqlite:////runs/mlflow.db", ""),
        ("databricks", ""),
    ],
)
def test_only_a_server_has_an_address_and_no_password_in_it(
    tracking_uri: str, address: str
) -> None:
    """Links are seen by everybody who sees the flow run."""
    assert server_address(tracking_uri) == address


def test_a_server_is_shown_where_people_open_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of our own server alone: an older record may name another one."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:5000")
    monkeypatch.setenv("WATERSHED_MLFLOW_UI", "https://me:secret@lab.site/mlflow/")

    assert server_address("http://me:secret@127.0.0.1:5000") == "https://lab.site/mlflow"
    assert server_address("http://***@127.0.0.1:5000") == "https://lab.site/mlflow"  # a record's
    assert server_address("http://mlflow.site") == "http://mlflow.site"


def test_a_database_is_opened_by_a_command() -> None:
    """There is no link to what nobody serves."""
    command = opening_command("sqlite:////runs/mlflow.db")

    assert command == "mlflow server --backend-store-uri sqlite:////runs/mlflow.db --port 5000"


def test_the_password_of_a_database_is_hidden() -> None:
    """The command is in reports and artifacts; who runs it knows the password."""
    command = opening_command("postgresql://me:se:c@ret@db.site:5432/mlflow", "bin/mlflow")

    address = "postgresql://***@db.site:5432/mlflow"
    assert command == f"bin/mlflow server --backend-store-uri '{address}' --port 5000"


def test_the_command_can_be_pasted() -> None:
    """Whatever characters the directory has."""
    command = opening_command("sqlite:////my runs/#1/mlflow.db")

    assert shlex.split(command, comments=True)[:4] == [
        *("mlflow", "server", "--backend-store-uri", "sqlite:////my runs/#1/mlflow.db")
    ]
