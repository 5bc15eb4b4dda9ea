"""How far ahead of the caller batches are made, and how long the caller is made to wait for that."""

AHEAD = 2
"""Batches beyond the caller's that have a buffer: filled, or being filled."""
PREPARED = 12
"""Batches beyond the caller's that are planned, read and sent to the workers. Where a training loop holds the GIL, each
step of that waits for it 5 ms; so far ahead, no worker waits for those steps. And a GOP of 250 pictures takes as long as
ten batches: each process needs the next one before the others have used up what they were sent."""
MOMENT_S = 0.002
"""How long after a batch was taken the next one is planned, if nothing is urgent. Every operation of torch lets go of
the GIL, and who has just been woken takes it for all that it does: the caller, with a few operations between it and its
batch, waited 4 ms for it each time."""
LEAVING_PATIENCE_S = 0.3
"""Time that workers get to end what they do when an epoch is left; starting a new one takes as long."""
