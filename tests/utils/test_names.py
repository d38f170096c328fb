"""Names of runs and stages become folders, and stay inside the output folder."""

import os

import pytest

from rung.errors import CheckpointError, ConfigError
from rung.utils.names import inside, refuse_links, safe_name

UNSAFE = [
    *("", ".", "..", "...", ".hidden", "/", "/etc", "a/b", "a/../b", "../a", "..\\a", "a\\b", "C:", "a:b", "~"),
    *(
        "~root",
        "a b",
        " a",
        "a ",
        "a\n",
        "\n",
        "a\tb",
        "a\0b",
        "a;b",
        "a&b",
        "a|b",
        "$(a)",
        "`a`",
        "$HOME",
        "a'b",
        'a"b',
    ),
    *("a*", "a?b", "a<b", "a>b", "{a}", "[a]", "a,b", "a=b", "a%2fb", "a#b", "a!", "a@b", "a+b", "a^b", "a(b)"),
    *("\u00e9", "\u0430", "\u2024\u2024", "\uff0e\uff0e", "a\u2215b", "\u202ea", "\u0661", "x" * 129),
]


@pytest.mark.parametrize("name", UNSAFE, ids=ascii)
def test_an_unsafe_name_is_refused_and_named(name, tmp_path):
    with pytest.raises(ConfigError) as caught:
        safe_name(name, "stage")
    assert f"stage name {name!r}" in caught.value.what
    with pytest.raises(ConfigError):
        inside(tmp_path, "run", name)


@pytest.mark.parametrize("name", ["a", "A-b_c.d", "0", "-", "_", "a..b", "x" * 128])
def test_a_safe_name_is_kept(name, tmp_path):
    assert safe_name(name, "run") == name
    assert inside(tmp_path, name) == tmp_path / name


def test_a_link_that_leads_out_of_the_root_is_refused(tmp_path):
    root, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    (root / "out").symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="leads out of"):
        inside(root, "out")
    with pytest.raises(ConfigError, match="leads out of"):
        inside(root, "out", "dpo")


def test_a_link_within_the_root_and_a_root_that_is_a_link_are_fine(tmp_path):
    root = tmp_path / "runs"
    (root / "first").mkdir(parents=True)
    (root / "latest").symlink_to(root / "first")
    (tmp_path / "alias").symlink_to(root)
    assert inside(root, "latest", "dpo") == root / "latest" / "dpo"
    assert inside(tmp_path / "alias", "first") == tmp_path / "alias" / "first"


@pytest.mark.parametrize("name", ["con", "NUL", "Com1", "lpt9.txt", "aux.json", "a.", "prn.."])
def test_names_that_windows_cannot_have_are_refused(name):
    with pytest.raises(ConfigError):
        safe_name(name, "stage")


@pytest.mark.parametrize(
    "place", ["metrics.jsonl", "sft/metrics.jsonl", "sft/checkpoints", "sft", "config.yaml", "sft/checkpoints/a/b"]
)
@pytest.mark.parametrize("target", ["file", "folder", "missing", "/dev/zero"])
def test_a_link_in_a_run_that_leads_out_is_refused_and_nothing_is_written(tmp_path, place, target):
    run, outside = tmp_path / "runs" / "one", tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("kept")
    (outside / "folder").mkdir()
    (run / place).parent.mkdir(parents=True)
    (run / place).symlink_to(outside / target)
    with pytest.raises(CheckpointError, match="is a link to") as caught:
        refuse_links(run)
    assert str(run / place) in caught.value.what
    assert (outside / "file").read_text() == "kept"


def test_links_within_a_run_and_runs_without_links_are_fine(tmp_path):
    run = tmp_path / "one"
    refuse_links(run)
    (run / "sft").mkdir(parents=True)
    (run / "sft" / "LATEST").symlink_to("../sft")
    (run / "sft" / "metrics.jsonl").write_text("")
    (tmp_path / "alias").symlink_to(run)
    refuse_links(run)
    refuse_links(tmp_path / "alias")


def test_a_pipe_in_a_run_is_refused(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(CheckpointError, match="neither a file nor a folder"):
        refuse_links(tmp_path)


def test_the_links_of_the_wandb_client_are_its_own(tmp_path):
    (tmp_path / "sft" / "wandb").mkdir(parents=True)
    (tmp_path / "sft" / "wandb" / "debug.log").symlink_to("/var/log")
    refuse_links(tmp_path)
    (tmp_path / "dpo").mkdir()
    (tmp_path / "dpo" / "wandb").symlink_to("/var/log")
    with pytest.raises(CheckpointError, match="is a link to"):
        refuse_links(tmp_path)
