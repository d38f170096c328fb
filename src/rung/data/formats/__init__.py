"""The forms of rows that are known, by family, and how the form of a data set is found."""

from rung.data.formats.form import Format
from rung.data.formats.pairs import strip_repeated_prompts
from rung.data.formats.table import FORMATS, detect, format_named

__all__ = ["FORMATS", "Format", "detect", "format_named", "strip_repeated_prompts"]
