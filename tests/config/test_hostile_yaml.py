"""A YAML file that is made to harm is refused in two lines that name the file and the place."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from rung.config import load_config
from rung.errors import ConfigError, UserError
from rung.utils.yaml_file import parse_yaml, read_yaml

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
MERGES = "m0: &m0 {k: 1}\n" + "".join(f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}]}}\n" for i in range(1, 40))
CASES = {
    "aliases": (LAUGHS, "line 6: more than 100000 values"),
    "merges": (MERGES, "more than 100000 values"),
    "a value inside itself": ("a: &x [*x]", "line 1: an alias refers to the value that contains it"),
    "depth": ("a: " + "[" * 9000 + "]" * 9000, "more than 50 levels"),
    "open brackets": ("a: " + "{b: " * 9000, "more than 50 levels"),
    "some depth": ("a: " + "[" * 60 + "]" * 60, "more than 50 levels"),
    "a long number": ("a: " + "1" * 5000, "line 1: a number with 5000 characters"),
    "base 60": ("a: " + "1:" * 50000 + "1", "a number with 100001 characters"),
    "duplicate key": ("a: 1\nb: {c: 1,\n c: 2}", "line 3: the key `c` stands in line 2 already"),
    "tag": ("a: !!python/object/apply:os.system [touch ran]", "the tag `!!python/object/apply:os.system`"),
    "local tag": ("a: !ENV x", "the tag `!ENV`"),
    "set": ("a: !!set {b, c}", "the tag `!!set`"),
    "binary": ("a: !!binary aaaa", "the tag `!!binary`"),
    "NUL": ("a: \0", "is not YAML"),
    "number as key": ("a: {1: b}", "line 1: the key `1` is not a text"),
    "truth as key": ("on: 1", "line 1: the key `on` is not a text"),
    "list as key": ("? [a]\n: b", "the key a list or mapping is not a text"),
    "date": ("a: 2001-99-99", "a value cannot be read: month must be in 1..12"),
    "half a date": ("a: !!timestamp x", "a value cannot be read"),
    "surrogate": ('a: "\\ud800"', "an unpaired surrogate"),
    "the last surrogate": ('a: "\\udfff"', "an unpaired surrogate"),
    "merge of a number": ("a: {<<: 3}", "expected a mapping"),
    "two documents": ("a: 1\n---\nb: 2", "expected a single document"),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_in_two_lines_at_once(case: str, tmp_path: Path) -> None:
    text, said = CASES[case]
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    begun = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert time.monotonic() - begun < 10
    assert str(file) in caught.value.what
    assert said in caught.value.what
    assert len(str(caught.value).splitlines()) == 2
    with pytest.raises(ConfigError):
        load_config("sft", [f"model={text}"])


@pytest.mark.parametrize("text", ["a: &x {b: 1}\nc: *x", "a: &x {b: 1}\nc: {<<: *x, b: 2}", "a: 2024-02-29", "a: .5"])
def test_what_is_plain_is_read_as_before(text: str) -> None:
    assert parse_yaml(text, "config") == yaml.safe_load(text)


def test_files_that_are_large_or_no_files_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "large.yaml").write_bytes(b"a: " + b"x" * 2**21)
    with pytest.raises(ConfigError, match="is longer than 1048576 bytes"):
        read_yaml(tmp_path / "large.yaml")
    (tmp_path / "device.yaml").symlink_to("/dev/zero")
    for name in ("device.yaml", "/dev/zero"):
        with pytest.raises(ConfigError, match="is not a file"):
            read_yaml(tmp_path / name)


def test_a_long_chain_of_keys_or_configs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="5000 keys"):
        load_config("sft", [".".join(["a"] * 5000) + "=1"])
    for number in range(30):
        (tmp_path / f"{number}.yaml").write_text(f"extends: {number + 1}.yaml\n")
    with pytest.raises(ConfigError, match="more than 20 configs"):
        load_config(tmp_path / "0.yaml")


STAGES: dict[str, Any] = {"name": "one", "model": "tiny:llama", "data": {"rows": "rows.jsonl"}}
TAKEN = ["config.yaml", "Lineage.json", "report.html", "report.md", "report.json", "scores.svg", "sft.svg", "DONE"]


@pytest.mark.parametrize("name", [*TAKEN, "done", "Start", "LOCK", "con", "aux.txt", "..", "a/b", "a.", "start"])
def test_a_stage_cannot_be_called_like_a_file_of_the_run(name: str, tmp_path: Path) -> None:
    file = tmp_path / "path.yaml"
    file.write_text(yaml.safe_dump({**STAGES, "stages": [{"name": name, "algorithm": "sft", "data": "rows"}]}))
    with pytest.raises(UserError) as caught:
        load_config(file)
    assert repr(name)[1:-1] in caught.value.what
    assert len(str(caught.value).splitlines()) == 2


def test_names_of_stages_differ_in_more_than_case(tmp_path: Path) -> None:
    stages = [{"name": name, "algorithm": "sft", "data": "rows"} for name in ("first", "First")]
    file = tmp_path / "path.yaml"
    file.write_text(yaml.safe_dump({**STAGES, "stages": stages}))
    with pytest.raises(UserError, match="differ only in upper and lower case"):
        load_config(file)


@pytest.mark.parametrize("output", ["..", "../out", "/tmp/out", "a/../../out", "link"])
def test_only_a_command_line_names_an_output_outside_of_the_working_folder(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    Path("link").symlink_to(tmp_path)
    Path("path.yaml").write_text(yaml.safe_dump({**STAGES, "algorithm": "sft", "data": "rows.jsonl", "output": output}))
    with pytest.raises(UserError, match="leads out of the working folder") as caught:
        load_config("path.yaml", allow_code=())
    assert f"output={output}" in caught.value.remedy
    assert load_config("path.yaml", [f"output={output}"], allow_code=()).output == output
    assert load_config("path.yaml", ["output=runs/deep"], allow_code=()).output == "runs/deep"
