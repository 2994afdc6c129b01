{{- define "trivium.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "trivium.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "trivium.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "trivium.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Labels that select: dict root, component. */}}
{{- define "trivium.selector" -}}
app.kubernetes.io/name: {{ include "trivium.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "trivium.labels" -}}
{{ include "trivium.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* An image: dict root, own (its values), name. */}}
{{- define "trivium.image" -}}
{{- $image := .root.Values.image }}
{{- $repository := .own.repository | default (printf "%s/%s" $image.prefix .name) }}
{{- if $image.registry }}{{ $repository = printf "%s/%s" $image.registry $repository }}{{ end }}
{{- if .own.digest }}
{{- printf "%s@%s" $repository .own.digest }}
{{- else }}
{{- printf "%s:%s" $repository (.own.tag | default $image.tag | default .root.Chart.AppVersion) }}
{{- end }}
{{- end }}

{{/* What all pods have: dict root, serviceAccount. Service links would set TRIVIUM_GATEWAY_PORT to an address. */}}
{{- define "trivium.pod" -}}
serviceAccountName: {{ .serviceAccount }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Where pods of a component go: dict root, component, own. */}}
{{- define "trivium.placement" -}}
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "trivium.selector" $ | nindent 8 }}
  {{- end }}
{{- with .own.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .own.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .own.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "trivium.container" -}}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* Probes of a container: dict prefix, port, startup (path of the startup probe). */}}
{{- define "trivium.probes" -}}
startupProbe:
  httpGet: {path: {{ .prefix }}{{ .startup }}, port: {{ .port }}}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: {{ .prefix }}/health/live, port: {{ .port }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: {{ .prefix }}/health/ready, port: {{ .port }}}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 2
{{- end }}

{{/* A variable from the secret, if its key is named: dict root, name, key. */}}
{{- define "trivium.secretEnv" -}}
{{- with index .root.Values.secret.keys .key }}
- name: {{ $.name | quote }}
  valueFrom: {secretKeyRef: {name: {{ $.root.Values.secret.name | quote }}, key: {{ . | quote }}}}
{{- end }}
{{- end }}

{{/* What every service is told: dict root, service (of the trace). */}}
{{- define "trivium.commonEnv" -}}
- {name: TRIVIUM_ENVIRONMENT, value: {{ .root.Values.environment }}}
- {name: TRIVIUM_LOG_LEVEL, value: {{ .root.Values.logLevel }}}
- {name: TRIVIUM_HOST, value: 0.0.0.0}
- {name: TRIVIUM_STATE_DIR, value: /var/lib/trivium}
{{- include "trivium.secretEnv" (dict "root" .root "name" "TRIVIUM_SERVICE_KEY" "key" "serviceKey") }}
{{- with .root.Values.otel.endpoint }}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ . | quote }}}
- {name: OTEL_SERVICE_NAME, value: {{ $.service }}}
- {name: OTEL_TRACES_SAMPLER, value: {{ $.root.Values.otel.sampler }}}
- {name: OTEL_TRACES_SAMPLER_ARG, value: {{ $.root.Values.otel.samplerArg | quote }}}
{{- end }}
{{- end }}

{{/* The certificates by which PostgreSQL is verified, from the secret: variable, mount and volume. */}}
{{- define "trivium.caEnv" -}}
{{- if .Values.secret.keys.databaseCa }}
- {name: PGSSLROOTCERT, value: /etc/trivium/certificates/ca.crt}
{{- end }}
{{- end }}

{{- define "trivium.caMount" -}}
{{- if .Values.secret.keys.databaseCa }}
- {name: certificates, mountPath: /etc/trivium/certificates, readOnly: true}
{{- end }}
{{- end }}

{{- define "trivium.caVolume" -}}
{{- with .Values.secret.keys.databaseCa }}
- name: certificates
  secret: {secretName: {{ $.Values.secret.name | quote }}, items: [{key: {{ . | quote }}, path: ca.crt}]}
{{- end }}
{{- end }}

{{/* Threads of what multiplies matrices, which would else be those of the node: dict own (its values). */}}
{{- define "trivium.threads" -}}
{{- $cpu := .own.resources.limits.cpu | toString }}
{{- $cores := ternary (divf (trimSuffix "m" $cpu) 1000) ($cpu | float64) (hasSuffix "m" $cpu) | ceil | int }}
- {name: OMP_NUM_THREADS, value: {{ $cores | quote }}}
- {name: OPENBLAS_NUM_THREADS, value: {{ $cores | quote }}}
{{- end }}

{{/* Settings that were given by their names; they come last, so they win. */}}
{{- define "trivium.ownEnv" -}}
{{- range $name, $value := .env }}
- {name: {{ $name }}, value: {{ $value | toString | quote }}}
{{- end }}
{{- end }}

{{/* What gateway and worker are told of what they call: dict root. */}}
{{- define "trivium.backendEnv" -}}
{{- $root := .root }}
- {name: TRIVIUM_FEATURES_DIR, value: {{ include "trivium.featuresDir" $root }}}
{{- if $root.Values.edge.enabled }}
- {name: TRIVIUM_EDGE_URL, value: {{ include "trivium.edgeUrl" $root | quote }}}
{{- end }}
{{- range $name, $key := dict "TRIVIUM_DATABASE_URL" "databaseUrl" "TRIVIUM_REDIS_URL" "redisUrl" "TRIVIUM_UNLEASH_TOKEN" "unleashToken" "TRIVIUM_UNLEASH_ADMIN_TOKEN" "unleashAdminToken" "TRIVIUM_OPENAI_API_KEY" "openaiApiKey" "TRIVIUM_ANTHROPIC_API_KEY" "anthropicApiKey" "TRIVIUM_GOOGLE_API_KEY" "googleApiKey" }}
{{- include "trivium.secretEnv" (dict "root" $root "name" $name "key" $key) }}
{{- end }}
{{- include "trivium.caEnv" $root }}
{{- if $root.Values.unleash.url }}
- {name: TRIVIUM_UNLEASH_URL, value: {{ $root.Values.unleash.url | quote }}}
{{- else }}
- {name: TRIVIUM_FLAGS_FILE, value: {{ include "trivium.featuresDir" $root }}/flags.json}
{{- end }}
{{- with $root.Values.llm.localBaseUrl }}
- {name: TRIVIUM_LOCAL_BASE_URL, value: {{ . | quote }}}
{{- end }}
{{- if $root.Values.routes }}
- {name: TRIVIUM_ROUTES_FILE, value: /etc/trivium/routes/routes.yaml}
{{- end }}
{{- end }}

{{- define "trivium.featuresDir" -}}
{{- ternary "/app/features" "/etc/trivium/features" (eq .Values.features.source "image") }}
{{- end }}

{{- define "trivium.edgeUrl" -}}
{{- if eq .Values.edge.mode "sidecar" -}}
http://127.0.0.1:{{ .Values.edge.port }}
{{- else -}}
http://{{ include "trivium.fullname" . }}-edge:{{ .Values.edge.port }}
{{- end }}
{{- end }}

{{/* Mounts and volumes of what is configured: features and routes. */}}
{{- define "trivium.configMounts" -}}
{{- if ne .Values.features.source "image" }}
- {name: features, mountPath: /etc/trivium/features, readOnly: true}
{{- end }}
{{- if .Values.routes }}
- {name: routes, mountPath: /etc/trivium/routes, readOnly: true}
{{- end }}
{{- end }}

{{- define "trivium.configVolumes" -}}
{{- if eq .Values.features.source "files" }}
- name: features
  configMap:
    name: {{ include "trivium.fullname" . }}-features
    items:
      {{- range $path, $_ := .Values.features.files }}
      - {key: {{ $path | replace "/" "__" | quote }}, path: {{ $path | quote }}}
      {{- end }}
{{- else if eq .Values.features.source "configMap" }}
- name: features
  configMap:
    name: {{ .Values.features.configMap.name | quote }}
    {{- with .Values.features.configMap.items }}
    items: {{- toYaml . | nindent 6 }}
    {{- end }}
{{- end }}
{{- if .Values.routes }}
- name: routes
  configMap: {name: {{ include "trivium.fullname" . }}-routes}
{{- end }}
{{- end }}

{{/* Features are read at the start, so a change of theirs starts pods anew; routes are read again by themselves. */}}
{{- define "trivium.podAnnotations" -}}
{{- if eq .root.Values.features.source "files" }}
checksum/features: {{ toJson .root.Values.features.files | sha256sum }}
{{- end }}
{{- with .own.podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The edge model's container, in a pod of its own or as a sidecar. */}}
{{- define "trivium.edgeContainer" -}}
{{- $edge := .Values.edge }}
name: edge
image: {{ include "trivium.image" (dict "root" . "own" $edge.image "name" "edge-model") }}
{{ include "trivium.container" . }}
command: [python, -m, edge_model]
ports:
  - {name: edge, containerPort: {{ $edge.port }}}
  - {name: edge-grpc, containerPort: {{ $edge.grpcPort }}}
env:
  {{- include "trivium.commonEnv" (dict "root" . "service" "trivium-edge") | nindent 2 }}
  - {name: TRIVIUM_EDGE_PORT, value: {{ $edge.port | quote }}}
  - {name: TRIVIUM_EDGE_GRPC_PORT, value: {{ $edge.grpcPort | quote }}}
  - {name: TRIVIUM_EDGE_SLOTS, value: {{ $edge.resources.limits.cpu | quote }}}
  - {name: TRIVIUM_EDGE_THREADS_PER_RUN, value: "1"}
  - {name: TRIVIUM_MODELS_DIR, value: {{ ternary "/app/models" "/models" (eq $edge.models.source "image") }}}
  {{- include "trivium.ownEnv" $edge | nindent 2 }}
resources: {{- toYaml $edge.resources | nindent 2 }}
{{ include "trivium.probes" (dict "prefix" "/v2" "port" "edge" "startup" "/health/ready") }}
volumeMounts:
  - {name: edge-tmp, mountPath: /tmp}
  - {name: edge-state, mountPath: /var/lib/trivium}
  {{- if eq $edge.models.source "url" }}
  - {name: models, mountPath: /models, readOnly: true}
  {{- end }}
{{- end }}

{{- define "trivium.edgeVolumes" -}}
- {name: edge-tmp, emptyDir: {sizeLimit: 256Mi}}
- {name: edge-state, emptyDir: {sizeLimit: 64Mi}}
{{- if eq .Values.edge.models.source "url" }}
- {name: models, emptyDir: {sizeLimit: 2Gi}}
{{- end }}
{{- end }}

{{/* Fetches the models and checks them; anything but what the checksums name ends the pod's start. */}}
{{- define "trivium.fetchContainer" -}}
{{- $edge := .Values.edge }}
{{- $own := ternary $edge.models.image $edge.image (ne (join "" (values $edge.models.image)) "") }}
name: fetch-models
image: {{ include "trivium.image" (dict "root" . "own" $own "name" "edge-model") }}
{{ include "trivium.container" . }}
command: [python, -m, edge_model.fetch]
args:
  - {{ printf "--from=%s" $edge.models.url | quote }}
  - --to=/models
  {{- range $edge.models.items }}
  - {{ printf "%s@sha256:%s" .model .sha256 | quote }}
  {{- end }}
{{- with $edge.models.credentialsSecret }}
envFrom:
  - secretRef: {name: {{ . | quote }}}
{{- end }}
{{- with $edge.env }}
env:
  {{- include "trivium.ownEnv" $edge | nindent 2 }}
{{- end }}
resources: {{- toYaml $edge.resources | nindent 2 }}
volumeMounts:
  - {name: edge-tmp, mountPath: /tmp}
  - {name: models, mountPath: /models}
{{- end }}

{{/* Init containers of a pod with a sidecar: it is there before, and ends after, who calls it. */}}
{{- define "trivium.sidecars" -}}
{{- if and .Values.edge.enabled (eq .Values.edge.mode "sidecar") }}
initContainers:
  {{- if eq .Values.edge.models.source "url" }}
  - {{- include "trivium.fetchContainer" . | nindent 4 }}
  {{- end }}
  - restartPolicy: Always
    {{- include "trivium.edgeContainer" . | nindent 4 }}
{{- end }}
{{- end }}
