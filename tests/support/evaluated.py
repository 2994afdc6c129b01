"""A manifest whose evaluators and gates a test writes."""

MANIFEST = """
feature: reply
owner: tests
assessment: {{problem: p, data: d, acceptable_error_rate: 0.1, when_wrong: w}}
success_metric: {{name: m, direction: down}}
input: {{type: object, properties: {{text: {{type: string}}}}}}
output:
  type: object
  required: [label]
  properties: {{label: {{type: string}}, score: {{type: number}}, more: {{type: object}}}}
deadline_ms: 5000
variants: {{edge-v1: {{pattern: edge, model: triage/1}}}}
serve: edge-v1
fallback: [{{static: {{label: nothing}}}}]
rollout: {{flag: reply}}
evaluation: {{dataset: golden.jsonl, evaluators: {evaluators}, gates: {gates}}}
budget: {{monthly_usd: 1}}
example: {{input: {{text: hello}}}}
"""
