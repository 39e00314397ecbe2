"""Utilities: processes, events, logs, drawing, environment."""
