# Varnish (7.1 or later) as a CDN before Headwater, or before any server of the Durable Streams
# protocol. docs/cdn.md says why each setting is as it is.
#
#   varnishd -a 127.0.0.1:8080 -f /path/to/varnish.vcl -s malloc,4g
#
# The tests run this file as it is, but for the address of the origin.

vcl 4.1;

import std;

backend headwater {
    .host = "127.0.0.1";
    .port = "4437";
    # Longer than a long-poll waits, and than two heartbeats.
    .first_byte_timeout = 60s;
    .between_bytes_timeout = 60s;
}

acl purgers {
    "localhost";
}

sub vcl_recv {
    # curl -X PURGE -H "Cache-Tag: stream:…" http://127.0.0.1:8080/
    if (req.method == "PURGE") {
        if (client.ip !~ purgers) {
            return (synth(403));
        }
        if (!std.ban("obj.http.Cache-Tag == " + req.http.Cache-Tag)) {
            return (synth(400, std.ban_error()));
        }
        return (synth(204));
    }
    unset req.http.Cookie;
    # Writes and HEAD (which asks where the tail is) are the origin's. So is SSE. What is asked for
    # from `now` on cannot be held back: what came meanwhile would be missed.
    if (req.method != "GET" || req.url ~ "[?&](live=sse|offset=now)(&|$)") {
        return (pass);
    }
    # Who says who he is, in a header or by a signature, gets his own answer.
    if (req.http.Authorization || req.url ~ "[?&]signature=") {
        return (pass);
    }
    return (hash);
}

sub vcl_hash {
    # The whole query, in whatever order: offset and cursor.
    hash_data(std.querysort(req.url));
    hash_data(req.http.Host);
    return (lookup);
}

sub vcl_backend_response {
    # Stale answers are given for as long as the origin says (stale-while-revalidate), and no longer.
    if (beresp.http.Cache-Control !~ "stale-while-revalidate") {
        set beresp.grace = 0s;
    }
    # Afterwards they are there to be asked for by their ETag.
    set beresp.keep = 1h;
}

sub vcl_deliver {
    # What was deleted through here goes at once.
    if (req.method == "DELETE" && resp.status == 204 && resp.http.Cache-Tag) {
        std.ban("obj.http.Cache-Tag == " + resp.http.Cache-Tag);
    }
    if (obj.hits > 0) {
        set resp.http.Cache-Status = "varnish; hit";
    } else {
        set resp.http.Cache-Status = "varnish; fwd=miss";
    }
}
