"""Files of a folder by HTTP, from this machine; asked for, they can fail."""

import socketserver
import threading
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

POLL = 0.01  # seconds between looks whether the server is to end; by default half a second


@contextmanager
def serving(folder, failures=()):
    """The address, and a list of the paths that were asked for.

    Of `failures`, what comes next for each request: a status to answer with; minus the number of
    bytes to break off after; or None for the file.
    """
    failures, asked = iter(failures), []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.failure = next(failures, None)
            if self.failure is not None and self.failure > 0:
                self.send_error(self.failure)
            else:
                super().do_GET()

        def copyfile(self, source, outputfile):
            outputfile.write(source.read(None if self.failure is None else -self.failure))
            self.close_connection = True

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(POLL,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def answering(answer):
    """A server that answers as no honest one does; the address, and the heads of the requests.

    `answer(send, stopped)` sends bytes until it returns; `stopped` is set when the test is over.
    """
    requests, stopped = [], threading.Event()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            head = b""
            while not head.endswith(b"\r\n\r\n") and (line := self.rfile.readline()):
                head += line
            requests.append(head.decode())
            with suppress(OSError):  # the client has gone
                answer(self.wfile.write, stopped)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(POLL,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", requests
        finally:
            stopped.set()
            server.shutdown()
            thread.join()
