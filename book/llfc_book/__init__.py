"""What makes the book: records, claims, figures and tables of what `study` trains and measures."""
