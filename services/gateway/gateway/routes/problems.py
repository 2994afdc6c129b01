"""The errors that every endpoint with a key can answer, for the OpenAPI document."""

from trivium.openapi import Responses, problem

PROBLEMS: Responses = {
    400: problem("The body is not JSON."),
    401: problem("No key, or not a valid one."),
    403: problem("The key lacks the scope, or may not call the feature."),
    404: problem("There is no such thing."),
    413: problem("The body is too large."),
    422: problem("A field is wrong; `errors` names each."),
    429: problem("Too many wrong keys came from the caller's address."),
    503: problem("The database is away, and the request cannot do without it."),
}
LIMITED: Responses = {
    429: problem("A limit of the key is reached, or too many wrong keys came from the caller's address.")
}
