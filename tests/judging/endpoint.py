"""A real HTTP server that speaks OpenAI's protocol, and behaves or misbehaves as a test asks."""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from headflow.judging.match import named
from headflow.judging.vocabulary import load_vocabulary

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers, body."""
Behaviour = Callable[[dict[str, Any]], Answer]
"""From the request's JSON to the answer."""

_SCENES = load_vocabulary("scenes")
KEY = "sk-Zebra0123456789secret"


class Endpoint:
    """The server; ``behaviours`` answer the first requests in turn, the last one all others.

    Attributes:
        url: base URL.
        requests: the JSON of each request, in the order of arrival.
        keys: the Authorization header of each.
        most_at_once: requests that were under way together.
    """

    def __init__(self, *behaviours: Behaviour) -> None:
        self.then(*behaviours or [honest])
        self._under_way, self._lock, outer = 0, threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    outer.requests.append(content)
                    outer.keys.append(self.headers["Authorization"])
                    behaviour = outer._behaviours[min(len(outer.requests), len(outer._behaviours)) - 1]
                    outer._under_way += 1
                    outer.most_at_once = max(outer.most_at_once, outer._under_way)
                status, headers, body = behaviour(content)
                with outer._lock:
                    outer._under_way -= 1
                try:
                    self.send_response(status)
                    for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:  # the client has given up
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def then(self, *behaviours: Behaviour) -> None:
        """Forget what has been, and behave so from now on."""
        self._behaviours = behaviours
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.most_at_once = 0

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def asked(request: dict[str, Any]) -> dict[str, Any]:
    """What is to be judged, as the request has it."""
    return json.loads(request["messages"][1]["content"])


def reply(request: dict[str, Any]) -> dict[str, Any]:
    """The right answer about scenes, by the vocabulary."""
    content, vocabulary = asked(request), _SCENES
    expected = content["expected_objects"] if "expected_objects" in content else named(content["expected_description"], vocabulary)
    described = named(content["description"], vocabulary)
    same = [{"expected": name, "described": name} for name in expected if name in described]
    return {"expected_objects": expected, "described_objects": described, "same": same}


def completion(text: str | None, **more: Any) -> Answer:
    """A chat completion with this text."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    for name, value in more.items():
        (choice if name in choice else choice["message"])[name] = value
    return 200, {}, json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}).encode()


def honest(request: dict[str, Any]) -> Answer:
    return completion(json.dumps(reply(request)))


def says(text: str | None, **more: Any) -> Behaviour:
    return lambda request: completion(text, **more)


def fails(status: int, message: str = "no", **headers: str) -> Behaviour:
    return lambda request: (status, headers, json.dumps({"error": {"message": message}}).encode())


def sleeps(seconds: float) -> Behaviour:
    def behave(request: dict[str, Any]) -> Answer:
        time.sleep(seconds)
        return honest(request)

    return behave
