# Missing and wrong credentials, and a base image that is not there, are said on the object and mended by correcting them.
push_base
pool edge
condition mcp/edge RenderDegraded False
image edge <<'TEXT'
FROM configs AS final
LABEL made=yes
TEXT
condition mcp/edge ImageBuildDegraded False
eventually 60 built edge
say "built"

# The Secret does not exist yet.
kubectl patch machineosconfig edge --type merge -p '{"spec":{"renderedImagePushSecret":{"name":"push"}}}' >&3
kubectl patch machineosconfig edge --type json -p '[{"op":"replace","path":"/spec/containerFile/0/content","value":"FROM configs AS final\nLABEL made=again\n"}]' >&3
condition mcp/edge ImageBuildDegraded True
message mcp/edge ImageBuildDegraded

# It exists, with a wrong password.
kubectl -n "$NS" create secret docker-registry push --docker-server="$REGISTRY" --docker-username=caprock --docker-password=wrong >&3
refused() { message mcp/edge ImageBuildDegraded | grep -q refused; }
eventually 60 refused
message mcp/edge ImageBuildDegraded

# Corrected: the same build goes on by itself.
kubectl -n "$NS" delete secret push >&3
kubectl -n "$NS" create secret generic push --type=kubernetes.io/dockerconfigjson --from-file=.dockerconfigjson="$DATA/registry-auth.json" >&3
WAIT=120 condition mcp/edge ImageBuildDegraded False
eventually 60 built edge
say "corrected, built"

kubectl -n "$NS" patch configmap machine-config-osimageurl --type merge -p "{\"data\":{\"baseOSContainerImage\":\"$REGISTRY/os/nothing:1\"}}" >&3
condition mcp/edge ImageBuildDegraded True
message mcp/edge ImageBuildDegraded
