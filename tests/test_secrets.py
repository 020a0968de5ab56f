"""Masking of every kind of secret that a message could contain."""

import pytest

from toprung.secrets import SECRET_VARIABLES, mask_text, mask_uri


@pytest.mark.parametrize(
    ("uri", "masked"),
    [
        ("http://user:secret@host:5000/path", "http://***@host:5000/path"),
        ("https://token@host", "https://***@host"),
        ("HTTPS://user:secret@host", "HTTPS://***@host"),
        ("https://:secret@host", "https://***@host"),
        ("postgresql://user:se@cret@host/db", "postgresql://***@host/db"),
        ("postgresql://user:se/cret@host/db", "postgresql://***@host/db"),
        ("postgresql+psycopg2://user:secret@host/db", "postgresql+psycopg2://***@host/db"),
        ("ssh://me:secret@host/x", "ssh://***@host/x"),
        ("s3://AKIAKEY:secret@bucket/x", "s3://***@bucket/x"),
        ("no answer from http://a:b@c/d, tried http://a:b@c/e", "no answer from http://***@c/d, tried http://***@c/e"),
        ("ssh://me@host,http://a:secret@c", "ssh://***@c"),
    ],
)
def test_user_name_and_password_of_a_uri_are_masked(uri, masked):
    assert mask_uri(uri) == masked


@pytest.mark.parametrize(
    ("uri", "masked"),
    [
        (
            "postgresql:///db?host=h&password=secret&sslmode=require",
            "postgresql:///db?host=h&password=***&sslmode=require",
        ),
        ("https://host/?Token=secret", "https://host/?Token=***"),
        ("https://host/?a=1&db_pwd=secret&sslkey=secret", "https://host/?a=1&db_pwd=***&sslkey=***"),
        ("https://host/?client_secret=secret&b=2", "https://host/?client_secret=***&b=2"),
        ("https://user:secret@host/?token=secret", "https://***@host/?token=***"),
    ],
)
def test_secrets_in_the_query_of_a_uri_are_masked(uri, masked):
    assert mask_uri(uri) == masked


@pytest.mark.parametrize(
    "uri",
    [
        "http://host:5000",
        "sqlite:////a/b@c/mlflow.db",
        "ssh://me@host:22/x",
        "gs://bucket/me@example.org/x",
        "file:///some/folder",
        "https://host/?page=2",
        "me@example.org",
    ],
)
def test_a_uri_without_a_secret_is_left_as_it_is(uri):
    assert mask_uri(uri) == mask_text(uri) == uri


@pytest.mark.parametrize(
    ("uri", "masked"),
    [
        ("postgresql+psycopg2://me:secret@host/db", "postgresql+psycopg2://me:***@host/db"),
        ("postgresql+psycopg2://me:se/cret@host/db", "postgresql+psycopg2://me:***@host/db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        (
            "postgresql+psycopg2:///studies?host=h&password=secret&sslkey=secret",
            "postgresql+psycopg2:///studies?host=h&password=***&sslkey=***",
        ),
    ],
)
def test_the_user_name_can_be_kept(uri, masked):
    assert mask_uri(uri, keep_user=True) == masked


@pytest.mark.parametrize("variable", SECRET_VARIABLES)
def test_credentials_in_the_environment_are_masked(monkeypatch, variable):
    monkeypatch.setenv(variable, "wJalrXUtnFEMI")
    assert mask_text("the key wJalrXUtnFEMI is refused") == "the key *** is refused"


def test_given_values_are_masked_the_longest_first():
    assert mask_text("ab cd: abcd, abcdef", values=["abcd", "abcdef"]) == "ab cd: ***, ***"


def test_a_value_too_short_to_be_a_secret_is_not_masked():
    assert mask_text("a text", values=["", "ext"]) == "a text"


def test_every_kind_of_secret_in_one_text_is_masked(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    text = "ssh://me:hunter2@host/x and https://a:b@c.example/d?token=t and wJalrXUtnFEMI, given"
    assert mask_text(text, values=["given"]) == "ssh://***@host/x and https://***@c.example/d?token=*** and ***, ***"
