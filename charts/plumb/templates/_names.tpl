{{/* Names, labels and addresses. Templates of one component get (dict "root" $ "name" "reward"). */}}

{{- define "plumb.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "plumb.name" -}}
{{ include "plumb.fullname" .root }}-{{ .name }}
{{- end -}}

{{- define "plumb.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .name }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{- define "plumb.labels" -}}
{{ include "plumb.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* DNS name of a component's Service, as clients call it and certificates have it. */}}
{{- define "plumb.host" -}}
{{ include "plumb.name" . }}.{{ .root.Release.Namespace }}.svc
{{- end -}}

{{/* A gRPC target: all pods behind a headless Service, in turn. */}}
{{- define "plumb.target" -}}
dns:///{{ include "plumb.host" . }}:50051
{{- end -}}

{{/* The values of a component over the defaults, as YAML. */}}
{{- define "plumb.component" -}}
{{- toYaml (mergeOverwrite (deepCopy .root.Values.default) (deepCopy (get .root.Values.components .name))) -}}
{{- end -}}

{{/* Of (dict "root" $ "name" "reward" "image" $image). */}}
{{- define "plumb.image" -}}
{{- $repository := default (printf "plumb-%s" .name) .image.repository -}}
{{- $path := ternary (printf "%s/%s" .image.registry $repository) $repository (ne .image.registry "") -}}
{{- if .image.digest -}}
{{ $path }}@{{ .image.digest }}
{{- else -}}
{{ $path }}:{{ default .root.Chart.AppVersion .image.tag }}{{ ternary "-cuda" "" (eq .image.variant "cuda") }}
{{- end -}}
{{- end -}}

{{- define "plumb.serviceAccount" -}}
{{- $c := include "plumb.component" . | fromYaml -}}
{{- default (include "plumb.name" .) $c.serviceAccount.name -}}
{{- end -}}

{{/* Components of this release, as a YAML list. */}}
{{- define "plumb.components" -}}
{{- $names := list "generator" "reward" "judge" "trainer" "loop" -}}
{{- if .Values.components.referee.enabled }}{{ $names = append $names "referee" }}{{ end -}}
{{- toYaml $names -}}
{{- end -}}

{{- define "plumb.tls" -}}
{{- ternary "" "true" (eq .Values.tls.mode "insecure-plaintext") -}}
{{- end -}}

{{/* Secret with tls.crt, tls.key and ca.crt of a component. */}}
{{- define "plumb.tlsSecret" -}}
{{- if eq .root.Values.tls.mode "cert-manager" -}}
{{ include "plumb.name" . }}-tls
{{- else -}}
{{ get .root.Values.tls.secrets .name }}
{{- end -}}
{{- end -}}

{{/* What the ServiceAccount's token is needed for: the Kubernetes API. */}}
{{- define "plumb.usesKubernetes" -}}
{{- if or (and (eq .name "trainer") (ne .root.Values.training.backend "local")) (and (eq .name "loop") (or .root.Values.feedbackRuns.enabled .root.Values.components.loop.leaderElection)) -}}
true
{{- end -}}
{{- end -}}

{{/* Claim of the artifact volume. */}}
{{- define "plumb.artifactsClaim" -}}
{{- default (printf "%s-artifacts" (include "plumb.fullname" .)) .Values.artifacts.volume.existingClaim -}}
{{- end -}}
