#!/usr/bin/env python3
"""Animate a photo through a running ComfyUI: upload it, queue the workflow, follow the progress, fetch the video.

    python tools/queue_workflow.py photo.jpg --motion "pan left" --dynamics 12 -o out.mp4

Needs only Python. With the package `websocket-client` it shows every sampling step; without, it waits for the end.
"""

import argparse
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path

WORKFLOW = Path(__file__).resolve().parents[1] / "workflows" / "api" / "animate_photo.json"


class Refused(Exception):
    """The server refused a request, or the prompt failed; the text says why."""


def request(url, data=None, content_type="application/json"):
    """Send a GET (no data) or a POST and return the body; a refusal becomes `Refused` with the server's own words."""
    headers = {"Content-Type": content_type} if data is not None else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        raise Refused(f"{url} answered {error.code}: {error.read().decode(errors='replace')}") from None


def upload(server, photo):
    """Put a photo into the host's input folder and return the name it got there."""
    boundary = uuid.uuid4().hex
    name = photo.name.replace('"', "_")
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
    body = (head + "Content-Type: application/octet-stream\r\n\r\n").encode() + photo.read_bytes()
    body += f"\r\n--{boundary}--\r\n".encode()
    answer = json.loads(request(f"{server}/upload/image", body, f"multipart/form-data; boundary={boundary}"))
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
    payload = json.dumps({"prompt": graph, "client_id": client_id}).encode()
    answer = json.loads(request(f"{server}/prompt", payload))
    if answer["node_errors"]:
        raise Refused(f"the graph was refused: {json.dumps(answer['node_errors'], indent=2)}")
    return answer["prompt_id"]


def open_socket(server, client_id):
    """Open the progress socket, or return None where websocket-client is not installed."""
    try:
        import websocket
    except ImportError:
        return None
    return websocket.create_connection(f"{server.replace('http', 'ws', 1)}/ws?clientId={client_id}", timeout=600)


def follow(socket, prompt_id):
    """Print the progress until the prompt has ended: the message `executing` with no node comes last."""
    while True:
        message = socket.recv()
        if isinstance(message, bytes):
            continue
        message = json.loads(message)
        data = message.get("data", {})
        if data.get("prompt_id") not in (None, prompt_id):
            continue
        if message["type"] == "progress":
            print(f"\rstep {data['value']}/{data['max']}", end="", file=sys.stderr, flush=True)
        ended = message["type"] == "executing" and data.get("node") is None and data.get("prompt_id") == prompt_id
        if ended or message["type"] in ("execution_error", "execution_interrupted"):
            print(file=sys.stderr)
            return


def wait_for_outputs(server, prompt_id):
    """Return the outputs of a prompt from the history; a failed prompt becomes `Refused` with its message."""
    while True:
        entry = json.loads(request(f"{server}/history/{prompt_id}")).get(prompt_id)
        if entry and entry.get("status"):
            break
        time.sleep(0.3)
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
    """Run the whole round for one photo: upload, queue, progress, download."""
    client_id = uuid.uuid4().hex
    graph = fill_in(json.loads(Path(workflow).read_text()), photo_name=upload(server, photo), **settings)
    socket = open_socket(server, client_id)
    try:
        prompt_id = queue(server, graph, client_id)
        if socket is not None:
            follow(socket, prompt_id)
    finally:
        if socket is not None:
            socket.close()
    download_video(server, wait_for_outputs(server, prompt_id), target)


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
    settings = {"motion": args.motion, "dynamics": args.dynamics, "num_frames": args.frames, "seed": args.seed}
    try:
        animate(args.server.rstrip("/"), args.photo, args.output, args.workflow, **settings)
    except (Refused, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
