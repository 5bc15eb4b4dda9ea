"""Settings of encoders that tests use; nothing of gpuload's."""

import os

os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder prints pages otherwise
