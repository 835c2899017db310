"""Layers and whole networks as torch runs them, on any device."""
