{{/* Parts of pods. */}}

{{/* The "restricted" level of the pod security standards. */}}
{{- define "plumb.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "plumb.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{/* Where pods go. Of (dict "root" $ "name" name "c" values "gpu" gpu-or-nil). */}}
{{- define "plumb.scheduling" -}}
{{- $gpu := and .gpu (gt (int .gpu.count) 0) -}}
{{- $selector := .c.nodeSelector -}}
{{- $tolerations := .c.tolerations -}}
{{- if $gpu -}}
{{- $selector = merge (deepCopy .c.nodeSelector) .gpu.nodeSelector -}}
{{- $tolerations = concat .c.tolerations .gpu.tolerations -}}
{{- end -}}
{{- with $selector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .c.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .c.topologySpreadConstraints }}
topologySpreadConstraints:
{{- $selector := dict "matchLabels" (include "plumb.selector" (dict "root" .root "name" .name) | fromYaml) }}
{{- range .c.topologySpreadConstraints }}
  - {{ toYaml (merge (deepCopy .) (dict "labelSelector" $selector)) | indent 4 | trim }}
{{- end }}
{{- end }}
{{- with .c.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .c.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Requests and limits, with the GPUs. Of (dict "resources" r "gpu" gpu-or-nil). */}}
{{- define "plumb.resources" -}}
{{- $resources := deepCopy (default dict .resources) -}}
{{- if and .gpu (gt (int .gpu.count) 0) -}}
{{- $resources = mergeOverwrite $resources (dict "limits" (dict .gpu.resource (int .gpu.count))) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* One key of a Secret as a file; 288 is 0440. */}}
{{- define "plumb.secretItem" -}}
secret:
  secretName: {{ .secret | quote }}
  defaultMode: 288
  items: [{ key: {{ .key | quote }}, path: {{ .path }} }]
{{- end -}}

{{- define "plumb.natsUrl" -}}
{{- if .Values.nats.builtin.enabled -}}
{{ ternary "tls" "nats" (eq (include "plumb.tls" .) "true") }}://{{ include "plumb.host" (dict "root" . "name" "nats") }}:4222
{{- else -}}
{{ .Values.nats.url }}
{{- end -}}
{{- end -}}

{{- define "plumb.natsReplicas" -}}
{{- if gt (int .Values.nats.streamReplicas) 0 -}}
{{ .Values.nats.streamReplicas }}
{{- else -}}
{{ ternary (int .Values.nats.builtin.replicas) 1 .Values.nats.builtin.enabled }}
{{- end -}}
{{- end -}}

{{- define "plumb.databaseUrl" -}}
{{- if .Values.postgresql.builtin.enabled -}}
{{- $tls := ternary "?sslmode=verify-full&sslrootcert=/etc/plumb/tls/ca.crt" "" (eq (include "plumb.tls" .) "true") -}}
postgres://plumb@{{ include "plumb.host" (dict "root" . "name" "postgresql") }}:5432/plumb{{ $tls }}
{{- else if .Values.postgresql.caSecret.name -}}
{{ .Values.postgresql.url }}{{ ternary "&" "?" (contains "?" .Values.postgresql.url) }}sslrootcert=/etc/plumb/postgresql/ca.crt
{{- else -}}
{{ .Values.postgresql.url }}
{{- end -}}
{{- end -}}

{{- define "plumb.env" -}}
- { name: {{ .name }}, value: {{ .value | quote }} }
{{- end -}}

{{/* Environment of the artifact store, for all who read or write artifacts. */}}
{{- define "plumb.artifactsEnv" -}}
{{- $v := .Values.artifacts -}}
{{- if $v.volume.enabled }}
{{ include "plumb.env" (dict "name" "PLUMB_ARTIFACTS" "value" "/var/lib/plumb/artifacts") }}
{{- else }}
{{ include "plumb.env" (dict "name" "PLUMB_ARTIFACTS" "value" $v.url) }}
{{ include "plumb.env" (dict "name" "AWS_REGION" "value" $v.s3.region) }}
{{- with $v.s3.endpoint }}
{{ include "plumb.env" (dict "name" "AWS_ENDPOINT_URL_S3" "value" .) }}
{{- end }}
{{- with $v.s3.credentialsSecret }}
- name: AWS_ACCESS_KEY_ID
  valueFrom: { secretKeyRef: { name: {{ . | quote }}, key: AWS_ACCESS_KEY_ID } }
- name: AWS_SECRET_ACCESS_KEY
  valueFrom: { secretKeyRef: { name: {{ . | quote }}, key: AWS_SECRET_ACCESS_KEY } }
{{- end }}
{{- end }}
{{- if .Values.trustedCaSecret.name }}
{{ include "plumb.env" (dict "name" "NODE_EXTRA_CA_CERTS" "value" "/etc/plumb/trusted/ca.crt") }}
{{- end }}
{{- end -}}

{{/* How a process shows who it is when it calls others, and whom it trusts. Of a name with a certificate or token. */}}
{{- define "plumb.callerEnv" -}}
{{- $v := .root.Values -}}
{{- if include "plumb.tls" .root }}
{{ include "plumb.env" (dict "name" "PLUMB_TLS_CA" "value" "/etc/plumb/tls/ca.crt") }}
{{ include "plumb.env" (dict "name" "PLUMB_TLS_CERT" "value" "/etc/plumb/tls/tls.crt") }}
{{ include "plumb.env" (dict "name" "PLUMB_TLS_KEY" "value" "/etc/plumb/tls/tls.key") }}
{{- else }}
{{ include "plumb.env" (dict "name" "PLUMB_INSECURE_PLAINTEXT" "value" "true") }}
{{- end }}
{{- if and (eq $v.auth.mode "tokens") (has .name (list "loop" "reward" "trainer" "client")) }}
{{ include "plumb.env" (dict "name" "PLUMB_AUTH_TOKEN_FILE" "value" "/etc/plumb/token/token") }}
{{- end }}
{{- end -}}

{{/* Environment that every service has. */}}
{{- define "plumb.serviceEnv" -}}
{{- $v := .root.Values -}}
{{- include "plumb.env" (dict "name" "PLUMB_LISTEN" "value" (printf "%s:50051" $v.listenHost)) }}
{{ include "plumb.env" (dict "name" "PLUMB_METRICS_LISTEN" "value" (printf "%s:9464" $v.listenHost)) }}
{{ include "plumb.env" (dict "name" "PLUMB_MAX_CONNECTION_AGE_SECONDS" "value" $v.maxConnectionAgeSeconds) }}
{{- include "plumb.callerEnv" . }}
{{- if and (include "plumb.tls" .root) $v.tls.mutual }}
{{ include "plumb.env" (dict "name" "PLUMB_TLS_CLIENT_CA" "value" "/etc/plumb/tls/ca.crt") }}
{{- end }}
{{- if eq $v.auth.mode "insecure-none" }}
{{ include "plumb.env" (dict "name" "PLUMB_INSECURE_NO_AUTH" "value" "true") }}
{{- else }}
{{ include "plumb.env" (dict "name" "PLUMB_AUTH_CALLERS_FILE" "value" "/etc/plumb/callers/callers.yaml") }}
{{- end }}
{{- with $v.auth.jwt }}
{{- if .jwks }}
{{ include "plumb.env" (dict "name" "PLUMB_AUTH_JWKS" "value" .jwks) }}
{{ include "plumb.env" (dict "name" "PLUMB_AUTH_JWT_ISSUER" "value" .issuer) }}
{{ include "plumb.env" (dict "name" "PLUMB_AUTH_JWT_AUDIENCE" "value" .audience) }}
{{ include "plumb.env" (dict "name" "PLUMB_AUTH_JWT_ROLES_CLAIM" "value" .rolesClaim) }}
{{- end }}
{{- end }}
{{- if gt (float64 $v.auth.callsPerSecond) 0.0 }}
{{ include "plumb.env" (dict "name" "PLUMB_AUTH_CALLS_PER_SECOND" "value" $v.auth.callsPerSecond) }}
{{- end }}
{{- if gt (int $v.auth.itemsPerHour) 0 }}
{{ include "plumb.env" (dict "name" "PLUMB_AUTH_ITEMS_PER_HOUR" "value" (int $v.auth.itemsPerHour)) }}
{{- end }}
{{- include "plumb.sharedEnv" . }}
{{- end -}}

{{/* Broker, artifacts and traces: for services, and for training pods in the trainer's name. */}}
{{- define "plumb.sharedEnv" -}}
{{- $v := .root.Values }}
{{ include "plumb.env" (dict "name" "PLUMB_NATS_URL" "value" (include "plumb.natsUrl" .root)) }}
{{ include "plumb.env" (dict "name" "PLUMB_NATS_REPLICAS" "value" (include "plumb.natsReplicas" .root)) }}
{{- if $v.nats.credentialsSecret }}
{{ include "plumb.env" (dict "name" "PLUMB_NATS_CREDENTIALS_FILE" "value" "/etc/plumb/nats/user.creds") }}
{{- else if $v.nats.usersSecret }}
{{ include "plumb.env" (dict "name" "PLUMB_NATS_USER" "value" .name) }}
{{ include "plumb.env" (dict "name" "PLUMB_NATS_PASSWORD_FILE" "value" "/etc/plumb/nats/password") }}
{{- end }}
{{- if and $v.nats.builtin.enabled (include "plumb.tls" .root) }}
{{ include "plumb.env" (dict "name" "PLUMB_NATS_CA" "value" "/etc/plumb/tls/ca.crt") }}
{{- else if and (not $v.nats.builtin.enabled) $v.nats.caSecret.name }}
{{ include "plumb.env" (dict "name" "PLUMB_NATS_CA" "value" "/etc/plumb/nats-ca/ca.crt") }}
{{- end }}
{{- include "plumb.artifactsEnv" .root }}
{{- with $v.telemetry.otlpEndpoint }}
{{ include "plumb.env" (dict "name" "OTEL_EXPORTER_OTLP_ENDPOINT" "value" .) }}
{{- end }}
{{ include "plumb.env" (dict "name" "PLUMB_TRACE_RATIO" "value" $v.telemetry.traceRatio) }}
{{- end -}}

{{/* Environment of one service alone. */}}
{{- define "plumb.ownEnv" -}}
{{- $v := .root.Values -}}
{{- $root := .root -}}
{{- if eq .name "reward" }}
{{ include "plumb.env" (dict "name" "PLUMB_JUDGE_ADDRESS" "value" (include "plumb.target" (dict "root" $root "name" "judge"))) }}
{{- if $v.components.reward.definitionsConfigMap }}
{{ include "plumb.env" (dict "name" "PLUMB_REWARDS" "value" "/etc/plumb/rewards") }}
{{- end }}
{{- else if eq .name "judge" }}
{{ include "plumb.env" (dict "name" "PLUMB_JUDGES_FILE" "value" (ternary "/etc/plumb/judges/judges.yaml" "/app/services/judge/judges.toybox.yaml" (ne $v.components.judge.judgesConfigMap ""))) }}
{{- if $v.components.referee.enabled }}
{{ include "plumb.env" (dict "name" "PLUMB_REFEREE_URL" "value" (printf "http://%s:8791/v1" (include "plumb.host" (dict "root" $root "name" "referee")))) }}
{{- end }}
{{- else if eq .name "trainer" }}
{{- include "plumb.trainingSettings" . }}
{{- include "plumb.backendEnv" . }}
{{- else if eq .name "loop" }}
{{- range list "trainer" "reward" "judge" }}
{{ include "plumb.env" (dict "name" (printf "PLUMB_%s_ADDRESS" (upper .)) "value" (include "plumb.target" (dict "root" $root "name" .))) }}
{{- end }}
{{- include "plumb.ledgerEnv" $root }}
{{- include "plumb.dashboardEnv" $root }}
{{- include "plumb.controllerEnv" . }}
{{- end }}
{{- if ne .name "trainer" }}
{{- include "plumb.settingsEnv" . }}
{{- end }}
{{- end -}}

{{/* Where models are, what they run on, and what components.<name>.settings says, which goes before. Of a GPU other than the component's: "gpu". */}}
{{- define "plumb.settingsEnv" -}}
{{- $c := get .root.Values.components .name }}
{{- $devices := dict }}
{{- if gt (int (dig "count" 0 (default (default dict $c.gpu) .gpu))) 0 }}
{{- if eq .name "generator" }}
{{- $devices = dict "textDevice" "cuda" "denoiserDevice" "cuda" "decoderDevice" "cuda" }}
{{- else if eq .name "trainer" }}
{{- $devices = dict "device" "cuda" }}
{{- end }}
{{- end }}
{{- if has .name (list "generator" "reward" "trainer") }}
{{ include "plumb.env" (dict "name" "PLUMB_MODELS_FOLDER" "value" "/models/artifacts") }}
{{- end }}
{{- range $key, $value := merge (deepCopy $c.settings) $devices }}
{{ include "plumb.env" (dict "name" (printf "PLUMB_%s" (regexReplaceAll "([a-z0-9])([A-Z])" $key "${1}_${2}" | upper)) "value" $value) }}
{{- end }}
{{- end -}}

{{/* What training needs wherever it runs. */}}
{{- define "plumb.trainingSettings" -}}
{{ include "plumb.env" (dict "name" "PLUMB_REWARD_ADDRESS" "value" (include "plumb.target" (dict "root" .root "name" "reward"))) }}
{{- include "plumb.settingsEnv" . }}
{{- end -}}

{{/* The address of the dashboard and the key of its links. */}}
{{- define "plumb.dashboardEnv" -}}
{{- if .Values.dashboard.enabled }}
{{ include "plumb.env" (dict "name" "PLUMB_WEB_LISTEN" "value" (printf "%s:8080" .Values.listenHost)) }}
{{ include "plumb.env" (dict "name" "PLUMB_WEB_KEY_FILE" "value" "/etc/plumb/web/key") }}
{{- if include "plumb.tls" . }}
# The dashboard is plain HTTP behind a proxy that encrypts. gRPC keeps to TLS: it has a certificate.
{{ include "plumb.env" (dict "name" "PLUMB_INSECURE_PLAINTEXT" "value" "true") }}
{{- end }}
{{- end }}
{{- end -}}

{{/* What the loop does of the Kubernetes API. */}}
{{- define "plumb.controllerEnv" -}}
{{- if .root.Values.components.loop.leaderElection }}
{{ include "plumb.env" (dict "name" "PLUMB_LEADER_ELECTION" "value" "true") }}
{{- end }}
{{- if .root.Values.feedbackRuns.enabled }}
{{ include "plumb.env" (dict "name" "PLUMB_FEEDBACK_RUNS" "value" "true") }}
{{- end }}
{{- if include "plumb.usesKubernetes" . }}
- { name: PLUMB_POD_NAME, valueFrom: { fieldRef: { fieldPath: metadata.name } } }
- { name: PLUMB_POD_NAMESPACE, valueFrom: { fieldRef: { fieldPath: metadata.namespace } } }
{{- end }}
{{- end -}}

{{- define "plumb.ledgerEnv" }}
{{ include "plumb.env" (dict "name" "PLUMB_DATABASE_URL" "value" (include "plumb.databaseUrl" .)) }}
{{- with .Values.postgresql.passwordSecret }}
{{- if .name }}
- name: PGPASSWORD
  valueFrom: { secretKeyRef: { name: {{ .name | quote }}, key: {{ .key | quote }} } }
{{- end }}
{{- end }}
{{- end -}}

{{/* Mounts of a service, of the migration and of the score test; the volumes are beside them below. */}}
{{- define "plumb.mounts" -}}
- { name: tmp, mountPath: /tmp }
{{- $v := .root.Values }}
{{- if include "plumb.tls" .root }}
- { name: tls, mountPath: /etc/plumb/tls, readOnly: true }
{{- end }}
{{- if and (eq $v.auth.mode "tokens") (has .name (list "loop" "reward" "trainer" "client")) }}
- { name: token, mountPath: /etc/plumb/token, readOnly: true }
{{- end }}
{{- if ne .name "client" }}
{{- if and (ne $v.auth.mode "insecure-none") (not .training) }}
- { name: callers, mountPath: /etc/plumb/callers, readOnly: true }
{{- end }}
{{- if or $v.nats.credentialsSecret $v.nats.usersSecret }}
- { name: nats, mountPath: /etc/plumb/nats, readOnly: true }
{{- end }}
{{- if and (not $v.nats.builtin.enabled) $v.nats.caSecret.name }}
- { name: nats-ca, mountPath: /etc/plumb/nats-ca, readOnly: true }
{{- end }}
{{- if $v.artifacts.volume.enabled }}
- { name: artifacts, mountPath: /var/lib/plumb/artifacts }
{{- end }}
{{- end }}
{{- if and (eq .name "loop") (not $v.postgresql.builtin.enabled) $v.postgresql.caSecret.name }}
- { name: postgresql-ca, mountPath: /etc/plumb/postgresql, readOnly: true }
{{- end }}
{{- if $v.trustedCaSecret.name }}
- { name: trusted-ca, mountPath: /etc/plumb/trusted, readOnly: true }
{{- end }}
{{- if and (eq .name "reward") $v.components.reward.definitionsConfigMap }}
- { name: rewards, mountPath: /etc/plumb/rewards, readOnly: true }
{{- end }}
{{- if and (eq .name "judge") $v.components.judge.judgesConfigMap }}
- { name: judges, mountPath: /etc/plumb/judges, readOnly: true }
{{- end }}
{{- if and (eq .name "loop") $v.dashboard.enabled }}
- { name: web, mountPath: /etc/plumb/web, readOnly: true }
{{- end }}
{{- if and (eq .name "trainer") (ne $v.training.backend "local") (not .training) }}
- { name: training, mountPath: /etc/plumb/training, readOnly: true }
{{- end }}
{{- if has .name (list "generator" "reward" "trainer") }}
- { name: models, mountPath: /models, readOnly: {{ not .preloading }} }
{{- end }}
{{- end -}}

{{- define "plumb.volumes" -}}
{{- $v := .root.Values -}}
- { name: tmp, emptyDir: { sizeLimit: {{ default $v.default.scratchSize .scratchSize }} } }
{{- if include "plumb.tls" .root }}
- name: tls
  secret: { secretName: {{ include "plumb.tlsSecret" . | quote }}, defaultMode: 288 }
{{- end }}
{{- if and (eq $v.auth.mode "tokens") (has .name (list "loop" "reward" "trainer" "client")) }}
- name: token
  {{- include "plumb.secretItem" (dict "secret" $v.auth.tokensSecret "key" .name "path" "token") | nindent 2 }}
{{- end }}
{{- if ne .name "client" }}
{{- if .training }}
{{- else if eq $v.auth.mode "certificates" }}
- name: callers
  configMap: { name: {{ include "plumb.fullname" .root }}-callers }
{{- else if eq $v.auth.mode "tokens" }}
- name: callers
  {{- include "plumb.secretItem" (dict "secret" $v.auth.callersSecret "key" "callers.yaml" "path" "callers.yaml") | nindent 2 }}
{{- end }}
{{- if $v.nats.credentialsSecret }}
- name: nats
  {{- include "plumb.secretItem" (dict "secret" $v.nats.credentialsSecret "key" (printf "%s.creds" .name) "path" "user.creds") | nindent 2 }}
{{- else if $v.nats.usersSecret }}
- name: nats
  {{- include "plumb.secretItem" (dict "secret" $v.nats.usersSecret "key" .name "path" "password") | nindent 2 }}
{{- end }}
{{- if and (not $v.nats.builtin.enabled) $v.nats.caSecret.name }}
- name: nats-ca
  {{- include "plumb.secretItem" (dict "secret" $v.nats.caSecret.name "key" $v.nats.caSecret.key "path" "ca.crt") | nindent 2 }}
{{- end }}
{{- if $v.artifacts.volume.enabled }}
- name: artifacts
  persistentVolumeClaim: { claimName: {{ include "plumb.artifactsClaim" .root | quote }} }
{{- end }}
{{- end }}
{{- if and (eq .name "loop") (not $v.postgresql.builtin.enabled) $v.postgresql.caSecret.name }}
- name: postgresql-ca
  {{- include "plumb.secretItem" (dict "secret" $v.postgresql.caSecret.name "key" $v.postgresql.caSecret.key "path" "ca.crt") | nindent 2 }}
{{- end }}
{{- if $v.trustedCaSecret.name }}
- name: trusted-ca
  {{- include "plumb.secretItem" (dict "secret" $v.trustedCaSecret.name "key" $v.trustedCaSecret.key "path" "ca.crt") | nindent 2 }}
{{- end }}
{{- if and (eq .name "reward") $v.components.reward.definitionsConfigMap }}
- name: rewards
  configMap: { name: {{ $v.components.reward.definitionsConfigMap | quote }} }
{{- end }}
{{- if and (eq .name "judge") $v.components.judge.judgesConfigMap }}
- name: judges
  configMap: { name: {{ $v.components.judge.judgesConfigMap | quote }} }
{{- end }}
{{- if and (eq .name "loop") $v.dashboard.enabled }}
- name: web
  {{- include "plumb.secretItem" (dict "secret" $v.dashboard.keySecret.name "key" $v.dashboard.keySecret.key "path" "key") | nindent 2 }}
{{- end }}
{{- if and (eq .name "trainer") (ne $v.training.backend "local") (not .training) }}
- name: training
  configMap: { name: {{ include "plumb.name" (dict "root" .root "name" "training-job") }} }
{{- end }}
{{- if has .name (list "generator" "reward" "trainer") }}
{{- $models := ternary $v.training.job.models (get $v.components .name).models (eq (toString .training) "true") }}
- name: models
{{- if $models.existingClaim }}
  persistentVolumeClaim: { claimName: {{ $models.existingClaim | quote }} }
{{- else }}
  emptyDir: { sizeLimit: {{ $models.size }} }
{{- end }}
{{- end }}
{{- end -}}


{{- define "plumb.probeTimes" -}}
periodSeconds: {{ .periodSeconds }}, timeoutSeconds: {{ .timeoutSeconds }}, failureThreshold: {{ .failureThreshold }}
{{- end -}}
