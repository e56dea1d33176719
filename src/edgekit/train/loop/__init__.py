"""The loop that trains one stage: Lightning, batches, checkpoints, precision, processes, memory."""
