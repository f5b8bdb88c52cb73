"""What is trained and measured for the book, as resumable units, and how it is published."""
