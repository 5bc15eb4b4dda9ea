"""Stages that turn a plan into batches.

prefetch    owns all of this: begins an epoch, leaves it, ends
feeder      the thread that plans one lookahead after the other, reads and sends
lookahead   what the next batches need, in which groups;  dealer  which worker does what of a batch
crossing    which pictures go from host to device memory with which batch
flight      batches between planning and delivery, and the lock that guards them
pace        how far ahead of the caller
route       which backend on which device for a file
crew        the workers of a loader, made when a file first needs their kind
work        what a loader and a worker say to each other, and what every worker has to have
handle      a worker that is a decode process, seen from the loader; wire, process: its socket, and its main loop
lane        a worker that is a thread with a decoder on a device
worker      what each of both does: decode a run once, keep pictures, fill; host: in batch memory
direct      frames in the calling thread, without workers
shaping     transforms: what slots hold, which view each sample has
batch       a batch on its way: where its slots lie, what it waits for
finish      planes to batches on a device
share       which streams the CPU may decode in a device's stead
budget      memory of waiting pictures;  tally  counters
"""
