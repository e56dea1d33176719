"""The search for the student that fits a budget: candidates are measured on the device before anything is trained."""
