"""Everything that wants an accelerator, as one list that is run in order of value within a budget of minutes."""
