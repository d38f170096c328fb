"""Weights & Biases."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rung.training.trackers.protocol import Rows

if TYPE_CHECKING:
    import wandb


def _wandb_table(rows: Rows) -> wandb.Table:
    import wandb

    columns: list[Any] = list(dict.fromkeys(name for row in rows for name in row))
    data: list[Any] = [[_scalar(row.get(name)) for name in columns] for row in rows]
    return wandb.Table(columns=columns, data=data, allow_mixed_types=True)


def _scalar(value: Any) -> str | int | float | None:
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)
