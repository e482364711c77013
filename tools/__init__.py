"""Programs for those who develop the template: compile, generate, render, the lab."""
