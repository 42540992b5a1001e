{{- define "slm-operator.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- /* Short enough for what is added to it, such as -activator, to stay a name of 63 characters. */}}
{{- define "slm-operator.fullname" -}}
{{- $name := include "slm-operator.name" . }}
{{- $full := .Values.fullnameOverride | default (contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name)) | trunc 40 | trimSuffix "-" }}
{{- /* Other names of releases would be those of Services, which the API server refuses. */}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $full) }}
{{- fail (printf "the release's objects would be called %s, which a Service cannot be: begin the release's name with a letter and use letters, digits and '-', or set fullnameOverride" $full) }}
{{- end }}
{{- $full }}
{{- end }}

{{- /* By which Services and Deployments find their Pods. app.kubernetes.io/managed-by must never be
slm-operator: that is the label of packs. */}}
{{- define "slm-operator.selector" -}}
app.kubernetes.io/name: {{ include "slm-operator.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "slm-operator.labels" -}}
app.kubernetes.io/part-of: slm-operator
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{ include "slm-operator.selector" . }}
{{- end }}

{{- /* The metadata of an object but for its name. Arguments: root, component, and optionally
namespace ("" for a cluster-wide object), labels and annotations. */}}
{{- define "slm-operator.metadata" -}}
{{- $namespace := .root.Release.Namespace }}
{{- if hasKey . "namespace" }}{{ $namespace = .namespace }}{{ end }}
{{- with $namespace -}}
namespace: {{ . | quote }}
{{ end -}}
labels:
  {{- $own := include "slm-operator.labels" . | fromYaml }}
  {{- toYaml (mergeOverwrite (dict) .root.Values.commonLabels (.labels | default dict) $own) | nindent 2 }}
{{- with mergeOverwrite (dict) .root.Values.commonAnnotations (.annotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* repository, tag and digest as a reference. Arguments: root, image. */}}
{{- define "slm-operator.image" -}}
{{- $tag := .image.tag | default .root.Chart.AppVersion -}}
{{- .image.repository }}:{{ $tag }}{{ with .image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "slm-operator.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "slm-operator.fullname" .) }}
{{- else }}
{{- .Values.serviceAccount.name | required "serviceAccount.create is false and serviceAccount.name is empty: name the account that the operator shall use, or let the chart make one" }}
{{- end }}
{{- end }}

{{- define "slm-operator.secret" -}}
{{- .Values.secret.existing | default (printf "%s-key" (include "slm-operator.fullname" .)) }}
{{- end }}

{{- define "slm-operator.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "slm-operator.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- /* The documents of files/operator-rbac.yaml, which holds all rights, by kind. */}}
{{- define "slm-operator.rights" -}}
{{- $found := dict }}
{{- range splitList "\n---\n" (.Files.Get "files/operator-rbac.yaml") }}
{{- $document := fromYaml . }}
{{- $_ := set $found $document.kind $document.rules }}
{{- end }}
{{- toYaml $found }}
{{- end }}

{{- /* Fails where the Prometheus operator's kinds are not known. Arguments: root, value. */}}
{{- define "slm-operator.needsMonitoring" -}}
{{- if not (.root.Capabilities.APIVersions.Has "monitoring.coreos.com/v1") }}
{{- fail (printf "%s is true, but the cluster does not know monitoring.coreos.com/v1: install the Prometheus operator's CRDs first, or leave it false (helm template: add --api-versions monitoring.coreos.com/v1)" .value) }}
{{- end }}
{{- end }}

{{- /* Namespaces of packs in a selector of a monitor. */}}
{{- define "slm-operator.packNamespaces" -}}
{{- if .Values.watchNamespaces }}
matchNames:
  {{- toYaml .Values.watchNamespaces | nindent 2 }}
{{- else }}
any: true
{{- end }}
{{- end }}

{{- /* Clients ask port 53 of a Service, and policies look at the Pod's port behind it: 5353 on OpenShift. */}}
{{- define "slm-operator.dns" -}}
- ports: # DNS
    {{- range list 53 5353 }}
    - port: {{ . }}
      protocol: UDP
    - port: {{ . }}
      protocol: TCP
    {{- end }}
{{- end }}
