"""Experiment trackers: extras, off by default, fed with the events of runs; see ``docs/trackers.md``."""
