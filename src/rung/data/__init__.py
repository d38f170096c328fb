"""Data: reads rows, converts them to examples, encodes them as token ids and collates batches; counts dropped rows."""
