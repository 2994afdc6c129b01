"""Every error that Trivium raises on purpose.

TriviumError                      500  internal
├── InvalidRequest                422  invalid_request
│   ├── MalformedBody             400  malformed_body
│   └── InvalidInput              422  invalid_input
├── Unauthenticated               401  unauthenticated
├── Forbidden                     403  forbidden
├── NotFound                      404  not_found
├── TooLarge                      413  too_large
├── UnsupportedMediaType          415  unsupported_media_type
├── Conflict                      409  conflict
├── LimitReached                  429  limit_reached      a limit of the caller's own key
├── TooManyGuesses                429  too_many_guesses   wrong keys from the caller's address
├── Unavailable                   503  unavailable
├── ConfigurationError            500  configuration
│   ├── ManifestError             500  manifest
│   └── DatasetError              500  dataset
└── StepError                     502  step_failed        a step of a fallback chain failed
    ├── StepTimeout               504  timeout
    ├── RateLimited               429  rate_limited
    ├── Overloaded                503  overloaded
    ├── ConnectionFailed          502  connection
    ├── ProviderError             502  provider_error
    ├── TargetBusy                503  busy               our own cap on concurrent calls
    ├── AccessDenied              502  access_denied
    ├── RequestRefused            502  refused            the provider says the request is invalid
    │   ├── ContextOverflow       502  context_overflow
    │   ├── PolicyRefused         502  policy_refused
    │   └── ParameterUnsupported  502  parameter_unsupported
    ├── Diverged                  502  diverged           a rescued stream went on otherwise
    ├── SchemaViolation           502  schema_violation
    ├── LowConfidence             502  low_confidence
    ├── OutOfScope                502  out_of_scope
    ├── BreakerOpen               503  breaker_open
    ├── BudgetExhausted           429  budget_exhausted
    ├── ResultMissing             404  result_missing
    │   └── EntityUnknown         404  entity_unknown
    └── ResultStale               503  result_stale
"""

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class FieldFault:
    """One fault of one field: where it is, what it holds, and what would be right."""

    field: str
    message: str
    value: Any = None


class TriviumError(Exception):
    """Root of the tree; carries the HTTP status and the stable code of its kind."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(
        self,
        detail: str,
        *,
        errors: tuple[FieldFault, ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors
        self.retry_after_s = retry_after_s


class InvalidRequest(TriviumError):
    """The request is well formed, but something in it is wrong."""

    status = 422
    code = "invalid_request"
    title = "Invalid request"


class MalformedBody(InvalidRequest):
    """The body is not JSON."""

    status = 400
    code = "malformed_body"
    title = "Malformed body"


class InvalidInput(InvalidRequest):
    """The input does not match the schema of the feature's manifest."""

    code = "invalid_input"
    title = "Input does not match the feature's schema"


class Unauthenticated(TriviumError):
    """No key, or one that is unknown, revoked or expired."""

    status = 401
    code = "unauthenticated"
    title = "A valid API key is needed"


class Forbidden(TriviumError):
    """The key is valid, but lacks the scope, or is limited to other features."""

    status = 403
    code = "forbidden"
    title = "The key may not do this"


class NotFound(TriviumError):
    """There is no such thing."""

    status = 404
    code = "not_found"
    title = "Not found"


class TooLarge(TriviumError):
    """The body is larger than the service takes."""

    status = 413
    code = "too_large"
    title = "Body too large"


class UnsupportedMediaType(TriviumError):
    """The body is of a kind that the endpoint does not read."""

    status = 415
    code = "unsupported_media_type"
    title = "Unsupported media type"


class Conflict(TriviumError):
    """The request contradicts what is stored."""

    status = 409
    code = "conflict"
    title = "Conflict"


class LimitReached(TriviumError):
    """The caller's key has used up its requests, its tokens or its budget."""

    status = 429
    code = "limit_reached"
    title = "Limit of the key reached"


class TooManyGuesses(TriviumError):
    """So many wrong keys came from the caller's address that no other is looked up for it."""

    status = 429
    code = "too_many_guesses"
    title = "Too many wrong keys"


class Unavailable(TriviumError):
    """Something that the request cannot do without is away."""

    status = 503
    code = "unavailable"
    title = "Temporarily unavailable"


class ConfigurationError(TriviumError):
    """A setting is missing or wrong."""

    code = "configuration"
    title = "Wrong configuration"


class ManifestError(ConfigurationError):
    """A manifest does not load; `detail` has a line per fault."""

    code = "manifest"
    title = "Faulty manifest"


class DatasetError(ConfigurationError):
    """A data file does not read."""

    code = "dataset"
    title = "Faulty data file"


class StepError(TriviumError):
    """A step of a fallback chain failed in a way that the next step may make good.

    `retryable`: the same target may be tried again. `counts`: the breaker counts it as a failure
    of the target.
    """

    status = 502
    code = "step_failed"
    title = "A step failed"
    retryable: ClassVar[bool] = False
    counts: ClassVar[bool] = False
    usage: Any = None
    """Tokens that the failed call was billed for, a domain.inference.Usage."""


class StepTimeout(StepError):
    """Nothing came within the step's share of the deadline; a silent target is not asked again."""

    status = 504
    code = "timeout"
    title = "Timed out"
    counts = True


class RateLimited(StepError):
    """The target says: too many requests."""

    status = 429
    code = "rate_limited"
    title = "Rate limited"
    retryable = True
    counts = True


class Overloaded(StepError):
    """The target says that it is overloaded."""

    status = 503
    code = "overloaded"
    title = "Overloaded"
    retryable = True
    counts = True


class ConnectionFailed(StepError):
    """No connection, or one that broke."""

    code = "connection"
    title = "Connection failed"
    retryable = True
    counts = True


class ProviderError(StepError):
    """The target answered with an error of its own, or with nonsense."""

    code = "provider_error"
    title = "Provider error"
    retryable = True
    counts = True


class RequestRefused(StepError):
    """The target refused the request as invalid; to repeat it would change nothing."""

    code = "refused"
    title = "Refused by the provider"


class ContextOverflow(RequestRefused):
    """The request is longer than the model's context; a larger model may take it."""

    code = "context_overflow"
    title = "Longer than the model's context"


class PolicyRefused(RequestRefused):
    """The model, or its vendor's policy, declined to answer."""

    code = "policy_refused"
    title = "Declined by the model"


class ParameterUnsupported(RequestRefused):
    """This provider has no such parameter; another may."""

    code = "parameter_unsupported"
    title = "Parameter not supported by the provider"


class AccessDenied(StepError):
    """The target does not admit us: its key, a permission or the model is wrong."""

    code = "access_denied"
    title = "Target does not admit us"
    counts = True


class TargetBusy(StepError):
    """As many calls to the target as its cap allows are under way, and none ended in time."""

    status = 503
    code = "busy"
    title = "Target busy"


class Diverged(StepError):
    """A stream that should go on where another broke said something else."""

    code = "diverged"
    title = "Rescued stream diverged"


class SchemaViolation(StepError):
    """The answer does not match the feature's output schema."""

    code = "schema_violation"
    title = "Output does not match the schema"
    answered: str | None = None
    """What the model said, where it can be asked to put it right."""


class LowConfidence(StepError):
    """The model is less sure than the variant demands."""

    code = "low_confidence"
    title = "Low confidence"


class OutOfScope(StepError):
    """The input is unlike everything that the model was trained on."""

    code = "out_of_scope"
    title = "Out of scope"


class BreakerOpen(StepError):
    """The target failed too often lately; it was not asked."""

    status = 503
    code = "breaker_open"
    title = "Circuit breaker open"


class BudgetExhausted(StepError):
    """The feature's budget is spent."""

    status = 429
    code = "budget_exhausted"
    title = "Budget exhausted"


class ResultMissing(StepError):
    """Nothing was pre-computed for this entity yet."""

    status = 404
    code = "result_missing"
    title = "No stored result"


class EntityUnknown(ResultMissing):
    """There is nothing that a result could be computed from."""

    code = "entity_unknown"
    title = "No such entity"


class ResultStale(StepError):
    """The stored result is older than its hard limit."""

    status = 503
    code = "result_stale"
    title = "Stored result too old"
