"""Rows of parquet files: the names of classes where `datasets` wrote them, and nothing where something else did."""

import json

import pytest

from rung.data.arrow import classes_of_parquet

LABEL = {"_type": "ClassLabel", "names": ["bad", "good"]}


def test_the_names_of_classes_stand_in_the_metadata_of_a_file() -> None:
    features = {"label": LABEL, "text": {"_type": "Value", "dtype": "string"}, "turns": [LABEL]}
    written = json.dumps({"info": {"features": features}}).encode()
    assert classes_of_parquet({b"huggingface": written}) == {"label": ["bad", "good"]}


@pytest.mark.parametrize(
    "written", [b"{", b"\xff", b"{}", b"[]", b"null", b'{"info": null}', b'{"info": {"features": []}}']
)
def test_a_file_with_other_metadata_has_no_classes(written: bytes) -> None:
    assert classes_of_parquet({b"huggingface": written}) == {}
    assert classes_of_parquet({b"pandas": written}) == classes_of_parquet(None) == {}
