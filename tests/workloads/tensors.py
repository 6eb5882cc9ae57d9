"""Allocates tensors of many kinds, prints TT-Metal's figures of each and its list of live buffers, and kills itself by
signal 9."""
import os, signal

from common import banks, live, say, tensor, ttnn

device = ttnn.open_device(device_id=0)
tile = dict(layout=ttnn.TILE_LAYOUT, device=device)
tensors = {
    dtype.name: ttnn.empty((1, 1, 96, 160), dtype=dtype, **tile)
    for dtype in (ttnn.bfloat16, ttnn.float32, ttnn.bfloat8_b, ttnn.bfloat4_b, ttnn.uint32, ttnn.uint16)
}
tensors["padded"] = ttnn.empty((2, 3, 33, 65), dtype=ttnn.bfloat16, **tile)
tensors["rows"] = ttnn.empty((3, 1, 100, 200), dtype=ttnn.bfloat16, layout=ttnn.ROW_MAJOR_LAYOUT, device=device)
tensors["l1"] = ttnn.empty((1, 1, 256, 256), dtype=ttnn.bfloat16, memory_config=ttnn.L1_MEMORY_CONFIG, **tile)
for strategy in (ttnn.ShardStrategy.BLOCK, ttnn.ShardStrategy.HEIGHT, ttnn.ShardStrategy.WIDTH):
    sharded = ttnn.create_sharded_memory_config(
        (1, 1, 512, 512), core_grid=ttnn.CoreGrid(y=4, x=4), strategy=strategy
    )
    tensors["sharded " + strategy.name] = ttnn.empty(
        (1, 1, 512, 512), dtype=ttnn.bfloat16, memory_config=sharded, **tile
    )
cores = ttnn.CoreRangeSet({ttnn.CoreRange(ttnn.CoreCoord(0, 0), ttnn.CoreCoord(1, 1))})
try:
    semaphore = ttnn.create_global_semaphore(device, cores, 0)
    semaphore_report = dict(address=ttnn.get_global_semaphore_address(semaphore), cores=4)
except RuntimeError as error:
    semaphore_report = dict(error=str(error).split("backtrace:")[0])
say(
    tensors={name: tensor(t) for name, t in tensors.items()},
    semaphore=semaphore_report,
    live=live(device),
    banks=banks(device),
)
os.kill(os.getpid(), signal.SIGKILL)
