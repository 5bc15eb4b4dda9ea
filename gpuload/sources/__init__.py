"""What is stored, where, under which keys."""
