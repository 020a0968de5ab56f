"""Write a version's release notes: `python .github/scripts/release_notes.py v0.2.0 build/release-notes.md`."""

import sys
import tomllib
from pathlib import Path

import keepachangelog

ROOT = Path(__file__).parent.parent.parent


def main(tag: str, out: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    if tag != f"v{version}":
        sys.exit(f'The tag "{tag}" is not v{version}, the version in pyproject.toml. Change one of them.')
    section = keepachangelog.to_raw_dict(str(ROOT / "CHANGELOG.md")).get(version)
    if section is None:
        sys.exit(f"CHANGELOG.md has no section [{version}]. Rename [Unreleased] to it and add the date.")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(section["raw"], encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
