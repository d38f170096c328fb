"""The settings of a data set in a config: where it is, how to read it, and which part of it to use."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator, model_validator

from rung.data.column_map import GROUP, template_columns
from rung.data.read import READERS
from rung.errors import ConfigError
from rung.utils.messages import faulty_key, settings_error

KEYS_OF_STAGE = ("on_bad_row", "max_bad_share", "on_overlong", "max_length", "max_prompt_length")  # about rows
Share = Annotated[float, Field(ge=0, le=1)]


class ShareSpec(BaseModel):
    """A slice of the data: the examples whose group has a position (`splits.position`, in [0, 1)) in [`from`, `to`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    salt: str = ""
    low: Share = Field(0.0, alias="from")
    high: Share = Field(1.0, alias="to")


class DataSpec(BaseModel):
    """The settings of one data set in a config: where it is, how to read it, and which part of it to use.

    `columns` maps rung's column names to those of the data, or to templates such as `{title}: {question}`. `columns:
    {group: document}` has a special meaning: rows with the same value in the column `document` are never separated by
    a split. `pairs_by` is a column by which the answers to one prompt become a pair.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str | None = None  # a file or folder, or task:NAME/SPLIT
    name: str | None = None  # a hub id
    subset: str | None = None  # a subset (configuration) of a hub data set
    split: str | None = None  # a split of a hub data set, a folder or a JSON file
    delimiter: str | None = None  # of CSV files
    format: str | None = None
    columns: dict[str, str] = {}
    pairs_by: str | None = None
    share: ShareSpec | None = None
    limit: PositiveInt | None = None

    @property
    def place(self) -> str:
        """The path or the hub id."""
        return self.path or self.name or ""

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, delimiter: str | None) -> str | None:
        if delimiter in ("tab", r"\t"):
            return "\t"
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
            raise ConfigError(f"`delimiter` is {delimiter!r}", "give one character, such as `;`, or `tab`")
        return delimiter

    @field_validator("columns", mode="before")
    @classmethod
    def _names_by_names(cls, columns: object) -> object:
        form = "`columns: {prompt: <a column>, completion: <a column>}`"
        if not isinstance(columns, Mapping):
            raise ConfigError(f"`columns` is {columns!r:.80}", f"write {form}, with a space after each colon")
        for ours, theirs in columns.items():
            if not isinstance(theirs, str):
                remedy = f'write `{ours}: "{theirs}"`' if isinstance(theirs, int | float) else f"write {form}"
                raise ConfigError(f"`columns`: the entry `{ours}` is {theirs!r:.80}, not the name of a column", remedy)
        return columns

    @field_validator("share", mode="before")
    @classmethod
    def _share_is_an_interval(cls, share: object) -> object:
        if share is None or isinstance(share, Mapping | ShareSpec):
            return share
        to = share if isinstance(share, int | float) and not isinstance(share, bool) and 0 < share < 1 else 0.7
        rest = f"the rest of the rows is `share: {{from: {to}}}`"
        raise ConfigError(f"`share` is {share!r:.80}, not an interval", f"write `share: {{to: {to}}}`; {rest}")

    @field_validator("columns")
    @classmethod
    def _readable_templates(cls, columns: dict[str, str]) -> dict[str, str]:
        for ours, theirs in columns.items():
            template_columns(ours, theirs)
        return columns

    @model_validator(mode="after")
    def _one_place(self) -> "DataSpec":
        if (self.path is None) == (self.name is None):
            what = "`path` and `name` are both set" if self.path else "neither `path` nor `name` is set"
            raise ConfigError(what, "set either `path` (a file, a folder, task:NAME/SPLIT) or `name` (a hub id)")
        if self.delimiter is not None and (self.name is not None or (self.path or "").startswith("task:")):
            raise ConfigError(f"`delimiter` is set, but {self.place} is not a file", "leave out `delimiter`")
        return self


def data_spec(spec: str | Mapping[str, Any] | DataSpec, base: Path | None) -> DataSpec:
    """The settings of a data set that is given by a file, a folder, a hub id, `task:NAME/SPLIT` or a mapping.

    Raises `ConfigError` for a mapping with an unknown key or a value that is not allowed.
    """
    if isinstance(spec, DataSpec):
        return spec
    if isinstance(spec, Mapping):
        try:
            return DataSpec.model_validate(cast("Mapping[str, Any]", spec))
        except ValidationError as error:
            raise _settings_error(error) from error
    is_file = spec.startswith("task:") or (base or Path()).joinpath(spec).exists() or spec.endswith((*READERS, ".gz"))
    is_hub = not is_file and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", spec) is not None
    return DataSpec(name=spec) if is_hub else DataSpec(path=spec)


def renamed_columns(spec: object) -> dict[str, str]:
    """The columns of a data set that `columns` reads under another name, and that name; empty for rows and mixtures.

    >>> renamed_columns({"path": "a.csv", "columns": {"prompt": "Ticket", "completion": "Category"}})
    {'Ticket': 'prompt', 'Category': 'completion'}
    """
    columns = spec.columns if isinstance(spec, DataSpec) else spec.get("columns") if isinstance(spec, Mapping) else {}
    return {theirs: ours for ours, theirs in dict(columns or {}).items() if theirs != ours and ours != GROUP}


def _settings_error(error: ValidationError) -> ConfigError:
    fault = error.errors()[0]
    key = faulty_key(fault)
    if fault["type"] == "extra_forbidden" and key in KEYS_OF_STAGE:
        return ConfigError(f"data: unknown key `{key}`", "it is a key of a stage: write it beside `algorithm`")
    return settings_error("data", error, DataSpec.model_fields)
