{{- define "seawall.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "seawall.selector" -}}
app.kubernetes.io/name: seawall
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "seawall.labels" -}}
{{ include "seawall.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{/* The port of an address such as 0.0.0.0:23790 or [::]:23790. */}}
{{- define "seawall.port" -}}
{{- splitList ":" . | last -}}
{{- end -}}
