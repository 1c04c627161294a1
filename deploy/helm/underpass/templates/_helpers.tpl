{{/* Fills the values that the user left out by those of the profile. Every template begins with it: whichever is rendered first. */}}
{{- define "underpass.profile" -}}
{{- $name := .Values.profile | default "default" }}
{{- /* Istio's name for a mesh without sidecars, which this one is. */}}
{{- if eq $name "ambient" }}{{ $name = "default" }}{{ end }}
{{- $profile := .Files.Get (printf "files/profile-%s.yaml" $name) | fromYaml }}
{{- /* Given ones count as a whole: requests of a profile could exceed their limits. */}}
{{- if or .Values.control.resources (.Values.pilot | default dict).resources }}{{ $_ := unset $profile.control "resources" }}{{ end }}
{{- include "underpass.fill" (list .Values $profile) }}
{{- /* What an earlier chart did not have: helm upgrade --reuse-values takes the defaults of that one. */}}
{{- $later := dict "crds" (dict "enabled" true) "admission" (dict "enabled" true) "networkPolicy" (dict "enabled" false) }}
{{- $_ := set $later "monitoring" (dict "serviceMonitor" (dict "enabled" false) "prometheusRule" (dict "enabled" false)) }}
{{- include "underpass.fill" (list .Values $later) }}
{{- end }}

{{/* Of a list: the values, and those for what is absent there. */}}
{{- define "underpass.fill" -}}
{{- $into := index . 0 }}
{{- range $key, $value := index . 1 }}
{{- if not (hasKey $into $key) }}
{{- $_ := set $into $key $value }}
{{- else if kindIs "map" $value }}
{{- include "underpass.fill" (list (get $into $key) $value) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The image of every container. */}}
{{- define "underpass.image" -}}
{{ .Values.global.hub }}/underpass:{{ .Values.global.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Pull policy; nothing: the cluster's default. */}}
{{- define "underpass.pullPolicy" -}}
{{ .Values.image.pullPolicy | default .Values.global.imagePullPolicy | default "" }}
{{- end }}

{{/* Labels of every object. */}}
{{- define "underpass.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: underpass
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{/* Labels by which a workload finds its pods: they can never change. Of a list: the root, and the name. */}}
{{- define "underpass.selector" -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
{{- end }}

{{/* Labels of pods: the chart's, before those of the values. Of a list: the root, the name, the values. */}}
{{- define "underpass.podLabels" -}}
{{- $ours := include "underpass.selector" . | fromYaml }}
{{- /* What runs the mesh is never in it, however its namespace is labelled. */}}
{{- $ours = merge $ours (dict "app.kubernetes.io/part-of" "underpass" "istio.io/dataplane-mode" "none" "sidecar.istio.io/inject" "false") }}
{{- merge $ours (index . 2) | toYaml }}
{{- end }}

{{/* Annotations of pods: those of the values, before the chart's. Of a list: the port of the metrics, the values. */}}
{{- define "underpass.podAnnotations" -}}
{{- $ours := dict "prometheus.io/scrape" "true" "prometheus.io/port" (index . 0) }}
{{- merge (deepCopy (index . 1)) $ours | toYaml }}
{{- end }}

{{/* The port of the agents' metrics, by their setting. */}}
{{- define "underpass.metricsPort" -}}
{{ index .Values.agent.settings "metrics-address" | default "[::]:15020" | splitList ":" | last }}
{{- end }}

{{/* Where the pods of a component may run. Of a list: the root, the values of the component. */}}
{{- define "underpass.place" -}}
{{- $values := index . 1 }}
{{- with (index . 0).Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
nodeSelector:
  {{- merge (deepCopy $values.nodeSelector) (dict "kubernetes.io/os" "linux") | toYaml | nindent 2 }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The same for what has to run before the startup taint of a node can go: agents, the control plane, and what comes before it. */}}
{{- define "underpass.placeBeforePods" -}}
{{- $values := index . 1 }}
{{- $tolerations := prepend $values.tolerations (dict "key" "underpass.dev/agent-not-ready" "operator" "Exists") }}
{{- include "underpass.place" (list (index . 0) (merge (dict "tolerations" $tolerations) $values)) }}
{{- end }}

{{/* Settings of the mesh: one source for control plane and agents. */}}
{{- define "underpass.mesh" -}}
- --cluster={{ .Values.global.multiCluster.clusterName }}
- --cluster-domain={{ .Values.global.proxy.clusterDomain }}
- --trust-domain={{ .Values.meshConfig.trustDomain }}
{{- with .Values.meshConfig.trustDomainAliases }}
- --trust-domain-aliases={{ join "," . }}
{{- end }}
- --root-namespace={{ .Values.meshConfig.rootNamespace }}
{{- end }}

{{/* Directories of nodes for the CNI plugin: the runtime's programs, their configuration, and the network
     namespaces of new pods. */}}
{{- define "underpass.cniBinDir" -}}
{{ .Values.cni.cniBinDir | default .Values.cni.binDir }}
{{- end }}
{{- define "underpass.cniConfDir" -}}
{{ .Values.cni.cniConfDir | default .Values.cni.confDir }}
{{- end }}
{{- define "underpass.cniNetnsDir" -}}
{{ .Values.cni.cniNetnsDir | default .Values.cni.netnsDir }}
{{- end }}

{{/* What cleans a node, after its name: the places of agents' objects. The plugin's always, because it stays where cni.enabled was
     changed. */}}
{{- define "underpass.cleanupArguments" -}}
- --state=/var/lib/underpass
- --bpffs=/sys/fs/bpf
- --cni-config-dir={{ include "underpass.cniConfDir" . }}
- --cni-bin-dir={{ include "underpass.cniBinDir" . }}
{{- end }}

{{/* The agents' file of settings: those of the values, and their log, which change while they run. */}}
{{- define "underpass.agentSettings" -}}
{{- merge (dict "log" .Values.agent.logLevel) .Values.agent.settings | toYaml }}
{{- end }}

{{/* The given values of Istio's that have no effect here: their names, one a line. Empty ones ask for nothing. */}}
{{- define "underpass.withoutEffect" -}}
{{- $known := dict
  "" (list "global" "image" "meshConfig" "pilot" "control" "cni" "agent" "cleanup" "crds" "admission" "networkPolicy"
    "monitoring" "profile")
  "global." (list "hub" "tag" "imagePullPolicy" "imagePullSecrets" "proxy" "multiCluster" "networkPolicy")
  "global.proxy." (list "clusterDomain" "accessLogFile")
  "global.multiCluster." (list "clusterName")
  "meshConfig." (list "trustDomain" "trustDomainAliases" "rootNamespace" "accessLogEncoding" "accessLogFile")
  "pilot." (list "resources")
  "cni." (list "enabled" "binDir" "confDir" "netnsDir" "cniBinDir" "cniConfDir" "cniNetnsDir" "excludeNamespaces") }}
{{- $given := dict
  "" .Values
  "global." .Values.global
  "global.proxy." .Values.global.proxy
  "global.multiCluster." .Values.global.multiCluster
  "meshConfig." .Values.meshConfig
  "pilot." (.Values.pilot | default dict)
  "cni." .Values.cni }}
{{- range $path, $names := $known }}
{{- range $name, $value := get $given $path }}
{{- $isFile := and (eq $name "accessLogFile") (ne (toString $value) "/dev/stdout") }}
{{- if and $value (or $isFile (not (has $name $names))) }}
{{ $path }}{{ $name }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
