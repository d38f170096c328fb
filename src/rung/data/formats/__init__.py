"""Data formats, with related formats in one file, and the detection of the format of a data set."""

from rung.data.formats.format import Format
from rung.data.formats.pairs import strip_repeated_prompts
from rung.data.formats.registry import FORMATS, all_formats, detect

__all__ = ["FORMATS", "Format", "all_formats", "detect", "strip_repeated_prompts"]
