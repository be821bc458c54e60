"""The worker processes of a Ray that this process started; they come and go while one looks."""

from __future__ import annotations

import psutil


def ray_workers(title: str) -> list[psutil.Process]:
    """Those whose title, as `ps` shows it, has `title` in it."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            shown = " ".join(process.cmdline())
        except psutil.NoSuchProcess:  # it ended meanwhile, perhaps as a zombie
            continue
        if "ray::" in shown and title in shown:
            found.append(process)
    return found


def kill_one(title: str) -> bool:
    """Kill -9 one of them; False when none is there any more."""
    for process in ray_workers(title):
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
        return True
    return False
