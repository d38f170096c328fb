"""Code shared by several algorithms; nothing here is an algorithm."""
