"""Threads take turns: a call freezes a classifier and keeps the process's settings and random states, which all threads share."""

from __future__ import annotations

import threading

TURN = threading.RLock()  # of one thread, for the length of a pass, a fit, or whatever else puts things back when it ends
