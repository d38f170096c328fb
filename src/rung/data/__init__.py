"""Rows become examples, examples become token ids, token ids become batches; every dropped row is counted."""
