"""The web server of the form: loopback only, nothing without the run's token, no request of another site obeyed."""

from __future__ import annotations

import hmac
import secrets
import threading
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Response, abort, jsonify, render_template, request, send_from_directory
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from santescaffold.interview import form, tables
from santescaffold.interview.session import Changed, Session, to_yaml

ADDRESS = "127.0.0.1"
MOST_BYTES = 8_000_000

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class _Quiet(WSGIRequestHandler):
    """Keeps requests, whose addresses hold the token, out of terminals and logs."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""


class Server:
    """The form, served until it is finished or stopped."""

    def __init__(self, session: Session, port: int = 0) -> None:
        """Listen on loopback; port 0 takes any free one. Raises OSError when the port is taken."""
        self.session = session
        self.token = secrets.token_urlsafe(32)
        self._writing = threading.Lock()
        self.app = _application(self)
        self._server: BaseWSGIServer = make_server(ADDRESS, port, self.app, threaded=True, request_handler=_Quiet)
        self.port = self._server.server_port
        self.finished = False

    @property
    def url(self) -> str:
        """Where the form is; the token in it is what lets a browser in."""
        return f"http://{ADDRESS}:{self.port}/{self.token}/"

    @property
    def hosts(self) -> tuple[str, str]:
        """The values of the Host header that are ours: any other is a name somebody pointed at this machine."""
        return (f"{ADDRESS}:{self.port}", f"localhost:{self.port}")

    def serve(self) -> None:
        """Serve until ``stop`` is called or the process is interrupted."""
        try:
            self._server.serve_forever()
        finally:
            self._server.server_close()

    def stop(self) -> None:
        """End ``serve`` from another thread, after the answer under way."""
        threading.Timer(0.3, self._server.shutdown).start()

    def save(self, values: dict[str, Any], revision: str) -> str:
        """Write the answers file, one writer at a time."""
        with self._writing:
            return self.session.save(values, revision)


def _refused(message: str, code: int) -> tuple[Response, int]:
    return jsonify(error=message), code


def _answers() -> dict[str, Any]:
    """Return the answers of the request; anything but a mapping of names is refused."""
    body = request.get_json(silent=True)
    if not isinstance(body, dict) or not isinstance(body.get("answers"), dict):
        abort(400)
    answers: dict[str, Any] = body["answers"]
    return answers


def _application(server: Server) -> Flask:
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MOST_BYTES
    session = server.session
    questions = session.template.catalog["questions"]
    described = form.describe(session.template.catalog)

    @app.before_request
    def only_ours() -> None:
        """Refuse what does not come from the page this run has opened."""
        if request.headers.get("Host", "") not in server.hosts:
            abort(421)
        given = request.path.split("/")[1]
        if not hmac.compare_digest(given.encode(), server.token.encode()):
            abort(404)
        if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            abort(403)
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc not in server.hosts:
            abort(403)
        if request.method == "POST" and (
            request.mimetype != "application/json" or "X-Interview" not in request.headers
        ):
            abort(403)

    @app.after_request
    def harden(response: Response) -> Response:
        """Nothing is loaded from or sent to anywhere else, framed, or kept by the browser."""
        response.headers.update(_HEADERS)
        return response

    @app.get("/<token>/")
    def page(token: str) -> str:
        return render_template("form.html", file=session.file.name)

    @app.get("/<token>/static/<path:name>")
    def static_file(token: str, name: str) -> Response:
        return send_from_directory("static", name)

    @app.get("/<token>/api/form")
    def describe(token: str) -> Response:
        return jsonify(described)

    @app.get("/<token>/api/answers")
    def answers(token: str) -> Response:
        return jsonify(
            answers=session.ordered(session.values),
            revision=session.revision,
            file=str(session.file),
            others=session.others,
        )

    @app.post("/<token>/api/check")
    def check(token: str) -> Response:
        return jsonify(session.check(_answers()))

    @app.post("/<token>/api/plan")
    def plan(token: str) -> Any:
        values = _answers()
        try:
            return jsonify(session.plan(values))
        except Exception as error:  # whatever a macro trips over in half an answer
            app.logger.debug("no plan yet: %s", error)
            return _refused("These answers do not make a plan yet.", 422)

    @app.post("/<token>/api/save")
    def save(token: str) -> Any:
        values = _answers()
        try:
            return jsonify(revision=server.save(values, str(request.get_json().get("revision", ""))))
        except Changed:
            return _refused(
                f"{session.file.name} was changed by somebody else since it was read; nothing was saved; one of the "
                "two versions would be lost; export your answers, then load the page again and import them",
                409,
            )
        except OSError as error:
            return _refused(
                f"the answers cannot be saved ({error.strerror}); {session.file}; they would be lost with this page; "
                "export them, and check the disk and its permissions",
                507,
            )

    @app.post("/<token>/api/import")
    def take_over(token: str) -> Any:
        text = request.get_json().get("text")
        if not isinstance(text, str):
            abort(400)
        values, problems = session.take_over(text)
        return jsonify(answers=session.ordered(values), problems=[problem.sentence for problem in problems])

    @app.post("/<token>/api/export")
    def export(token: str) -> Response:
        return Response(to_yaml(session.ordered(_answers())), mimetype="application/yaml")

    @app.post("/<token>/api/table/<question>")
    def table(token: str, question: str) -> Any:
        """Read a CSV table (``text``), or write one (``items``)."""
        body = request.get_json()
        spec = questions.get(question) or {}
        if "item" not in spec or not isinstance(body, dict):
            abort(404)
        if isinstance(body.get("text"), str):
            try:
                return jsonify(items=tables.read(body["text"], question, spec))
            except tables.BadTable as error:
                return _refused(str(error), 422)
        return Response(tables.write(body.get("items"), spec), mimetype="text/csv")

    @app.post("/<token>/api/finish")
    def finish(token: str) -> Response:
        server.finished = True
        server.stop()
        return jsonify(file=str(session.file))

    return app
