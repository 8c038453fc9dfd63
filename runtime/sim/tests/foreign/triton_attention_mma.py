"""The attention of triton_attention.py with blocks of 32 queries and two warps,
for which Triton takes `mma.sync` and `ldmatrix` instead of `wgmma`.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(__file__))

from triton_attention import ALIGNED, KERNEL, SIGNATURE as WIDE

SIGNATURE = {**WIDE, "BLOCK_M": 32, "BLOCK_N": 32}
OPTIONS = {"num_warps": 2, "num_stages": 3}
