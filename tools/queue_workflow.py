#!/usr/bin/env python3
"""Animate a photo through a running ComfyUI: upload it, queue the workflow, follow the progress, fetch the video.

    python tools/queue_workflow.py photo.jpg --motion "pan left" --dynamics 12 -o out.mp4

Needs only Python. With the package `websocket-client` it shows every sampling step; without, it waits for the end.
"""

import argparse
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path

WORKFLOW = Path(__file__).resolve().parents[1] / "workflows" / "api" / "animate_photo.json"
POLL = 0.5  # seconds between two rounds of questions
QUESTION = 20.0  # seconds that one answer may take while the prompt runs
PATIENCE = 60.0  # seconds that a server may be silent, as long as a restart takes
LOST_AFTER = 2  # rounds in which neither queue nor history knew the prompt
GATEWAY = (502, 503, 504)  # a proxy says that the server behind it is away


class Refused(Exception):
    """The server refused a request, or the prompt failed; the text says why."""


class Silent(Exception):
    """The server gave no answer at all; the text says how."""


def request(url, data=None, content_type="application/json", timeout=60):
    """Send a GET (no data) or a POST and return the body.

    A refusal becomes `Refused` with the server's own words, no answer becomes `Silent`.
    """
    headers = {"Content-Type": content_type} if data is not None else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=timeout) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        kind = Silent if error.code in GATEWAY else Refused
        raise kind(f"{url} answered {error.code}: {error.read().decode(errors='replace')}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Silent(f"no server answers at {url} ({getattr(error, 'reason', None) or error})") from None


def ask(url, *arguments, **keywords):
    """`request`, with the JSON object that is answered; anything else is refused."""
    body = request(url, *arguments, **keywords)
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise Refused(f"{url} answered {body[:80]!r}, which no ComfyUI says; give its address with --server")
    return answer


def check_places(photo, workflow, target):
    """Read the photo and the graph, and see that the video can be written, all before anything is sent.

    Returns (bytes of the photo, graph). Raises `Refused`.
    """
    folder = target.resolve().parent
    if not folder.is_dir():
        raise Refused(f"output folder {folder} does not exist; create it first")
    if target.is_dir():
        raise Refused(f"output {target} is a folder; add a file name, such as {target / 'out.mp4'}")
    if not os.access(target if target.exists() else folder, os.W_OK):
        raise Refused(f"output {target} cannot be written; check the permissions or choose another folder")
    picture, text = read_file(photo, "photo"), read_file(workflow, "workflow")
    try:
        graph = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(f"workflow {workflow} is not JSON ({error}); export it again") from None
    if not isinstance(graph, dict) or not all(isinstance(node, dict) and "class_type" in node and
                                              isinstance(node.get("inputs"), dict) for node in graph.values()):
        raise Refused(f"workflow {workflow} is not an API graph; in ComfyUI choose Workflow > Export (API)")
    return picture, graph


def read_file(path, what):
    """The bytes of a file. Raises `Refused`."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise Refused(f"{what} {path} cannot be read ({error.strerror}); check its name") from None
    if not data:
        raise Refused(f"{what} {path} is empty; choose another")
    return data


def upload(server, name, picture):
    """Put a picture's bytes into the host's input folder and return the name it got there."""
    boundary = uuid.uuid4().hex
    name = "".join(letter if letter.isprintable() and letter != '"' else "_" for letter in name)
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
    body = (head + "Content-Type: application/octet-stream\r\n\r\n").encode() + picture
    body += f"\r\n--{boundary}--\r\n".encode()
    answer = ask(f"{server}/upload/image", body, f"multipart/form-data; boundary={boundary}")
    return "/".join(filter(None, (answer.get("subfolder"), answer["name"])))


def nodes_of(graph, class_type):
    """Return the ids of all nodes of one class."""
    return [node_id for node_id, node in graph.items() if node["class_type"] == class_type]


def fill_in(graph, *, photo_name, motion=None, dynamics=None, num_frames=None, seed=None):
    """Return a copy of an API graph that reads the uploaded photo and carries the settings that are not None."""
    graph = json.loads(json.dumps(graph))
    for node_id in nodes_of(graph, "MotionBlocksSamplePhoto"):
        graph[node_id] = {"class_type": "LoadImage", "inputs": {"image": photo_name}}
    for node_id in nodes_of(graph, "MotionBlocksImageToVideo"):
        inputs = graph[node_id]["inputs"]
        inputs.update({k: v for k, v in (("dynamics", dynamics), ("num_frames", num_frames)) if v is not None})
        if motion is not None:
            graph[inputs["positive"][0]]["inputs"]["text"] = motion
    for node_id in nodes_of(graph, "KSampler"):
        graph[node_id]["inputs"].update({"seed": seed} if seed is not None else {})
    return graph


def queue(server, graph, client_id):
    """Queue a graph; return the prompt's id. A 200 answer may still list refused nodes: that is a refusal too."""
    answer = ask(f"{server}/prompt", json.dumps({"prompt": graph, "client_id": client_id}).encode())
    if answer.get("node_errors"):
        raise Refused(f"the graph was refused: {json.dumps(answer['node_errors'], indent=2)}")
    return answer["prompt_id"]


class Progress:
    """The server's progress messages, shown while they come; without websocket-client it only passes the time.

    Whether a prompt has ended is never taken from here: a socket may be closed, or silent for ever.
    """

    def __init__(self, server, client_id):
        self.socket = None
        try:
            import websocket
        except ImportError:
            return
        self.gone = (OSError, websocket.WebSocketException)
        self.silent = websocket.WebSocketTimeoutException
        address = f"{server.replace('http', 'ws', 1)}/ws?clientId={client_id}"
        try:
            self.socket = websocket.create_connection(address, timeout=10)
        except self.gone:
            print("no progress is shown: the server refused the socket", file=sys.stderr)

    def show(self, prompt_id, seconds):
        """Print the steps that are told within these seconds; returns early when the prompt is said to have ended."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self.socket is None:
                time.sleep(left)
                return
            message = self._next(left)
            data = message.get("data", {})
            if data.get("prompt_id") not in (None, prompt_id):
                continue
            kind = message.get("type")
            if kind == "progress":
                print(f"\rstep {data['value']}/{data['max']}", end="", file=sys.stderr, flush=True)
            ended = kind == "executing" and data.get("node") is None and data.get("prompt_id") == prompt_id
            if ended or kind in ("execution_error", "execution_interrupted"):
                print(file=sys.stderr)
                return

    def _next(self, seconds):
        """The next message; {} for a picture, for none in time, and once the socket is closed."""
        try:
            self.socket.settimeout(seconds)
            message = self.socket.recv()
        except self.silent:
            return {}
        except self.gone:
            message = ""
        if message == "":  # the server closed it
            self.close()
        return json.loads(message) if isinstance(message, str) and message else {}

    def close(self):
        """Close the socket, if it is open."""
        if self.socket is not None:
            self.socket.shutdown()  # at once; close() would wait for the server
        self.socket = None


class Watch:
    """Asks what became of a prompt, and tells a server that is away, or has forgotten it, from one that works."""

    def __init__(self, server, prompt_id):
        self.server, self.prompt_id = server, prompt_id
        self.missed, self.was_away, self.heard = 0, False, time.monotonic()

    def entry(self):
        """The prompt's history entry once it has ended, else None. Raises `Refused` when it is lost."""
        try:
            waits, entry = self._round()
        except Silent as silence:
            self._away(silence)
            return None
        self.heard = time.monotonic()
        if entry and entry.get("status"):
            return entry
        self.missed = 0 if waits or entry else self.missed + 1
        if self.missed >= LOST_AFTER:
            why = "the server was restarted and has forgotten it" if self.was_away else (
                "it was deleted there, or the server was restarted")  # fmt: skip
            raise Refused(f"prompt {self.prompt_id} is neither in the queue nor in the history of {self.server}: "
                          f"{why}; run this command again")  # fmt: skip
        return None

    def _round(self):
        """(whether it waits or runs, its history entry). The queue first, so that what leaves it is seen next."""
        waiting = ask(f"{self.server}/queue", timeout=QUESTION)
        items = [*waiting.get("queue_running", []), *waiting.get("queue_pending", [])]
        entry = ask(f"{self.server}/history/{self.prompt_id}", timeout=QUESTION).get(self.prompt_id)
        return any(item[1] == self.prompt_id for item in items), entry

    def _away(self, silence):
        if not self.was_away:
            print(f"\n{silence}; waiting up to {PATIENCE:.0f} s for it to come back", file=sys.stderr)
        self.was_away = True
        if time.monotonic() - self.heard > PATIENCE:
            raise Refused(f"{silence}, for {PATIENCE:.0f} s: it was stopped or hangs, and a server that is started "
                          "again has forgotten the prompt; see its console, then run this command again")  # fmt: skip


def wait_for_outputs(server, prompt_id, progress):
    """Return the outputs of a prompt from the history; a prompt that failed or is lost becomes `Refused`."""
    watch = Watch(server, prompt_id)
    while (entry := watch.entry()) is None:
        progress.show(prompt_id, POLL)
    for kind, data in entry["status"]["messages"]:
        if kind == "execution_error":
            raise Refused(f"{data['node_type']}: {data['exception_message']}")
        if kind == "execution_interrupted":
            raise Refused("the prompt was cancelled")
    return entry["outputs"]


def download_video(server, outputs, target):
    """Fetch the first video among the outputs into `target`."""
    for node in outputs.values():
        for item in node.get("images", []):
            if item["filename"].endswith((".mp4", ".webm", ".mkv")):
                query = urllib.parse.urlencode({k: item[k] for k in ("filename", "subfolder", "type")})
                target.write_bytes(request(f"{server}/view?{query}"))
                return
    raise Refused("the prompt ended without a video among its outputs")


def animate(server, photo, target, workflow=WORKFLOW, **settings):
    """Run the whole round for one photo: check, upload, queue, progress, download."""
    picture, graph = check_places(photo, workflow, target)
    client_id = uuid.uuid4().hex
    graph = fill_in(graph, photo_name=upload(server, photo.name, picture), **settings)
    progress = Progress(server, client_id)
    try:
        outputs = wait_for_outputs(server, queue(server, graph, client_id), progress)
    finally:
        progress.close()
    download_video(server, outputs, target)


def main(arguments=None):
    """Read the command line, run, report; exit 1 with the server's words when it refuses."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photo", type=Path)
    parser.add_argument("--motion", help="what the camera does, e.g. 'zoom in'")
    parser.add_argument("--dynamics", type=int, help="how much, 0 to 19")
    parser.add_argument("--frames", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--server", default="http://127.0.0.1:8188")
    parser.add_argument("--workflow", type=Path, default=WORKFLOW, help="an API graph; default: animate_photo.json")
    parser.add_argument("-o", "--output", type=Path, default=Path("out.mp4"))
    args = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a console that is not UTF-8 shows what it cannot write as \\u1f99d
            stream.reconfigure(errors="backslashreplace")
    settings = {"motion": args.motion, "dynamics": args.dynamics, "num_frames": args.frames, "seed": args.seed}
    try:
        animate(args.server.rstrip("/"), args.photo, args.output, args.workflow, **settings)
    except (Refused, Silent, OSError) as error:
        hint = "; start ComfyUI, or give its address with --server" if isinstance(error, Silent) else ""
        print(f"error: {error}{hint}", file=sys.stderr)
        return 1
    print(args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
