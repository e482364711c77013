"""Answers of a SanteDB planning questionnaire become a deployment repository."""
