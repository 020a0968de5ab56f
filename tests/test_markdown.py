import pytest

from toprung import markdown


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("val/accuracy", "val/accuracy"),
        ("a|b", r"a\|b"),
        ("<img src=x>", r"\<img src=x\>"),
        ("[title](https://example.com)", r"\[title\](https://example.com)"),
        ("*bold* `code`", r"\*bold\* \`code\`"),
        ("two\nlines", "two lines"),
        (0.1, "0.1"),
    ],
)
def test_a_text_from_outside_is_shown_as_it_is(text, escaped):
    assert markdown.escape(text) == escaped


def test_a_table_has_a_header_and_one_line_per_row():
    text = markdown.table(["class", "images"], [["cat", "3"], ["dog", "4"]])
    assert text.splitlines() == ["| class | images |", "| --- | --- |", "| cat | 3 |", "| dog | 4 |"]
