"""What makes the book: records, claims, figures and tables, from networks that `study` trains and measures."""
