"""Figures and tables, drawn from records or live measurements."""
