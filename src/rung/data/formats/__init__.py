"""Data formats, one family a file, and how the format of a data set is found."""

from rung.data.formats.format import Format
from rung.data.formats.pairs import strip_repeated_prompts
from rung.data.formats.registry import FORMATS, all_formats, detect

__all__ = ["FORMATS", "Format", "all_formats", "detect", "strip_repeated_prompts"]
