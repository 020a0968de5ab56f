"""Wording that is shared by error messages."""

import pytest

from toprung.errors import did_you_mean, pluralize, unknown_name_error


@pytest.mark.parametrize(
    ("name", "form", "hint"),
    [
        ("digit", "{}", " Did you mean digits?"),
        ("digit", "tune.{}", " Did you mean tune.digits?"),
        ("digit", '"{}"', ' Did you mean "digits"?'),
        ("xyz", "{}", ""),
        ("", "{}", ""),
    ],
)
def test_the_closest_known_name_is_suggested(name, form, hint):
    assert did_you_mean(name, {"digits", "cifar10"}, form=form) == hint


def test_an_unknown_name_that_resembles_none_lists_all_of_them():
    known = iter(["sgd", "adam"])
    assert str(unknown_name_error("lion", kind="optimizer", known=known)) == (
        'No optimizer "lion". There are sgd, adam.'
    )
    assert str(unknown_name_error("sgdd", kind="optimizer", known=["sgd"])) == (
        'No optimizer "sgdd". Did you mean sgd?'
    )


def test_a_count_of_one_is_singular():
    assert [pluralize(count, "trial") for count in (0, 1, 2)] == ["0 trials", "1 trial", "2 trials"]
    assert [pluralize(count, "CPU") for count in (0.5, 1.0, 1.5, 16.0)] == ["0.5 CPUs", "1 CPU", "1.5 CPUs", "16 CPUs"]
