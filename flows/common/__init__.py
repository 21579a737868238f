"""Shared parts of all flows: decorator, parameters, presets, progress, and connections to Prefect and Ray."""
