"""children.py: allocates tensors in a child of `multiprocessing`, in a child program, and in this process, which then
forks."""
import multiprocessing, os, subprocess, sys


def work(keep):
    from common import live, say, ttnn

    device = ttnn.open_device(device_id=0)
    tensors = [
        ttnn.empty((1, 1, 256, 256), dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=device) for _ in range(keep)
    ]
    say(pid=os.getpid(), parent=os.getppid(), live=live(device))
    return device, tensors


def end():
    # Ends without closing the device, so the live buffers stay the process's.
    sys.stdout.flush()
    os._exit(0)


def child():
    held = work(2)
    end()


if __name__ == "__main__":
    if sys.argv[1:] == ["child"]:
        child()
    process = multiprocessing.get_context("spawn").Process(target=child)
    process.start()
    process.join()
    subprocess.run([sys.executable, __file__, "child"], check=True)
    held = work(3)
    forked = os.fork()
    if forked == 0:
        os._exit(0)
    os.waitpid(forked, 0)
    subprocess.run(["/bin/true"], check=True)
    end()
