"""Small helpers without a subject of their own: files, names, signals, the console, messages, YAML."""
