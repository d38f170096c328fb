"""Data formats, one family per file, and the detection of a data set's format."""

from rung.data.formats.format import Format
from rung.data.formats.pairs import strip_repeated_prompts
from rung.data.formats.registry import FORMATS, all_formats, detect

__all__ = ["FORMATS", "Format", "all_formats", "detect", "strip_repeated_prompts"]
