#!/bin/sh
# Removes all that nginx keeps of a stream, wherever it was cached:
#
#   nginx-purge.sh /var/cache/headwater/cache stream:default/chat
#
# The tag is what Headwater answers as `Cache-Tag`. nginx keeps each answer in a file of its own,
# head and body; one that is gone is asked for again. This reads the whole cache. Run it again when
# fetches that were under way have ended: what they brought was from before.
set -eu
directory=$1 tag=$2
grep -rlaixFZ "Cache-Tag: $tag$(printf '\r')" "$directory" | xargs -0r rm -f --
