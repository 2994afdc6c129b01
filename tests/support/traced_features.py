"""Features of all three patterns, for traces of what they do."""

import shutil
from pathlib import Path

VARIANTS = """
variants:
  edge-v0: {pattern: edge, model: ticket-triage/2}
  stored-v1: {pattern: precomputed, archive: inbox, compute: {variants: [edge-v0]}}
  in-pieces:
    pattern: precomputed
    archive: pieces
    chunk_rows: 1
    compute: {template: {label: {$input: text}}}
"""
SHADOW = "shadow: {variant: edge-v0, share: 1, monthly_usd: 1}\nbudget:"
CLOCKED = """
  by-clock:
    pattern: precomputed
    archive: clocked
    source: {connection: clock, sql: "SELECT 'C-1' AS id, 'tick' AS text"}
    schedule: {cron: "* * * * *", overlap: queue}
    compute: {template: {label: {$input: text}}}
"""
ROUTES = """
  route/second:
    targets:
      - {provider: local, base_url: "http://127.0.0.1:9/v1", model: gone, retries: 0}
      - {provider: local, model: smollm2, timeouts: {first_token_s: 20, total_s: 55}}
"""


def write_features(folder: Path, shipped: Path) -> Path:
    """The shipped features, one with a shadow; and `stored`, which serves stored results."""
    features = folder / "features"
    shutil.copytree(shipped, features)
    shutil.rmtree(features / "similar-tickets")
    (features / "routes.yaml").write_text((shipped / "routes.yaml").read_text().rstrip() + ROUTES)
    manifest = features / "ticket-triage/feature.yaml"
    triage = manifest.read_text().replace("\nvariants:\n", VARIANTS, 1)
    triage = triage.replace(", min_confidence: 0.30, min_in_scope: 0.3, timeout_ms: 250", "")
    shutil.copytree(features / "ticket-triage", features / "stored")
    stored = triage.replace("feature: ticket-triage\n", "feature: stored\n", 1)
    stored = stored.replace("serve: edge-v1\nfallback: [llm-v1, ", f"{CLOCKED}serve: stored-v1\nfallback: [")
    stored = stored.replace("example:\n", "example:\n  entity_key: M-1\n")
    (features / "stored/feature.yaml").write_text(stored)
    manifest.write_text(triage.replace("\nbudget:", f"\n{SHADOW}", 1))
    return features
