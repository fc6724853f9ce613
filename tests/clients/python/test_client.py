"""The quick start with the official Python client (durable-streams on PyPI).

Its version 0.1.0 is older than closing and idempotent producers; what it knows
has to work all the same.
"""

import json
import os
import threading
import unittest
import uuid

import httpx
from durable_streams import (
    DurableStream,
    DurableStreamError,
    SeqConflictError,
    StreamExistsError,
    StreamNotFoundError,
    stream,
)

BASE = os.environ["HEADWATER_URL"]
EVENTS = [
    {"event": "user.created", "userId": "123"},
    {"event": "user.updated", "userId": "123"},
    {"event": "user.deleted", "userId": "123"},
]
# A hang ends the run, slowness does not.
TIMEOUT = 180.0


def stream_url(name):
    return f"{BASE}/v1/stream/{name}-{uuid.uuid4()}"


def create(name, content_type, **options):
    return DurableStream.create(
        stream_url(name), content_type=content_type, timeout=TIMEOUT, **options
    )


class QuickStart(unittest.TestCase):
    def test_create_append_read(self):
        with create("my-first-stream", "application/json") as handle:
            offsets = [handle.append(event).next_offset for event in EVENTS]
            self.assertEqual(offsets, sorted(set(offsets)))
            with handle.stream(live=False) as response:
                self.assertEqual(response.read_json(), EVENTS)
                self.assertEqual(response.offset, offsets[-1])
            head = handle.head()
            self.assertEqual(head.offset, offsets[-1])
            self.assertEqual(head.content_type, "application/json")

    def test_create_again(self):
        with create("again", "text/plain", body="first") as handle:
            with DurableStream.create(handle.url, content_type="text/plain") as same:
                self.assertEqual(same.head().offset, handle.head().offset)
            with self.assertRaises(StreamExistsError):
                DurableStream.create(handle.url, content_type="application/json")

    def test_text(self):
        with create("lines", "text/plain") as handle:
            handle.append("Line 1\n")
            handle.append("Liné 2 🚰\r\n")
            with handle.stream(live=False) as response:
                self.assertEqual(response.read_text(), "Line 1\nLiné 2 🚰\r\n")

    def test_resume(self):
        with create("resume", "application/json") as handle:
            for event in EVENTS:
                handle.append(event)
            with stream(handle.url, live=False) as response:
                self.assertEqual(response.read_json(), EVENTS)
                saved = response.offset
            with stream(handle.url, offset=saved, live=False) as response:
                self.assertEqual(response.read_json(), [])
                self.assertEqual(response.offset, saved)
            handle.append({"event": "user.restored"})
            with stream(handle.url, offset=saved, live=False) as response:
                self.assertEqual(response.read_json(), [{"event": "user.restored"}])

    def live(self, mode):
        with create("ticks", "application/json") as handle:
            handle.append({"count": 0})
            seen = []
            first = threading.Event()

            def follow():
                with stream(handle.url, offset="-1", live=mode, timeout=TIMEOUT) as response:
                    for item in response.iter_json():
                        seen.append(item)
                        first.set()
                        if len(seen) == 30:
                            return

            follower = threading.Thread(target=follow)
            follower.start()
            self.assertTrue(first.wait(TIMEOUT))
            for count in range(1, 30):
                handle.append({"count": count})
            follower.join(TIMEOUT)
            self.assertEqual(seen, [{"count": count} for count in range(30)])

    def test_live_auto(self):
        self.live("auto")

    def test_live_long_poll(self):
        self.live("long-poll")

    def test_live_sse(self):
        self.live("sse")

    def test_live_events_carry_offsets_to_resume_from(self):
        with create("checkpoint", "application/json") as handle:
            for n in range(3):
                handle.append({"n": n})
            with stream(handle.url, offset="-1", live="sse", timeout=TIMEOUT) as response:
                for event in response.iter_events(mode="json"):
                    if {"n": 2} in event.data:
                        saved = event.next_offset
                        break
            handle.append({"n": 3})
            with stream(handle.url, offset=saved, live=False) as response:
                self.assertEqual(response.read_json(), [{"n": 3}])


class Exactness(unittest.TestCase):
    def test_bytes(self):
        written = [bytes(range(256)), os.urandom(1_000_000), b"\0", b"\r\n\r\n"]
        with create("bytes", "application/octet-stream") as handle:
            for part in written:
                handle.append(part)
            with handle.stream(live=False) as response:
                self.assertEqual(response.read_bytes(), b"".join(written))

    def test_integers_beyond_doubles(self):
        values = [{"n": n} for n in (2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1, 10**40 + 1)]
        with create("integers", "application/json") as handle:
            for value in values:
                handle.append(value)
            with handle.stream(live=False) as response:
                self.assertEqual(response.read_json(), values)

    def test_raw_json_is_kept(self):
        raw = '{"b" : 1.0, "a":[ 1E400 , "\\u00e9" ]}'
        with create("raw", "application/json") as handle:
            headers = {"content-type": "application/json"}
            httpx.post(handle.url, content=raw, headers=headers, timeout=TIMEOUT).raise_for_status()
            self.assertEqual(httpx.get(handle.url, timeout=TIMEOUT).text, f"[{raw}]")

    def test_concurrent_appends_are_batched_and_none_is_lost(self):
        with create("batches", "application/json") as handle:

            def write(writer):
                for n in range(100):
                    handle.append({"writer": writer, "n": n})

            threads = [threading.Thread(target=write, args=(w,)) for w in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(TIMEOUT)
            with handle.stream(live=False) as response:
                items = response.read_json()
        for writer in range(8):
            own = [item["n"] for item in items if item["writer"] == writer]
            self.assertEqual(own, list(range(100)))


class Errors(unittest.TestCase):
    def test_missing(self):
        with DurableStream(stream_url("missing"), content_type="text/plain") as handle:
            for attempt in (
                lambda: handle.append("x"),
                handle.head,
                handle.delete,
                lambda: handle.stream(live=False),
            ):
                with self.assertRaises(StreamNotFoundError):
                    attempt()

    def test_conflicts(self):
        with create("conflicts", "text/plain") as handle:
            handle.append("b", seq="b")
            with self.assertRaises(SeqConflictError):
                handle.append("a", seq="a")
            with self.assertRaises(SeqConflictError):
                handle.append("{}", content_type="application/json")
            with handle.stream(live=False) as response:
                self.assertEqual(response.read_text(), "b")

    def test_malformed(self):
        with create("malformed", "application/json") as handle:
            for offset in ("a/b", "..", "0"):
                with self.assertRaises(DurableStreamError) as caught:
                    handle.stream(offset=offset, live=False)
                self.assertEqual(caught.exception.status, 400)
                self.assertIsInstance(json.loads(caught.exception.details)["code"], str)

    def test_delete(self):
        with create("deleted", "text/plain", body="x") as handle:
            handle.delete()
            with self.assertRaises(StreamNotFoundError):
                handle.head()


if __name__ == "__main__":
    unittest.main()
