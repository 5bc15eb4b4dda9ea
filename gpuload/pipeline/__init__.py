"""Stages that turn a plan into batches: workers, queues, batch memory."""
