"""How one trial trains: one plain PyTorch loop a file."""
