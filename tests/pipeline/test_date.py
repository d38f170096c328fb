"""The date that chat templates write in a run."""

import datetime
import json
from pathlib import Path

import pytest
import yaml

import rung
from rung.data import templates
from rung.errors import ConfigError
from rung.tiny.models import load_spec

TEMPLATE = "{{ strftime_now('%Y-%m-%d') }}{% for m in messages %}|{{ m.role }}:{{ m.content }}{% endfor %}"


@pytest.fixture
def config(tmp_path, monkeypatch) -> Path:
    """A config whose model has a chat template with the date."""
    monkeypatch.chdir(tmp_path)
    model, tokenizer = load_spec("llama")
    tokenizer.chat_template = TEMPLATE + "{% if add_generation_prompt %}|assistant:{% endif %}"
    model.save_pretrained("model")
    tokenizer.save_pretrained("model")
    chats = [[{"role": "user", "content": f"{i}+1?"}, {"role": "assistant", "content": str(i + 1)}] for i in range(4)]
    Path("rows.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    stage = {"algorithm": "sft", "data": "rows.jsonl", "max_steps": 2, "save_steps": 1, "batch_size": 2}
    Path("a.yaml").write_text(yaml.safe_dump({"name": "a", "model": "model", **stage}))
    return tmp_path / "a.yaml"


def test_a_run_keeps_the_date_of_its_start(config, monkeypatch) -> None:
    folder = rung.run(config, "name=a").folder
    stage = next(file.parent for file in folder.rglob("data.json"))
    begun = json.loads((stage / "data.json").read_text())["fingerprint"]
    for name in (folder / "DONE", folder / "report.html", stage / "DONE"):
        name.unlink()
    monkeypatch.setattr(templates, "_first_day", lambda: datetime.date(2001, 1, 1))
    assert rung.run(config, "name=a").finished
    assert json.loads((stage / "data.json").read_text())["fingerprint"] == begun


def test_a_date_of_the_config_is_a_fact_of_the_run(config) -> None:
    folder = rung.run(config, "date=2024-02-29").folder
    assert yaml.safe_load((folder / "config.yaml").read_text())["date"] == "2024-02-29"
    with pytest.raises(ConfigError, match="changed: date"):
        rung.run(config, "date=2024-03-01")
