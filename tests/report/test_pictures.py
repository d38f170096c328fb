"""Pictures of a report: the same bytes everywhere, colours of the page, and no trace of the library that draws them."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from helpers.evaluations import evaluation
from rung.artifacts.lineage import Lineage, StageRecord
from rung.report import Entry, Report, write
from rung.report.theme import DARK, LIGHT

SVG = "{http://www.w3.org/2000/svg}"


def finished(folder: Path) -> list[Path]:
    """Writes the report of a run of two stages with curves, some noisy; its HTML page and its pictures."""
    rng, lineage = random.Random(0), Lineage()
    for stage in ("sft", "dapo"):
        (folder / stage).mkdir(parents=True)
        lengths = {"mean_length": 20.0, "min_length": 3.0, "max_length": 60.0}
        rows = [
            {"step": step, "loss": rng.random(), "reward": step / 50, "reward/unshaped": step % 7, "entropy": None}
            | {f"completions/{name}": value + rng.random() for name, value in lengths.items()}
            for step in range(1, 61)
        ]
        (folder / stage / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        lineage = lineage.with_stage(StageRecord(stage=stage, start="x", outcome="promoted"))
    entries = [Entry("sft", evaluation({"right": [0.0, 1.0] * 9})), Entry("dapo", evaluation({"right": [1.0] * 18}))]
    write(folder, Report(name="small", lineage=lineage, metrics=["right"], test=entries))
    return [folder / "report.html", *sorted(folder.rglob("*.svg"))]


def elsewhere(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code that may use this module in a process with our environment changed; "" takes a variable away."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    kept = {name: value for name, value in (os.environ | {"PYTHONPATH": path} | environment).items() if value}
    return subprocess.run([sys.executable, "-c", code], env=kept, capture_output=True, text=True, check=False)


@pytest.mark.process
@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo", "LC_ALL": "de_DE.UTF-8"},
        {"HOME": ""},
        {"HOME": "/dev/null", "XDG_CACHE_HOME": "", "XDG_CONFIG_HOME": ""},
        {"HOME": "/dev/null", "PATH": "/nowhere"},
        {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
        {"MPLCONFIGDIR": "{tmp}"},
    ],
    ids=["another process", "no home", "no writable home", "no fonts", "a shell of a notebook", "settings of the user"],
)
def test_a_run_gives_the_same_bytes_in_every_process_and_prints_nothing(tmp_path, environment):
    (tmp_path / "matplotlibrc").write_text("axes.facecolor: red\nfont.size: 30\nsvg.fonttype: path\n")
    here = finished(tmp_path / "here")
    code = f"import pathlib, test_pictures; test_pictures.finished(pathlib.Path({str(tmp_path / 'there')!r}))"
    ran = elsewhere(code, **{name: value.format(tmp=tmp_path) for name, value in environment.items()})
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    for file in here:
        assert file.read_bytes() == (tmp_path / "there" / file.relative_to(tmp_path / "here")).read_bytes(), file


def test_the_plots_of_the_user_are_left_alone(tmp_path):
    import matplotlib  # not above, since other processes import this module to see what we load

    with matplotlib.rc_context({"axes.grid": True, "font.size": 30.0, "svg.hashsalt": "mine"}):
        before = dict(matplotlib.rcParams)
        first = finished(tmp_path / "a")
        assert dict(matplotlib.rcParams) == before
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in finished(tmp_path / "b")]


@pytest.mark.process
@pytest.mark.parametrize(
    ("code", "module"),
    [
        ("import rung, rung.pipeline.runner, rung.report, rung.report.files", "matplotlib"),
        (
            "sys.argv = ['rung', '--help']\nwith contextlib.suppress(SystemExit): rung.cli.main.main()",
            "matplotlib",
        ),
        ("import test_pictures\ntest_pictures.finished(pathlib.Path(tempfile.mkdtemp()))", "matplotlib.pyplot"),
    ],
    ids=["an import", "help", "pyplot, even where a report is written"],
)
def test_what_draws_is_imported_no_earlier_than_a_report_is_written(code, module):
    begin = "import contextlib, pathlib, sys, tempfile, rung.cli.main\n"
    ran = elsewhere(f"{begin}{code}\nsys.exit({module!r} in sys.modules)")
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_colours_and_the_font_are_those_of_the_page_light_or_dark(tmp_path):
    for file in finished(tmp_path):
        text = file.read_text()
        themes = re.search(r":root {(.*)}\n@media \(prefers-color-scheme: dark\) { :root {(.*)} }", text)
        assert themes
        for theme, written in (LIGHT, themes[1]), (DARK, themes[2]):
            assert all(f"--{name}: {value};" in written for name, value in theme.items())
        pictures = "".join(re.findall(r'<svg [^>]*class="picture".*?</svg>', text, re.DOTALL))
        assert not re.search(r"#[0-9a-f]{6}\b(?!\))", re.sub(r'href="#\w+"', "", pictures)), "no colour but variables"
        assert "font-family" not in pictures
        assert set(re.findall(r"var\(--(\w+)\)", pictures)) <= set(LIGHT)
        assert {"ink", "soft", "line", "c0"} <= set(re.findall(r"var\(--(\w+)\)", pictures))
    assert LIGHT.keys() == DARK.keys()


def test_ids_are_the_only_ones_on_their_page_and_each_is_referred_to(tmp_path):
    for file in finished(tmp_path):
        text = file.read_text()
        ids = re.findall(r' id="([^"]*)"', text)
        assert len(set(ids)) == len(ids) > 0
        assert set(re.findall(r'(?:href="|url\()#(\w+)', text)) == set(ids)


def test_a_file_shows_every_picture_of_the_page_three_side_by_side(tmp_path):
    page, *files = finished(tmp_path)
    names = [file.relative_to(tmp_path).as_posix() for file in files]
    assert names == ["dapo/curves.svg", "scores.svg", "sft/curves.svg"]
    curves, scores, _ = (ElementTree.parse(file).getroot() for file in files)
    html = page.read_text()
    assert html.count('class="picture"') == 2 * 3 + 1
    assert "<script" not in html
    labels = [each.attrib["aria-label"] for each in curves.iter(f"{SVG}svg") if each is not curves]
    assert labels == [
        "Training: dapo: loss: loss",
        "Training: dapo: reward mean, and spread within groups: reward, unshaped",
        "Training: dapo: completions tokens: mean, shortest to longest: mean_length",
    ]
    assert all(f'aria-label="{label}"' in html for label in labels)
    assert [(each.attrib["x"], each.attrib["y"]) for each in curves.iter(f"{SVG}svg") if each is not curves] == [
        *(("16", "16"), ("344", "16"), ("672", "16"))
    ]
    assert (curves.attrib["role"], curves.attrib["aria-label"]) == ("img", "small: Training: dapo")
    assert scores.attrib["aria-label"] == "small: scores by stage"
