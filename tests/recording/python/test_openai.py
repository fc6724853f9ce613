"""The official OpenAI client for Python, through a record route, with a connection that breaks.

HEADWATER_URL is a server that records what the upstream at UPSTREAM_URL streams.
"""

import json
import os
import socket
import threading
import unittest
import urllib.request
import uuid
from contextlib import closing
from urllib.parse import urlsplit

import openai

HEADWATER = os.environ["HEADWATER_URL"]
UPSTREAM = os.environ["UPSTREAM_URL"]

ASKED = {
    "model": "test",
    "max_tokens": 60,
    "messages": [{"role": "user", "content": "What does the sea say?"}],
}


class Cutter:
    """A TCP proxy that cuts the n-th event stream after cuts[n] bytes of its body."""

    def __init__(self, target, cuts):
        self.target = urlsplit(target)
        self.cuts = iter(cuts)
        self.done = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            origin = socket.create_connection((self.target.hostname, self.target.port))
            threading.Thread(target=self._upload, args=(client, origin), daemon=True).start()
            threading.Thread(target=self._download, args=(origin, client), daemon=True).start()

    @staticmethod
    def _upload(client, origin):
        try:
            while data := client.recv(65536):
                origin.sendall(data)
        except OSError:
            pass

    def _download(self, origin, client):
        left = None
        with closing(origin), closing(client):
            try:
                while data := origin.recv(65536):
                    at = 0
                    found = data.find(b"text/event-stream")
                    if left is None and found >= 0:
                        at = data.find(b"\r\n\r\n", found) + 4
                        left = next(self.cuts, float("inf"))
                    if left is not None and len(data) - at >= left:
                        client.sendall(data[: at + left])
                        self.done += 1
                        client.shutdown(socket.SHUT_RDWR)
                        return
                    if left is not None:
                        left -= len(data) - at
                    client.sendall(data)
            except OSError:
                pass

    def close(self):
        self.listener.close()


def client(base, route):
    return openai.OpenAI(base_url=f"{base}{route}/v1", api_key="test", max_retries=0)


def calls(key):
    with urllib.request.urlopen(f"{UPSTREAM}/__calls") as answer:
        return json.load(answer)[key]


def listen(stream):
    """What a stream says, and whether it came to its end."""
    text = ""
    try:
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                text += chunk.choices[0].delta.content
    except Exception:  # the transport's own kinds of errors are not hidden by the client
        return text, False
    return text, True


def events(lines):
    """The (id, data) of whole events, and whether the lines came to their end."""
    found, last_id, data = [], None, []
    try:
        for line in lines:
            if line == "":
                if data:
                    found.append((last_id, "\n".join(data)))
                data = []
            elif line.startswith("id: "):
                last_id = line[4:]
            elif line.startswith("data: "):
                data.append(line[6:])
    except Exception:
        return found, False
    return found, True


class Streaming(unittest.TestCase):
    def direct(self):
        return listen(client(UPSTREAM, "").chat.completions.create(stream=True, **ASKED))[0]

    def test_a_completion_streams_through(self):
        raw = client(HEADWATER, "/ids").chat.completions.with_raw_response.create(stream=True, **ASKED)
        self.assertIn("stream-url", raw.headers)
        text, whole = listen(raw.parse())
        self.assertTrue(whole)
        self.assertEqual(text, self.direct())

    def test_cut_and_asked_again_with_the_same_key(self):
        key = str(uuid.uuid4())
        headers = {"Idempotency-Key": key, "x-test-key": key, "x-test-delay": "10"}
        cutter = Cutter(HEADWATER, [1500, 6000])
        self.addCleanup(cutter.close)
        attempts = []
        while not attempts or not attempts[-1][1]:
            # A client of its own: pooled connections are of no interest here.
            api = client(cutter.url, "/plain")
            stream = api.chat.completions.create(stream=True, extra_headers=headers, **ASKED)
            attempts.append(listen(stream))
        self.assertEqual(len(attempts), 3)
        self.assertEqual(cutter.done, 2)
        whole = attempts[-1][0]
        self.assertEqual(whole, self.direct())
        for text, _ in attempts:
            self.assertTrue(whole.startswith(text))
        self.assertEqual(calls(key)["calls"], 1)

    def test_cut_and_resumed_after_the_last_event(self):
        key = str(uuid.uuid4())
        headers = {"x-test-key": key, "x-test-delay": "10"}
        cutter = Cutter(HEADWATER, [1500, 4000, 100])
        self.addCleanup(cutter.close)
        got, attempts, whole = [], 0, False
        while not whole:
            attempts += 1
            api = client(cutter.url, "/ids").chat.completions.with_streaming_response
            with api.create(stream=True, extra_headers=headers, **ASKED) as answer:
                more, whole = events(answer.iter_lines())
            got += more
            if got:
                headers["Last-Event-ID"] = got[-1][0]
        self.assertEqual(attempts, 4)
        api = client(UPSTREAM, "").chat.completions.with_streaming_response
        with api.create(stream=True, **ASKED) as answer:
            direct, _ = events(answer.iter_lines())
        self.assertEqual([data for _, data in got], [data for _, data in direct])
        self.assertEqual(len({event_id for event_id, _ in got}), len(got))
        self.assertEqual(calls(key)["calls"], 1)

    def test_errors_come_through(self):
        for status, kind in [(400, openai.BadRequestError), (429, openai.RateLimitError), (500, openai.InternalServerError)]:
            with self.assertRaises(kind) as raised:
                client(HEADWATER, "/plain").chat.completions.create(
                    stream=True, extra_headers={"x-test-status": str(status)}, **ASKED
                )
            self.assertNotIn("stream-url", raised.exception.response.headers)

    def test_an_answer_that_does_not_stream_comes_through(self):
        answer = client(HEADWATER, "/plain").chat.completions.create(**ASKED)
        self.assertEqual(answer.choices[0].message.content, self.direct())


if __name__ == "__main__":
    unittest.main()
