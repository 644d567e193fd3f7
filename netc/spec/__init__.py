"""From the text of a spec to a validated, resolved description of a network."""
