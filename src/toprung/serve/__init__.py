"""Serve an exported model by HTTP: with Ray Serve, or with a plain server that needs neither Ray nor torch."""
