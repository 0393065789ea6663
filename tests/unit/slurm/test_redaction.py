"""What of a text is hidden before it is shown."""

import pytest

from tasks.slurm.redaction import redact

VALUE = "s3cr3t-Pa55w0rd_0123456789"


@pytest.mark.parametrize(
    "text",
    [
        "HF_TOKEN={}",
        "export PGPASSWORD='{}'; psql",
        'export MLFLOW_TRACKING_PASSWORD="{} with spaces"',
        "aws_secret_access_key = {}",
        "PREFECT_API_KEY: {}",
        '{{"user": "ada", "password": "{}"}}',
        "{{'apiKey': '{}', 'n': 1}}",
        "mysql --user ada --password {} base",
        "curl -H 'Authorization: Bearer {}' address",
        "authorization: Basic {}",
        "401 for bearer {}",
        "postgresql://ada:{}@db.example.org:5432/runs",
        "https://{}@example.org/repository.git",
        "https://ada:p@{}@example.org/",
        "https://example.org/api?page=2&access_token={}&x=1",
        "cannot log in with hf_{}",
        "ghp_{}",
        "sk-{}",
        "glpat-{}",
        "SLURM_JWT={}",
        "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\n{}\nthe log was cut off here",
        "password: '{} without its closing quote",
    ],
)
def test_a_secret_is_hidden(text: str) -> None:
    """Nothing is left of a secret; that something was there can be seen."""
    shown = redact(text.format(VALUE))

    assert VALUE not in shown
    assert "***" in shown


@pytest.mark.parametrize(
    "text", ["AKIAIOSFODNN7EXAMPLE", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"]
)
def test_a_token_of_known_make_is_hidden(text: str) -> None:
    """Tokens that say by themselves what they are need no name before them."""
    assert redact(f"refused {text} today") == "refused *** today"


@pytest.mark.parametrize(
    "text",
    [
        "Traceback (most recent call last):",
        "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB",
        "num_tokens=1024, tokenizer=bpe, tokens: 300",
        "slurmstepd: error: *** JOB 12 ON node01 CANCELLED AT 2025-01-01T00:00:00 ***",
        "KeyError: 'partition'",
        "see https://example.org/docs/page@2",
        "ada@example.org wrote: basic information about the key",
        "disk-full-on-a-very-long-device-name",
        "the secret of good work",
    ],
)
def test_ordinary_words_stay(text: str) -> None:
    """A line that holds no secret is shown as it is."""
    assert redact(text) == text


def test_what_stands_around_a_secret_stays() -> None:
    """Only the secret goes: who was asked, and for what, can still be read."""
    text = "GET https://ada:pw@example.org/runs?token=abc&page=2 failed\nnext line"

    assert redact(text) == "GET https://***@example.org/runs?token=***&page=2 failed\nnext line"


def test_a_long_line_takes_no_time() -> None:
    """A megabyte without a blank is searched in linear time, not for minutes."""
    text = "a-b_token" * 110_000

    assert redact(text) == text
