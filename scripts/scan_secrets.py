"""Looks for secrets in all files of the project; what .secrets.baseline lists was looked at and is none.

python scripts/scan_secrets.py           fails, naming file and line, if there is anything else
python scripts/scan_secrets.py --update  writes the baseline anew; look at what changed before you commit it
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

from detect_secrets.core.potential_secret import PotentialSecret
from detect_secrets.core.secrets_collection import SecretsCollection
from detect_secrets.settings import transient_settings

BASELINE = ".secrets.baseline"
# Weights, pictures and hashes, which look random; and what is made from code, which is read.
UNREAD = re.compile(
    r".*(\.onnx|\.png|\.svg|/tokenizer\.json|\.schema\.json)|requirements\.lock|\.secrets\.baseline"
    r"|docs/openapi/.*|.*/dashboards/.*\.json"
)
# What we and our users have; the two of high entropy find what other vendors give out.
PLUGINS = (
    *("AWSKeyDetector", "Base64HighEntropyString", "BasicAuthDetector", "GitHubTokenDetector"),
    *("HexHighEntropyString", "JwtTokenDetector", "KeywordDetector", "OpenAIDetector", "PrivateKeyDetector"),
    *("SlackDetector", "StripeDetector"),
)
Known = dict[str, list[dict[str, str]]]


def files_of(root: Path) -> list[str]:
    """Every file that is tracked or would be, without what is not read."""
    listed = ["git", "-C", str(root), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, capture_output=True, check=True, text=True).stdout.split("\0")
    return sorted(
        name for name in set(names) if name and not UNREAD.fullmatch(name) and (root / name).is_file()
    )


def scan(root: Path, names: list[str]) -> dict[str, list[PotentialSecret]]:
    """What looks like a secret, by file."""
    found = SecretsCollection(root=str(root))
    with transient_settings({"plugins_used": [{"name": name} for name in PLUGINS]}):
        for name in names:
            found.scan_file(name)
    return {
        name: sorted(secrets, key=lambda one: one.line_number)
        for name, secrets in found.data.items()
        if secrets
    }


def as_known(found: dict[str, list[PotentialSecret]]) -> Known:
    """What the baseline keeps: kinds and hashes, no lines, which move."""
    return {
        name: sorted(
            ({"type": one.type, "hashed_secret": one.secret_hash} for one in secrets),
            key=lambda one: (one["type"], one["hashed_secret"]),
        )
        for name, secrets in sorted(found.items())
    }


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Looks for secrets in all files of the project.")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--update", action="store_true", help="write the baseline anew")
    chosen = parser.parse_args()
    found = scan(chosen.root, files_of(chosen.root))
    path = chosen.root / BASELINE
    if chosen.update:
        path.write_text(json.dumps(as_known(found), indent=2) + "\n")
        return 0
    known: Known = json.loads(path.read_text()) if path.is_file() else {}
    new = 0
    for name, secrets in found.items():
        hashes = {one["hashed_secret"] for one in known.get(name, [])}
        for one in secrets:
            if one.secret_hash not in hashes:
                new += 1
                sys.stderr.write(f"{name}:{one.line_number}: {one.type}\n")
    if new:
        sys.stderr.write(
            "If these are none: `# pragma: allowlist secret` behind the line, or "
            f"`python scripts/scan_secrets.py --update` and look at {BASELINE}.\n"
        )
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main())
