from __future__ import annotations
def replay_plain(tables, observer, events, first):
    return None
