"""Pure functions on tensors: selection, allocation, schedules, initial values. No module, no file, no global generator."""
