"""Label sets as data."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerkit.errors import InputError, SteerkitError
from steerkit.judging.taxonomy import load_taxonomy


def test_the_shipped_taxonomy_has_the_six_labels_of_the_paper() -> None:
    assert list(load_taxonomy()) == [
        "initializing",
        "deduction",
        "adding-knowledge",
        "example-testing",
        "uncertainty-estimation",
        "backtracking",
    ]


def test_another_taxonomy_is_a_yaml_list(tmp_path: Path) -> None:
    path = tmp_path / "moods.yaml"
    path.write_text("- calm: Nothing stirs.\n- angry: Somebody shouts.\n")
    assert load_taxonomy(str(path)) == {"calm": "Nothing stirs.", "angry": "Somebody shouts."}


def test_all_bad_entries_are_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("- calm: a\n- calm: b\n- other: c\n- no gloss\n- number: 3\n")
    with pytest.raises(InputError) as caught:
        load_taxonomy(str(path))
    text = str(caught.value)
    assert "entry 2" in text and "stands twice" in text
    assert "entry 3" in text and "fits no label" in text
    assert "entry 4" in text and "entry 5" in text


@pytest.mark.parametrize(
    ("content", "message"), [("a: b", "must be a list"), ("", "must be a list"), ("- [", "is not YAML")]
)
def test_a_file_of_another_shape_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(content)
    with pytest.raises(SteerkitError, match=message):
        load_taxonomy(str(path))


def test_an_unknown_name_lists_the_shipped_ones() -> None:
    with pytest.raises(SteerkitError, match=r"neither a file nor a shipped one \(reasoning\)"):
        load_taxonomy("resoning")
