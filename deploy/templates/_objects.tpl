{{/*
The part that an object of a file is of: its component, else what the file is named for.
*/}}
{{- define "caprock.part" -}}
{{- $labels := (.object.metadata).labels | default dict -}}
{{- get $labels "app.kubernetes.io/component" | default (regexFind "^[a-z]+" (base .path)) -}}
{{- end -}}

{{/*
Whether the values want an object: "yes" or nothing.
*/}}
{{- define "caprock.wanted" -}}
{{- $values := .root.Values -}}
{{- $part := get $values (include "caprock.part" .) -}}
{{- $off := and (kindIs "map" $part) (hasKey $part "enabled") (not $part.enabled) -}}
{{- if eq .object.kind "Namespace" -}}
{{- /* Whoever has made the release's own namespace keeps it. */ -}}
{{- if and $values.namespaces.create (ne .object.metadata.name .root.Release.Namespace) }}yes{{ end -}}
{{- else if eq .object.kind "NetworkPolicy" -}}
{{- if and $values.networkPolicies.enabled (not $off) }}yes{{ end -}}
{{- else if not $off }}yes{{ end -}}
{{- end -}}

{{/*
The image of a container: `caprock`, or `caprock-builder`, which stands beside it unless it is named.
*/}}
{{- define "caprock.image" -}}
{{- $image := .root.Values.image -}}
{{- if eq .name "caprock" -}}{{ $image }}
{{- else if .root.Values.builder.image -}}{{ .root.Values.builder.image }}
{{- else if contains "@" $image -}}{{ fail "builder.image: must be set where `image` is a digest, which says nothing of the builder's" }}
{{- else -}}{{ regexReplaceAll "(:[^:/]*)?$" $image "-builder${1}" }}
{{- end -}}
{{- end -}}

{{/*
A workload with its part's values, as YAML.
*/}}
{{- define "caprock.workload" -}}
{{- $root := .root -}}
{{- $object := .object -}}
{{- $values := get $root.Values (include "caprock.part" .) -}}
{{- $template := $object.spec.template -}}
{{- $pod := $template.spec -}}
{{- if not (kindIs "invalid" $values.replicas) }}{{ $_ := set $object.spec "replicas" $values.replicas }}{{ end -}}
{{- if $values.maxUnavailable }}{{ $_ := set $object.spec.updateStrategy.rollingUpdate "maxUnavailable" $values.maxUnavailable }}{{ end -}}
{{- if $root.Values.imagePullSecrets }}{{ $_ := set $pod "imagePullSecrets" $root.Values.imagePullSecrets }}{{ end -}}
{{- range $key := list "nodeSelector" "affinity" "priorityClassName" -}}
{{- with get $values $key }}{{ $_ := set $pod $key . }}{{ end -}}
{{- end -}}
{{- with $values.tolerations }}{{ $_ := set $pod "tolerations" (concat ($pod.tolerations | default list) .) }}{{ end -}}
{{- with $values.podLabels }}{{ $_ := set $template.metadata "labels" (merge (dict) $template.metadata.labels .) }}{{ end -}}
{{- with $values.podAnnotations }}{{ $_ := set $template.metadata "annotations" (merge (dict) ($template.metadata.annotations | default dict) .) }}{{ end -}}
{{- range $container := $pod.containers -}}
{{- $_ := set $container "image" (include "caprock.image" (dict "root" $root "name" $container.image)) -}}
{{- if ne $root.Values.imagePullPolicy "IfNotPresent" }}{{ $_ := set $container "imagePullPolicy" $root.Values.imagePullPolicy }}{{ end -}}
{{- with $values.resources }}{{ $_ := set $container "resources" . }}{{ end -}}
{{- with $values.extraArgs }}{{ $_ := set $container "args" (concat $container.args .) }}{{ end -}}
{{- with $values.env }}{{ $_ := set $container "env" (concat ($container.env | default list) .) }}{{ end -}}
{{- end -}}
{{- if eq ($values.mode | default "privileged") "userNamespace" -}}
{{- $confined := (fromYaml ($root.Files.Get "user-namespaces/builder.yaml")).spec.template.spec -}}
{{- $_ := set $pod "hostUsers" $confined.hostUsers -}}
{{- $container := first $pod.containers -}}
{{- $_ := set $container "securityContext" (mergeOverwrite $container.securityContext (first $confined.containers).securityContext) -}}
{{- end -}}
{{- $volume := $values.cache | default $values.storage | default dict -}}
{{- range $claim := $object.spec.volumeClaimTemplates -}}
{{- with $volume.size }}{{ $_ := set $claim.spec.resources.requests "storage" . }}{{ end -}}
{{- with $volume.storageClassName }}{{ $_ := set $claim.spec "storageClassName" . }}{{ end -}}
{{- end -}}
{{- end -}}

{{/*
The objects of a directory's files, as they are there, but for what the values say.
*/}}
{{- define "caprock.objects" -}}
{{- $root := .root -}}
{{- $annotations := .annotations | default dict -}}
{{- $labels := .labels | default dict -}}
{{- range $path, $_ := $root.Files.Glob (printf "%s/*.yaml" .directory) -}}
{{- if ne (base $path) "kustomization.yaml" -}}
{{- range $text := regexSplit "(?m)^---$" ($root.Files.Get $path) -1 -}}
{{- $object := fromYaml $text -}}
{{- if hasKey $object "Error" }}{{ fail (printf "%s: %s" $path $object.Error) }}{{ end -}}
{{- if $object -}}
{{- $context := dict "root" $root "object" $object "path" $path -}}
{{- if eq (include "caprock.wanted" $context) "yes" -}}
{{- if (($object.spec).template).spec }}{{ include "caprock.workload" $context }}{{ end -}}
{{- with $annotations }}{{ $_ := set $object.metadata "annotations" (merge (dict) ($object.metadata.annotations | default dict) .) }}{{ end -}}
{{- with $labels }}{{ $_ := set $object.metadata "labels" (merge (dict) ($object.metadata.labels | default dict) .) }}{{ end }}
---
# Source: {{ $path }}
{{ toYaml $object }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
