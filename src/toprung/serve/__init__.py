"""`toprung serve`: an exported model behind HTTP, with Ray Serve or as a plain server."""
