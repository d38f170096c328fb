"""The format of TAT-QA: questions about a table and its surrounding paragraphs (Zhu et al. 2021, arXiv 2105.07624)."""

from dataclasses import replace
from typing import Any

from rung.data.fields import Columns, string, unused_columns, with_truth
from rung.data.formats.format import Format
from rung.data.records import BadRow, Example, digest, make_example

SCALES = ("", "thousand", "million", "billion", "percent")


def _tatqa(row: Columns, source: str) -> list[Example]:
    """Converts a row to one example per question; the questions about one table have the same group."""
    context = _context(row)
    questions = row.get("questions")
    if not isinstance(questions, list) or not questions:
        raise BadRow("`questions` is not a list with at least one question")
    shared = unused_columns(row, "table", "paragraphs", "questions")
    return [
        replace(_question(entry, number, context, shared, f"{source}#{number}"), group=digest(context))
        for number, entry in enumerate(questions, 1)
    ]


def _question(entry: Any, number: int, context: str, shared: dict[str, Any], source: str) -> Example:
    if not isinstance(entry, dict):
        raise BadRow("`questions`: an entry is not an object", f"number {number}")
    question = string(entry.get("question"), f"questions[{number}].question")
    answer = _gold_answer(entry.get("answer"), entry.get("scale") or "", number)
    columns = with_truth(shared | unused_columns(entry, "question"), answer)
    prompt = f"{context}\n\nQuestion: {question}\nAnswer:\n"
    return make_example("prompt-completion", source, columns, prompt=prompt, completion=answer)


def _context(row: Columns) -> str:
    """The table as text, one line per table row, followed by the paragraphs."""
    table = row.get("table")
    lines = table.get("table") if isinstance(table, dict) else None
    if not isinstance(lines, list) or not lines or not all(isinstance(line, list) for line in lines):
        raise BadRow("`table.table` is not a list of rows of cells")
    paragraphs = row.get("paragraphs")
    if not isinstance(paragraphs, list) or not all(isinstance(paragraph, dict) for paragraph in paragraphs):
        raise BadRow("`paragraphs` is not a list of objects with `text`")
    table_text = "\n".join(" | ".join(str(cell).strip() for cell in line) for line in lines)
    texts = [string(paragraph.get("text"), f"paragraphs[{i}].text") for i, paragraph in enumerate(paragraphs, 1)]
    return "\n\n".join([table_text, *texts])


def _gold_answer(answer: object, scale: str, number: int) -> str:
    """The gold answer as text: the spans, separated by semicolons, each with its scale (such as `million`)."""
    where = f"question {number}"
    if scale not in SCALES:
        raise BadRow(
            "`questions` has an unknown `scale`", f"{scale!r:.40} in {where}; the scales are {', '.join(SCALES[1:])}"
        )
    spans = answer if isinstance(answer, list) else [answer]
    if any(isinstance(span, bool) or not isinstance(span, str | int | float) for span in spans):
        raise BadRow("`questions`: `answer` is neither a string, a number nor a list of these", where)
    texts = [text for span in spans if (text := str(span).strip())]
    if not texts:
        raise BadRow("`questions` has an empty `answer`", where)
    return "; ".join(text if scale in text or "%" in text else f"{text} {scale}" for text in texts)


TATQA = Format(
    "tatqa",
    "table, paragraphs, questions",
    lambda row: isinstance(row.get("table"), dict) and isinstance(row.get("questions"), list),
    _tatqa,
    priority=40,
)
