"""One PostgreSQL URL for two servers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import make_url

from tasks.services.database import check_databases, parse_database
from tasks.services.errors import ServicesError


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("", ("prefect", "mlflow")),
        ("/", ("prefect", "mlflow")),
        ("/lab", ("lab_prefect", "lab_mlflow")),
    ],
)
def test_each_server_has_a_database_of_its_own(path: str, names: tuple[str, str]) -> None:
    """Both servers call a table alembic_version: one database cannot serve both."""
    databases = parse_database(f"postgresql://me@db:5433{path}", is_option=True)

    assert databases.names == names
    assert databases.prefect == f"postgresql+asyncpg://me@db:5433/{names[0]}"
    assert databases.mlflow == f"postgresql+psycopg://me@db:5433/{names[1]}"


@given(st.text(st.sampled_from("aZ0%/@:#? "), min_size=1))
def test_a_password_reaches_the_drivers_and_no_eye(password: str) -> None:
    """SQLAlchemy reads the same password from both URLs; nothing that is shown has it."""
    quoted = make_url("postgresql://me@db/").set(password=password)
    databases = parse_database(quoted.render_as_string(hide_password=False), is_option=False)

    assert make_url(databases.prefect).password == password
    assert make_url(databases.mlflow).password == password
    assert quoted.render_as_string(hide_password=False).split("me:")[1] not in (
        databases.shown + repr(databases)
    )


@pytest.mark.parametrize("url", ["mysql://me@db/lab", "lab", "postgresql:///lab", "sqlite:///x.db"])
def test_other_urls_are_refused_with_an_example(url: str) -> None:
    """A person reads what to write."""
    with pytest.raises(ServicesError, match="write postgresql://USER@HOST:PORT/"):
        parse_database(url, is_option=True)


def test_a_password_on_the_command_line_is_refused_and_not_repeated() -> None:
    """Every user of the machine could read it with ps."""
    with pytest.raises(ServicesError, match="put the URL in the variable") as raised:
        parse_database("postgresql://me:secret@db/lab", is_option=True)
    with pytest.raises(ServicesError) as wrong:
        parse_database("mysql://me:secret@db/lab?password=secret", is_option=True)
    with pytest.raises(ServicesError, match="put the URL in the variable"):
        parse_database("postgresql://me@db/lab?password=secret", is_option=True)

    assert "secret" not in str(raised.value) + str(wrong.value)


@pytest.mark.parametrize("place", ["me:sec/ret@db", "me@db:99999", "me@[::1"])
def test_a_url_that_cannot_be_read_is_not_repeated(place: str) -> None:
    """What stands where the port should be may be half of a password."""
    with pytest.raises(ServicesError, match="faulty host or port") as raised:
        parse_database(f"postgresql://{place}/lab", is_option=False)

    assert "sec" not in str(raised.value)


@pytest.mark.parametrize("url", ["me:sec%zzret@db/", "me@db/?nonsense=1"])
def test_a_url_that_the_driver_cannot_read_is_told(url: str) -> None:
    """Without the password, and with what to mend."""
    with pytest.raises(ServicesError, match=r"invalid .*; mend the URL") as raised:
        check_databases(parse_database(f"postgresql://{url}", is_option=False))

    assert "sec" not in str(raised.value)


def test_a_server_that_is_not_there_is_told_without_the_password() -> None:
    """The driver's words, and what to look at."""
    databases = parse_database("postgresql://me:secret@127.0.0.1:1/lab", is_option=False)

    with pytest.raises(ServicesError, match=r"me@127\.0\.0\.1:1, database lab_prefect: ") as raised:
        check_databases(databases)

    assert "refused" in str(raised.value)
    assert "secret" not in str(raised.value)
