"""A workspace of toy versions as a pipeline lays it out, its servers, and the commands that move labels on them."""

from __future__ import annotations

from tensorflow_serving.config import model_server_config_pb2

from pipeline import cli
from serving import protos
from serving.rollout.labels import LABELS
from serving.rollout.model_server import Server
from serving.server import EmbeddedServer


def base(workspace):
    return workspace / "serving_model" / "htr"


def config_file(workspace):
    return workspace / "serving_model" / "models.config"


def serve(workspace, **settings) -> EmbeddedServer:
    """A server as `htr serve` starts it: from the configuration file once there is one."""
    if config_file(workspace).exists():
        settings |= {
            "model_config_file": str(config_file(workspace)),
            "allow_version_labels_for_unavailable_models": True,
        }
    else:
        settings.setdefault("model_base_path", str(base(workspace)))
    fast = {"file_system_poll_wait_seconds": 0.05, "max_num_load_retries": 0, "tensorflow_session_parallelism": 1}
    return EmbeddedServer(port=0, model_name="htr", **{**fast, **settings})


def htr(workspace, *arguments, server=None) -> int:
    extra = ["--server", server] if server else []
    return cli.main([*map(str, arguments), "--workspace", str(workspace), *extra])


def labels(address, name="htr") -> dict[str, int | None]:
    with Server(address) as server:
        return {label: server.label(name, label) for label in LABELS}


def written(workspace):
    config = model_server_config_pb2.ModelServerConfig()
    protos.read_text_proto(config_file(workspace), config)
    (entry,) = config.model_config_list.config
    return entry
