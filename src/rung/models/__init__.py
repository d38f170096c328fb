"""Models and tokenizers: load, adapt, quantise, save."""
