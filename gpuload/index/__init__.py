"""What a video file holds: packets, pictures and where decoding of each starts."""
