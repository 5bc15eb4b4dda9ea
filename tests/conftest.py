"""Settings of libraries that tests use; nothing of gpuload's."""

import os

import torch

os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder prints pages otherwise
if not torch.cuda.is_available():
    # Kernels run under Triton's interpreter, which it chooses while a kernel's file is imported.
    os.environ["TRITON_INTERPRET"] = "1"
