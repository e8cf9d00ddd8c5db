"""Start a real ComfyUI with this pack in it, talk to it over HTTP, stop it by its process id."""

import io
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path

import numpy as np
from real_hosts import host_python

ROOT = Path(__file__).resolve().parents[2]
PACK_NAME = "ComfyUI-MotionBlocks"


def free_port():
    """Return a TCP port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Refused(Exception):
    """The host answered a request with an error status; `.status` and `.body` (parsed JSON) tell which."""

    def __init__(self, status, body):
        super().__init__(f"HTTP {status}: {body}")
        self.status, self.body = status, body


class HostServer:
    """One running host; use it as a context manager. beside: folders of more custom nodes."""

    def __init__(self, folder, base, beside=()):
        self.folder, self.base, self.beside, self.port = Path(folder), Path(base), beside, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = self.base / "host.log"
        self.process = None

    def __enter__(self):
        (self.base / "custom_nodes").mkdir(parents=True)
        for name, folder in {PACK_NAME: ROOT, **{folder.name: folder for folder in self.beside}}.items():
            (self.base / "custom_nodes" / name).symlink_to(folder, target_is_directory=True)
        return self.start()

    def start(self):
        """Start the host, on the same port and folders each time, and wait until it answers."""
        command = [host_python(self.folder), "main.py", "--cpu", "--port", str(self.port)]
        command += ["--base-directory", str(self.base), "--database-url", "sqlite:///:memory:", "--disable-api-nodes"]
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        environment.setdefault("OMP_NUM_THREADS", "1")  # tiny models; two busy threads wait for each other
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )
        try:
            self._wait_until_up()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info):
        self.stop()

    def stop(self):
        """End the host's process."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(20)

    def _wait_until_up(self, timeout=240):
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the host died at start, exit {self.process.returncode}:\n{self.log_tail()}")
            try:
                self.get("/system_stats", timeout=5)
                return
            except (OSError, Refused):
                time.sleep(0.3)
        raise RuntimeError(f"the host did not answer within {timeout} s:\n{self.log_tail()}")

    def log_tail(self, num_chars=4000):
        """Return the end of what the host printed."""
        return self.log_path.read_text(errors="replace")[-num_chars:]

    def _send(self, request, timeout):
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            body = error.read()
            try:
                body = json.loads(body)
            except ValueError:
                body = body.decode(errors="replace")
            raise Refused(error.code, body) from None

    def get(self, path, *, raw=False, timeout=60):
        """GET a path; parsed JSON, or bytes when raw."""
        body = self._send(urllib.request.Request(self.url + path), timeout)
        return body if raw else json.loads(body)

    def post(self, path, payload, timeout=60):
        """POST JSON; parsed JSON or None."""
        request = urllib.request.Request(
            self.url + path, json.dumps(payload).encode(), {"Content-Type": "application/json"}
        )
        body = self._send(request, timeout)
        return json.loads(body) if body.strip() else None

    def queue(self, prompt, client_id=None):
        """Queue an API graph, insist that every output was accepted, return the prompt's id."""
        answer = self.post("/prompt", {"prompt": prompt, "client_id": client_id or uuid.uuid4().hex})
        assert answer["node_errors"] == {}, answer["node_errors"]
        return answer["prompt_id"]

    def wait(self, prompt_id, timeout=300):
        """Return the history entry of a prompt once it has ended, well or badly."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"the host died:\n{self.log_tail()}"
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry and entry.get("status"):
                return entry
            time.sleep(0.15)
        raise TimeoutError(f"prompt {prompt_id} did not end within {timeout} s:\n{self.log_tail()}")

    def run(self, prompt, timeout=300):
        """Queue, wait, insist on success; return the outputs {node id: {...}}."""
        entry = self.wait(self.queue(prompt), timeout)
        assert entry["status"]["status_str"] == "success", failure_text(entry)
        return entry["outputs"]

    def fail(self, prompt, timeout=300):
        """Queue a graph that must not succeed; return what the user is told, from validation or from execution."""
        try:
            answer = self.post("/prompt", {"prompt": prompt, "client_id": uuid.uuid4().hex})
        except Refused as refused:
            return json.dumps(refused.body)
        if answer["node_errors"]:
            return json.dumps(answer["node_errors"])
        entry = self.wait(answer["prompt_id"], timeout)
        assert entry["status"]["status_str"] == "error", "the graph ran, it should have been refused"
        return failure_text(entry)

    def download(self, item):
        """Return the bytes of one {filename, subfolder, type} item of a history entry."""
        query = {k: item[k] for k in ("filename", "subfolder", "type")}
        return self.get("/view?" + urllib.parse.urlencode(query), raw=True)


def failure_text(entry):
    """Return the message of the exception that ended a prompt."""
    for kind, data in entry["status"]["messages"]:
        if kind == "execution_error":
            return f"{data['node_type']}: {data['exception_type']}: {data['exception_message']}"
        if kind == "execution_interrupted":
            return "interrupted"
    return json.dumps(entry["status"])


def saved_video(outputs):
    """Return the one video item {filename, subfolder, type} of a history entry's outputs."""
    items = [item for node in outputs.values() for item in node.get("images", [])]
    (video,) = (item for item in items if item["filename"].endswith((".mp4", ".webm", ".mkv")))
    return video


def decode_video(data):
    """Decode mp4 bytes into (t, h, w, 3) uint8 and the frame rate."""
    import av

    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return np.stack(frames), float(stream.average_rate)
