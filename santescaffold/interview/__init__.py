"""``santescaffold interview``: the questionnaire as a form in the browser of this machine, into an answers file."""
