"""Seeded splits by index: stratified, by group, k-fold."""
