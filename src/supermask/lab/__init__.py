"""Experiments: strict files, planned runs, worker processes, run folders. The one layer that touches the world."""
