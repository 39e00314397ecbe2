"""The backend over HTTP, by the standard library: what Label Studio asks of any machine-learning backend.

GET / and /health; POST /setup with ``schema``, the labelling configuration; POST /predict with ``tasks``,
``label_config`` and, of somebody who points at a part, ``params.context.result``; POST /train and /webhook, which
change nothing. Answers are JSON; of what a user can mend {"error": one line} with the status 400.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ..data.sources.fields import shown
from ..user_errors import USER_ERRORS, one_line
from .backend import Backend
from .labelling import Control, read_labelling, unknown_labels

logger = logging.getLogger(__name__)

_MAX_BYTES = 64 * 2**20


def make_server(backend: Backend, host: str, port: int) -> ThreadingHTTPServer:
    """A server that answers at http://host:port once ``serve_forever`` is called; port 0: any that is free.

    Raises:
        OSError: the port is taken.
    """
    return ThreadingHTTPServer((host, port), type("Handler", (_Handler,), {"answers": Answers(backend)}))


class NothingHere(Exception):
    """There is no such path."""


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"{where}: expected a JSON object, got {shown(value)}")
    return value or {}


class Answers:
    """What is answered to whom, without HTTP; one question at a time."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._lock = threading.Lock()

    def get(self, path: str) -> Any:
        """Raises NothingHere."""
        return self._of(path, {"/": self._health, "/health": self._health})()

    def post(self, path: str, asked: Any) -> Any:
        """Raises NothingHere; ValueError: the question is wrong."""
        ways = {"/predict": self._predict, "/setup": self._setup, "/train": self._none, "/webhook": self._none}
        answer = self._of(path, ways)
        if not isinstance(asked, dict):
            raise ValueError(f"{path}: expected a JSON object, got {shown(asked)}")
        with self._lock:
            return answer(asked)

    @staticmethod
    def _of(path: str, ways: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
        if path not in ways:
            raise NothingHere(f"{path}: nothing is here")
        return ways[path]

    def _health(self) -> Any:
        return {"status": "UP", "model_class": "WPSSAM", "model_version": self._backend.model_version}

    def _none(self, asked: dict[str, Any]) -> Any:
        return {}

    def _setup(self, asked: dict[str, Any]) -> Any:
        self._controls(asked, "schema")
        return {"model_version": self._backend.model_version}

    def _predict(self, asked: dict[str, Any]) -> Any:
        tasks = asked.get("tasks")
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            raise ValueError(f"/predict: tasks: expected a list of tasks, got {shown(tasks)}")
        controls = self._controls(asked, "label_config")
        params = _mapping(asked.get("params"), "params")
        context = _mapping(params.get("context"), "params.context")
        if context.get("result"):
            if not isinstance(context["result"], list):
                raise ValueError(f"params.context.result: expected a list, got {shown(context['result'])}")
            # Somebody looks at one task and waits.
            return {"results": [self._backend.point_at(task, controls, context["result"]) for task in tasks[:1]]}
        answers = self._backend.predict_all(tasks, controls)
        wrong = [answer for answer in answers if isinstance(answer, str)]
        for line in wrong:
            logger.warning("%s", line)
        if tasks and len(wrong) == len(tasks):
            raise ValueError(wrong[0])
        nothing = {"result": [], "score": 0.0, "model_version": self._backend.model_version}
        results = [nothing if isinstance(answer, str) else answer for answer in answers]
        return {"results": results, "model_version": self._backend.model_version}

    def _controls(self, asked: dict[str, Any], key: str) -> list[Control]:
        xml = asked.get(key)
        if not isinstance(xml, str):
            raise ValueError(f"{key}: expected the labelling configuration as XML, got {shown(xml)}")
        controls = read_labelling(xml)
        if unknown := unknown_labels(controls, self._backend.predictor.class_names):
            logger.warning("the model knows no %s: such labels are left to people", ", ".join(unknown))
        return controls


class _Handler(BaseHTTPRequestHandler):
    answers: Answers
    server_version = "wps-sam"
    timeout = 60

    def do_GET(self) -> None:
        self._answer(lambda path: self.answers.get(path))

    def do_POST(self) -> None:
        self._answer(lambda path: self.answers.post(path, self._read()))

    def _read(self) -> Any:
        # Browsers send this kind to other sites only when they are allowed to, and nothing here allows it.
        if self.headers.get_content_type() != "application/json":
            raise ValueError(f"expected application/json, got {self.headers.get_content_type()}")
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 <= length <= _MAX_BYTES:
            raise ValueError(f"expected at most {_MAX_BYTES // 2**20} MB, got {length} bytes")
        return json.loads(self.rfile.read(length))

    def _answer(self, make: Any) -> None:
        path = self.path.partition("?")[0]
        try:
            status, answer = HTTPStatus.OK, make(path.rstrip("/") or "/")
        except NothingHere as error:
            status, answer = HTTPStatus.NOT_FOUND, {"error": str(error)}
        except USER_ERRORS as error:
            status, answer = HTTPStatus.BAD_REQUEST, {"error": one_line(error)}
            logger.warning("%s: %s", path, one_line(error))
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, form: str, *args: Any) -> None:
        logger.info(form, *args)
