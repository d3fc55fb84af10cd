"""The program of a mule that is named by its file."""

from __future__ import annotations

from uwsgi_waffle.mule import main

main()
