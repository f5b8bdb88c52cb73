"""What is measured for the book, as resumable units: the paper's figures and tables by their names."""
