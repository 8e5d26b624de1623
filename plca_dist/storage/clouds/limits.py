"""Bounds that are the same for every cloud."""

#: An upload or download in parts holds so many bytes of a part, and so many parts at once.
PART_BYTES = 8 << 20
PARTS = 4
#: Seconds for a connection, and between two bytes of an answer.
CONNECT_S = 10
ANSWER_S = 30
#: Tries of one request by the cloud's own library, which knows what may be repeated. `Store` repeats for longer.
TRIES = 2
