"""One script per peer; each runs in that peer's environment, where nothing of gpuload is installed."""
