"""Objects that somebody might send to the API server, and what becomes of each."""
