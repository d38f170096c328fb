"""Puts a trained base where `tiny:base` is loaded from: `python -m rung.tiny.ship runs/tiny-base/pretrain/model`."""

import shutil
import sys
from pathlib import Path

import torch

from rung.models.load import load_model

BASE = Path(__file__).parent / "base"


def ship(folder: Path, target: Path = BASE) -> None:
    """Writes the model of `folder` to `target` in bf16, with its tokenizer, in place of what was there."""
    model, tokenizer = load_model(folder)
    if target.exists():
        shutil.rmtree(target)
    model.to(torch.bfloat16).save_pretrained(target)  # type: ignore[arg-type]
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    ship(Path(sys.argv[1]))
