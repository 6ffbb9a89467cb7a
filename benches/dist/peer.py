"""Seconds of torch.distributed's all_reduce (Gloo), by the size of the tensor; rank 0 prints them as JSON.

    python peer.py RANK PROCESSES PORT SIZES REPEATS        (lists with commas)
"""

import json
import sys
import time

import torch
import torch.distributed as dist

rank, processes, port = map(int, sys.argv[1:4])
sizes, repeats = ([int(n) for n in text.split(",")] for text in sys.argv[4:6])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes)
seconds = []
for size, count in zip(sizes, repeats):
    t = torch.ones(size // 4)
    dist.barrier()
    times = []
    for k in range(count + 2):
        started = time.perf_counter()
        dist.all_reduce(t)
        if k >= 2:
            times.append(time.perf_counter() - started)
    seconds.append(times)
if rank == 0:
    print(json.dumps({"seconds": seconds}))
dist.destroy_process_group()
