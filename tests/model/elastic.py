"""A driver of its own that trains over two Ray nodes, and loses what it is told to in the middle.

`python -m tests.model.elastic RUN_JOB LOSS`: LOSS is `worker` (one is killed), `node` (one node with
its worker).
"""

import os
import pickle
import signal
import sys
import threading
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from flows.session import ray_session
from model.checkpoint import Checkpoints
from model.launch import choose_room, launch
from model.training import Progress, TrainingJob

# A node that is lost is missed within some five seconds, not thirty.
_HEALTH = {"health_check_period_ms": 1_000, "health_check_failure_threshold": 5, "health_check_timeout_ms": 5_000}


def training_workers() -> list[int]:
    """The processes of Ray Train's workers below this one's Ray."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title, group = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::") and b"TrainWorker" in title and os.environ["NUMERATE_TEST"].encode() in group:
            found.append(int(folder.name))
    return sorted(found)


def main() -> None:
    job: TrainingJob = pickle.loads(Path(sys.argv[1]).read_bytes())
    loss = sys.argv[2]
    head = {"num_cpus": 1, "object_store_memory": 80 << 20, "_system_config": _HEALTH}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    node = cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    ray.init(address=cluster.address, log_to_driver=False)
    lost = threading.Event()

    def report(progress: Progress) -> None:
        """Lose something once there is a checkpoint to go on from."""
        if lost.is_set() or not Checkpoints(job.run / "checkpoints").index().last:
            return
        print(f"lost at {progress.step}", flush=True)
        lost.set()
        if loss == "node":
            cluster.remove_node(node, allow_graceful=False)
        else:
            os.kill(training_workers()[-1], signal.SIGKILL)

    with ray_session():
        result = launch(job, choose_room(job.config.training), report)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    print(f"finished {result.finished} at {result.step} with {len(nodes)} nodes", flush=True)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
