"""Rows become examples, examples become ids, ids become batches; every row that is lost on the way is counted."""
