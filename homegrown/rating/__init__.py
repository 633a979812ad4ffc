"""What people think of the texts: blind ratings, and what they come to."""
