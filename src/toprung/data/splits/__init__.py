"""Seeded splits by index: stratified, by group, and k-fold."""
