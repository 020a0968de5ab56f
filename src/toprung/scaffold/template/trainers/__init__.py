"""Training loops: one plain PyTorch loop per file."""
