"""What came of new passwords, as text for people. Pure."""

from __future__ import annotations

from pgherd.steps.rotation.rotate import Rotated


def text(done: Rotated, directory: str) -> str:
    """Return whose password is new and where it lies, and what became of the streams."""
    roles = " and ".join(done.roles)
    several = len(done.roles) > 1
    lines = [f"{roles} {'have new passwords' if several else 'has a new password'}: in {directory}"]
    if done.unbroken:
        lines.append(f"no stream broke: {', '.join(done.unbroken)}")
    if done.reconnected:
        lines.append(f"connected anew meanwhile, or away: {', '.join(done.reconnected)}")
    if done.late:
        late = ", ".join(done.late)
        lines.append(f"late on purpose, and open by the former password until then: {late}")
    if "postgres" in done.roles:
        lines.append("applications that log in as postgres need the new one; who is in stays in")
    return "\n".join(lines)
