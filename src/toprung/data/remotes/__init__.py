"""DVC remotes: add, check, push to and pull from them."""
