"""How long what is kept."""

from pydantic import Field

from trivium.settings import Settings


class RetentionSettings(Settings):
    """Days by class; payloads and the ledger go by each feature's `recording`."""

    retention_every_s: float = Field(
        3600.0, ge=1, description="Seconds between looks at what may be forgotten."
    )
    retention_disputed_days: float = Field(
        30.0,
        ge=0,
        description="Days past a feature's `retention_days` for which answers are kept that users disagree "
        "on and nobody has decided; 0: none.",
    )
    retention_orphans_days: float = Field(
        90.0, ge=1, description="Days after which feedback goes whose inference never came."
    )
    retention_runs_days: float = Field(
        30.0,
        ge=1,
        description="Days after its end that a run goes, with chunks and dead items, and after which a "
        "refresh goes that nobody made. The newest run of each version stays.",
    )
    retention_results_days: float = Field(
        30.0,
        ge=1,
        description="Days after which results go whose variant no worker's manifests know any more, or "
        "whose entity is gone; embeddings likewise.",
    )
    retention_evaluations_days: float = Field(
        400.0,
        ge=1,
        description="Days after which evaluations go; not those that `promoted.json` names, nor a variant's "
        "newest.",
    )
    retention_drift_days: float = Field(
        400.0,
        ge=1,
        description="Days after which reports of drift go, and references of versions that no worker knows "
        "any more.",
    )
    retention_decisions_days: float = Field(
        3650.0,
        ge=1,
        description="Days after which decisions on rollouts and reviews go; the decision that brought a "
        "feature into its stage stays.",
    )
    retention_audit_days: float = Field(
        400.0, ge=1, description="Days after which events of the audit log go."
    )
    retention_keys_days: float = Field(
        400.0,
        ge=1,
        description="Days after which revoked and expired keys go that no row of the ledger names.",
    )
